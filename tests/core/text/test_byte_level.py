"""One byte view of every vocabulary: byte-level BPE, SentencePiece with byte fallback, WordPiece, Unigram."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.tiny.backends import TEXTS, byte_level, sentencepiece
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import (
    BYTE_CHARACTERS,
    ByteVocabulary,
    from_byte_characters,
    to_byte_characters,
)


@given(st.binary())
def test_byte_characters_are_read_back(data):
    assert from_byte_characters(to_byte_characters(data)) == data


def test_the_byte_characters_are_those_of_the_field():
    assert set(BYTE_CHARACTERS) == set(pre_tokenizers.ByteLevel.alphabet())
    assert BYTE_CHARACTERS[ord(" ")] == "Ġ"


def test_a_character_that_stands_for_no_byte_is_named():
    with pytest.raises(UserError, match="'▁', which stands for no byte"):
        from_byte_characters("▁the")


@pytest.mark.parametrize("tokenizer", [byte_level(), sentencepiece()])
def test_the_bytes_of_an_encoding_are_those_of_the_text(tokenizer):
    view = ByteVocabulary.from_tokenizer(tokenizer)
    for text in [*TEXTS, "unseen Ωmega 漢"]:
        written = view.decode(tokenizer.encode(text, add_special_tokens=False).ids)
        assert written == (b" " if view.prepends_space else b"") + text.encode()


def test_special_tokens_have_no_bytes():
    tokenizer = byte_level()
    view = ByteVocabulary.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert view.special == {tokenizer.token_to_id("<s>")}
    assert view.token_bytes[tokenizer.token_to_id("<s>")] is None


def test_an_added_token_that_is_not_special_is_its_text():
    tokenizer = byte_level()
    tokenizer.add_tokens(["→ now"])
    assert (
        ByteVocabulary.from_tokenizer(tokenizer).token_bytes[tokenizer.token_to_id("→ now")]
        == "→ now".encode()
    )


def test_a_piece_comes_before_the_fallback_token_of_the_same_byte():
    tokenizer = sentencepiece()
    view = ByteVocabulary.from_tokenizer(tokenizer)
    assert tokenizer.token_to_id("<0x74>") in view.fallback
    assert view.ids[b"t"] == tokenizer.token_to_id("t") != tokenizer.token_to_id("<0x74>")


def test_wordpieces_carry_the_space_before_a_word():
    vocabulary = {"[UNK]": 0, "cat": 1, "##s": 2}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    view = ByteVocabulary.from_tokenizer(tokenizer)
    assert view.token_bytes[1:] == (b" cat", b"s")
    assert view.rewrites == ("BertNormalizer",)


def test_unigram_pieces_are_read_through_their_meta_symbol():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    view = ByteVocabulary.from_tokenizer(tokenizer)
    assert view.token_bytes[1:] == (b" a", b"b")
    assert view.prepends_space


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(UserError, match="PreTrainedTokenizerBase is a slow tokenizer"):
        ByteVocabulary.from_tokenizer(PreTrainedTokenizerBase())


@settings(max_examples=50, deadline=None)
@given(
    tokens=st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=40),
    prefix=st.binary(max_size=3),
)
def test_tokens_with_a_prefix_are_one_range(tokens, prefix):
    view = ByteVocabulary(tuple(tokens), frozenset())
    found = view.with_prefix(prefix)
    assert sorted(found.tolist()) == [number for number, data in enumerate(tokens) if data.startswith(prefix)]
    assert [tokens[number] for number in found] == sorted(tokens[number] for number in found)


def test_the_range_of_a_prefix_of_the_last_byte_ends_with_the_vocabulary():
    view = ByteVocabulary((b"\xff", b"\xff\xff", b"\xfe"), frozenset())
    assert view.with_prefix(b"\xff").tolist() == [0, 1]


@settings(max_examples=50, deadline=None)
@given(tokens=st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=4)), min_size=1, max_size=20))
def test_a_byte_of_many_tokens_is_that_of_each(tokens):
    view = ByteVocabulary(tuple(tokens), frozenset())
    assert view.lengths.tolist() == [len(data or b"") for data in tokens]
    for place in range(4):
        longer = np.flatnonzero(view.lengths > place)
        assert view.bytes_at(longer, place).tolist() == [tokens[number][place] for number in longer]
