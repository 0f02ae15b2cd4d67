"""The threshold that keeps a share of the characters, against reference numbers, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.data import length_weighted_threshold
from tokenry.data.thresholds import first_beyond


def test_thresholds_are_the_reference_ones():
    stored = {
        name: value.numpy() for name, value in golden_arrays("33-preselect", "dev-threshold.npz").items()
    }
    score, length = stored["score"], stored["length"]
    for keep, threshold, index, documents, share in stored["result"]:
        assert length_weighted_threshold(score, length, keep=keep) == threshold
        assert first_beyond(score, length, keep) == index
        kept = score >= threshold
        assert kept.sum() == documents
        assert length[kept].sum() / length.sum() == pytest.approx(share, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), min_size=1), st.floats(0.01, 1.0))
def test_at_least_the_share_is_kept_and_less_without_the_lowest_score(documents, keep):
    score, length = (np.array(column) for column in zip(*documents, strict=True))
    threshold = length_weighted_threshold(score.astype(float), length, keep)
    assert length[score >= threshold].sum() >= keep * length.sum() - 1e-9
    assert length[score > threshold].sum() <= keep * length.sum() + 1e-9 or threshold < score.min()


@pytest.mark.parametrize(
    ("score", "length", "keep", "words"),
    [
        ([0.5], [3], 0.0, r"keep must be in \(0, 1\], got 0.0"),
        ([0.5], [3], 1.5, r"keep must be in \(0, 1\], got 1.5"),
        ([], [], 0.5, "there are none"),
        ([0.5, np.nan], [3, 4], 0.5, "the score of document 2 is nan"),
        ([0.5, 0.6], [3], 0.5, "2 scores and 1 lengths"),
    ],
)
def test_bad_input_is_refused(score, length, keep, words):
    with pytest.raises(UserError, match=words):
        length_weighted_threshold(np.array(score, dtype=float), np.array(length, dtype=int), keep)
