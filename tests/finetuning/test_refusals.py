"""What cannot work is refused in one sentence, before any work starts."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen3Config,
)

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import VOCABULARY
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.finetuning import (
    AllTokens,
    DatasetWeights,
    MovingAverage,
    PromptResponseWeights,
    RandomTokens,
    Rho1,
    SmallLoss,
    SSToken,
    TokenCleaning,
    TokenWeighing,
    TokenWeighingTrainer,
)
from tokenry.finetuning.refusals import refuse_arguments, refuse_model, refuse_packing

SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "llama": LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SMALL, intermediate_size=48, num_key_value_heads=2, head_dim=8),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4),
    "mixtral": MixtralConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, num_local_experts=2),
    "opt": OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32),
    "falcon": FalconConfig(**SMALL),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "mamba": MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4),
}


def tiny(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MODELS[name])


def make_trainer(folder, weighing, model=None, rows=None, arguments=None, **options):
    return TokenWeighingTrainer(
        model or tiny_llama(),
        args=sft_config(folder, **options),
        train_dataset=token_rows() if rows is None else rows,
        processing_class=tiny_tokenizer(),
        weighing=weighing,
        history_cache=folder / "cache",
        **(arguments or {}),
    )


# Options of the weighings


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SSToken(share=0.0), r"share must be in \(0, 1\], got 0.0: to train on nothing is never meant"),
        (lambda: SSToken(share=1.5), r"share must be in \(0, 1\], got 1.5"),
        (lambda: RandomTokens(share=-0.1), r"share must be in \(0, 1\], got -0.1"),
        (lambda: SSToken(balance=-0.1), r"balance must be in \[0, 1\], got -0.1"),
        (lambda: SSToken(balance=1.1), r"balance must be in \[0, 1\], got 1.1"),
        (lambda: SSToken(share=float("nan")), r"share must be in \(0, 1\], got nan"),
        (lambda: SmallLoss(dropped_weight=2.0), r"dropped_weight must be in \[0, 1\], got 2.0"),
        (lambda: SSToken(warmup_fraction=1.5), r"warmup_fraction must be in \[0, 1\], got 1.5"),
        (lambda: SmallLoss(warmup_epochs=-1.0), r"warmup_epochs must be at least 0, got -1.0"),
        (lambda: SSToken(window=2), r"window must be a positive odd number of tokens, got 2"),
        (lambda: SmallLoss(window=0), r"window must be a positive odd number of tokens, got 0"),
        (lambda: MovingAverage(decay=1.0), r"the decay of the moving average must be in \[0, 1\), got 1.0"),
        (lambda: Rho1(scope="dataset"), r"Rho1 ranks with the model in training: scope must be batch or sample"),
        (lambda: SSToken(scope="dataset"), r"scope='dataset' ranks all tokens once, before training, but SSToken needs "),
        (lambda: SmallLoss(scope="dataset"), r"but SmallLoss needs nll, which change at every step"),
        (lambda: PromptResponseWeights(prompt=-1.0), r"the weight of prompt tokens must be 0 or more, got -1.0"),
        (lambda: PromptResponseWeights(response=float("inf")), r"the weight of response tokens must be 0 or more"),
        (lambda: PromptResponseWeights(prompt=0.0, response=0.0), r"prompt and response cannot both weigh 0"),
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_when_the_weighing_is_made(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("scope", "row", "scope must be one of sample, batch, dataset, got 'row'"),
        ("reduction", "mean", "reduction must be one of token, sample, paper, got 'mean'"),
        ("progress", "absolute", "progress must be one of difference, relative, clipped, got 'absolute'"),
        ("attention", "all", "attention must be one of prompt, content, got 'all'"),
    ],
)
def test_an_unknown_word_is_refused_when_the_weighing_is_made(option, value, words):
    weighing = SSToken()
    object.__setattr__(
        weighing, option, value
    )  # as from a run file: the test run would check the annotation first
    with pytest.raises(UserError, match=words):
        weighing.__post_init__()


# Arguments of the trainer


def test_something_that_is_no_weighing_is_refused():
    words = r"weighing must be a TokenWeighing such as SSToken\(share=0.6\), got str"
    with pytest.raises(UserError, match=words):
        refuse_arguments.__wrapped__("sstoken", {})


def test_own_weights_without_their_sum_are_refused(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Half(TokenWeighing):
        def weigh(self, signals):
            return signals.learnable * 0.5

    with pytest.raises(
        UserError, match="Half defines `weigh` but not `weight_sum`: say what its weights sum to"
    ):
        make_trainer(tmp_path, Half())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"use_liger_kernel": True, "liger_kernel_config": {"fused_linear_cross_entropy": True}},
            "Liger's fused loss replaces the model's forward, so no token could be weighed",
        ),
        ({"loss_type": "dft"}, "loss_type='dft' weighs tokens itself: use loss_type='nll'"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor cannot be combined with token weighing"),
        ({"packing": True, "packing_strategy": "wrapped"}, "packing_strategy='wrapped' cuts samples apart"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_training_arguments_that_leave_no_token_to_weigh_are_refused(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, SSToken(), **options)


def test_wrapped_packing_is_fine_where_nothing_is_ranked(tmp_path):
    trainer = make_trainer(tmp_path, AllTokens(), packing=True, packing_strategy="wrapped", max_length=16)
    assert trainer.train().training_loss > 0


def test_a_loss_function_of_the_user_is_refused(tmp_path):
    with pytest.raises(UserError, match="compute_loss_func replaces the loss that tokens are weighed in"):
        make_trainer(tmp_path, SSToken(), arguments={"compute_loss_func": lambda *_: None})


@pytest.mark.parametrize("weighing", [SSToken(), RandomTokens(), TokenCleaning(), DatasetWeights()])
def test_numbers_cannot_be_looked_up_in_a_stream(tmp_path, weighing):
    rows = IterableDataset.from_generator(lambda: iter(token_rows()))
    name = type(weighing).__name__
    with pytest.raises(
        UserError, match=f"{name} looks up numbers by token, which a streamed data set does not allow"
    ):
        make_trainer(tmp_path, weighing, rows=rows, max_steps=2)


def test_numbers_cannot_be_looked_up_in_data_that_was_not_prepared(tmp_path):
    options = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    with pytest.raises(
        UserError, match=r"tokens get their numbers while the data is prepared: leave skip_prepare"
    ):
        make_trainer(tmp_path, SSToken(), **options)
    make_trainer(tmp_path, SmallLoss(warmup_epochs=0.0), **options).train()


def test_prompt_tuning_is_refused(tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    words = "prompt tuning puts virtual tokens before the text, so tokens cannot be told apart: use LoRA"
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, SSToken(), arguments={"peft_config": config})
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, SSToken(), model=get_peft_model(tiny_llama(), config))


def test_adapter_off_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(UserError, match="history='adapter_off' needs a PEFT model: pass peft_config="):
        make_trainer(tmp_path, SSToken(history="adapter_off"))


def test_a_history_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(UserError, match="basee"):
        make_trainer(tmp_path, SSToken(history="basee"))


# What only the model can tell


def test_the_balancing_loss_of_experts_is_refused(tmp_path):
    model = tiny("mixtral")
    model.config.output_router_logits = True
    with pytest.raises(
        UserError, match="the load-balancing loss of this mixture-of-experts model is not supported"
    ):
        make_trainer(tmp_path, SSToken(), model=model, router_aux_loss_coef=0.01)
    make_trainer(tmp_path, SSToken(), model=tiny("mixtral"), router_aux_loss_coef=0.0).train()


@pytest.mark.parametrize("layers", [2, -3, (0, 7)])
def test_a_layer_that_is_not_there_is_refused(tmp_path, layers):
    with pytest.raises(UserError, match=r"layer -?\d is out of range: the model has 2 attention layers"):
        make_trainer(tmp_path, SSToken(layers=layers))


@pytest.mark.parametrize("name", ["bloom", "mamba"])
def test_attention_that_cannot_be_read_is_refused_where_it_is_needed(tmp_path, name):
    with pytest.raises(UserError, match=r"computes attention outside the transformers attention interface"):
        make_trainer(tmp_path, SSToken(), model=tiny(name))
    make_trainer(tmp_path, SSToken(balance=1.0), model=tiny(name))


@pytest.mark.parametrize("name", ["opt", "falcon", "bloom", "mamba"])
@pytest.mark.parametrize("options", [{"packing": True}, {"padding_free": True, "max_length": None}])
def test_packed_samples_that_would_see_each_other_are_refused(tmp_path, name, options):
    words = r"ForCausalLM samples that are packed into one row would see each other, .*: set packing=False"
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, SmallLoss(), model=tiny(name), **options)
    make_trainer(tmp_path, SmallLoss(), model=tiny(name), num_train_epochs=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "mixtral"])
def test_packed_samples_that_are_kept_apart_are_welcome(name, dtype):
    model = tiny(name).to(dtype).train()
    refuse_packing(model)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["cp_enabled", "sp_enabled", "tp_enabled"])
def test_samples_split_between_ranks_are_refused(name):
    config = SimpleNamespace(**{name: True})
    trainer = SimpleNamespace(accelerator=SimpleNamespace(parallelism_config=config))
    with pytest.raises(UserError, match="token weighing needs whole samples on each rank"):
        refuse_model.__wrapped__(SSToken(), trainer)


@pytest.mark.parametrize(
    ("weighing", "epochs"),
    [(SmallLoss(), 1), (SSToken(warmup_epochs=3.0), 2), (SSToken(history="previous_epoch"), 1)],
)
def test_a_warmup_without_end_is_refused(tmp_path, weighing, epochs):
    name = type(weighing).__name__
    words = f"{name} learns from all tokens for longer than the {epochs} epochs of this training, so nothing would ever"
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, weighing, num_train_epochs=epochs)


@pytest.mark.parametrize("weighing", [Rho1(), TokenCleaning()])
def test_a_missing_reference_is_asked_for(tmp_path, weighing):
    name = type(weighing).__name__
    words = f"{name} compares with a reference model: name one .* or pass reference_model= to the trainer"
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, weighing)


# The data


def test_weights_that_are_not_there_are_asked_for(tmp_path):
    words = "DatasetWeights needs a column `weight` or `token_weights`; the data has input_ids, labels"
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, DatasetWeights())


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf")])
def test_weights_that_are_none_are_refused(tmp_path, wrong):
    rows = token_rows().add_column("weight", [1.0] * 11 + [wrong])
    with pytest.raises(UserError, match="weights in the data must be finite and 0 or more"):
        make_trainer(tmp_path, DatasetWeights(), rows=rows)


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("options", [{}, {"packing": True}])
def test_weights_of_another_length_are_named(tmp_path, change, options):
    rows = token_rows()
    weights = [[1.0] * len(ids) for ids in rows["input_ids"]]
    weights[3] = [1.0] * (len(weights[3]) + change)
    words = rf"sample 3 has {len(rows[3]['labels'])} tokens but {len(weights[3])} token_weights: give one per token"
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, DatasetWeights(), rows=rows.add_column("token_weights", weights), **options)


def test_labels_of_another_length_are_named(tmp_path):
    rows = [dict(row) for row in token_rows()]
    rows[5]["labels"] = rows[5]["labels"][:-1]
    words = rf"sample 5 has {len(rows[5]['input_ids'])} input_ids but {len(rows[5]['labels'])} labels: give one label"
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, SSToken(), rows=Dataset.from_list(rows))


@pytest.mark.parametrize("label", [VOCABULARY, -1])
def test_labels_of_another_vocabulary_are_named(tmp_path, label):
    rows = [dict(row) for row in token_rows()]
    rows[0]["labels"] = [*rows[0]["labels"][:-1], label]
    with pytest.raises(UserError, match=rf"label {label} is not in the vocabulary of {VOCABULARY} tokens"):
        make_trainer(tmp_path, SSToken(), rows=Dataset.from_list(rows))


def test_data_without_samples_or_without_targets_is_refused(tmp_path):
    with pytest.raises(UserError, match="the training data has no samples"):
        make_trainer(tmp_path, SSToken(), rows=token_rows().select([]))
    silent = [{"input_ids": row["input_ids"], "labels": [-100] * len(row["labels"])} for row in token_rows()]
    with pytest.raises(UserError, match="the training data has no token to learn from"):
        make_trainer(tmp_path, SSToken(), rows=Dataset.from_list(silent), max_length=None)


def test_a_loss_that_is_not_finite_is_named_while_training(tmp_path):
    trainer = make_trainer(tmp_path, SSToken(warmup_fraction=0.0))
    trainer.model.lm_head.weight.data[7] = float("inf")
    with pytest.raises(UserError, match=r"the signal is not finite at \d+ of \d+ tokens"):
        trainer.train()


def test_damaged_weights_are_named_before_training(tmp_path):
    model = tiny_llama()
    model.lm_head.weight.data[7] = float("nan")
    with pytest.raises(UserError, match="the logits of LlamaForCausalLM are not finite on a few tokens"):
        make_trainer(tmp_path, SSToken(), model=model)


def test_nothing_is_written_before_a_refusal(tmp_path):
    with pytest.raises(UserError):
        make_trainer(tmp_path / "out", SSToken(layers=9))
    assert not (tmp_path / "out" / "cache").exists()
