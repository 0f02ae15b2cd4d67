"""The byte-pair machine against the tokenizers it stands for, and against the reference numbers."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from tests.golden import golden_json
from tests.tiny.backends import TEXTS, byte_level, sentencepiece
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, from_byte_characters
from tokenry.core.text.byte_pairs import BytePairEncoder

CASES = golden_json("10-byte-probabilities", "dev-byte-probs.json")["cases"]
BYTE_LEVEL, SENTENCEPIECE = byte_level(), sentencepiece()


def machine(case: dict) -> BytePairEncoder:
    token_bytes = [bytes.fromhex(data) for data in case["vocab_hex"]]
    return BytePairEncoder(token_bytes, [(left, right) for left, right in case["merges"]])


@pytest.mark.parametrize("case", CASES)
def test_encodings_are_those_of_the_reference(case):
    encoder = machine(case)
    for prompt in case["prompts"]:
        assert encoder.encode(bytes.fromhex(prompt["x_hex"])) == prompt["encode"]


@pytest.mark.parametrize("case", CASES)
def test_valid_pairs_are_those_of_the_reference(case):
    encoder, size = machine(case), len(case["vocab_hex"])
    valid = [[int(encoder.pair_valid(left, right)) for right in range(size)] for left in range(size)]
    assert valid == case["pair_valid"]


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_a_byte_level_tokenizer_is_met_piece_by_piece(text):
    encoder = BytePairEncoder.from_tokenizer(BYTE_LEVEL)
    pieces = [piece for piece, _ in BYTE_LEVEL.pre_tokenizer.pre_tokenize_str(text)]
    ids = [number for piece in pieces for number in encoder.encode(from_byte_characters(piece))]
    assert ids == BYTE_LEVEL.encode(text, add_special_tokens=False).ids


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1).filter(lambda text: "▁" not in text))
def test_a_sentencepiece_tokenizer_is_met_with_its_byte_fallback(text):
    encoder = BytePairEncoder.from_tokenizer(SENTENCEPIECE)
    assert encoder.encode(f" {text}".encode()) == SENTENCEPIECE.encode(text, add_special_tokens=False).ids


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_encoded_and_decoded(data):
    for tokenizer in (BYTE_LEVEL, SENTENCEPIECE):
        encoder = BytePairEncoder.from_tokenizer(tokenizer)
        assert ByteVocabulary.from_tokenizer(tokenizer).decode(encoder.encode(data)) == data


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=30))
def test_neighbours_in_an_encoding_are_valid_pairs(data):
    encoder = BytePairEncoder.from_tokenizer(BYTE_LEVEL)
    ids = encoder.encode(data)
    assert all(encoder.pair_valid(left, right) for left, right in itertools.pairwise(ids))


@pytest.mark.parametrize("case", CASES)
def test_all_right_neighbours_at_once_are_those_of_the_reference(case):
    encoder = machine(case)
    assert [encoder.valid_after(left).astype(int).tolist() for left in range(len(case["vocab_hex"]))] == case[
        "pair_valid"
    ]


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE])
def test_all_right_neighbours_at_once_are_the_valid_pairs(tokenizer):
    encoder = BytePairEncoder.from_tokenizer(tokenizer)
    fallback = ByteVocabulary.from_tokenizer(tokenizer).fallback
    ids = [number for number in range(len(encoder.token_bytes)) if number not in fallback]
    for left in ids[::7]:
        assert encoder.valid_after(left)[ids].tolist() == [encoder.pair_valid(left, right) for right in ids]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_merges_in_any_order_have_the_neighbours_that_encoding_finds(data):
    token_bytes, merges = [b"a", b"b", b"c"], []
    for _ in range(data.draw(st.integers(1, 9))):
        left, right = (data.draw(st.integers(0, len(token_bytes) - 1)) for _ in range(2))
        merges.append((left, right))
        if token_bytes[left] + token_bytes[right] not in token_bytes:
            token_bytes.append(token_bytes[left] + token_bytes[right])
    encoder = BytePairEncoder(token_bytes, data.draw(st.permutations(merges)))
    ids = range(len(token_bytes))
    assert encoder.reachable.tolist() == [encoder.encode(token_bytes[number]) == [number] for number in ids]
    for left in ids:
        assert encoder.valid_after(left).tolist() == [encoder.pair_valid(left, right) for right in ids]


def test_a_token_that_no_merge_makes_has_no_neighbours():
    encoder = BytePairEncoder([b"a", b"b", b"ab", b"zz"], [(0, 1)])
    assert encoder.reachable.tolist() == [True, True, True, False]
    assert not encoder.valid_after(3).any()
    assert not encoder.valid_after(0)[3]


def test_a_piece_that_is_a_token_comes_before_the_merges():
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
    merges = [("b", "c"), ("a", "b")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    assert BytePairEncoder.from_tokenizer(tokenizer).encode(b"abc") == [5]
    assert BytePairEncoder.from_tokenizer(tokenizer).encode(b"abcc") == [0, 4, 2]
    assert BytePairEncoder.from_tokenizer(tokenizer).merge(b"abc") == [0, 4]


def test_a_byte_without_a_token_is_named():
    with pytest.raises(UserError, match=r"no token stands for the byte 0x7A"):
        BytePairEncoder([b"a"], []).encode(b"az")


def test_merges_that_do_not_fit_the_vocabulary_are_refused():
    with pytest.raises(UserError, match=r"makes b'ab', which is no token"):
        BytePairEncoder([b"a", b"b"], [(0, 1)])


def test_a_tokenizer_without_merges_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(UserError, match="is a WordLevel model and has no merges"):
        BytePairEncoder.from_tokenizer(tokenizer)


def test_the_texts_are_long_enough_to_learn_merges():
    assert len(BytePairEncoder.from_tokenizer(BYTE_LEVEL).encode(TEXTS[0].encode())) < len(TEXTS[0])
