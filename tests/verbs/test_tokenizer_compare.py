"""The verb `tokenizer compare`, as the command line runs it, and how its result is laid out."""

import json
import re

import pytest

from tests.verbs.check_verb import check_refused, check_verb, in_terminal, tokenry
from tokenry.core.text.round_trip import RoundTrip
from tokenry.report.html import page
from tokenry.tokenization.segmentation import TextPiece, TextSegmentation
from tokenry.tokenization.tokenizer_files import save_tokenizer
from tokenry.tokenization.training.byte_level_training import train_bpe
from tokenry.tokenization.vocabulary_use import VocabularyUse
from tokenry.verbs.tokenizer.compare import kinds, lay_out, short_names

VERB = "tokenizer compare"
TEXTS = ["the cat sat on the mat", "a cat and a dog"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, size in (("small", 258), ("large", 280)):
        save_tokenizer(train_bpe(TEXTS, size), folder / name)
    (folder / "text.txt").write_text("the cat", encoding="utf-8")
    (folder / "empty.txt").write_text("", encoding="utf-8")
    (folder / "parallel").mkdir()
    for language, text in (("eng", "the cat\n"), ("deu", "die Katze\n")):
        (folder / "parallel" / f"{language}.txt").write_text(text, encoding="utf-8")
    return folder


def arguments(folder, *options):
    return folder / "small", folder / "large", *options


def test_the_text_is_drawn_as_each_tokenizer_cuts_it(folder):
    found = tokenry(VERB, *arguments(folder, "--text", folder / "text.txt"))
    assert found.exit_code == 0, found.stderr
    assert "large, 2 tokens  │the│·cat" in found.stdout


def test_the_result_has_the_pieces_and_the_counts(folder, tmp_path):
    found = check_verb(VERB, *arguments(folder, "--text", folder / "text.txt"), output=tmp_path / "out")
    small, large = found["texts"][0]["tokenizers"]
    assert [(piece["text"], piece["kind"]) for piece in large["pieces"]] == [
        ("the", "same"),
        (" cat", "same"),
    ]
    assert large["relative_cost"] == pytest.approx(large["tokens"] / small["tokens"])


def test_parallel_text_is_counted_by_language(folder, tmp_path):
    options = ("--parallel", folder / "parallel", "--languages", "eng,deu")
    found = check_verb(VERB, *arguments(folder, *options), output=tmp_path / "out")
    assert {text["text"] for text in found["texts"]} == {"deu", "eng"}
    assert found["settings"]["languages"] == ["eng", "deu"]
    assert "Tokens per text" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["picture.html", "pieces.json"])
def test_one_file_may_be_written(folder, tmp_path, name):
    options = ("--text", folder / "text.txt", "--output", tmp_path / name)
    found = tokenry(VERB, *arguments(folder, *options))
    assert found.exit_code == 0, found.stderr
    assert [file.name for file in tmp_path.iterdir()] == [name]
    written = (tmp_path / name).read_text(encoding="utf-8")
    assert "Where each cuts" in written if name.endswith("html") else json.loads(written)["texts"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "there is no text to cut: give --text FILE"),
        ("--text none.txt", "there is no text file none.txt"),
        ("--text {0}/empty.txt", "the text empty is empty"),
        ("--text none.txt --languages eng", "give --text, or --parallel with --languages: not both"),
        ("--languages eng --output picture.png", "--output must end in .html or .json"),
        ("--text {0}/text.txt --shown 0", "--shown must be at least 1, got 0"),
        ("--parallel {0}/none", "is not a folder"),
        ("--parallel {0}/parallel --languages eng,fra", "fra"),
    ],
)
def test_wrong_input_is_one_sentence(folder, options, words):
    check_refused(VERB, *arguments(folder, *options.format(folder).split()), words=words)


def test_a_tokenizer_is_called_by_the_end_of_its_path_where_that_is_its_own(tmp_path):
    for place in ("a/one", "b/one", "b/two"):
        (tmp_path / place).mkdir(parents=True)
    given = [str(tmp_path / place) for place in ("a/one", "b/one", "b/two")]
    assert [*short_names([*given, "org/model"]).values()] == [given[0], given[1], "two", "org/model"]


