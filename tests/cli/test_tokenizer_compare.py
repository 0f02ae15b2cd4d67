import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tokenry.cli import app
from tokenry.tokenization.tokenizer_files import save_tokenizer
from tokenry.tokenization.training.byte_level_training import train_bpe

TEXTS = ["the cat sat on the mat", "a cat and a dog"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, size in (("small", 258), ("large", 280)):
        save_tokenizer(train_bpe(TEXTS, size), folder / name)
    (folder / "text.txt").write_text("the cat", encoding="utf-8")
    (folder / "parallel").mkdir()
    for language, text in (("eng", "the cat\n"), ("deu", "die Katze\n")):
        (folder / "parallel" / f"{language}.txt").write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(
        app, ["tokenizer", "compare", str(folder / "small"), str(folder / "large"), *options]
    )


def test_the_text_is_drawn_as_each_tokenizer_cuts_it(folder: Path) -> None:
    found = run(folder, "--text", str(folder / "text.txt"))
    assert found.exit_code == 0
    assert "large  │the│·cat" in found.stdout


def test_json_has_the_pieces_and_the_counts(folder: Path) -> None:
    found = run(folder, "--text", str(folder / "text.txt"), "--json")
    small, large = json.loads(found.stdout)["texts"][0]["tokenizers"]
    assert [piece["text"] for piece in large["pieces"]] == ["the", " cat"]
    assert large["relative_cost"] == pytest.approx(large["tokens"] / small["tokens"])


def test_parallel_text_is_counted_by_language(folder: Path) -> None:
    found = run(folder, "--parallel", str(folder / "parallel"), "--json")
    assert [each["text"] for each in json.loads(found.stdout)["texts"]] == ["deu", "eng"]


def test_the_picture_is_written(folder: Path, tmp_path: Path) -> None:
    found = run(folder, "--text", str(folder / "text.txt"), "--output", str(tmp_path / "picture.html"))
    assert found.exit_code == 0
    assert "Where each cuts" in (tmp_path / "picture.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "there is no text to cut: give --text FILE"),
        (("--text", "none.txt"), "there is no text file none.txt"),
        (
            ("--text", "none.txt", "--languages", "eng"),
            "give --text, or --parallel with --languages: not both",
        ),
        (("--languages", "eng", "--output", "picture.png"), "--output must end in .html or .json"),
    ],
)
def test_wrong_input_is_one_sentence(folder: Path, options: tuple[str, ...], words: str) -> None:
    found = run(folder, *options)
    assert found.exit_code == 2
    assert words in found.stderr
