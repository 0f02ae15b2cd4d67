"""`tokenry tokenizer transplant`: a folder that loads, a table and JSON that say what became of the tokens."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tests.tokenization.tiny_vocabularies import CODE, TEMPLATE, byte_level, tiny_model
from tokenry.cli import app

FAST = ("--auxiliary", "characters")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    old, new = byte_level(), byte_level(CODE, bos_token="<begin>", eos_token="</s>")
    old.chat_template = TEMPLATE
    tiny_model(len(old)).save_pretrained(folder / "model")
    old.save_pretrained(folder / "model")
    new.save_pretrained(folder / "new")
    (folder / "text.txt").write_text("the cat sat on the mat\n\nthe dog sat\n\n\n", encoding="utf-8")
    return folder


def tokenry(*arguments):
    return CliRunner().invoke(app, ["tokenizer", "transplant", *map(str, arguments)])


def test_the_saved_model_loads_with_its_new_tokenizer(desk, tmp_path):
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", *FAST)
    assert result.exit_code == 0, result.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size >= len(tokenizer) == len(AutoTokenizer.from_pretrained(desk / "new"))
    assert tokenizer.chat_template == TEMPLATE


def test_the_table_tells_counts_and_bits_per_byte(desk, tmp_path):
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", *FAST, "--text", desk / "text.txt")
    rows = (
        "copied",
        "composed",
        "of them both",
        "left to the fallback",
        "texts that do not come back",
        "the worst of them",
        "bits per byte before",
        "bits per byte after",
    )
    places = [result.stdout.find(words) for words in rows]
    assert -1 not in places
    assert places == sorted(places)
    assert "the chat template writes <s>" in result.stderr


def test_json_is_all_there_is_on_stdout_and_what_is_saved(desk, tmp_path):
    options = ("--method", "retok", "--text", desk / "text.txt", "--json")
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", *options)
    printed = json.loads(result.stdout)
    assert printed["bits_per_byte"]["before"]["texts"] == 2
    assert printed == json.loads((tmp_path / "out" / "transplant.json").read_text())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "best"), "method must be one of tokenadapt"),
        (("--global-weight", "2"), "global_weight must be in"),
        (("--temperature", "-1"), "temperature must be 0 or more"),
        (("--top-k", "0"), "top_k must be at least 1"),
        (("--auxiliary", "nowhere"), "nowhere holds no sentence encoder"),
        (("--text", "missing.txt"), "missing.txt cannot be read as UTF-8 text"),
        (("--match", "ids"), "match must be one of bytes, string"),
        (("--fallback", "zero"), "fallback must be one of mean, random"),
        (("--most-characters", "0"), "most-characters"),
        (("--dtype", "int4"), "int4"),
    ],
)
def test_bad_usage_is_one_sentence_and_writes_nothing(desk, tmp_path, options, words):
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_bare_tokenizer_file_gets_the_special_tokens_that_are_carried(desk, tmp_path):
    arguments = (desk / "model", desk / "new" / "tokenizer.json", tmp_path / "out", *FAST)
    result = tokenry(*arguments, "--carry-special-tokens", "--text", desk / "text.txt")
    assert result.exit_code == 0, result.stderr
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_a_file_that_is_no_tokenizer_is_refused(desk, tmp_path):
    result = tokenry(desk / "model", desk / "text.txt", tmp_path / "out")
    assert result.exit_code == 2
    assert "text.txt is no tokenizer file" in result.stderr


def test_a_folder_that_exists_is_never_overwritten(desk):
    result = tokenry(desk / "model", desk / "new", desk / "model")
    assert result.exit_code == 2
    assert "exists already: name a new folder" in result.stderr


def test_a_file_without_text_is_refused(desk, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", "--text", tmp_path / "empty.txt")
    assert result.exit_code == 2
    assert "holds no text" in result.stderr
