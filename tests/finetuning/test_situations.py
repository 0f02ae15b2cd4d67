"""Every situation that `SFTTrainer` is used in: without a weighing it is `SFTTrainer`, under one it trains or says why not.

The situations are those of TRL's documentation, with tiny models; what is compared is all that a user sees: logs, metrics, weights.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import (
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MixtralConfig,
    MixtralForCausalLM,
    TrainingArguments,
)
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import VOCABULARY
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.finetuning import RandomTokens, SSToken, TokenWeighingTrainer

TALK = [
    {"role": "user", "content": "w1 w2 w3"}, {"role": "assistant", "content": "w4 w5"},
    {"role": "user", "content": "w6"}, {"role": "assistant", "content": "w7 w8 w9 w10"},
]  # fmt: skip
GENERATION = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + ' <end> ' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + ' <end> ' }}{% endif %}{% endfor %}"
    "{% if tools %}{{ 'w11 ' }}{% endif %}{% if thinking %}{{ 'w12 ' }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
LORA = LoraConfig(r=4, target_modules=["q_proj", "up_proj"])


def texts():
    return Dataset.from_list(
        [{"text": " ".join(f"w{(3 * n + t) % 50}" for t in range(5 + n % 4))} for n in range(8)]
    )


def pairs():
    return Dataset.from_list([{"prompt": f"w{n} w2", "completion": f" w3 w{n + 5} w6"} for n in range(8)])


def talks(**columns):
    return Dataset.from_list([{"messages": TALK[: 2 + 2 * (n % 2)], **columns} for n in range(8)])


def ids_only(**columns):
    rows = token_rows(8)
    for name, make in columns.items():
        rows = rows.add_column(name, [make(ids) for ids in rows["input_ids"]])
    return rows.remove_columns("labels")


def shared():
    turns = [{"from": "human", "value": "w1 w2"}, {"from": "gpt", "value": "w3 w4 w5"}]
    return Dataset.from_list([{"conversations": turns} for _ in range(8)])


def strange_columns():
    rows = token_rows(8)
    for name in ("token_class", "token_index", "token_runs", "weight", "token_weights", "response", "kept"):
        rows = rows.add_column(name, [f"{name} {n}" for n in range(8)])
    return rows


def mixture():
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        num_key_value_heads=2, num_local_experts=2, output_router_logits=True,
    )  # fmt: skip
    return MixtralForCausalLM(config)


def seeing():
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=63)
    config.image_token_id = 63
    return LlavaForConditionalGeneration(config)


def looking():
    size = {"height": 8, "width": 8}
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["w57"]}
    )  # cut out of the text wherever it stands
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size),
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="w57",
    )
    processor.chat_template = (
        "{% for message in messages %}{{ '<' + message['role'] + '> ' }}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ 'w57 ' }}{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
        "{{ '<end> ' }}{% endfor %}"
    )
    return processor


def pictures():
    image = Image.fromarray(np.full((8, 8, 3), 100, dtype=np.uint8))
    return Dataset.from_list([{"messages": TALK[:2], "images": [image]} for _ in range(4)])


@cache
def saved():
    """The path of a model, to be loaded by the trainer."""
    folder = tempfile.mkdtemp()
    tiny_llama().save_pretrained(folder)
    return folder


class Sorting(DataCollatorForLanguageModeling):
    """Lays the longest sample out first."""

    def torch_call(self, examples):
        return super().torch_call(sorted(examples, key=lambda example: -len(example["input_ids"])))


def own_loss(outputs, labels, num_items_in_batch=None):
    logits = outputs.logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(
        logits, labels[:, 1:].flatten(), reduction="sum", ignore_index=-100
    )
    return 2 * loss / num_items_in_batch


@dataclass(frozen=True)
class Situation:
    """A way to use the trainer.

    Args:
        rows: the training data.
        args: options of `SFTConfig`.
        given: further arguments of the trainer, made anew for each.
        model: what is trained.
        refused: the words of the refusal under a weighing; None where it trains. A pair: SSToken's and RandomTokens'.
    """

    rows: Callable[[], Any]
    args: Mapping[str, Any] = field(default_factory=dict)
    given: Callable[[], Mapping[str, Any]] = dict
    model: Callable[[], Any] = tiny_llama
    refused: str | tuple[str | None, str | None] | None = None


STREAMED = "looks up numbers by token, which a streamed data set does not allow"
VIRTUAL = "prompt tuning puts virtual tokens before the text"
SITUATIONS = {
    "text": Situation(texts),
    "prompt and completion": Situation(pairs),
    "prompt and completion, both learned": Situation(pairs, {"completion_only_loss": False}),
    "conversations": Situation(talks),
    "conversations, completions only": Situation(
        lambda: Dataset.from_list([{"prompt": TALK[:3], "completion": TALK[3:]} for _ in range(8)])
    ),
    "conversations of the other form": Situation(shared),
    "assistant only": Situation(talks, {"assistant_only_loss": True}),
    "assistant only and packed": Situation(talks, {"assistant_only_loss": True, "packing": True, "max_length": 32}),
    "tools": Situation(lambda: talks(tools='[{"name": "w1"}]')),
    "options of the chat template": Situation(lambda: talks(chat_template_kwargs={"thinking": True})),
    "a function that formats": Situation(
        lambda: Dataset.from_list([{"question": f"w{n}", "answer": "w9 w10"} for n in range(8)]),
        given=lambda: {"formatting_func": lambda row: f"{row['question']} w1 {row['answer']}"},
    ),
    "tokens": Situation(ids_only),
    "tokens and labels": Situation(token_rows),
    "tokens and a mask of the completion": Situation(
        lambda: ids_only(completion_mask=lambda ids: [t >= 3 for t in range(len(ids))]), {"completion_only_loss": True}
    ),
    "tokens and masks of the assistant": Situation(
        lambda: ids_only(assistant_masks=lambda ids: [t % 2 for t in range(len(ids))])
    ),
    "tokens and attention": Situation(lambda: ids_only(attention_mask=lambda ids: [1] * len(ids))),
    "columns with the names of ours": Situation(strange_columns),
    "columns with the names of ours, all kept": Situation(strange_columns, {"remove_unused_columns": False}),
    "cut at the end": Situation(token_rows, {"max_length": 12}),
    "cut at the beginning": Situation(token_rows, {"max_length": 8, "truncation_mode": "keep_end"}),
    "never cut": Situation(token_rows, {"max_length": None}),
    "a selection": Situation(lambda: token_rows().shuffle(seed=1).select(range(7))),
    "rows that come twice": Situation(lambda: token_rows().select([0, 1, 2, 3, 1, 0])),
    "shuffled": Situation(token_rows, {"shuffle_dataset": True}),
    "prepared elsewhere": Situation(
        token_rows,
        {"dataset_kwargs": {"skip_prepare_dataset": True}},
        refused="looks up numbers by token, and tokens get their numbers while the data is prepared",
    ),
    "packed": Situation(token_rows, {"packing": True, "max_length": 32}),
    "packed, long samples split": Situation(
        token_rows, {"packing": True, "max_length": 12, "packing_strategy": "bfd_split"}
    ),
    "packed and wrapped": Situation(
        token_rows,
        {"packing": True, "max_length": 16, "packing_strategy": "wrapped"},
        refused=("packing_strategy='wrapped' cuts samples apart, so tokens cannot be ranked", None),
    ),
    "packed and shuffled": Situation(token_rows, {"packing": True, "max_length": 32, "shuffle_dataset": True}),
    "packed for training only": Situation(
        token_rows, {"packing": True, "max_length": 32, "eval_packing": False, "eval_strategy": "epoch"},
        given=lambda: {"eval_dataset": token_rows(4, seed=3)},
    ),
    "packed for evaluation only": Situation(
        token_rows, {"max_length": 32, "eval_packing": True, "eval_strategy": "epoch"},
        given=lambda: {"eval_dataset": token_rows(4, seed=3)},
    ),
    "padding-free": Situation(token_rows, {"padding_free": True, "max_length": None}),
    "padded to multiples": Situation(token_rows, {"pad_to_multiple_of": 16}),
    "padding-free, to multiples": Situation(
        token_rows, {"padding_free": True, "max_length": None, "pad_to_multiple_of": 16}
    ),
    "a collator that sorts": Situation(token_rows, given=lambda: {"data_collator": Sorting(pad_token_id=0)}),
    "grouped by length": Situation(token_rows, {"train_sampling_strategy": "group_by_length"}),
    "streamed": Situation(lambda: texts().to_iterable_dataset(), {"max_steps": 3}, refused=STREAMED),
    "streamed and packed": Situation(
        lambda: texts().to_iterable_dataset(), {"max_steps": 2, "packing": True, "max_length": 16}, refused=STREAMED
    ),
    "evaluation": Situation(
        texts, {"eval_strategy": "steps", "eval_steps": 1}, given=lambda: {"eval_dataset": texts()}
    ),
    "evaluation of a stream": Situation(
        texts, {"eval_strategy": "epoch"}, given=lambda: {"eval_dataset": texts().to_iterable_dataset()}
    ),
    "several evaluations": Situation(
        texts, {"eval_strategy": "epoch"}, given=lambda: {"eval_dataset": {"train": texts(), "pairs": texts()}}
    ),
    "metrics of the user's": Situation(
        texts, {"eval_strategy": "epoch"},
        given=lambda: {
            "eval_dataset": texts(),
            "compute_metrics": lambda told: {"highest": float(told.predictions.max())},
            "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1),
        },
    ),
    "best model by accuracy": Situation(
        texts,
        {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
         "load_best_model_at_end": True, "metric_for_best_model": "mean_token_accuracy"},
        given=lambda: {"eval_dataset": texts()},
    ),
    "accumulation": Situation(token_rows, {"gradient_accumulation_steps": 2}),
    "bfloat16": Situation(token_rows, {"bf16": True}),
    "checkpointing": Situation(token_rows, {"gradient_checkpointing": True}),
    "selective checkpointing": Situation(
        token_rows, {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"selective": True}}
    ),
    "reentrant checkpointing": Situation(
        token_rows, {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    ),
    "LoRA": Situation(token_rows, given=lambda: {"peft_config": LORA}),
    "LoRA and checkpointing": Situation(
        token_rows, {"gradient_checkpointing": True}, given=lambda: {"peft_config": LORA}
    ),
    "an adapter of the user's": Situation(token_rows, model=lambda: get_peft_model(tiny_llama(), LORA)),
    "prompt tuning": Situation(
        token_rows, refused=VIRTUAL,
        given=lambda: {"peft_config": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)},
    ),
    "p-tuning": Situation(
        token_rows, refused=VIRTUAL,
        given=lambda: {
            "peft_config": PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, encoder_hidden_size=8)
        },
    ),
    "prefix tuning": Situation(
        token_rows, refused=VIRTUAL,
        given=lambda: {"peft_config": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)},
    ),
    "prompt tuning of the user's": Situation(
        token_rows, refused=VIRTUAL,
        model=lambda: get_peft_model(
            tiny_llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        ),
    ),
    "experts": Situation(token_rows, model=mixture, refused="the load-balancing loss of this mixture-of-experts"),
    "experts without balance": Situation(token_rows, {"router_aux_loss_coef": 0.0}, model=mixture),
    "experts and LoRA": Situation(
        token_rows, {"router_aux_loss_coef": 0.01}, model=mixture,
        given=lambda: {"peft_config": LoraConfig(target_modules=["q_proj"])}, refused="the load-balancing loss",
    ),
    "DFT": Situation(token_rows, {"loss_type": "dft"}, refused="loss_type='dft' weighs tokens itself"),
    "a loss of the user's": Situation(
        token_rows, given=lambda: {"compute_loss_func": own_loss}, refused="compute_loss_func replaces the loss"
    ),
    "smoothed labels": Situation(
        token_rows, {"label_smoothing_factor": 0.1}, refused="label_smoothing_factor cannot be combined"
    ),
    "another end token": Situation(texts, {"eos_token": "w9"}),
    "another padding token": Situation(texts, {"pad_token": "w9"}),
    "a model by its path": Situation(token_rows, model=saved),
    "a model by its path, in half precision": Situation(
        token_rows, {"model_init_kwargs": {"dtype": "bfloat16"}}, model=saved
    ),
    "saved as it goes": Situation(texts, {"save_strategy": "steps", "save_steps": 1}),
    "tokens of this rank only": Situation(
        token_rows, {"average_tokens_across_devices": False, "gradient_accumulation_steps": 2}
    ),
    "a model that sees, and text": Situation(texts, model=seeing, given=lambda: {"processing_class": looking()}),
    "a model that sees, and images": Situation(
        pictures, {"max_length": None, "remove_unused_columns": False}, model=seeing,
        given=lambda: {"processing_class": looking()}, refused="token weighing is for text: the training data has images",
    ),
}  # fmt: skip


def run(trainer_class, situation, folder, **weighing):
    """Train; return what the user sees."""
    given = {"processing_class": tiny_tokenizer(), **situation.given()}
    if situation.model is tiny_llama or "messages" in str(situation.rows().column_names):
        getattr(given["processing_class"], "tokenizer", given["processing_class"]).chat_template = GENERATION
    args = sft_config(folder, **situation.args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        trainer = trainer_class(
            situation.model(), args=args, train_dataset=situation.rows(), **given, **weighing
        )
        trainer.train()
    return trainer


def seen(trainer):
    """Logs without times, what `evaluate` answers, and the weights."""
    logs = [
        {name: value for name, value in entry.items() if "runtime" not in name and "per_second" not in name}
        for entry in trainer.state.log_history
    ]
    return logs, {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}


# What TRL itself cannot do in its lowest version, or does in another way there.
NEWER = {
    "grouped by length",
    "metrics of the user's",
    "selective checkpointing",
    "a loss of the user's",
    "smoothed labels",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.newer("trl")) if name in NEWER else name for name in SITUATIONS],
)
def test_without_a_weighing_it_is_trl(tmp_path, name):
    situation = SITUATIONS[name]
    theirs = run(SFTTrainer, situation, tmp_path / "trl")
    ours = run(TokenWeighingTrainer, situation, tmp_path / "ours")
    (logs, weights), (our_logs, our_weights) = seen(theirs), seen(ours)
    assert our_logs == logs
    assert our_weights.keys() == weights.keys()
    assert all(torch.equal(our_weights[name], weights[name]) for name in weights)
    assert type(ours.data_collator) is type(theirs.data_collator)
    assert ours.train_dataset.column_names == theirs.train_dataset.column_names
    assert ours.store.size == 0
    assert not ours.store.columns


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.newer("trl")) if name in NEWER else name for name in SITUATIONS],
)
@pytest.mark.parametrize(
    "weighing", [SSToken(warmup_fraction=0.0), RandomTokens()], ids=["SSToken", "RandomTokens"]
)
def test_under_a_weighing_it_trains_or_says_why_not(tmp_path, name, weighing):
    situation = SITUATIONS[name]
    words = situation.refused
    if isinstance(words, tuple):
        words = words[isinstance(weighing, RandomTokens)]
    options = {"weighing": weighing, "history_cache": tmp_path / "cache"}
    if words is not None:
        with pytest.raises(UserError) as refusal:
            run(TokenWeighingTrainer, situation, tmp_path, **options)
        assert words in str(refusal.value)
        assert str(refusal.value).rstrip(".").count(". ") == 0
        return
    trainer = run(TokenWeighingTrainer, situation, tmp_path, **options)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(np.isfinite(entry["loss"]) and entry["loss"] > 0 for entry in entries)
    told = {"loss", "num_tokens", "mean_token_accuracy", "entropy", "tokens/share_kept", "epoch"}
    assert all(told <= entry.keys() for entry in entries)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in trainer.model.parameters())


def test_plain_training_arguments_will_do(tmp_path):
    options = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 3,
        "max_steps": 2,
        "use_cpu": True,
        "report_to": [],
    }
    for weighing in (None, SSToken(warmup_fraction=0.0)):
        trainer = TokenWeighingTrainer(
            tiny_llama(), TrainingArguments(**options), train_dataset=token_rows(), processing_class=tiny_tokenizer(),
            weighing=weighing, history_cache=tmp_path,
        )  # fmt: skip
        trainer.train()
        assert trainer.state.global_step == 2


def test_a_resumed_run_without_a_weighing_is_trl(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    ended = []
    for trainer_class in (SFTTrainer, TokenWeighingTrainer):
        run(trainer_class, Situation(token_rows, options), tmp_path / trainer_class.__name__)
        trainer = trainer_class(
            tiny_llama(), args=sft_config(tmp_path / trainer_class.__name__, **options), train_dataset=token_rows(),
            processing_class=tiny_tokenizer(),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=str(tmp_path / trainer_class.__name__ / "checkpoint-2"))
        ended.append(seen(trainer))
    assert ended[0][0] == ended[1][0]
    assert all(torch.equal(ended[0][1][name], ended[1][1][name]) for name in ended[0][1])