def cut(name, *pieces, shared=1.0):
    text = b"".join(pieces)
    found = tuple(TextPiece(number, data) for number, data in enumerate(pieces))
    use = VocabularyUse(0.5, 0.6, 0.7)
    return TextSegmentation(name, found, len(text), len(text), 2, use, RoundTrip(1), 1.5, shared)


def test_a_cut_that_the_first_tokenizer_does_not_make_is_marked():
    first, second = cut("one", b"the", b" cat"), cut("two", b"t", b"he", b" cat")
    assert kinds(first, first) == ["same", "same"]
    assert kinds(second, first) == ["same", "other", "same"]
    assert kinds(cut("two", b"t", b"he", b" cat", shared=None), first) == ["same"] * 3


def column(name, *pieces, back=None, **extra):
    """As a result.json of the first version holds it."""
    back = back or RoundTrip(1)
    return {
        "tokenizer": name,
        "tokens": len(pieces),
        "bytes_per_token": 2.0,
        "tokens_per_word": 1.25,
        "vocabulary_used": 0.125,
        "shannon_efficiency": 0.6,
        "renyi_efficiency": 0.7,
        "relative_cost": 1.5,
        "shared_cuts": 1.0 if back.gives_back else None,
        "is_lossless": back.gives_back,
        "text_back": back.as_json(),
        "pieces": [{"id": number, "text": text} | extra for number, text in enumerate(pieces)],
    }


def laid_out(*columns, **settings):
    size = len("".join(piece["text"] for piece in columns[0]["pieces"]))
    text = {"text": "<i>", "bytes": size, "characters": size, "tokenizers": list(columns)}
    return lay_out({"texts": [text], "settings": settings})


def drawn(blocks):
    html = page("tokenizers", "Tokenizers side by side", blocks, {})
    return html, re.findall(r'<span class="(\w+)" title="id', html)


def test_every_measure_is_shown_on_the_page_and_in_the_terminal():
    blocks = laid_out(column("one", "a", " b"), column("two", "a b", kind="other"))
    html, marks = drawn(blocks)
    assert marks == ["same", "same", "other"]
    assert "A bar is a cut that one does not make." in html
    for text in (html, in_terminal(blocks)):
        for words in ("1.25", "12.5", "0.700", "1.50", "100.0", "× one"):
            assert words in text


def test_only_the_beginning_of_a_text_is_drawn_and_all_of_it_is_counted():
    blocks = laid_out(column("one", *["ab"] * 1000), shown=10)
    html, marks = drawn(blocks)
    assert len(marks) == 5
    assert "A bar" not in html
    for text in (html, in_terminal(blocks)):
        assert "1,000" in text
        assert "the first 10 of 2,000 bytes" in text


def test_text_is_escaped_and_spaces_are_signs():
    html, _ = drawn(laid_out(column("<b>", "<script>", " x")))
    assert "&lt;script&gt;" in html
    assert "<b>" not in html.split("<main")[1]
    assert "·x" in html


def test_a_tokenizer_that_loses_text_is_named():
    lossy = column("two", "[UNK]", back=RoundTrip(1, 2, 1, 2, "[UNK]", "b", "[UNK]"), kind="lost")
    blocks = laid_out(column("one", "b"), lossy)
    html, marks = drawn(blocks)
    assert marks == ["same", "lost"]
    for text in (html, " ".join(in_terminal(blocks).split())):
        assert "two does not give the text back (2 unknown tokens)" in text
        assert "NO: 2 × [UNK]" in text
        assert "one does not give" not in text


def test_the_first_three_texts_are_open():
    text = {"bytes": 1, "characters": 1, "tokenizers": [column("one", "a")]}
    html, _ = drawn(lay_out({"texts": [{"text": name, **text} for name in "abcde"]}))
    assert html.count('<details class="sample" open>') == 3
    assert html.count('<details class="sample">') == 2
