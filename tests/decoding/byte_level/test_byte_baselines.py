"""Naive prompts and token healing: exact where the prompt ends with a token, biased where it ends inside one."""

import numpy as np
import pytest

from tests.decoding.byte_level.cutters import KnownTexts, byte_level
from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.byte_baselines import healed_next_byte, naive_next_byte

KNOWN = KnownTexts(byte_level("gpt2"), "ates ", longest=5)
LM = KNOWN.byte_lm()


def error(logprobs, text):
    return np.abs(np.exp(logprobs) - KNOWN.next_bytes(text)).max()


def test_a_prompt_inside_a_token_misleads_the_naive_more_than_the_healed_and_not_the_exact():
    text = b"s"
    assert len(LM.covers(text)) > 1
    assert error(naive_next_byte(LM, text), text) > 0.02
    assert error(healed_next_byte(LM, text), text) < 1e-9
    assert error(LM.next_byte_logprobs(text), text) < 1e-9


def test_healing_one_token_is_too_little_where_covers_differ_earlier():
    worst = max(
        KNOWN.texts, key=lambda text: error(healed_next_byte(LM, text[:3]), text[:3]) if len(text) > 3 else 0
    )
    assert error(healed_next_byte(LM, worst[:3]), worst[:3]) > 0.02
    assert error(LM.next_byte_logprobs(worst[:3]), worst[:3]) < 1e-9


def test_an_empty_prompt_has_nothing_to_heal():
    np.testing.assert_allclose(healed_next_byte(LM, b""), naive_next_byte(LM, b""))


def test_both_are_distributions():
    for baseline in (naive_next_byte, healed_next_byte):
        assert np.exp(baseline(LM, b"ta")).sum() == 1.0


def test_nothing_is_more_probable_than_anything_where_all_is_impossible():
    lm = KnownTexts(byte_level("gpt2"), "é", longest=1).byte_lm()
    assert np.exp(lm.next_byte_logprobs(b"\xc3"))[0xA9] == pytest.approx(1.0)
    with pytest.raises(UserError, match="probability zero to everything after the tokens of this prompt"):
        naive_next_byte(lm, b"\xc3")
