"""The verbs `premiums`, `train` and `optimal-vocab`, each as the command line runs it."""

import json

import pytest
import typer
from typer.testing import CliRunner

from tests.tokenization.premium_golden import golden
from tokenry.cli.console import verb
from tokenry.cli.tokenizer_premiums import premiums
from tokenry.tokenization.tokenizer_files import load_any_tokenizer, save_tokenizer
from tokenry.tokenization.training import train_boundless_bpe, train_bpe

GOLDEN = golden("premiums")
LANGUAGES = ("eng", "deu_1996", "tur", "hin")

app = typer.Typer()
for name, function in ("premiums", premiums):
    app.command(name)(verb(function))


def tokenry(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def ran(*arguments):
    result = tokenry(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Folders of training and of parallel text."""
    folder = tmp_path_factory.mktemp("texts")
    lines = min(len(GOLDEN["eval"][language]) for language in LANGUAGES)
    for name, content in (("train", GOLDEN["train"]), ("parallel", GOLDEN["eval"])):
        (folder / name).mkdir()
        for language in LANGUAGES:
            chosen = content[language][: lines if name == "parallel" else None]
            (folder / name / f"{language}.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(texts):
    """Tokenizers of two algorithms."""
    lines = GOLDEN["train"]["eng"]
    save_tokenizer(train_bpe(lines, 330, special_tokens=["<s>"]), texts / "tokenizers/bpe")
    save_tokenizer(train_boundless_bpe(lines, 330, special_tokens=["<s>"]), texts / "tokenizers/boundless")
    return texts / "tokenizers"


def test_given_tokenizers_are_measured_side_by_side(trained, texts, tmp_path):
    result = ran(
        "premiums",
        trained / "bpe",
        trained / "boundless",
        "--parallel",
        texts / "parallel",
        "--output",
        tmp_path / "out",
    )
    assert "spread over 4 languages" in result.stdout
    content = json.loads((tmp_path / "out/result.json").read_text())
    assert [table["name"] for table in content["tables"]] == [
        str(trained / "bpe"),
        str(trained / "boundless"),
    ]
    (english,) = [row for row in content["tables"][0]["languages"] if row["language"] == "eng"]
    assert {"value": 1.0, "low": 1.0, "high": 1.0}.items() <= english["premium"].items()
    assert "<svg" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_a_grid_is_trained_and_goes_on(texts, tmp_path):
    options = (
        "--grid",
        "--train",
        texts / "train",
        "--parallel",
        texts / "parallel",
        "--algorithm",
        "bpe",
        "--amount",
        "unscaled",
        "--save-tokenizers",
        "--output",
        tmp_path / "out",
        "--json",
    )
    first = json.loads(ran("premiums", *options, "--vocab-sizes", "300,340").stdout)
    assert [table["name"] for table in first["tables"]] == ["V = 300", "V = 340"]
    again = ran("premiums", *options, "--vocab-sizes", "340,400")
    assert [table["name"] for table in json.loads(again.stdout)["tables"]] == ["V = 340", "V = 400"]
    assert len([*(tmp_path / "out/grid/cells").iterdir()]) == 12
    load_any_tokenizer(tmp_path / "out/grid/tokenizers/bpe_hin_400_unscaled.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["premiums"], "name tokenizers to measure, or give --grid"),
        (["premiums", "x", "--grid"], "one of the two"),
        (["premiums", "no/such/folder", "--parallel", "{texts}/parallel"], "does not exist"),
        (["premiums", "{trained}/bpe", "--parallel", "{texts}/no"], "is no folder"),
        (
            ["premiums", "{trained}/bpe", "--parallel", "{texts}/parallel", "--reference", "fra"],
            "the reference language 'fra' is not among the languages",
        ),
        (
            ["premiums", "--grid", "--vocab-sizes", "a,b"],
            "--vocab-sizes takes whole numbers separated by commas",
        ),
        (["premiums", "--grid", "--algorithm", "wordpiece"], "the algorithm must be one of bpe, unigram"),
        (["premiums", "--grid", "--train", "{texts}/train"], "give both a folder of training texts"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(trained, texts, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = tokenry(*(each.format(texts=texts, trained=trained) for each in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
