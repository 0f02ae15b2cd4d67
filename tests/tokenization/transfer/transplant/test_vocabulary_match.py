"""Tokens are equal by their bytes, whatever kind of tokenizer wrote them; what is not equal is spelled."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.tiny.tokenizers import CODE, byte_level, permuted, sentencepiece, unigram, word_piece
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.core.text.byte_pairs import BytePairEncoder
from tokenry.tokenization.transfer.transplant.vocabulary_match import (
    _byte_cutter,
    longest_first,
    match_vocabularies,
    padded,
    token_names,
)

TRAINED = byte_level()
KINDS = [byte_level, sentencepiece, word_piece, unigram]


@pytest.mark.parametrize("kind", KINDS)
def test_an_identical_tokenizer_is_shared_entirely(kind):
    tokenizer = kind()
    matched = match_vocabularies(tokenizer, tokenizer)
    assert matched.shared.tolist() == list(range(len(tokenizer)))
    assert (matched.pieces == -1).all()


@pytest.mark.parametrize("kind", [byte_level, sentencepiece])
def test_another_order_of_ids_is_a_permutation(kind):
    old = kind()
    new = permuted(old)
    names, new_names = token_names(old), token_names(new)
    matched = match_vocabularies(old, new)
    assert [names[number] for number in matched.shared.tolist()] == [new_names[n] for n in range(len(new))]


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
def test_shared_tokens_stand_for_the_same_bytes_and_pieces_spell_the_others(old, new):
    old, new = old(), new(CODE)
    old_bytes, new_bytes = (ByteVocabulary.from_tokenizer(each).token_bytes for each in (old, new))
    matched = match_vocabularies(old, new)
    for number, data in enumerate(new_bytes):
        if data is None:
            continue
        counterpart = int(matched.shared[number])
        pieces = [piece for piece in matched.pieces[number].tolist() if piece >= 0]
        if counterpart >= 0:
            assert old_bytes[counterpart] == data
            assert not pieces
        elif pieces:
            assert b"".join(old_bytes[piece] for piece in pieces) == data
            assert matched.length_ratio[number].sum().item() == pytest.approx(1)
        elif number not in matched.new_never:
            assert any(bytes([byte]) not in ByteVocabulary.from_tokenizer(old).ids for byte in data)


def test_a_byte_level_the_is_the_the_of_sentencepiece_by_bytes_but_not_by_string():
    old, new = sentencepiece(), byte_level()
    the, theirs = new.convert_tokens_to_ids("Ġthe"), old.convert_tokens_to_ids("▁the")
    assert match_vocabularies(old, new).shared[the] == theirs
    assert match_vocabularies(old, new, "string").shared[the] == -1


def test_of_two_old_tokens_with_the_same_bytes_the_one_written_alike_is_taken():
    old = sentencepiece()
    matched = match_vocabularies(old, permuted(old))
    letter, byte = old.convert_tokens_to_ids("a"), old.convert_tokens_to_ids("<0x61>")
    assert {letter, byte} <= set(matched.shared.tolist())


def test_special_tokens_are_matched_by_name_and_then_by_what_they_are_for():
    old = byte_level(bos_token="<s>", eos_token="</s>")
    new = byte_level(bos_token="<begin>", eos_token="</s>", mask_token="<mask>")
    assert match_vocabularies(old, new).special == {
        "<begin>": old.bos_token_id,
        "</s>": old.eos_token_id,
        "<mask>": None,
    }


def test_an_added_token_that_only_one_tokenizer_calls_special_is_one_token():
    old, new = byte_level(bos_token="<s>", eos_token="</s>", mask_token="<think>"), byte_level()
    new.add_tokens([AddedToken("<think>", special=False)])
    number = new.convert_tokens_to_ids("<think>")
    assert match_vocabularies(old, new).shared[number] == old.mask_token_id
    assert match_vocabularies(new, old).shared[old.mask_token_id] == number


def test_an_added_token_is_never_a_token_that_is_written_alike_for_other_bytes():
    # In byte-level characters "é" is the byte 0xE9 alone; as text it is two bytes.
    old, new = byte_level(["cat"]), byte_level(["cat"])
    new.add_tokens([AddedToken("é ", special=False)])
    matched = match_vocabularies(old, new)
    spelled = matched.pieces[new.convert_tokens_to_ids("é ")]
    assert ByteVocabulary.from_tokenizer(old).decode(spelled[spelled >= 0].tolist()) == "é ".encode()


def test_tokens_without_bytes_are_matched_by_how_they_are_written():
    tokenizer = word_piece()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"]["##"] = len(tokenizer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    assert match_vocabularies(tokenizer, tokenizer).shared.tolist() == list(range(len(tokenizer)))


def test_in_string_mode_pieces_are_what_the_old_tokenizer_makes_of_the_decoded_token():
    old, new = byte_level(), byte_level(CODE)
    matched = match_vocabularies(old, new, "string")
    number = next(n for n in range(len(new)) if matched.shared[n] < 0)
    text = new.decode([number])
    pieces = [piece for piece in matched.pieces[number].tolist() if piece >= 0]
    assert pieces == old.encode(text, add_special_tokens=False)
    lengths = [len(old.decode([piece])) / len(text) for piece in pieces]
    assert matched.length_ratio[number, : len(pieces)].tolist() == pytest.approx(lengths)


def test_parts_of_characters_are_no_text_but_are_spelled():
    old, new = byte_level(["cat"]), byte_level(["東京東京東京"] * 9)
    matched = match_vocabularies(old, new)
    broken = [n for n, text in enumerate(matched.new_texts) if text is None and matched.shared[n] < 0]
    assert broken
    assert (matched.pieces[broken] >= 0).any(dim=1).all()


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=2, max_size=12))
def test_the_longest_tokens_spell_any_bytes_and_never_by_one_token_where_that_is_forbidden(data):
    view = ByteVocabulary.from_tokenizer(TRAINED)
    for whole in (True, False):
        pieces = longest_first(data, view, whole)
        assert view.decode(pieces) == data
        assert whole or len(pieces) > 1


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=12))
def test_bytes_are_spelled_by_the_merges_of_a_bpe_tokenizer(data):
    cut = _byte_cutter(TRAINED, ByteVocabulary.from_tokenizer(TRAINED))
    assert cut(data) == BytePairEncoder.from_tokenizer(TRAINED).encode(data)


def test_a_sentencepiece_tokenizer_spells_the_middle_of_a_word_without_a_space():
    old = sentencepiece()
    view = ByteVocabulary.from_tokenizer(old)
    cut, merges = _byte_cutter(old, view), BytePairEncoder.from_tokenizer(old)
    for data in (b"towers", b" towers", "naïve".encode(), "東".encode()[:2], b"a b"):
        assert view.decode(cut(data)) == data
        assert cut(data) == merges.encode(data)


def test_a_unigram_tokenizer_spells_by_its_most_probable_pieces():
    old = unigram()
    expected = [token.id for token in old.backend_tokenizer.model.tokenize("▁towers")]
    assert _byte_cutter(old, ByteVocabulary.from_tokenizer(old))(b" towers") == expected


def test_bytes_without_a_token_are_spelled_by_none():
    view = ByteVocabulary.from_tokenizer(word_piece())
    assert longest_first("Ω".encode(), view) == []
    assert longest_first(b"a", ByteVocabulary.from_tokenizer(byte_level()), whole=False) == []


def test_pieces_are_laid_out_with_their_share_of_the_length():
    ids, ratios = padded([[4, 2], [], [3]], [4, 1, 2], [0, 0, 1, 2, 3])
    assert ids.tolist() == [[4, 2], [-1, -1], [3, -1]]
    assert ratios.tolist() == [[0.75, 0.25], [0, 0], [1, 0]]


def test_an_empty_vocabulary_is_refused():
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(UserError, match="the new tokenizer has no token"):
        match_vocabularies(byte_level(), empty)


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match="match must be one of bytes, string, got 'ids'"):
        match_vocabularies(byte_level(), byte_level(), "ids")
