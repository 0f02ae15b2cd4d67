import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.tokenization.vocabulary_use import vocabulary_use


def test_an_even_use_of_everything_is_fully_efficient() -> None:
    use = vocabulary_use(np.arange(8), 8)
    assert (use.used, use.shannon_efficiency, use.renyi_efficiency) == pytest.approx((1, 1, 1))


def test_one_token_over_and_over_is_not_efficient_at_all() -> None:
    use = vocabulary_use(np.zeros(5, dtype=np.int64), 10)
    assert (use.used, use.shannon_efficiency, use.renyi_efficiency) == pytest.approx((0.1, 0, 0), abs=1e-12)


def test_the_numbers_of_a_small_text_by_hand() -> None:
    use = vocabulary_use(np.array([0, 0, 0, 1]), 4)
    assert use.shannon_efficiency == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(4))
    assert use.renyi_efficiency == pytest.approx(np.log(0.75**2.5 + 0.25**2.5) / (1 - 2.5) / np.log(4))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
@settings(max_examples=25, deadline=None)
def test_efficiency_falls_with_the_order(ids: list[int]) -> None:
    low, high = (vocabulary_use(np.array(ids), 31, alpha) for alpha in (0.5, 2.5))
    assert -1e-9 <= high.renyi_efficiency <= high.shannon_efficiency + 1e-9
    assert high.shannon_efficiency <= low.renyi_efficiency + 1e-9 <= 1 + 2e-9


@pytest.mark.parametrize(
    ("ids", "size", "alpha", "words"),
    [
        ([], 4, 2.5, "there are no tokens"),
        ([4], 4, 2.5, "a vocabulary of 4 has no token 4"),
        ([0], 1, 2.5, "a vocabulary of 1 has no token 0"),
        ([0], 4, 1, "alpha must be positive and not 1, got 1"),
        ([0], 4, -1, "alpha must be positive and not 1, got -1"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    ids: list[int], size: int, alpha: float | int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        vocabulary_use(np.array(ids, dtype=np.int64), size, alpha)
