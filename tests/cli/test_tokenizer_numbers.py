"""The verb `tokenizer numbers`, as the command line runs it."""

import json

import pytest
import typer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from tests.tokenization.numbers.test_retokenize_numbers import gpt4_like
from tokenry.cli.console import verb
from tokenry.cli.tokenizer_numbers import numbers

app = typer.Typer()
app.command("numbers")(verb(numbers))
app.command("other")(verb(lambda: None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    PreTrainedTokenizerFast(tokenizer_object=gpt4_like(), bos_token="<s>").save_pretrained(folder / "gpt4")
    PreTrainedTokenizerFast(tokenizer_object=gpt4_like(merges=[])).save_pretrained(folder / "single")
    return folder


def tokenry(*arguments):
    return CliRunner().invoke(app, ["numbers", *map(str, arguments)])


def test_numbers_are_shown_before_and_after(folder):
    result = tokenry(folder / "gpt4", "--text", "is 1234567")
    assert result.exit_code == 0, result.stderr
    assert "123|456|7" in result.stdout
    assert "1|234|567" in result.stdout


def test_without_text_a_few_numbers_are_shown(folder):
    found = json.loads(tokenry(folder / "gpt4" / "tokenizer.json", "--mode", "single", "--json").stdout)
    assert found["texts"][0]["after"] == [*"8302080+3529456="]


@pytest.mark.parametrize("source", ["gpt4", "gpt4/tokenizer.json"])
def test_the_regrouped_tokenizer_is_saved_and_loads(folder, tmp_path, source):
    result = tokenry(folder / source, "--group", 2, "--output", tmp_path / "made")
    assert result.exit_code == 0, result.stderr
    assert f"written: {tmp_path / 'made'}" in result.stderr
    assert AutoTokenizer.from_pretrained(tmp_path / "made").tokenize("12345") == ["1", "23", "45"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}/single"], "it reads numbers digit by digit and there is nothing to regroup"),
        (["{folder}/gpt4", "--group", "0"], "group must be at least 1, got 0"),
        (["{folder}/gpt4", "--output", "{folder}"], "exists already: name a new folder"),
        (["{folder}/none"], "does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, arguments, words):
    result = tokenry(*(argument.format(folder=folder) for argument in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
