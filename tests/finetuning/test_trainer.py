"""What the trainer does with a weighing: histories, logs, weights, data, checkpoints."""

import json
import shutil
from dataclasses import dataclass

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTTrainer

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import learnable_tokens, segment_ids
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.finetuning import (
    AllTokens,
    DatasetWeights,
    MovingAverage,
    PromptResponseWeights,
    RandomTokens,
    Rho1,
    Signals,
    SmallLoss,
    SSToken,
    TokenCleaning,
    TokenWeighing,
    TokenWeighingTrainer,
)
from tokenry.finetuning import dataset_pass as dataset_pass_module
from tokenry.finetuning.dataset_pass import samples_of
from tokenry.finetuning.nll_cache import IndexedSample, NllCache
from tokenry.finetuning.trainer import STATE_FILE, last_whole_checkpoint

LORA = LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
ONE_STEP = {"per_device_train_batch_size": 12}
STILL = {"learning_rate": 0.0}


def make_trainer(folder, weighing, model=None, rows=None, callbacks=None, **options):
    extra = {
        name: options.pop(name)
        for name in ("peft_config", "reference_model", "record_signals", "eval_dataset")
        if name in options
    }
    return TokenWeighingTrainer(
        model or tiny_llama(),
        args=sft_config(folder, **{"max_length": None, **options}),
        train_dataset=rows or token_rows(),
        processing_class=tiny_tokenizer(),
        weighing=weighing,
        history_cache=folder / "cache",
        callbacks=callbacks,
        **extra,
    )


def trained(folder, weighing, **options):
    trainer = make_trainer(folder, weighing, **options)
    trainer.train()
    return trainer


def weights_of(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def assert_same(first, second, tolerance=1e-6):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name],
            second[name],
            atol=tolerance,
            rtol=0,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def nll_by_full_logits(model, rows):
    """One flat column over the tokens of `rows`, nan where nothing is learned: computed sample by sample."""
    columns = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            log_probabilities = model.eval()(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        nll = -log_probabilities.gather(-1, ids[0, 1:, None])[:, 0]
        learned = torch.tensor(row["labels"])[1:] != -100
        columns += [torch.tensor([float("nan")]), torch.where(learned, nll, float("nan"))]
    return torch.cat(columns)


SEEN: list[Signals] = []


@dataclass(frozen=True, kw_only=True)
class Watched(SSToken):
    """ssToken that keeps the signals it is given."""

    def score(self, signals):
        SEEN.append(signals)
        return super().score(signals)


def seen(name):
    """Every value of a signal that `Watched` was given, sorted."""
    values = torch.cat([signals[name][signals.learnable] for signals in SEEN]).sort().values
    SEEN.clear()
    return values


@pytest.fixture
def passes(monkeypatch):
    """Counts the forwards of passes over the data set."""
    read = []

    class Counted(dataset_pass_module.ReadSignals):
        def __call__(self, backbone, model):
            read.append(int(self.signals.segments.max()) + 1)
            return super().__call__(backbone, model)

    monkeypatch.setattr(dataset_pass_module, "ReadSignals", Counted)
    return read


# Histories


def test_the_base_history_is_the_nll_of_the_model_before_training(tmp_path):
    trainer = make_trainer(tmp_path, SSToken())
    expected = nll_by_full_logits(tiny_llama(), token_rows())
    torch.testing.assert_close(trainer.store.columns["history_nll"], expected, equal_nan=True)


def test_a_second_run_reads_the_base_history_from_disk(tmp_path, passes):
    first = make_trainer(tmp_path, SSToken())
    assert sum(passes) == 12
    passes.clear()
    second = make_trainer(tmp_path, SSToken(), packing=True, max_length=32)
    assert passes == []
    assert torch.equal(
        first.store.columns["history_nll"].nan_to_num(), second.store.columns["history_nll"].nan_to_num()
    )


def test_only_new_samples_are_computed(tmp_path, passes):
    make_trainer(tmp_path, SSToken(), rows=token_rows(12).select(range(7)))
    passes.clear()
    make_trainer(tmp_path, SSToken())
    assert sum(passes) == 5


def test_lora_and_full_fine_tuning_share_the_cached_history(tmp_path, passes):
    make_trainer(tmp_path, SSToken())
    passes.clear()
    make_trainer(tmp_path, SSToken(), peft_config=LORA)
    assert passes == []


def test_training_changes_the_fingerprint(tmp_path):
    trainer = make_trainer(tmp_path, AllTokens())
    before = model_fingerprint(trainer.model)
    trainer.train()
    assert model_fingerprint(trainer.model) != before


def test_two_runs_add_to_one_cache_without_losing_what_the_other_added(tmp_path):
    one = IndexedSample(
        *(torch.tensor([5, 6]).numpy(), torch.tensor([False, True]).numpy(), torch.arange(2).numpy())
    )
    two = IndexedSample(
        *(torch.tensor([7, 8]).numpy(), torch.tensor([False, True]).numpy(), torch.arange(2).numpy())
    )
    first, second = NllCache(tmp_path, "abc"), NllCache(tmp_path, "abc")
    first.add([one], [torch.tensor([1.5])])
    second.add([two], [torch.tensor([2.5])])
    both = NllCache(tmp_path, "abc")
    assert [float(both.get(sample)) for sample in (one, two)] == [1.5, 2.5]


def test_a_damaged_cache_is_named(tmp_path):
    trainer = make_trainer(tmp_path, SSToken())
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"the history cache .*{path.name} is damaged .*: delete it"):
        make_trainer(tmp_path, SSToken())
    path.unlink()
    assert "history_nll" in make_trainer(tmp_path, SSToken()).store.columns
    assert trainer.store.size


