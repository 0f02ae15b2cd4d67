"""A pass over a data set reads every sample with a target once, in batches of similar length."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny.models import llama as tiny_llama
from tokenry.finetuning import token_losses
from tokenry.finetuning.collation import model_inputs
from tokenry.finetuning.dataset_pass import _batches, dataset_nll
from tokenry.finetuning.nll_cache import IndexedSample


def _samples(lengths):
    ends = np.cumsum([0, *lengths])
    ids = np.random.default_rng(0).integers(6, 64, int(ends[-1]))
    return [
        IndexedSample(ids[start:end], np.arange(end - start) > 0, range(start, end))
        for start, end in zip(ends.tolist(), ends[1:].tolist(), strict=False)
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=60))
def test_batches_hold_every_sample_with_a_target_once_and_little_padding(lengths):
    samples = _samples(lengths)
    batches = list(_batches(samples, 2048))
    read = [sample.token_index for batch in batches for sample in batch]
    assert sorted(read, key=lambda index: index.start) == [s.token_index for s in samples if s.targets.any()]
    for batch in batches:
        longest = len(batch[0].input_ids)
        assert len(batch) == 1 or len(batch) * longest <= 2048
        # What is much shorter stands only in a batch that was too small to be a forward of its own.
        short = [place for place, sample in enumerate(batch) if len(sample.input_ids) < 0.85 * longest]
        assert not short or short[0] * longest < 512


def test_padding_on_the_right_needs_no_mask():
    model = tiny_llama()
    samples = _samples([20, 7, 13, 2])
    together = dataset_nll(model, samples, 42, progress=False)
    alone = torch.cat([dataset_nll(model, [sample], 42, progress=False)[sample.index] for sample in samples])
    torch.testing.assert_close(together, alone, equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("side", "kept"), [("right", False), ("left", True)])
def test_a_mask_is_left_out_only_where_it_hides_padding_on_the_right(side, kept):
    ids = torch.randint(6, 64, (2, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    hidden = slice(5, None) if side == "right" else slice(None, 3)
    mask[1, hidden] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    assert ("attention_mask" in model_inputs(batch)) == kept
    real = slice(None, 5) if side == "right" else slice(3, None)
    alone = {"input_ids": ids[1:, real], "labels": ids[1:, real]}
    torch.testing.assert_close(
        token_losses(tiny_llama(), batch)[1:, real],
        token_losses(tiny_llama(), alone),
        equal_nan=True,
        rtol=1e-5,
        atol=1e-6,
    )
