"""`tokenry evaluate charbench`: tables, JSON, a page, and one sentence for what cannot be."""

import itertools
import json
import re

import pandas as pd
import pytest
from pandas import DataFrame

from tests.evaluation.charbench.golden import golden_features, golden_items, golden_predictions
from tests.report.hostile import HOSTILE
from tests.report.page_reader import Page
from tests.tiny.chats import write_model
from tests.verbs.check_verb import check_refused, check_verb, in_terminal, tokenry, too_wide
from tokenry.evaluation.charbench import TASKS, charbench_report
from tokenry.report.blocks import Figure, Section, Table
from tokenry.report.html import page
from tokenry.verbs.evaluate.charbench import lay_out

CHARBENCH = "evaluate charbench"
SMALL = ("--per-length", "8", "--min-length", "3", "--max-length", "4")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    write_model(folder / "model")
    write_model(folder / "other")
    words = [
        "".join(word)
        for length in (3, 4)
        for word in itertools.islice(itertools.product("abÄd", repeat=length), 30)
    ]
    (folder / "words.txt").write_text("\n".join(words), encoding="utf-8")
    return folder


def arguments(desk, *options, models=("model",)):
    paths = [desk / model for model in models]
    return (*paths, "--words", desk / "words.txt", *SMALL, *options)


def analysed(predictions=None, features=None):
    found = charbench_report(
        golden_items(), predictions or golden_predictions(), features or golden_features(), draws=50
    )
    return {"kind": "charbench", "settings": {}, **json.loads(json.dumps(found.as_json(), default=float))}


@pytest.fixture(scope="module")
def data():
    return analysed()


def only(task, data):
    tables = {name: table for name, table in data.items() if isinstance(table, list)}
    asked = {name: [row for row in table if row["task"] == task] for name, table in tables.items()}
    return {**data, **asked, "overlap": {task: data["overlap"][task]}}


def section(blocks, title):
    return next(block for block in blocks if isinstance(block, Section) and block.title.startswith(title))


def inside(blocks, kind):
    return [block for block in blocks if isinstance(block, kind)]


def test_two_models_are_asked_and_everything_is_saved(desk, tmp_path):
    two = arguments(desk, "--limit", "0", models=("model", "other"))
    saved = check_verb(CHARBENCH, *two, output=tmp_path)
    names = {str(desk / "model"), str(desk / "other")}
    assert saved["settings"]["words"] == str(desk / "words.txt")
    assert all(set(of_task) == names for of_task in saved["overlap"].values())
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert len(written) == 2 * 16
    assert {"model", "word", "prediction", "correct", "target_token_length"} <= {*written}
    assert "regeneration" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("mode", ["score", "generate"])