def test_a_cache_of_another_model_is_named(tmp_path):
    make_trainer(tmp_path, SSToken(), model=tiny_llama(seed=1))
    (foreign,) = (tmp_path / "cache").glob("*.safetensors")
    own = NllCache(tmp_path / "cache", model_fingerprint(tiny_llama())).path
    shutil.copy(foreign, own)
    with pytest.raises(UserError, match=r"holds the losses of another model .*: delete it"):
        make_trainer(tmp_path, SSToken())


def test_adapter_off_is_the_base_history_of_a_lora_run(tmp_path):
    SEEN.clear()
    trained(tmp_path, Watched(), peft_config=LORA, learning_rate=10.0)
    from_disk = seen("history_nll")
    trained(tmp_path, Watched(history="adapter_off"), peft_config=LORA, learning_rate=10.0)
    nll = torch.cat([signals["nll"][signals.learnable] for signals in SEEN]).sort().values
    live = seen("history_nll")
    torch.testing.assert_close(live, from_disk, atol=1e-6, rtol=0)
    assert not torch.allclose(live, nll, atol=1e-3)


def test_adapter_off_needs_no_pass_over_the_data(tmp_path, passes):
    make_trainer(tmp_path, SSToken(history="adapter_off"), peft_config=LORA)
    assert passes == []


