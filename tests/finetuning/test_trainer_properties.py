"""How samples are laid out in batches never changes which of their tokens are chosen."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.finetuning import (
    AllTokens,
    Checkpoint,
    DatasetWeights,
    PromptResponseWeights,
    RandomTokens,
    Rho1,
    SmallLoss,
    SSToken,
    TokenCleaning,
    TokenWeighingTrainer,
)
from tokenry.finetuning.dataset_pass import flat_signals, samples_of

PACKING = {"packing": True, "max_length": 48}
LAYOUTS = {
    "left_padding": {"pad": (0, "left")},
    "much_left_padding": {"pad": (40, "left")},
    "single_samples": {"per_device_train_batch_size": 1},
    "one_batch": {"per_device_train_batch_size": 12},
    "accumulation": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    "another_order": {"seed": 7},
    "packing": PACKING,
    "packing_and_accumulation": {
        **PACKING,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
    },
    "shuffled_packing": {**PACKING, "shuffle_dataset": True},
    "padding_free": {"padding_free": True},
    "reversed_samples": {"order": tuple(reversed(range(12)))},
}
SSTOKEN = {"warmup_fraction": 0.0, "history": Checkpoint(static_model="other")}
WEIGHINGS = {
    "AllTokens": AllTokens(),
    "RandomTokens": RandomTokens(),
    "RandomTokens_per_sample": RandomTokens(scope="sample"),
    "SSToken": SSToken(**SSTOKEN),
    "SSToken_content": SSToken(**SSTOKEN, attention="content", layers="deep", window=3, dropped_weight=0.1),
    "SSToken_per_sample_mean": SSToken(**SSTOKEN, reduction="sample", progress="relative"),
    "Rho1": Rho1(scope="sample"),
    "TokenCleaning": TokenCleaning(),
    "TokenCleaning_per_sample": TokenCleaning(scope="sample"),
    "SmallLoss": SmallLoss(warmup_epochs=0.0, window=3),
    "DatasetWeights": DatasetWeights(),
    "PromptResponseWeights": PromptResponseWeights(),
}
# Drawn by position in the data set or by a fresh number per token: the order of the data is part of the draw.
DRAWN = ("RandomTokens", "RandomTokens_per_sample")
# Weighings that go a way which another one goes through every layout: three of them will do.
ALIKE = (
    "AllTokens",
    "PromptResponseWeights",
    "RandomTokens_per_sample",
    "SSToken_per_sample_mean",
    "TokenCleaning_per_sample",
)
ENOUGH = ("left_padding", "packing_and_accumulation", "another_order")


def left_or_right(extra, side):
    def collate(examples):
        def pad(name, value):
            rows = [torch.tensor(example[name]) for example in examples]
            padded = pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
            wide = padded.new_full((len(rows), extra), value)
            return torch.cat([wide, padded] if side == "left" else [padded, wide], dim=1)

        ones = [{"real": [1] * len(example["input_ids"])} for example in examples]
        mask = pad_sequence([torch.tensor(one["real"]) for one in ones], batch_first=True, padding_side=side)
        wide = mask.new_zeros(len(examples), extra)
        mask = torch.cat([wide, mask] if side == "left" else [mask, wide], dim=1)
        return {"input_ids": pad("input_ids", 0), "labels": pad("labels", -100), "attention_mask": mask}

    return collate


@functools.cache
def other_model():
    folder = Path(tempfile.mkdtemp())
    tiny_llama(seed=5).save_pretrained(folder)
    return str(folder)


def trained(name, dtype=torch.float32, pad=None, order=None, record=False, **options):
    """Train one epoch in which nothing moves."""
    rows = token_rows(multi_turn=True)
    rows = rows.add_column("weight", [0.25 * (1 + row % 4) for row in range(len(rows))])
    if order:
        rows = rows.select(order)
    weighing = WEIGHINGS[name]
    if isinstance(weighing, SSToken):
        weighing = type(weighing)(**{**vars(weighing), "history": other_model()})
    with tempfile.TemporaryDirectory() as folder:
        trainer = TokenWeighingTrainer(
            tiny_llama().to(dtype),
            args=sft_config(folder, **{"learning_rate": 0.0, "max_length": None, **options}),
            data_collator=left_or_right(*pad) if pad else None,
            train_dataset=rows,
            processing_class=tiny_tokenizer(),
            weighing=weighing,
            reference_model=tiny_llama(seed=1).to(dtype) if "reference_nll" in weighing.needs else None,
            history_cache=folder,
            record_signals=record or name == "AllTokens",  # plain fine-tuning records nothing unless told to
        )
        trainer.train()
    return trainer


@functools.cache
def plainly_chosen(name):
    return trained(name).store.columns["weight"]


def by_sample(column, order):
    """Cut a flat column into the samples of the data, given in `order`, and put them back in the order of the data."""
    lengths = [len(row) for row in token_rows(multi_turn=True)["input_ids"]]
    pieces = column.split([lengths[number] for number in order])
    return torch.cat([pieces[order.index(number)] for number in range(len(order))])


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (name, layout)
        for name in WEIGHINGS
        for layout in (ENOUGH if name in ALIKE else LAYOUTS)
        if not (layout == "reversed_samples" and name in DRAWN)
    ],
)
def test_layout_never_changes_which_tokens_are_chosen(name, layout):
    order = LAYOUTS[layout].get("order")
    column = trained(name, **LAYOUTS[layout]).store.columns["weight"]
    column = by_sample(column, order) if order else column
    assert torch.equal(column.isnan(), plainly_chosen(name).isnan())
    torch.testing.assert_close(column, plainly_chosen(name), rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["AllTokens", "RandomTokens", "DatasetWeights", "PromptResponseWeights"])
def test_choices_that_know_no_loss_are_the_same_in_bfloat16(name):
    column = trained(name, dtype=torch.bfloat16).store.columns["weight"]
    assert torch.equal(column.nan_to_num(-1), plainly_chosen(name).nan_to_num(-1))


@pytest.mark.parametrize("name", ["SSToken", "Rho1", "TokenCleaning_per_sample", "SmallLoss"])
@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"bf16": True}], ids=["bfloat16", "autocast"])
def test_half_precision_changes_the_choice_only_between_near_ties(name, options):
    exact, rounded = trained(name, record=True), trained(name, **options)
    weighing = exact.weighing
    samples = list(samples_of(exact.train_dataset))
    signals = flat_signals(samples, exact.store)
    signals = type(signals)(signals.labels, signals.segments, signals.values, progress=1.0, epoch=1.0)
    score, kept = weighing.score(signals)[0], exact.store.columns["weight"] == 1
    differs = exact.store.columns["weight"].nan_to_num(-1) != rounded.store.columns["weight"].nan_to_num(-1)
    assert float(differs.float().mean()) < 0.1
    learnable = signals.learnable[0]
    spread = float(score[learnable].max() - score[learnable].min())
    for sample in samples:
        index = sample.target_index
        cut = score[index][kept[index]].min()
        near = (score[index] - cut).abs() < 0.03 * spread
        assert bool(near[differs[index]].all())


def test_the_choices_compared_here_are_not_trivial():
    for name, weighing in WEIGHINGS.items():
        if weighing.share < 1.0:
            weights = plainly_chosen(name)
            kept = float((weights[~weights.isnan()] == 1).float().mean())
            assert 0.4 < kept < 0.8, name
    assert not torch.equal(plainly_chosen("SSToken").nan_to_num(), plainly_chosen("Rho1").nan_to_num())
