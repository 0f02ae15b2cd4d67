"""Self-evolving TokenCleaning: plain fine-tuning first, then parts cleaned by the model that the parts before have made."""

import copy

import pytest
import torch

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.finetuning import TokenCleaning, TokenWeighingTrainer, self_evolving_cleaning


def _run(tmp_path, rows, parts, **options):
    model = tiny_llama()
    return self_evolving_cleaning(
        model,
        copy.deepcopy(model),
        rows,
        lambda folder: sft_config(folder),
        tmp_path,
        parts=parts,
        trainer_arguments={"processing_class": tiny_tokenizer(), "history_cache": tmp_path / "cache"},
        **options,
    )


def test_two_parts_are_plain_training_and_then_cleaning_with_its_result_as_reference(tmp_path):
    rows = token_rows(12)
    evolved = _run(tmp_path / "evolved", rows, parts=2)
    common = {"processing_class": tiny_tokenizer(), "history_cache": tmp_path / "cache"}
    base = tiny_llama()
    first = TokenWeighingTrainer(
        copy.deepcopy(base), args=sft_config(tmp_path), train_dataset=rows.select(range(6)), **common
    )
    first.train()
    second = TokenWeighingTrainer(
        first.model,
        args=sft_config(tmp_path),
        train_dataset=rows.select(range(6, 12)),
        weighing=TokenCleaning(),
        base_model=base,
        reference_model=copy.deepcopy(first.model),
        **common,
    )
    second.train()
    for ours, theirs in zip(evolved.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_remainder_is_dropped(tmp_path):
    even, odd = (
        _run(tmp_path / str(count), token_rows(13).select(range(count)), parts=3) for count in (12, 13)
    )
    for ours, theirs in zip(even.parameters(), odd.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_too_few_parts_or_samples_are_refused(tmp_path):
    with pytest.raises(UserError, match="parts must be at least 2, got 1"):
        _run(tmp_path, token_rows(4), parts=1)
    with pytest.raises(UserError, match="4 samples cannot be split into 5 parts"):
        _run(tmp_path, token_rows(4), parts=5)
