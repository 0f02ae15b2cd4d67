"""The verb `tokenizer premiums`, as the command line runs it, and how its result is laid out."""

import json

import pytest

from tests.report.page_reader import Page
from tests.verbs.check_verb import check_refused, check_verb, in_terminal, tokenry
from tests.verbs.language_texts import GOLDEN, write_texts
from tokenry.core.text.round_trip import RoundTrip
from tokenry.report.blocks import Figure, Section, Table
from tokenry.report.html import page
from tokenry.tokenization.premiums import GridConfig
from tokenry.tokenization.tokenizer_files import load_any_tokenizer, save_tokenizer
from tokenry.tokenization.training import train_boundless_bpe, train_bpe
from tokenry.verbs.tokenizer.premiums import Plan, lay_out

VERB = "tokenizer premiums"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def trained(texts):
    """Tokenizers of two algorithms."""
    lines = GOLDEN["train"]["eng"]
    save_tokenizer(train_bpe(lines, 330, special_tokens=["<s>"]), texts / "tokenizers/bpe")
    save_tokenizer(train_boundless_bpe(lines, 330, special_tokens=["<s>"]), texts / "tokenizers/boundless")
    return texts / "tokenizers"


def test_given_tokenizers_are_measured_side_by_side(trained, texts, tmp_path):
    arguments = (trained / "bpe", trained / "boundless", "--parallel", texts / "parallel")
    found = check_verb(VERB, *arguments, output=tmp_path / "out")
    assert [table["name"] for table in found["tables"]] == [str(trained / "bpe"), str(trained / "boundless")]
    (english,) = [row for row in found["tables"][0]["languages"] if row["language"] == "eng"]
    assert {"value": 1.0, "low": 1.0, "high": 1.0}.items() <= english["premium"].items()
    assert found["settings"]["text"] == str(texts / "parallel")


def test_a_grid_is_trained_and_goes_on(texts, tmp_path):
    options = (
        *("--grid", "--train", texts / "train", "--parallel", texts / "parallel"),
        *("--algorithm", "bpe", "--amount", "unscaled", "--save-tokenizers"),
    )
    first = check_verb(VERB, *options, "--vocab-sizes", "300,340", output=tmp_path / "out")
    assert [table["name"] for table in first["tables"]] == ["V = 300", "V = 340"]
    again = tokenry(VERB, *options, "--vocab-sizes", "340,400", "--output", tmp_path / "out", "--json")
    assert [table["name"] for table in json.loads(again.stdout)["tables"]] == ["V = 340", "V = 400"]
    assert len([*(tmp_path / "out/grid/cells").iterdir()]) == 12
    load_any_tokenizer(tmp_path / "out/grid/tokenizers/bpe_hin_400_unscaled.json")


def test_the_grid_of_the_command_line_is_that_of_the_library():
    assert Plan(grid=True).grid_config() == GridConfig()


def figure(value):
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value}


def table(name, premiums, group="", **back):
    """As a result.json of the first version holds it."""
    rows = [
        {
            "language": language,
            "tokens": round(1000 * premium),
            "premium": figure(premium),
            "byte_premium": 1.5,
            "bytes_per_token": 4.0,
            "text_back": back.get(language),
        }
        for language, premium in sorted(premiums.items(), key=lambda item: -item[1])
    ]
    spread = {"mean": figure(1234.5), "std": figure(50.0), "cv": figure(0.04), "max_min": figure(5.0)}
    return {"group": group, "name": name, "languages": rows, "spread": spread}


PREMIUMS = {"eng": 1.0, "mya": 4.0, "deu": 1.3, "cmn": 0.8}


def laid_out(*tables, names=None):
    return lay_out({"reference": "eng", "segments": 30, "names": names or {}, "tables": tables})


def figures(blocks):
    (section,) = [block for block in blocks if isinstance(block, Section) and block.title == "Who pays more"]
    return [block for block in section.blocks if isinstance(block, Figure)]


