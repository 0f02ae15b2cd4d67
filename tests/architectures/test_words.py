"""Texts as words of units: the reference texts, every text back without loss, folders, and what cannot be read."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tests.tiny.tokenizers import byte_level, word_tokenizer
from tokenry.architectures import (
    ByteSpelling,
    CharacterSpelling,
    SubwordSpelling,
    WholeWordSpelling,
    WordCoder,
    WordSplitter,
    collate_words,
    lossless,
    pad_words,
)
from tokenry.core.errors import UserError

TEXTS = golden_json("18-word-pooled", "dev-text.json")


@pytest.mark.parametrize("case", TEXTS, ids=[case["text"][:12] for case in TEXTS])
def test_words_and_units_are_the_reference(case):
    splitter = WordSplitter()
    assert splitter.clean(case["text"]) == case["clean"]
    words = splitter.words(case["text"])
    assert words == case["words"]
    characters = CharacterSpelling.of(words)
    assert {c: number for number, c in enumerate(characters.characters, start=1)} == case["char_vocab"]
    for units, name in ((characters, "char"), (ByteSpelling(), "byte")):
        ids, lengths = pad_words(words, units, case["max_len"])
        assert ids.tolist() == case[f"{name}_ids"]
        assert lengths.tolist() == case[f"{name}_len"]


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=60), st.integers(1, 7))
def test_every_text_comes_back_from_its_bytes(text, longest):
    coder = WordCoder(ByteSpelling(), lossless(), longest)
    words = coder.words(text)
    assert coder.text(words) == text
    assert all(0 < len(word) <= longest and 0 not in word for word in words)
    assert coder.text_bytes(text) == len(text.encode())


@pytest.mark.parametrize("text", ["the cat", " naïve  café\n\ttwo\n", "f(x) = 東京"])
def test_characters_and_subwords_give_the_text_back_too(text):
    characters = CharacterSpelling.of(lossless().words(text))
    for units in (characters, SubwordSpelling(byte_level())):
        coder = WordCoder(units, lossless(), 4)
        words = coder.words(text)
        assert coder.text([coder.begin, *words]) == text
        assert max(unit for word in words for unit in word) < coder.units.begin == coder.units.size - 1


def test_words_of_the_paper_stand_between_spaces():
    coder = WordCoder(ByteSpelling())
    assert coder.text(coder.words("To be,\nor not")) == "To be , or not"
    assert coder.text_bytes("To be,\nor not") == len("To be , or not ")


def test_frequent_words_are_units_and_rare_ones_are_spelled_in_bytes():
    units = WholeWordSpelling.of(["the"] * 4 + ["cat"] * 3 + ["dog"] * 2)
    assert units.vocabulary == ("the", "cat")
    assert units.encode("cat") == [2]
    assert units.encode("do") == [3 + ord("d"), 3 + ord("o")]
    assert units.decode([1, *units.encode("é"), 0, units.begin]) == "theé"
    assert units.begin == units.size - 1 > 2 + 256


@settings(max_examples=20, deadline=None)
@given(st.text(min_size=1, max_size=40), st.integers(1, 4))
def test_every_text_comes_back_from_whole_words_and_bytes(text, occurrences):
    units = WholeWordSpelling.of(lossless().words(text) * 2, occurrences)
    coder = WordCoder(units, lossless(), 3)
    assert coder.text([coder.begin, *coder.words(text)]) == text


@pytest.mark.parametrize("kind", ["bytes", "characters", "subwords", "words"])
def test_a_coder_is_the_same_after_it_was_saved(kind, tmp_path):
    units = {
        "bytes": ByteSpelling(),
        "characters": CharacterSpelling("abc "),
        "subwords": SubwordSpelling(byte_level()),
        "words": WholeWordSpelling(("abc",)),
    }
    coder = WordCoder(units[kind], lossless(), 3)
    coder.save(tmp_path)
    again = WordCoder.load(tmp_path)
    assert again.words("abc ab") == coder.words("abc ab")
    assert (again.longest, again.splitter, again.begin) == (3, coder.splitter, coder.begin)


def test_a_batch_is_padded_behind_words_and_behind_texts():
    batch = collate_words([[(1, 2), (3,)], [(4, 5, 6)]])
    assert batch["input_ids"].tolist() == [[[1, 2, 0], [3, 0, 0]], [[4, 5, 6], [0, 0, 0]]]
    assert batch["lengths"].tolist() == [[2, 1], [3, 0]]
    assert torch.equal(batch["attention_mask"], torch.tensor([[True, True], [True, False]]))


# --- bad input -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: WordCoder(ByteSpelling()).words(""), "holds no words: give a text with at least one"),
        (lambda: WordCoder(ByteSpelling(), lossless()).words(""), "holds no words"),
        (lambda: WordCoder(ByteSpelling()).words(" = \n"), "holds no words"),
        (
            lambda: WordCoder(ByteSpelling(), longest=4).words("a longer one"),
            "'longer' has 6 units and words have at most 4",
        ),
        (lambda: WordCoder(ByteSpelling(), longest=0), "longest must be at least 1, got 0"),
        (lambda: WholeWordSpelling.of(["a"], 0), "occurrences must be at least 1, got 0"),
        (
            lambda: WordCoder(CharacterSpelling("ab")).words("abc"),
            "the character 'c' is not among the 2 of the model",
        ),
        (
            lambda: WordCoder(SubwordSpelling(word_tokenizer())).words("hello"),
            "back for 'hello', so words cannot be spelled",
        ),
        (lambda: WordSplitter("("), "'(' is no regular expression"),
        (lambda: WordSplitter(r"\w+", keeps_text=True).words("a b"), r"leaves out a part of 'a b'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(read, words):
    with pytest.raises(UserError) as error:
        read()
    assert words in str(error.value)


def test_a_folder_without_words_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no words\.json: name the folder"):
        WordCoder.load(tmp_path)
    (tmp_path / "words.json").write_text(json.dumps({"units": "syllables"}))
    with pytest.raises(
        UserError, match="units must be one of bytes, characters, subwords, words, got 'syllables'"
    ):
        WordCoder.load(tmp_path)
    (tmp_path / "words.json").write_text(json.dumps({"units": "bytes"}))
    with pytest.raises(UserError, match="is damaged"):
        WordCoder.load(tmp_path)
