import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CanineTokenizer

from tokenry.core.errors import UserError
from tokenry.evaluation.charbench import (
    TASKS,
    Segmentation,
    features_of,
    items_of,
    segment_words,
    tokenization_features,
)

from .golden import golden_answers, golden_features

WORDS = ["strawberry", "strawberries", "berry", "Straw", "naïve", "日本語", "banana"] * 3


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet))
    return tokenizer


def with_meta_symbol() -> Tokenizer:
    pieces = ["<unk>", "▁", "▁straw", "berry", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(
        models.Unigram(
            [(piece, -1.0 - n / 99) for n, piece in enumerate(pieces)]
            + [(f"<0x{byte:02X}>", -20.0) for byte in range(256)],
            unk_id=0,
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer


def test_features_are_the_reference_numbers():
    for model, rows in golden_answers().groupby("model"):
        found = golden_features()[model].loc[rows["question_idx"]]
        assert found["number_of_tokens"].tolist() == rows["number_of_tokens"].tolist()
        assert found["unique_characters"].tolist() == rows["unique_characters"].tolist()
        assert found["compression"].to_numpy() == pytest.approx(
            rows["compression_rate"].to_numpy(dtype=float), abs=1e-12
        )
        expected = rows["target_token_length"].to_numpy(dtype=float)
        np.testing.assert_array_equal(found["target_token_length"].to_numpy(), expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=12), min_size=1))
@pytest.mark.parametrize("tokenizer", [byte_level(), with_meta_symbol()], ids=["byte-level", "meta symbol"])
def test_tokens_cover_a_word_from_its_first_character_to_its_last(tokenizer, words):
    for word, each in segment_words(words, tokenizer).items():
        assert len(each.tokens) == len(each.starts) == len(each.ends)
        assert all(start <= end for start, end in zip(each.starts, each.ends, strict=True))
        assert list(each.ends) == sorted(each.ends)
        assert each.ends[-1] == len(word)
        assert {p for start, end in zip(each.starts, each.ends, strict=True) for p in range(start, end)} == {
            *range(len(word))
        }
        assert all(1 <= each.length_at(place) <= len(word) for place in range(len(word)))
        assert math.isnan(each.length_at(len(word)))


def test_offsets_and_token_strings_say_the_same_of_plain_words():
    tokenizer = byte_level()
    for word in ("strawberry", "Straw", "banana", "xyz"):
        by_offsets = segment_words([word], tokenizer)[word]
        assert by_offsets == Segmentation.of_tokens(tokenizer.encode(word).tokens)


def test_lengths_are_characters_where_pieces_are_bytes():
    features = tokenization_features(items_of(TASKS[2:3] * 2, ["naïve", "日本語"], ["v", "語"]), byte_level())
    assert features["word_length"].tolist() == [5, 3]
    assert features["target_token_length"].le([5, 3]).all()
    assert (
        features["compression"].tolist() == (features["word_length"] / features["number_of_tokens"]).tolist()
    )


def test_the_leading_meta_symbol_is_no_character_of_the_word():
    items = items_of(TASKS[2:3], ["strawberry"], ["b"])
    features = tokenization_features(items, with_meta_symbol())
    assert features["tokens"].iloc[0] == ("▁straw", "berry")
    assert features["target_token_length"].tolist() == [5.0]
    as_released = features_of(items, {"strawberry": Segmentation.of_tokens(["▁straw", "berry"])})
    assert as_released["target_token_length"].tolist() == [5.0]


def test_a_meta_symbol_that_is_all_there_is_of_a_token_stays_one():
    assert Segmentation.of_tokens(["▁", "ab"]).tokens == ("▁", "ab")
    assert Segmentation.of_tokens([]).tokens == ("",)


def test_a_character_that_no_token_holds_has_no_token_length():
    each = Segmentation(("a", "b"), (0, 2), (1, 3))
    assert math.isnan(each.length_at(1))
    assert each.length_at(2) == 1.0


def test_a_word_that_vanishes_has_no_compression():
    lossy = Tokenizer(models.BPE({"a": 0}, []))
    features = tokenization_features(items_of(TASKS[:1], ["xyz"], [None]), lossy)
    assert features["number_of_tokens"].tolist() == [0]
    assert features["compression"].isna().all()


def test_a_tokenizer_that_rewrites_the_text_is_measured_in_the_word_as_it_is():
    stripping = byte_level()
    stripping.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    each = segment_words(["naïve"], stripping)["naïve"]
    assert each.ends[-1] == 5


def test_truncation_and_padding_of_the_tokenizer_are_left_out_and_left_alone():
    tokenizer = byte_level()
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding(length=9)
    assert segment_words(["strawberry"], tokenizer)["strawberry"].ends[-1] == 10
    assert tokenizer.truncation
    assert tokenizer.padding


def test_counting_tasks_have_no_target():
    features = tokenization_features(items_of(TASKS, ["banana"] * 4, [None, *"nnn"]), byte_level())
    assert features["target_token_length"].isna().tolist() == [True, True, False, False]
    assert features["gold_over_length"].tolist() == [0.5, 2 / 6, 2 / 6, 4 / 6]


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(UserError, match="CanineTokenizer is a slow tokenizer"):
        tokenization_features(items_of(TASKS[:1], ["word"], [None]), CanineTokenizer())


def test_a_word_that_was_not_cut_is_refused():
    with pytest.raises(UserError, match="no segmentation of the word 'word'"):
        features_of(items_of(TASKS[:1], ["word"], [None]), {})