def test_the_most_expensive_language_stands_on_top_with_its_interval():
    (drawn,) = figures(laid_out(table("A", PREMIUMS), names={"mya": "Burmese"}))
    assert drawn.series[0].x == ["Burmese", "deu", "eng", "cmn"]
    assert (drawn.series[0].y[0], drawn.series[0].low[0], drawn.series[0].high[0]) == (4.0, 3.6, 4.4)
    assert drawn.logarithmic
    assert drawn.reference == 1.0
    assert "most tokens in Burmese, fewest in cmn" in drawn.summary


def test_groups_are_drawn_apart_and_their_languages_folded():
    blocks = laid_out(
        table("V = 1", PREMIUMS, "bpe"), table("V = 2", PREMIUMS, "bpe"), table("V = 1", PREMIUMS, "unigram")
    )
    bpe, unigram = figures(blocks)
    assert (bpe.title, [series.name for series in bpe.series]) == ("bpe", ["V = 1", "V = 2"])
    assert [series.name for series in unigram.series] == ["V = 1"]
    assert bpe.limits == unigram.limits
    assert bpe.limits[0] < 0.72 < 4.4 < bpe.limits[1]
    assert all(block.folded for block in blocks[-1].blocks if isinstance(block, Table))
    assert "byte premium" not in in_terminal(blocks)


def test_page_and_terminal_show_every_figure():
    blocks = laid_out(table("A", PREMIUMS), names={"mya": "Burmese", "eng": "English"})
    drawn = Page(page("premiums", "Token premiums", blocks, {}))
    assert "4 languages, 30 parallel segments" in drawn.text
    assert "those of English" in drawn.text
    assert len([svg for svg in drawn.find("svg") if svg.attributes.get("role") == "img"]) == 1
    for text in (drawn.text, in_terminal(blocks)):
        for words in ("Burmese", "4,000", "4.00", "3.60 to 4.40", "1,234.5", "4.50 to 5.50", "spread over 4"):
            assert words in text


def test_a_small_count_is_no_small_cost():
    back = RoundTrip(3, 9, 3, 3, "[UNK]", "貓", "[UNK]")
    blocks = laid_out(table("A", PREMIUMS, cmn=back.as_json()), table("B", PREMIUMS))
    shown = " ".join(in_terminal(blocks).split())
    assert "Warning: some texts do not come back" in shown
    assert f"Warning: cmn: {back.sentence('A')}" in shown
    assert "NO: 3 of 3, 3 × [UNK]" in shown
    assert "not given back" in shown
    assert "not given back" not in in_terminal(laid_out(table("A", PREMIUMS)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name tokenizers to measure, or give --grid"),
        (["x", "--grid"], "one of the two"),
        (["no/such/folder", "--parallel", "{texts}/parallel"], "does not exist"),
        (["{trained}/bpe", "--parallel", "{texts}/no"], "is not a folder"),
        (
            ["{trained}/bpe", "--parallel", "{texts}/parallel", "--reference", "fra"],
            "the reference language 'fra' is not among the languages",
        ),
        (["{trained}/bpe", "--parallel", "{texts}/parallel", "--languages", "eng,fra"], "fra"),
        (["--grid", "--vocab-sizes", "a,b"], "--vocab-sizes takes whole numbers separated by commas"),
        (["--grid", "--vocab-sizes", ""], "there is no vocabulary size"),
        (["--grid", "--algorithm", "wordpiece"], "the algorithm must be one of bpe, unigram"),
        (["--grid", "--amount", "half"], "the amount must be one of scaled, unscaled, got 'half'"),
        (["--grid", "--train", "{texts}/train"], "give both a folder of training texts"),
        (["--grid", "--train-bytes", "0"], "the training text must hold at least one byte"),
        (["--grid", "--min-frequency", "-1"], "--min-frequency must be at least 0, got -1"),
        (
            ["--grid", "--output", "grid.json"],
            "--output must name a folder, which holds the cells of the grid",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(trained, texts, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    check_refused(VERB, *(word.format(texts=texts, trained=trained) for word in arguments), words=words)
    assert not list(tmp_path.iterdir())
