"""Which ids no text has: gaps, doubles, tokens that no merge makes, and those that normaliser and pieces never leave whole."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from tests.tiny.tokenizers import byte_level, sentencepiece, unigram, word_piece
from tokenry.tokenization.written import WrittenVocabulary

KINDS = {kind.__name__: kind() for kind in (byte_level, sentencepiece, unigram, word_piece)}
WRITTEN = {name: WrittenVocabulary.of(tokenizer) for name, tokenizer in KINDS.items()}


def never(tokenizer):
    found = WrittenVocabulary.of(tokenizer)
    return {found.names.get(number) for number in found.never}


def changed(tokenizer, *tokens, **state):
    """A tokenizer with further tokens at the end of its vocabulary, and other parts."""
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = made["model"]["vocab"]
    for token in tokens:
        vocabulary[token] = len(vocabulary)
    return Tokenizer.from_str(json.dumps(made | state))


def with_spaces():
    """Runs of spaces are tokens of the model and added tokens, spelled as text, as GPT-NeoX has them."""
    tokenizer = byte_level(["a    b  c   d"] * 9, 300)
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True, special=False) for count in (4, 3, 2)])
    return tokenizer


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.text(alphabet="the catsoni éà\n0<x6>[UNK]1東", max_size=12))
def test_nothing_that_encode_writes_is_never_written(kind, text):
    written = set(KINDS[kind].encode(text, add_special_tokens=False))
    assert not written & WRITTEN[kind].never


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab  cd\n", max_size=12))
def test_nothing_that_is_written_beside_added_tokens_is_never_written(text):
    tokenizer = with_spaces()
    assert not set(tokenizer.encode(text, add_special_tokens=False)) & WrittenVocabulary.of(tokenizer).never


def test_every_token_of_a_byte_level_tokenizer_is_written():
    assert WRITTEN["byte_level"].never == frozenset()


def test_byte_fallbacks_beside_a_token_of_their_own_are_never_written():
    tokenizer = KINDS["sentencepiece"]
    names = tokenizer.get_vocab()
    lone = {f"<0x{byte:02X}>" for byte in range(128) if chr(byte) in names and f"<0x{byte:02X}>" in names}
    assert len(lone) > 10
    assert lone <= never(tokenizer) <= {f"<0x{byte:02X}>" for byte in range(128)}


def test_of_a_run_of_spaces_the_added_token_is_written():
    found = WrittenVocabulary.of(with_spaces())
    assert {found.names[number] for number in found.never} == {"ĠĠ", "ĠĠĠ", "ĠĠĠĠ"} & set(
        found.names.values()
    )
    assert found.never


def test_a_token_that_no_merge_makes_is_never_written():
    assert never(changed(byte_level(), "zqzq")) == {"zqzq"}


def test_gaps_have_no_token_and_are_never_written():
    tokenizer = byte_level()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"]["zqzq"] = len(tokenizer) + 3
    assert never(Tokenizer.from_str(json.dumps(state))) == {None, "zqzq"}


BERT = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": True,
    "lowercase": True,
}


def test_what_normaliser_and_pieces_never_leave_whole_is_never_written():
    before = never(changed(word_piece(["the cat"]), normalizer=BERT))
    found = never(
        changed(word_piece(["the cat"]), "[unused1]", "The", "café", "the cat", "##ing", normalizer=BERT)
    )
    assert found - before == {"[unused1]", "The", "café", "the cat"}


def test_numbers_are_never_written_where_every_digit_is_a_piece():
    tokenizer = byte_level(["123 123 123"] * 9, 300)
    assert "123" in tokenizer.get_vocab()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    assert {"123", "Ġ123"} & set(tokenizer.get_vocab()) <= never(tokenizer)
    assert not {"1", "2", "3", "Ġ"} & never(tokenizer)


def test_a_token_inside_words_is_written_though_a_text_begins_with_a_space():
    tokenizer = sentencepiece()
    inside = [name for name in tokenizer.get_vocab() if name.isalpha() and len(name) > 1]
    assert inside
    assert not set(inside) & never(tokenizer)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_special_tokens_count_as_written(kind):
    special = {KINDS[kind].convert_tokens_to_ids(token) for token in KINDS[kind].all_special_tokens}
    assert not special & WRITTEN[kind].never


def test_upper_case_is_never_written_where_all_is_lowered():
    tokenizer = changed(
        byte_level(["The cat"] * 9), normalizer=json.loads(normalizers.Lowercase().__getstate__())
    )
    assert {"T", "ĠT", "The"} & set(tokenizer.get_vocab()) <= never(tokenizer)
    assert "t" not in never(tokenizer)


def test_the_written_part_of_a_vocabulary_spells_with_what_is_written():
    found = WrittenVocabulary.of(with_spaces())
    pair = found.view.ids[b"  "]
    assert found.names[pair] == "  "
    assert found.written.ids[b"  "] == pair
    assert all(found.written.token_bytes[number] is None for number in found.never)
