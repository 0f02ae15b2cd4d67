"""The verb `tokenizer numbers`, as the command line runs it."""

import json

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.tokenization.numbers.test_retokenize_numbers import gpt4_like
from tests.verbs.check_verb import check_refused, check_verb, in_terminal
from tests.verbs.check_verb import tokenry as command_line
from tokenry.report.html import page
from tokenry.tokenization.training.boundless_training import train_boundless_bpe
from tokenry.verbs.tokenizer.numbers import lay_out

VERB = "tokenizer numbers"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    PreTrainedTokenizerFast(tokenizer_object=gpt4_like(), bos_token="<s>").save_pretrained(folder / "gpt4")
    PreTrainedTokenizerFast(tokenizer_object=gpt4_like(merges=[])).save_pretrained(folder / "single")
    train_boundless_bpe(["the cat"] * 3, 262).save(folder / "boundless.json")
    return folder


def tokenry(*arguments):
    return command_line(VERB, *arguments)


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
    found = check_verb(VERB, folder / source, "--group", 2, output=tmp_path / "made")
    assert found["output"] == str(tmp_path / "made")
    assert found["text_back"]["after"]["gives_text_back"]
    assert AutoTokenizer.from_pretrained(tmp_path / "made").tokenize("12345") == ["1", "23", "45"]


def test_what_does_not_come_back_is_a_warning_everywhere():
    data = {
        "tokenizer": "t",
        "mode": "single",
        "group": 3,
        "notes": ["the tokenizer after does not give the text back"],
        "texts": [{"text": "A 12", "before": ["A", " 12"], "after": ["A", " ", "1", "2"], "text_back": "NO"}],
    }
    blocks = lay_out(data)
    shown = in_terminal(blocks)
    assert "Warning: the tokenizer after does not give the text back" in shown
    for drawn in (shown, page("tokenizer numbers", "Numbers", blocks, {})):
        for words in ("t: numbers digit by digit", "A| 12", "A| |1|2", "NO"):
            assert words in drawn


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}/single"], "it reads numbers digit by digit and there is nothing to regroup"),
        (["{folder}/gpt4", "--group", "0"], "group must be at least 1, got 0"),
        (["{folder}/gpt4", "--output", "{folder}"], "exists already: name a new folder"),
        (
            ["{folder}/gpt4", "--output", "{folder}/new.json"],
            "--output must name a folder, which holds the tokenizer too",
        ),
        (["{folder}/none"], "does not exist"),
        (["{folder}/boundless.json"], "is a BoundlessBPE tokenizer"),
        (["{folder}/gpt4", "--mode", "middle"], "'--mode'"),
        ([], "Missing argument 'TOKENIZER'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, arguments, words):
    check_refused(VERB, *(argument.format(folder=folder) for argument in arguments), words=words)
