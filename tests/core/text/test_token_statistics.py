"""Tokens of documents against reference numbers, and as an encoder reads them."""

import math

import numpy as np
import pytest

from tests.golden import golden_json
from tests.tiny.tokenizers import character_tokenizer
from tokenry.core.errors import UserError
from tokenry.core.text.token_statistics import padding_waste, stats_of_counts
from tokenry.evaluation.encoders import token_stats


def test_statistics_are_those_of_the_reference():
    case = golden_json("07-clinical-efficiency", "dev-token-stats.json")
    a, b = (
        stats_of_counts(
            np.array(case[f"counts_{name}"]),
            characters=sum(case["chars"]),
            words=sum(case["words"]),
            max_length=case["max_length"],
            batch_size=8,
        )
        for name in "ab"
    )
    assert b.reduction_from(a) == pytest.approx(case["reduction"], rel=1e-9)
    for name, found in {"a": a, "b": b}.items():
        assert found.mean == pytest.approx(case[f"mean_{name}"], rel=1e-9)
        assert found.truncated == pytest.approx(case[f"truncated_{name}"], rel=1e-9)
        assert found.fertility == pytest.approx(case[f"fertility_{name}"], rel=1e-9)
        assert found.characters_per_token == pytest.approx(case[f"chars_per_token_{name}"], rel=1e-9)
    assert (a.median, a.p95) == pytest.approx((case["median_a"], case["p95_a"]), rel=1e-9)
    assert a.padding_waste == pytest.approx(case["padding_waste_a"], rel=1e-9)
    assert a.sorted_padding_waste < a.padding_waste


def test_special_tokens_are_counted():
    found = token_stats(character_tokenizer(adds_bos=True), ["abc", "a b"], max_length=3, batch_size=1)
    assert (found.documents, found.mean, found.truncated, found.padding_waste) == (2, 4, 1, 0)
    assert found.fertility == pytest.approx(8 / 3)
    assert token_stats(character_tokenizer(), ["abc"], max_length=9, words=list).fertility == 1


def test_documents_without_tokens_count():
    found = token_stats(character_tokenizer(), ["", "", "ab"], max_length=9, batch_size=2)
    assert (found.median, found.padding_waste) == (0, 0)
    empty = token_stats(character_tokenizer(), [""], max_length=9)
    assert (empty.mean, empty.padding_waste, empty.reduction_from(empty)) == (0, 0, 0)
    assert math.isnan(empty.fertility)
    assert math.isnan(empty.characters_per_token)


def test_padding_is_what_the_longest_of_a_batch_costs_the_others():
    assert padding_waste(np.array([4, 2, 6, 1, 3]), 2) == pytest.approx(1 - 16 / (8 + 12 + 3))


def test_no_documents_and_no_room_are_refused():
    with pytest.raises(UserError, match="there are no documents"):
        token_stats(character_tokenizer(), [], max_length=9)
    with pytest.raises(UserError, match="max_length must be at least 1, got 0"):
        token_stats(character_tokenizer(), ["a"], max_length=0)
