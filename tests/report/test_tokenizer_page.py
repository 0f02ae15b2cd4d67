import re

from tokenry.core.round_trip import RoundTrip
from tokenry.report.tokenizer_page import render_tokenizers
from tokenry.tokenization.segmentation import Piece, Segmentation
from tokenry.tokenization.vocabulary_use import VocabularyUse


def segmentation(
    name: str, *pieces: bytes, shared: float | None = 1.0, lossless: bool = True
) -> Segmentation:
    text = b"".join(pieces)
    return Segmentation(
        name,
        tuple(Piece(i, p) for i, p in enumerate(pieces)),
        len(text),
        len(text),
        2,
        VocabularyUse(0.5, 0.6, 0.7),
        RoundTrip(1) if lossless else RoundTrip(1, 2, 1, 2, "[UNK]", "b", "[UNK]"),
        1.5,
        shared,
    )


def kinds(page: str) -> list[list[str]]:
    return [re.findall(r'<span class="(\w+)" title', part) for part in page.split('<div class="pieces"')[1:]]


def test_a_cut_that_the_first_tokenizer_does_not_make_is_marked() -> None:
    page = render_tokenizers(
        {"t": [segmentation("one", b"the", b" cat"), segmentation("two", b"t", b"he", b" cat")]}
    )
    assert kinds(page) == [["same", "same"], ["same", "other", "same"]]


def test_only_the_beginning_of_a_text_is_drawn_and_all_of_it_is_counted() -> None:
    page = render_tokenizers({"t": [segmentation("one", *[b"ab"] * 1000)]}, most_bytes=10)
    assert len(kinds(page)[0]) == 5
    assert "1,000" in page
    assert "the first 10 of 2,000 bytes" in page


def test_text_is_escaped_and_spaces_are_signs() -> None:
    page = render_tokenizers({"<i>": [segmentation("<b>", b"<script>", b" x")]})
    assert "<script>·" not in page.split("<main")[1]
    assert "&lt;script&gt;" in page
    assert "·x" in page


def test_a_tokenizer_that_loses_text_is_named() -> None:
    page = render_tokenizers(
        {"t": [segmentation("one", b"a"), segmentation("two", b"b", shared=None, lossless=False)]}
    )
    assert "two does not give the text back (2 unknown tokens)" in page
    assert "text back: NO: 2 × [UNK]" in page
    assert "one does not give" not in page


def test_texts_bear_their_longer_names() -> None:
    page = render_tokenizers({"deu": [segmentation("one", b"a")]}, names={"deu": "German"})
    assert "German" in page
