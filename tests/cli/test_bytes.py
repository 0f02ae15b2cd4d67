"""`tokenry bytes`: next bytes, scores, samples and the self-test of the byte map."""

import json

import pytest
import typer
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from tests.finetuning.tiny import tiny_llama
from tests.finetuning.tiny_tokenizers import chatml_tokenizer
from tests.tiny_chat import write_model
from tokenry.cli.bytes import generate, next_byte, score, self_test
from tokenry.cli.console import verb


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("bytes") / "model")


def tokenry(function, *arguments):
    app = typer.Typer()
    app.command()(verb(function))
    return CliRunner().invoke(app, [*map(str, arguments)])


def answered(function, *arguments):
    result = tokenry(function, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_next_bytes_come_with_what_naive_and_healed_prompts_say(model):
    found = answered(next_byte, "What is", "--model", model, "--most", 257)
    assert len(found["next"]) == 257
    for column in ("probability", "healed", "naive"):
        assert sum(each[column] for each in found["next"]) == pytest.approx(1.0)
    probabilities = [each["probability"] for each in found["next"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_prompt_may_end_inside_a_character(model):
    found = answered(next_byte, "--hex", "636166C3", "--model", model)
    assert found["prompt"] == "caf\\xc3"
    assert all(each["byte"].startswith("0x") for each in found["next"] if each["probability"] > 0.01)


def test_several_models_are_an_ensemble(model):
    once = answered(next_byte, "What", "--model", model)
    twice = answered(next_byte, "What", "--model", model, "--model", model)
    assert [each["byte"] for each in once["next"]] == [each["byte"] for each in twice["next"]]
    assert "naive" not in twice["next"][0]


def test_a_text_is_scored_character_by_character(model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Is it 7é?", encoding="utf-8")
    found = answered(score, "--file", path, "--model", model)
    assert "".join(each["text"] for each in found["units"]) == "Is it 7é?"
    assert found["exact"]
    assert sum(each["bits"] for each in found["units"]) == pytest.approx(10 * found["bits_per_byte"])
    assert found["bits_per_byte"] <= found["bits_per_byte_of_tokens"] + 1e-6


def test_texts_are_generated_and_the_result_is_written(model, tmp_path):
    output = tmp_path / "generated.json"
    arguments = ("The ans", "--model", model, "--samples", 3, "--max-bytes", 5, "--seed", 1)
    found = answered(generate, *arguments, "--output", output)
    assert len(found["samples"]) == 3
    assert all(len(each["hex"]) <= 10 for each in found["samples"])
    assert json.loads(output.read_text()) == found
    assert found == answered(generate, *arguments)


def test_the_tables_name_what_they_show(model):
    assert "naive" in tokenry(next_byte, "What", "--model", model).stdout
    assert "bits per byte (exact)" in tokenry(score, "What", "--model", model).stdout
    assert "ended by" in tokenry(generate, "What", "--model", model, "--max-bytes", 2).stdout
    assert "sound" in tokenry(self_test, model).stdout


def test_a_sound_byte_map_passes(model):
    found = answered(self_test, model)
    assert found["is_sound"]
    assert found["misread"] == []


def test_an_unsound_byte_map_fails_and_says_why(tmp_path):
    tokenizer = Tokenizer.from_str(chatml_tokenizer().backend_tokenizer.to_str())
    tokenizer.normalizer = normalizers.Lowercase()
    tiny_llama().save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    result = tokenry(self_test, tmp_path)
    assert result.exit_code == 1
    assert "NOT sound" in result.stdout
    assert "Lowercase" in result.stdout


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (next_byte, (), "give the text once, as an argument, with --hex or with --file; got it 0 times"),
        (next_byte, ("a", "--hex", "61"), "got it 2 times"),
        (next_byte, ("--hex", "6"), "--hex takes pairs of hexadecimal digits"),
        (next_byte, ("--file", "no-such-file"), "the file no-such-file does not exist"),
        (next_byte, ("a", "--invalid", "drop"), "invalid must be one of truncate, renormalize, all"),
        (next_byte, ("a", "--validate", "never"), "validate must be one of pairwise, reencode, none"),
        (score, ("a", "--per", "word"), "per must be one of byte, character"),
        (score, ("",), "an empty text has no surprisal"),
        (generate, ("a", "--temperature", -1), "temperature must not be negative"),
        (generate, ("a", "--top-p", 0), "top_p must be in (0, 1]"),
        (generate, ("a", "--samples", 0), "samples must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(model, function, arguments, words):
    result = tokenry(function, *arguments, "--model", model)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
