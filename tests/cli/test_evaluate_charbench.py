"""`tokenry evaluate charbench`: tables, JSON, a page, and one sentence for what cannot be."""

import itertools
import json

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from tests.tiny_chat import write_model
from tokenry.cli.console import verb
from tokenry.cli.evaluate_charbench import charbench

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


def tokenry(*arguments):
    app = typer.Typer()
    app.command()(verb(charbench))
    return CliRunner().invoke(app, [*map(str, arguments)])


def run(desk, output, *options, models=("model",)):
    paths = [desk / model for model in models]
    return tokenry(*paths, "--words", desk / "words.txt", *SMALL, "--output", output, *options)


def test_the_tables_tell_accuracy_and_correlations(desk, tmp_path):
    result = run(desk, tmp_path)
    assert result.exit_code == 0, result.stderr
    for words in (
        "count_unique_chars",
        "find_last_occurrence",
        "right, %",
        "word_length",
        "adjusted for all",
    ):
        assert words in result.stdout


@pytest.mark.parametrize("mode", ["score", "generate"])
def test_json_is_all_there_is_on_stdout_and_what_is_saved(desk, tmp_path, mode):
    result = run(desk, tmp_path, "--json", "--mode", mode, "--limit", "8")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "result.json").read_text())
    assert "regeneration" in printed["note"]
    assert printed["settings"]["items"] == 8
    assert printed["settings"]["mode"] == mode


def test_a_page_and_every_prediction_are_saved(desk, tmp_path):
    run(desk, tmp_path, "--limit", "0", "--quiet", models=("model", "other"))
    assert "regeneration" in (tmp_path / "report.html").read_text(encoding="utf-8")
    saved = pd.read_csv(tmp_path / "predictions.csv")
    assert len(saved) == 2 * 16
    assert {"model", "word", "prediction", "correct", "target_token_length"} <= {*saved}


def test_errors_of_two_models_are_compared(desk, tmp_path):
    overlap = json.loads(run(desk, tmp_path, "--json", models=("model", "other")).stdout)["overlap"]
    names = {str(desk / "model"), str(desk / "other")}
    assert all(set(of_task) == names for of_task in overlap.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mode", "guess"), "--mode must be one of generate, score"),
        (("--per-length", "6"), "per_length must be a multiple of 4"),
        (("--per-length", "64"), "30 words of length 3 and 64 are needed"),
        (("--max-length", "2"), "the shortest are no longer than the longest"),
        (("--limit", "-1"), "limit must be at least 1"),
        (("--batch-size", "0"), "batch_size must be at least 1"),
        (("--words", "missing.txt"), "missing.txt cannot be read"),
    ],
)
def test_bad_usage_is_one_sentence_and_writes_nothing(desk, tmp_path, options, message):
    result = run(desk, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_named_twice_is_refused(desk, tmp_path):
    result = run(desk, tmp_path / "out", models=("model", "model"))
    assert result.exit_code == 2
    assert "each once" in result.stderr
