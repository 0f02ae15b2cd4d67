"""The surprisal of bytes and characters."""

import numpy as np
import pytest

from tests.decoding.byte_level.cutters import GOLDEN, KnownTexts, byte_level, golden_lm, metaspace
from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.byte_surprisal import surprisal

KNOWN = KnownTexts(byte_level("gpt2"), "at é", longest=4)
LM = KNOWN.byte_lm()


def test_the_surprisal_of_a_byte_is_that_of_the_texts():
    text = "até".encode()
    found = surprisal(LM, text)
    masses = [KNOWN.prefix(text[:length]) for length in range(len(text) + 1)]
    np.testing.assert_allclose(found.bits, -np.diff(np.log2(masses)), atol=1e-9)
    assert found.units == (b"a", b"t", b"\xc3", b"\xa9")
    assert found.exact


def test_a_character_has_the_surprisal_of_its_bytes():
    by_byte, by_character = (surprisal(LM, "até", per=per) for per in ("byte", "character"))
    assert by_character.units == (b"a", b"t", "é".encode())
    np.testing.assert_allclose(by_character.bits, [*by_byte.bits[:2], by_byte.bits[2:].sum()])
    assert by_byte.bits_per_byte == pytest.approx(by_character.bits_per_byte)


def test_tokens_spread_on_their_bytes_are_said_not_to_be_exact():
    text, ids = b"at a", LM.encode(b"at a")
    found = surprisal(LM, text, method="tokens")
    rows = LM.next_token_logprobs([ids[:place] for place in range(len(ids))])
    assert found.bits.sum() == pytest.approx(-rows[range(len(ids)), ids].sum() / np.log(2))
    assert not found.exact
    assert found.bits.sum() >= surprisal(LM, text).bits.sum()


def test_the_space_that_a_tokenizer_puts_before_a_text_counts_for_its_first_byte():
    lm = KnownTexts(metaspace(False), "at ", longest=3).byte_lm()
    ids = lm.encode(b"ta")
    rows = lm.next_token_logprobs([ids[:place] for place in range(len(ids))])
    found = surprisal(lm, b"ta", method="tokens")
    assert len(found.bits) == 2
    assert found.bits.sum() == pytest.approx(-rows[range(len(ids)), ids].sum() / np.log(2))


def test_unchecked_sequences_are_not_exact():
    assert not surprisal(KNOWN.byte_lm(validate="none"), b"at").exact


def test_a_text_without_characters_has_bytes_only():
    lm = golden_lm(GOLDEN["cases"][2], "truncate")
    assert len(surprisal(lm, b"caf\xc3").bits) == 4
    with pytest.raises(UserError, match="not UTF-8 at byte 3, so it has no characters"):
        surprisal(lm, b"caf\xc3", per="character")


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UserError, match="an empty text has no surprisal"):
        surprisal(LM, b"")
    with pytest.raises(UserError, match="probability zero to every cover of the first 2 bytes"):
        surprisal(LM, b"az")
    with pytest.raises(UserError, match="per must be one of byte, character"):
        surprisal(LM, b"a", per="word")
