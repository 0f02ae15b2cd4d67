"""`tokenry tokenizer zett`: train, resume, transfer; tables, JSON, and bad usage in one sentence."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tests.tokenization.tiny_vocabularies import CODE, byte_level
from tests.tokenization.zett.tiny import TEXTS, causal, tokenizer
from tokenry.cli import app

FAST = (
    *("--steps", 4, "--batch-size", 8, "--block-size", 16, "--vocabulary-size", 410),
    *("--layers", 1, "--hidden-size", 16, "--heads", 2, "--save-every", 2),
)


def tokenry(*arguments):
    return CliRunner().invoke(app, ["tokenizer", "zett", *map(str, arguments)])


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    causal().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    byte_level([*CODE, *TEXTS], 400).save_pretrained(folder / "new")
    (folder / "one.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    # Text that is no Latin one is held in wider characters.
    (folder / "other.txt").write_text("\n\n".join(["日本 🤷", *TEXTS[::-1]]), encoding="utf-8")
    made = tokenry("train", folder / "model", folder / "one.txt", "--output", folder / "net", *FAST)
    assert made.exit_code == 0, made.stderr
    return folder


def test_training_tells_its_losses_and_leaves_a_hypernetwork(desk, tmp_path):
    made = tokenry("train", desk / "model", desk / "one.txt", "--output", tmp_path / "net", *FAST, "--json")
    assert made.exit_code == 0, made.stderr
    printed = json.loads(made.stdout)
    assert set(printed["stages"]) == {"main"}  # 5 % of 4 steps are none
    assert printed["texts"] == {"one": len(TEXTS)}
    stored = json.loads((tmp_path / "net" / "training.json").read_text())
    assert len(stored["history"]["loss"]) == 4
    assert (tmp_path / "net" / "model.safetensors").is_file()


def test_training_by_language_in_the_residual_form(desk, tmp_path):
    made = tokenry(
        "train",
        *(desk / "model", desk / "one.txt", desk / "other.txt"),
        *("--output", tmp_path / "net", *FAST, "--by-language", "--residual"),
    )
    assert made.exit_code == 0, made.stderr
    assert "one: 504, other: 505" in made.stdout
    arguments = (desk / "model", tmp_path / "net", desk / "new", "--output")
    without = tokenry("transfer", *arguments, tmp_path / "out")
    assert without.exit_code == 2
    assert "language must be one of 0 to 1, got None" in without.stderr
    assert tokenry("transfer", *arguments, tmp_path / "out", "--language", 1).exit_code == 0


def test_a_begun_training_wants_resume(desk):
    arguments = ("train", desk / "model", desk / "one.txt", "--output", desk / "net", *FAST)
    again = tokenry(*arguments)
    assert again.exit_code == 2
    assert "resume it (--resume), or name a new folder" in again.stderr
    assert tokenry(*arguments, "--resume").exit_code == 0


def test_the_transferred_model_loads_with_its_tokenizer(desk, tmp_path):
    made = tokenry(
        *("transfer", desk / "model", desk / "net", desk / "new", "--output", tmp_path / "out"),
        *("--text", desk / "one.txt", "--base", desk / "model", "--most-characters", 500),
    )
    assert made.exit_code == 0, made.stderr
    for words in ("shared", "composed", "bits per byte before", "bits per byte after", "furthest from it"):
        assert words in made.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "out"))


def test_json_is_all_there_is_on_stdout(desk, tmp_path):
    new = desk / "new" / "tokenizer.json"
    made = tokenry("transfer", desk / "model", desk / "net", new, "--output", tmp_path / "out", "--json")
    printed = json.loads(made.stdout)
    assert printed["bits_per_byte"] == {"before": None, "after": None}
    assert printed["tokens"] == printed["shared"] + printed["composed"] + printed["special"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-length", 0), "max_length must be at least 1, got 0"),
        (("--heads", 3), "hidden_size must be divisible by heads, got 16 and 3"),
        (("--vocabulary-size", 9000), "but the texts hold only"),
        (("--steps", 0), "steps must be at least 1, got 0"),
        (("--lexical-weight", -1), "lexical_weight must not be negative"),
    ],
)
def test_bad_usage_of_training_is_one_sentence_and_writes_nothing(desk, tmp_path, options, words):
    arguments = ("train", desk / "model", desk / "one.txt", "--output", tmp_path / "net", *FAST)
    made = tokenry(*arguments, *options)
    assert made.exit_code == 2, made.stderr
    assert words in made.stderr
    assert not (tmp_path / "net").exists()


def test_what_cannot_be_read_or_written_is_one_sentence(desk, tmp_path):
    for arguments, words in (
        (
            (desk / "model", desk / "model", desk / "new", "--output", tmp_path / "out"),
            "describes no hypernetwork",
        ),
        ((desk / "model", desk, desk / "new", "--output", tmp_path / "out"), "holds no hypernetwork"),
        (
            (desk / "model", desk / "net", desk / "one.txt", "--output", tmp_path / "out"),
            "is no tokenizer file",
        ),
        ((desk / "model", desk / "net", desk / "new", "--output", desk / "net"), "exists already"),
    ):
        made = tokenry("transfer", *arguments)
        assert made.exit_code == 2
        assert words in made.stderr
    missing = tokenry("train", desk / "model", desk / "no.txt", "--output", tmp_path / "net", *FAST)
    assert missing.exit_code == 2
    assert "no.txt cannot be read as UTF-8 text" in missing.stderr
