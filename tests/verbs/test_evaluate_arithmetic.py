"""The verb `evaluate arithmetic`, as the command line runs it."""

import json

import pytest
from typer.testing import CliRunner

from tests.tiny.chats import write_model
from tokenry.cli import app
from tokenry.core.text.digit_groups import NumberFormat, number_format
from tokenry.evaluation.arithmetic.addition import judge_answer
from tokenry.evaluation.arithmetic.addition_problems import sample_problems
from tokenry.models import load_tokenizer
from tokenry.verbs.evaluate.arithmetic import cut_mode, patterns_of

QUICK = (
    "--signature",
    "1,1,2",
    "--signature",
    "2,2,2",
    "--per-signature",
    "2",
    "--shots",
    "1",
    "--dtype",
    "float32",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def tokenry(*arguments):
    return CliRunner().invoke(app, ["evaluate", "arithmetic", *map(str, arguments)])


def test_a_model_adds_the_same_problems_in_every_format(model, tmp_path):
    result = tokenry(model, *QUICK, "--output", tmp_path / "result.json", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert json.loads((tmp_path / "result.json").read_text()) == found
    by_format = {
        name: [row for row in found["answers"] if row["format"] == name] for name in ("nosep", "comma_r2l")
    }
    assert [row["num1"] for row in by_format["nosep"]] == [row["num1"] for row in by_format["comma_r2l"]]
    assert [row["problems"] for row in found["by_format"]] == [4, 4]
    assert {row["length"] for row in found["by_length"]} == {"match", "mismatch"}


def test_tables_say_how_numbers_are_cut_and_what_was_right(model):
    result = tokenry(model, *QUICK, "--format", "space_r2l", "--spaces", 1, "--no-chat", "--system", "")
    assert result.exit_code == 0, result.stderr
    assert "it cuts numbers as" in " ".join(result.stdout.split())
    for words in ("space_r2l", "1+1=2", "mismatch", "accuracy"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "dots"], "format must be one of nosep"),
        (["--signature", "7,7"], "a signature is three lengths such as 7,7,8"),
        (["--signature", "7,7,9"], "no addition has the signature (7, 7, 9)"),
        (["--group", "0"], "group must be at least 1, got 0"),
        (["--shots", "-1"], "--shots must be at least 0, got -1"),
        (["--per-signature", "0"], "--per-signature must be at least 1, got 0"),
        (["--spaces", "-1"], "--spaces must be at least 0, got -1"),
        (["--retokenize", "r2l"], "the vocabulary lacks"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(model, options, words):
    result = tokenry(model, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_patterns_are_those_of_the_groups_that_the_separators_make(model):
    tokenizer = load_tokenizer(model)
    asked = sample_problems([(7, 7, 8)], 20, 0)
    said = [str(first + second + 10**4) for first, second in asked.problems.tolist()]
    answers = [judge_answer(asked, row, text, "nosep") for row, text in enumerate(said)]
    found = {each.pattern: each for each in patterns_of(answers, number_format("comma_r2l"), tokenizer)}
    assert found["off by one in a single position"].share == 1.0
    assert cut_mode(NumberFormat(",", "r2l"), tokenizer) == "r2l"
    assert cut_mode(number_format("nosep"), tokenizer) == "single"
