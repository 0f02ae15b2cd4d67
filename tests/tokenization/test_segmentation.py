import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tokenry.core.errors import UserError
from tokenry.tokenization.segmentation import TextPiece, TokenCutter, compare_segmentations
from tokenry.tokenization.training.boundless_training import train_boundless_bpe
from tokenry.tokenization.training.byte_level_training import train_bpe

TEXTS = ["the cat sat on the mat", "a cat and a dog and the mat", "über die Brücke, über den Fluß"] * 3
SMALL, LARGE = train_bpe(TEXTS, 262), train_bpe(TEXTS, 300)


def word_piece(*words: str) -> Tokenizer:
    vocabulary = {token: place for place, token in enumerate(("[UNK]", *words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[UNK]"])
    return tokenizer


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_the_pieces_of_a_byte_level_tokenizer_are_the_text(text: str) -> None:
    for tokenizer in (SMALL, train_boundless_bpe(TEXTS, 300)):
        (cut,) = compare_segmentations({"a": tokenizer}, {"t": text})["t"]
        assert b"".join(piece.data for piece in cut.pieces) == text.encode()
        assert cut.is_lossless


def test_a_tokenizer_costs_once_itself_and_shares_all_its_cuts() -> None:
    _, again = compare_segmentations({"a": SMALL, "b": SMALL}, {"t": "the cat"})["t"]
    assert (again.relative_cost, again.shared_cuts) == (1.0, 1.0)


def test_shared_cuts_are_counted_over_the_cuts_of_both() -> None:
    single, larger = compare_segmentations({"a": train_bpe(TEXTS, 256), "b": LARGE}, {"t": "the cat"})["t"]
    cuts = len(single.pieces) - 1, len(larger.pieces) - 1
    # Every cut of a longer training is a cut between bytes.
    assert larger.shared_cuts == pytest.approx(cuts[1] / cuts[0])
    assert larger.relative_cost == pytest.approx(len(larger.pieces) / 7)


def test_a_part_of_a_character_is_shown_as_its_byte() -> None:
    assert TextPiece(0, "ü".encode()[:1]).text == "⟨C3⟩"
    assert TextPiece(0, b"a\xbcb").text == "a⟨BC⟩b"
    assert TextPiece(0, "日本".encode()).text == "日本"


def test_a_tokenizer_that_loses_text_says_so_and_its_cuts_are_not_compared() -> None:
    cut = compare_segmentations({"a": SMALL, "b": word_piece("the")}, {"t": "the dog"})["t"][1]
    assert not cut.is_lossless
    assert cut.shared_cuts is None
    assert [(piece.text, piece.stands_for_text) for piece in cut.pieces] == [("the", True), ("[UNK]", False)]


def test_the_space_that_a_tokenizer_puts_before_a_text_is_no_part_of_it() -> None:
    tokenizer = Tokenizer(models.BPE({"▁": 0, "a": 1, "▁a": 2, "b": 3}, [("▁", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    assert [piece.text for piece in TokenCutter(tokenizer).cut("ab")] == ["a", "b"]
    assert [piece.text for piece in TokenCutter(tokenizer).cut("b")] == ["b"]


@pytest.mark.parametrize(
    ("tokenizers", "texts", "words"),
    [
        ({}, {"t": "a"}, "there is no tokenizer to compare: name at least one"),
        ({"a": SMALL}, {}, "the text to cut is empty: give one that holds something"),
        ({"a": SMALL}, {"eng": "a", "deu": ""}, "the text deu is empty"),
    ],
)
def test_what_cannot_be_compared_is_refused(tokenizers: dict, texts: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare_segmentations(tokenizers, texts)