class _WeightsPerStep(TrainerCallback):
    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(
            {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        )


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_the_ema_history_follows_the_trained_weights(tmp_path, peft):
    steps = _WeightsPerStep()
    history = MovingAverage(decay=0.5)
    trainer = make_trainer(
        tmp_path, SSToken(history=history, warmup_fraction=0.0), callbacks=[steps], peft_config=peft
    )
    average = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    for weights in steps.weights:
        average = {name: 0.5 * average[name] + 0.5 * weights[name] for name in average}
    assert_same(trainer.history.averages, average)
    after = weights_of(trainer)
    with trainer.history.earlier_weights(trainer.model):
        assert_same({n: p for n, p in weights_of(trainer).items() if n in average}, average)
    assert_same(weights_of(trainer), after, tolerance=0)


def test_an_average_that_never_forgets_is_the_base_history(tmp_path):
    SEEN.clear()
    trained(tmp_path, Watched(warmup_fraction=0.0))
    base = seen("history_nll")
    trained(tmp_path, Watched(warmup_fraction=0.0, history=MovingAverage(decay=1 - 1e-9)))
    torch.testing.assert_close(seen("history_nll"), base, atol=1e-5, rtol=0)


def test_the_previous_epoch_is_what_each_token_cost_in_it(tmp_path):
    SEEN.clear()
    kept = {}

    class KeepFirstEpoch(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            kept.setdefault("nll", trainer.store.columns["nll"].clone())

    trainer = make_trainer(
        tmp_path, Watched(history="previous_epoch"), callbacks=[KeepFirstEpoch()], record_signals=True,
        num_train_epochs=2,
    )  # fmt: skip
    trainer.train()
    first_epoch = kept["nll"][~kept["nll"].isnan()].sort().values
    torch.testing.assert_close(seen("history_nll"), first_epoch, atol=0, rtol=0)
    assert not torch.equal(first_epoch, trainer.store.columns["nll"][~kept["nll"].isnan()].sort().values)


def test_with_previous_epoch_the_first_epoch_learns_from_all_tokens(tmp_path):
    trainer = trained(
        tmp_path, SSToken(history="previous_epoch"), num_train_epochs=2, logging_strategy="epoch"
    )
    shares = [log["tokens/share_kept"] for log in trainer.state.log_history if "tokens/share_kept" in log]
    assert shares[0] == 1.0
    assert 0.55 < shares[1] < 0.75


def test_a_checkpoint_can_be_the_history(tmp_path):
    other = tiny_llama(seed=3)
    other.save_pretrained(tmp_path / "other")
    trainer = make_trainer(tmp_path, SSToken(history=str(tmp_path / "other")))
    expected = nll_by_full_logits(other, token_rows())
    torch.testing.assert_close(trainer.store.columns["history_nll"], expected, equal_nan=True)


@pytest.mark.parametrize("weighing", [TokenCleaning(), Rho1(), SSToken()])
def test_a_pass_over_the_data_leaves_the_models_as_they_were(tmp_path, weighing):
    model, reference = tiny_llama().train(), tiny_llama(seed=1).train()
    before = [{name: p.clone() for name, p in m.named_parameters()} for m in (model, reference)]
    trainer = make_trainer(tmp_path, weighing, model=model, reference_model=reference)
    assert trainer.model.training
    assert reference.training
    for weights, m in zip(before, (model, reference), strict=True):
        assert_same(weights, dict(m.named_parameters()), tolerance=0)


def test_the_reference_can_be_named_by_its_path(tmp_path):
    tiny_llama(seed=1).save_pretrained(tmp_path / "reference")
    named = make_trainer(tmp_path, TokenCleaning(reference=str(tmp_path / "reference")))
    given = make_trainer(tmp_path, TokenCleaning(), reference_model=tiny_llama(seed=1))
    assert torch.equal(named.store.columns["kept"], given.store.columns["kept"])


def test_another_model_can_be_the_base(tmp_path):
    trainer = TokenWeighingTrainer(
        tiny_llama(), args=sft_config(tmp_path), train_dataset=token_rows(), processing_class=tiny_tokenizer(),
        weighing=TokenCleaning(), base_model=tiny_llama(seed=2), reference_model=tiny_llama(seed=1),
        history_cache=tmp_path / "cache",
    )  # fmt: skip
    expected = nll_by_full_logits(tiny_llama(seed=2), token_rows())
    torch.testing.assert_close(trainer.store.columns["base_nll"], expected, equal_nan=True)


# What is logged


def logs_of(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_logs_say_how_many_tokens_were_kept_and_what_they_cost(tmp_path):
    trainer = trained(tmp_path, SSToken(), **ONE_STEP)
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    weights = trainer.store.columns["weight"]
    nll = nll_by_full_logits(tiny_llama(), token_rows())
    assert entry["tokens/share_kept"] == pytest.approx(float(weights[~weights.isnan()].mean()))
    assert entry["tokens/nll_kept"] == pytest.approx(float(nll[weights == 1].mean()), abs=1e-5)
    assert entry["tokens/nll_dropped"] == pytest.approx(float(nll[weights == 0].mean()), abs=1e-5)
    assert entry["signals/nll"] == pytest.approx(float(nll.nanmean()), abs=1e-5)
    assert entry["signals/history_nll"] == pytest.approx(float(nll.nanmean()), abs=1e-5)
    assert 0 < entry["signals/prompt_attention"] < 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_kept_is_the_share_asked_for(tmp_path, share):
    counts = torch.tensor([sum(label != -100 for label in row["labels"]) for row in token_rows()])
    per_sample = trained(tmp_path, SSToken(share=share), **ONE_STEP)
    expected = float(torch.ceil(counts.double() * share - 1e-9).sum() / counts.sum())
    assert logs_of(per_sample, "tokens/share_kept") == pytest.approx([expected])
    whole = trained(tmp_path, RandomTokens(share=share), **ONE_STEP)
    expected = int(int(counts.sum()) * share) / int(counts.sum())
    assert logs_of(whole, "tokens/share_kept") == pytest.approx([expected])


@pytest.mark.parametrize("reduction", ["sample", "paper"])
def test_a_reduction_per_sample_does_not_change_what_is_logged_as_kept(tmp_path, reduction):
    token, sample = (
        trained(tmp_path, SSToken(reduction=name), num_train_epochs=2, logging_strategy="epoch", **STILL)
        for name in ("token", reduction)
    )
    for name in ("tokens/share_kept", "tokens/agreement_with_last_epoch"):
        assert logs_of(token, name) == pytest.approx(logs_of(sample, name))
    assert torch.equal(
        token.store.columns["weight"].nan_to_num(), sample.store.columns["weight"].nan_to_num()
    )


def test_a_choice_drawn_once_agrees_with_last_epoch(tmp_path):
    trainer = trained(tmp_path, RandomTokens(), num_train_epochs=2, logging_strategy="epoch")
    assert logs_of(trainer, "tokens/agreement_with_last_epoch") == [1.0]


def test_agreement_is_the_share_of_tokens_treated_as_last_epoch(tmp_path):
    kept = []

    class KeepChoice(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            kept.append(trainer.store.columns["weight"].clone())

    trainer = make_trainer(
        tmp_path, SSToken(warmup_fraction=0.5), num_train_epochs=2, logging_strategy="epoch", callbacks=[KeepChoice()]
    )  # fmt: skip
    trainer.train()
    learned = ~kept[0].isnan()
    expected = float((kept[0] == kept[1])[learned].float().mean())
    assert expected < 1.0
    assert logs_of(trainer, "tokens/agreement_with_last_epoch") == pytest.approx([expected])


def test_signals_of_every_token_are_kept_for_reports_when_asked_for(tmp_path):
    trainer = trained(tmp_path, SSToken(), record_signals=True)
    learned = ~trainer.store.columns["weight"].isnan()
    for name in ("nll", "prompt_attention", "history_nll"):
        assert torch.equal(~trainer.store.columns[name].isnan(), learned), name


# Weights and the loss


@pytest.mark.parametrize("dropped_weight", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["token", "sample", "paper"])
def test_the_loss_is_the_mean_that_the_reduction_names(tmp_path, reduction, dropped_weight):
    weighing = SSToken(reduction=reduction, dropped_weight=dropped_weight)
    trainer = trained(tmp_path, weighing, **ONE_STEP)
    weights, nll = trainer.store.columns["weight"], nll_by_full_logits(tiny_llama(), token_rows())
    learned = ~weights.isnan()
    assert sorted(set(weights[learned].tolist())) == pytest.approx([dropped_weight, 1.0])
    if reduction == "token":
        expected = (weights * nll)[learned].sum() / weights[learned].sum()
    else:
        means = []
        for sample in samples_of(trainer.train_dataset):
            index = sample.target_index
            divisor = weights[index].sum() if reduction == "sample" else 0.6 * len(index)
            means.append((weights * nll)[index].sum() / divisor)
        expected = torch.stack(means).mean()
    assert logs_of(trainer, "loss") == pytest.approx([float(expected)], abs=1e-4)


@pytest.mark.parametrize(
    "weighing", [SSToken(), SmallLoss(warmup_epochs=0.0), SSToken(reduction="sample"), TokenCleaning()]
)
def test_accumulation_is_one_large_batch(tmp_path, weighing):
    whole, parts = (
        trained(tmp_path, weighing, reference_model=tiny_llama(seed=1), num_train_epochs=2, **options)
        for options in (
            {"per_device_train_batch_size": 6},
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3},
        )
    )
    assert_same(weights_of(whole), weights_of(parts))


def test_checkpointing_ends_with_the_same_weights(tmp_path):
    plain, checkpointed = (
        trained(tmp_path, SSToken(warmup_fraction=0.0), gradient_checkpointing=checkpointing)
        for checkpointing in (False, True)
    )
    assert_same(weights_of(plain), weights_of(checkpointed))


def test_during_the_warmup_all_tokens_are_learned_from(tmp_path):
    weights = []

    class KeepWeights(TrainerCallback):
        def on_epoch_end(self, args, state, control, model=None, **kwargs):
            weights.append({name: p.detach().clone() for name, p in model.named_parameters()})

    for weighing in (AllTokens(), SSToken(warmup_epochs=1.0)):
        trained(tmp_path, weighing, num_train_epochs=2, callbacks=[KeepWeights()])
    full, warmed = weights[:2], weights[2:]
    assert_same(full[0], warmed[0])
    assert not torch.allclose(full[1]["lm_head.weight"], warmed[1]["lm_head.weight"], atol=1e-5)


def test_a_step_of_zero_weights_leaves_the_model_as_it_is(tmp_path):
    rows = token_rows().add_column("weight", [1.0] + [0.0] * 11)
    trainer = trained(tmp_path, DatasetWeights(), rows=rows)
    assert sorted(loss > 0 for loss in logs_of(trainer, "loss")) == [False] * 3 + [True]


def test_a_batch_without_a_response_is_no_obstacle(tmp_path):
    rows = token_rows()
    silent = Dataset.from_list(
        [{**row, "labels": [-100] * len(row["labels"])} for row in rows.select(range(6))]
    )
    mixed = Dataset.from_list([*silent, *rows.select(range(6, 12))])
    trainer = trained(tmp_path, SSToken(), rows=mixed, per_device_train_batch_size=2, num_train_epochs=2)
    assert all(torch.isfinite(value).all() for value in weights_of(trainer).values())


@pytest.mark.parametrize(
    "options", [{}, {"packing": True, "max_length": 40, "shuffle_dataset": True}], ids=["padded", "packed"]
)
def test_weights_in_the_data_reach_their_tokens(tmp_path, options):
    rows = token_rows()
    per_token = [
        [(t * 7 + row) % 5 / 4 for t in range(len(ids))] for row, ids in enumerate(rows["input_ids"])
    ]
    trainer = trained(tmp_path, DatasetWeights(), rows=rows.add_column("token_weights", per_token), **options)
    labels = torch.cat([torch.tensor(labels) for labels in rows["labels"]])
    expected = torch.where(labels != -100, torch.tensor([w for row in per_token for w in row]), float("nan"))
    torch.testing.assert_close(trainer.store.columns["weight"], expected, equal_nan=True)
    per_sample = [0.5 * row for row in range(12)]
    trainer = trained(tmp_path, DatasetWeights(), rows=rows.add_column("weight", per_sample), **options)
    lengths = torch.tensor([len(ids) for ids in rows["input_ids"]])
    expected = torch.where(
        labels != -100, torch.repeat_interleave(torch.tensor(per_sample), lengths), float("nan")
    )
    torch.testing.assert_close(trainer.store.columns["weight"], expected, equal_nan=True)


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_weights_in_the_data_are_cut_as_the_samples_are(tmp_path, mode):
    rows = token_rows()
    numbers = [[float(t) for t in range(len(ids))] for ids in rows["input_ids"]]
    rows = rows.map(lambda row: {"labels": row["input_ids"]}).add_column("token_weights", numbers)
    trainer = make_trainer(tmp_path, DatasetWeights(), rows=rows, max_length=10, truncation_mode=mode)
    cut = slice(None, 10) if mode == "keep_start" else slice(-10, None)
    expected = torch.tensor([number for row in numbers for number in row[cut]])
    assert torch.equal(trainer.store.columns["dataset_weight"], expected)


def test_a_weight_of_zero_is_as_good_as_no_label(tmp_path):
    rows = token_rows()
    halves = [[float(t % 2) for t in range(len(ids))] for ids in rows["input_ids"]]
    weighed = trained(tmp_path, DatasetWeights(), rows=rows.add_column("token_weights", halves))
    masked = rows.map(lambda row: {"labels": [x if t % 2 else -100 for t, x in enumerate(row["labels"])]})
    plain = trained(tmp_path, AllTokens(), rows=masked)
    assert_same(weights_of(weighed), weights_of(plain))


def test_prompt_tokens_are_learned_from_with_their_own_weight(tmp_path):
    trainer = trained(tmp_path, PromptResponseWeights(prompt=0.25, response=0.75))
    expected = []
    for row in token_rows():
        weights = [0.25 if label == -100 else 0.75 for label in row["labels"]]
        expected += [float("nan"), *weights[1:]]
    torch.testing.assert_close(trainer.store.columns["weight"], torch.tensor(expected), equal_nan=True)


def test_equal_prompt_and_response_weights_are_language_modelling(tmp_path):
    ours = trained(tmp_path, PromptResponseWeights(prompt=0.5, response=0.5))
    everything = token_rows().map(lambda row: {"labels": row["input_ids"]})
    plain = trained(tmp_path, AllTokens(), rows=everything)
    assert_same(weights_of(ours), weights_of(plain))


@dataclass(frozen=True, kw_only=True)
class ByLabel(TokenWeighing):
    """A weighing that chooses nothing: it weighs by the token's id."""

    share: float = 0.5

    def weigh(self, signals):
        return torch.where(signals.learnable, signals.labels % 3, 0).float()

    def weight_sum(self, signals):
        return self.weigh(signals).sum()


def test_a_weighing_may_define_its_own_weights(tmp_path):
    trainer = trained(tmp_path, ByLabel(), **ONE_STEP)
    labels = torch.cat([torch.tensor(labels) for labels in token_rows()["labels"]])
    weights, nll = (
        (labels % 3)[labels != -100],
        nll_by_full_logits(tiny_llama(), token_rows())[labels != -100],
    )
    expected = float((weights * nll).sum() / weights.sum())
    assert logs_of(trainer, "loss") == pytest.approx([expected], abs=1e-4)


# Kinds of data and of training

GENERATION_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + ' <end> ' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + ' <end> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
TALK = [
    {"role": "user", "content": "w1 w2 w3"}, {"role": "assistant", "content": "w4 w5"},
    {"role": "user", "content": "w6"}, {"role": "assistant", "content": "w7 w8 w9 w10"},
]  # fmt: skip
DATA = {
    "text": ([{"text": f"w{n} w2 w3 w{n + 5} w6"} for n in range(8)], {}),
    "prompt_and_completion": (
        [{"prompt": f"w{n} w2", "completion": f" w3 w{n + 5} w6"} for n in range(8)], {}
    ),
    "conversations": ([{"messages": TALK[: 2 + 2 * (n % 2)]} for n in range(8)], {}),
    "assistant_only": ([{"messages": TALK[: 2 + 2 * (n % 2)]} for n in range(8)], {"assistant_only_loss": True}),
    "conversational_prompt": ([{"prompt": TALK[:3], "completion": TALK[3:]} for _ in range(8)], {}),
}  # fmt: skip


@pytest.mark.parametrize("packing", [{}, {"packing": True, "max_length": 40}], ids=["padded", "packed"])
@pytest.mark.parametrize("kind", DATA)
def test_every_kind_of_data_is_learned_from_as_trl_does(tmp_path, kind, packing):
    rows, options = DATA[kind]
    weights = []
    for trainer_class, extra in ((SFTTrainer, {}), (TokenWeighingTrainer, {"weighing": AllTokens()})):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = GENERATION_TEMPLATE
        trainer = trainer_class(
            tiny_llama(), args=sft_config(tmp_path, **options, **packing), train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer, **extra,
        )  # fmt: skip
        trainer.train()
        weights.append(weights_of(trainer))
    assert_same(*weights)


def test_a_streamed_data_set_can_be_weighed_by_the_current_loss(tmp_path):
    options = {
        "max_steps": 4,
        "rows": token_rows().to_iterable_dataset(),
        "save_strategy": "steps",
        "save_steps": 2,
    }
    trainer = trained(tmp_path, SmallLoss(warmup_epochs=0.0), **options)
    assert all(0.6 <= share < 0.8 for share in logs_of(trainer, "tokens/share_kept"))
    resumed = make_trainer(tmp_path, SmallLoss(warmup_epochs=0.0), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(weights_of(trainer), weights_of(resumed), tolerance=0)


def test_data_for_evaluation_may_be_called_train(tmp_path):
    eval_dataset = {"train": token_rows(samples=3), "other": token_rows(samples=2, seed=4)}
    trainer = trained(tmp_path, SSToken(), eval_dataset=eval_dataset)
    assert trainer.store.size == sum(map(len, token_rows()["input_ids"]))
    assert "eval_train_loss" in trainer.evaluate()


def test_evaluation_in_between_changes_nothing(tmp_path):
    plain, evaluated = (
        trained(tmp_path, SSToken(), eval_dataset=token_rows(seed=4), **options)
        for options in ({}, {"eval_strategy": "steps", "eval_steps": 1})
    )
    assert len(logs_of(evaluated, "eval_loss")) == 4
    assert_same(weights_of(plain), weights_of(evaluated), tolerance=0)
    assert logs_of(plain, "tokens/share_kept") == logs_of(evaluated, "tokens/share_kept")


def test_saving_in_between_changes_nothing_under_autocast(tmp_path):
    plain, saved = (
        trained(tmp_path / name, SSToken(), bf16=True, **options)
        for name, options in (("plain", {}), ("saved", {"save_strategy": "steps", "save_steps": 1}))
    )
    assert_same(weights_of(plain), weights_of(saved), tolerance=0)


# Checkpoints


@pytest.mark.parametrize(
    ("weighing", "epochs", "step"),
    [
        (SSToken(), 1, 2),
        (SSToken(history="ema"), 1, 2),
        (SSToken(history="previous_epoch"), 2, 2),
        (SSToken(history="previous_epoch"), 2, 6),
        (SmallLoss(), 2, 6),
        (RandomTokens(), 1, 2),
    ],
    ids=["base", "ema", "previous_epoch", "previous_epoch_in_the_second", "small_loss", "random"],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, weighing, epochs, step):
    options = {"num_train_epochs": epochs, "save_strategy": "steps", "save_steps": step}
    whole = trained(tmp_path, weighing, **options)
    resumed = make_trainer(tmp_path, weighing, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert_same(weights_of(whole), weights_of(resumed), tolerance=0)
    assert torch.equal(
        whole.store.columns["weight"].nan_to_num(), resumed.store.columns["weight"].nan_to_num()
    )
    assert_same(whole.history.state(), resumed.history.state(), tolerance=0)
    assert logs_of(whole, "tokens/share_kept") == logs_of(resumed, "tokens/share_kept")


def test_a_resumed_lora_run_ends_as_an_uninterrupted_one(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "peft_config": LORA}
    whole = trained(tmp_path, SSToken(history="ema"), **options)
    resumed = make_trainer(tmp_path, SSToken(history="ema"), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(weights_of(whole), weights_of(resumed), tolerance=0)
    assert_same(whole.history.state(), resumed.history.state(), tolerance=0)


def test_resuming_skips_a_checkpoint_that_was_not_written_to_its_end(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1}
    whole = trained(tmp_path, SSToken(), **options)
    (tmp_path / "checkpoint-3" / STATE_FILE).unlink()
    (tmp_path / "checkpoint-4" / STATE_FILE).unlink()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text("{")
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    resumed = make_trainer(tmp_path, SSToken(), **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same(weights_of(whole), weights_of(resumed), tolerance=0)


def test_checkpoints_are_ordered_by_step_and_not_by_name(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / STATE_FILE).touch()
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-10"


def test_without_a_whole_checkpoint_there_is_nothing_to_resume(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(UserError, match="holds no whole checkpoint to resume from: start without resuming"):
        make_trainer(tmp_path, SSToken()).train(resume_from_checkpoint=True)
    with pytest.raises(UserError, match=r"checkpoint-1 was not written to its end by tokenry"):
        make_trainer(tmp_path, SSToken()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_damaged_state_file_is_named(tmp_path):
    trained(tmp_path, SSToken(), save_strategy="steps", save_steps=2)
    path = tmp_path / "checkpoint-2" / STATE_FILE
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=rf"{STATE_FILE} is damaged .*: resume from an earlier checkpoint"):
        make_trainer(tmp_path, SSToken()).train(resume_from_checkpoint=str(path.parent))


@pytest.mark.parametrize("history", ["ema", "previous_epoch"])
def test_a_checkpoint_of_another_history_is_named(tmp_path, history):
    trained(tmp_path, SSToken(), save_strategy="steps", save_steps=2)
    trainer = make_trainer(tmp_path, SSToken(history=history), num_train_epochs=2)
    with pytest.raises(
        UserError, match=rf"under a weighing with another history than SSToken\(history='{history}'\)"
    ):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_checkpoint_of_other_data_is_named(tmp_path):
    trained(tmp_path, SSToken(), save_strategy="steps", save_steps=2)
    trainer = make_trainer(tmp_path, SSToken(), rows=token_rows(samples=9))
    with pytest.raises(UserError, match=r"weight has \d+ values but the training data \d+ tokens"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_the_state_of_a_checkpoint_is_small_and_readable(tmp_path):
    trained(tmp_path, SSToken(), save_strategy="steps", save_steps=4)
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert "tokens/share_kept" in state["log_history"][0]
    size = (tmp_path / "checkpoint-4" / STATE_FILE).stat().st_size
    assert size < 4 * sum(map(len, token_rows()["input_ids"])) + 500


# What every weighing promises about its weights

WEIGHINGS = [
    AllTokens(), RandomTokens(scope="sample"), SSToken(), SSToken(dropped_weight=0.2, share=0.3),
    SSToken(rounding="floor"), SmallLoss(warmup_epochs=0.0), Rho1(), Rho1(scope="sample"), TokenCleaning(scope="sample"),
    TokenCleaning(), DatasetWeights(), PromptResponseWeights(), SSToken(warmup_epochs=5.0), ByLabel(),
]  # fmt: skip


def random_signals(seed):
    generator = torch.Generator().manual_seed(seed)
    batch, seq = (int(torch.randint(1, 8, (1,), generator=generator)) for _ in range(2))
    labels = torch.randint(-2, 5, (batch, seq), generator=generator)
    labels[labels < 0] = -100
    lengths = torch.randint(0, seq + 1, (batch, 1), generator=generator)
    segments = segment_ids(labels, (torch.arange(seq) < lengths).long())
    names = [
        "nll", "history_nll", "base_nll", "reference_nll", "prompt_attention", "uniform", "dataset_weight", "response",
    ]  # fmt: skip
    values = {name: torch.rand(batch, seq, generator=generator) for name in names}
    values["kept"] = (torch.rand(batch, seq, generator=generator) > 0.5).float()
    return Signals(labels, segments, values, progress=0.5, epoch=1.0)


@pytest.mark.parametrize("weighing", WEIGHINGS, ids=lambda weighing: weighing.describe())
def test_the_weights_of_a_batch_sum_to_what_was_said_before_it_was_scored(weighing):
    for seed in range(60):
        signals = random_signals(seed)
        weights = weighing.weigh(signals)
        static = {n: v for n, v in signals.values.items() if n in {*weighing.static_needs, "kept"}}
        known = Signals(signals.labels, signals.segments, static, signals.progress, signals.epoch)
        torch.testing.assert_close(weights.sum(), weighing.weight_sum(known), rtol=1e-6, atol=1e-6)
        assert not bool(weights[~learnable_tokens(signals.labels, signals.segments)].any())