def test_the_mode_and_the_items_that_were_asked_are_recorded(desk, tmp_path, mode):
    output = tmp_path / "only.json"
    result = tokenry(CHARBENCH, *arguments(desk, "--mode", mode, "--limit", "8", "--output", output))
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["only.json"]
    saved = json.loads(output.read_text(encoding="utf-8"))
    assert (saved["settings"]["items"], saved["settings"]["mode"]) == (8, mode)
    assert "regeneration" in saved["note"]
    for words in ("count unique chars", "find last occurrence", "correct", "word length", "adjusted for"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mode", "guess"), "'guess' is not one of 'score', 'generate'"),
        (("--per-length", "3"), "--per-length must be at least 4, got 3"),
        (("--per-length", "64"), "30 words of length 3 and 64 are needed"),
        (("--max-length", "2"), "the shortest words are no longer than the longest, got 3 and 2"),
        (("--min-length", "0"), "--min-length must be at least 1, got 0"),
        (("--seed", "-1"), "--seed must be at least 0, got -1"),
        (("--limit", "-1"), "--limit must be at least 1, or 0 for all items, got -1"),
        (("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("--words", "missing.txt"), "missing.txt cannot be read"),
        (("--device", "nowhere"), "device 'nowhere' is not there"),
        (("--dtype", "float8"), "'float8' is not one of 'float32', 'bfloat16', 'float16'"),
    ],
)
def test_bad_usage_is_one_sentence_and_writes_nothing(desk, tmp_path, options, words):
    check_refused(CHARBENCH, *arguments(desk, "--quiet", "--output", tmp_path / "out", *options), words=words)
    assert not (tmp_path / "out").exists()


def test_a_model_named_twice_is_refused(desk, tmp_path):
    check_refused(CHARBENCH, *arguments(desk, models=("model", "model")), words="each once")


# --- layout ----------------------------------------------------------------------------------------------------------------------


def test_every_task_has_its_section_and_every_model_its_correlations(data):
    blocks = lay_out(data)
    drawn = page("charbench", "t", blocks, {})
    assert "The items are a regeneration from open word lists" in drawn
    assert len(inside(blocks, Section)) == 1 + len(TASKS)
    accuracy, *correlations = section(blocks, "Accuracy").blocks
    assert len(accuracy.rows) == len(TASKS) * 2
    assert [table.title for table in correlations] == [
        f"Correlation with correct answers, {model}" for model in "AB"
    ]
    assert "wrong in both models / wrong in either" in drawn


def test_each_correlation_lies_inside_its_interval(data):
    (figure, *_) = inside(section(lay_out(data), "Where does a character come first").blocks, Figure)
    assert [series.name for series in figure.series] == ["A", "B"]
    assert "length of the target token" in figure.series[0].x
    for series in figure.series:
        for low, r, high in zip(series.low, series.y, series.high, strict=True):
            assert low <= r <= high


def test_counting_has_no_curve_over_the_target_token(data):
    titles = {
        start: [figure.title for figure in inside(section(lay_out(data), start).blocks, Figure)]
        for start in ("How many", "Where does a character come first")
    }
    assert "Accuracy by length of the target token" not in titles["How many"]
    assert "Accuracy by length of the target token" in titles["Where does a character come first"]


def test_a_curve_shows_every_value_of_its_property(data):
    figures = inside(section(lay_out(data), "How many").blocks, Figure)
    curve = next(figure for figure in figures if figure.title == "Accuracy by word length")
    rows = [
        row
        for row in data["curves"]
        if (row["task"], row["property"], row["model"]) == (TASKS[0], "word_length", "A")
    ]
    assert list(curve.series[0].x) == [row["value"] for row in rows]
    assert curve.series[0].y == pytest.approx([100 * row["accuracy"] for row in rows])


def test_the_terminal_fits_and_says_what_is_shown(data):
    shown = in_terminal(lay_out(data))
    assert too_wide(shown) == []
    strong = [row for row in data["correlations"] if row["shown"]]
    assert strong
    assert f"{strong[0]['r']:+.3f}".replace("-", "−") in shown
    assert "shown" in shown


def test_a_result_without_any_correlation_says_so():
    items = golden_items()
    always = analysed({"A": DataFrame({"prediction": items["answer"].map(int)})})
    drawn = Page(page("charbench", "t", lay_out(always), {}))
    assert drawn.text.count("No correlation is defined") == 4
    assert "nan" not in drawn.text


def test_a_tokenizer_that_does_not_give_the_words_back_is_named(data):
    lossy = {"gives_text_back": False, "summary": "NO: 2 of 9", "texts": 9, "changed": 2, "unknown_tokens": 0}
    back = {"A": {**lossy, "example": {"given": "Äd", "back": "d"}}}
    shown = " ".join(in_terminal(lay_out({**data, "text_back": back})).split())
    assert "Warning: the tokenizer of A does not give 2 of 9 words back: 'Äd' comes back as 'd'" in shown
    assert "NO: 2 of 9" in shown


def test_a_task_that_was_not_asked_has_no_section(data):
    one = only(TASKS[0], data)
    assert [block.title for block in inside(lay_out(one), Section)][1:] == ["How many unique characters?"]
    assert all(len(table.columns) == 2 for table in inside(section(lay_out(one), "Acc").blocks, Table)[1:])


def test_names_from_data_stay_text():
    text = "".join(HOSTILE).replace("\ud83d", "")
    asked = analysed({text: golden_predictions()["A"]}, {text: golden_features()["A"]})
    source = page("charbench", text, lay_out(only(TASKS[2], asked)), {text: text})
    drawn = Page(source)
    assert len(drawn.find("script")) == 1
    assert not drawn.find("img")
    assert not any(name.startswith("on") for element in drawn.elements for name in element.attributes)
    assert not re.search("[\x00-\x08\ud800-\udfff\u202e]", source)
