"""The verb `score`: what it scores, prints, saves, draws and refuses."""

import json
import math

import pytest

from tests.tiny.chats import sums, write_rows
from tests.verbs.check_verb import in_terminal, too_wide
from tokenry.core.plans import plan_options
from tokenry.report.html import page
from tokenry.verbs import score as score_verb
from tokenry.verbs._catalogue import verb_of


@pytest.fixture
def score(desk, tmp_path):
    def run(source, *options):
        return desk.tokenry("score", source, "--model", desk.model, "--output", tmp_path / "out", *options)

    return run


@pytest.fixture(scope="module")
def of_rows(desk):
    """All signals of two conversations, and the folder with the results."""
    source, output = write_rows(desk.folder / "two.jsonl", sums(2)), desk.folder / "score"
    signals = "nll,entropy,prompt_attention,content_attention"
    options = ("--model", desk.model, "--signals", signals, "--layers", "0,1", "--output", output, "--json")
    result = desk.tokenry("score", source, *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), output


def test_every_token_of_an_answer_has_every_signal_and_no_token_of_a_prompt_has_any(of_rows):
    examples, _ = of_rows
    assert len(examples) == 2
    for token in examples[0]["tokens"]:
        wanted = {"nll", "entropy", "prompt_attention", "content_attention"} if token["learnable"] else set()
        assert set(token["signals"]) == wanted


def test_the_tokens_together_are_the_conversation(of_rows):
    text = "".join(token["text"] for token in of_rows[0][0]["tokens"])
    assert "<|im_start|>user\nWhat is 6 + 6?<|im_end|>" in text
    assert text.endswith("The answer is 12.<|im_end|>\n")


def test_signals_are_in_their_units(of_rows):
    signals = [token["signals"] for token in of_rows[0][0]["tokens"] if token["learnable"]]
    assert all(0 < token["nll"] < 20 and 0 < token["entropy"] <= math.log(400) for token in signals)
    assert all(0 < token["prompt_attention"] < 1 for token in signals)
    # The content is a part of the prompt that is renormalised without it: another number.
    assert any(abs(token["prompt_attention"] - token["content_attention"]) > 1e-3 for token in signals)


def test_the_scores_are_on_disk_as_json_and_as_a_page(of_rows):
    examples, output = of_rows
    stored = json.loads((output / "result.json").read_text())
    assert json.loads((output / "scores.json").read_text()) == examples
    assert [{"schema": stored["schema"], **example} for example in stored["examples"]] == examples
    assert "content" in (output / "report.html").read_text()


def test_a_result_is_laid_out_again_from_what_is_saved(of_rows):
    saved = json.loads((of_rows[1] / "result.json").read_text())
    assert verb_of(saved["kind"]) is score_verb
    settings = {option.name for option in plan_options(score_verb.Plan)} - {"output"}
    assert settings == set(saved["settings"])
    blocks = score_verb.lay_out(saved)
    drawn = page("score", saved["title"], blocks, {**saved["settings"], **saved["environment"]})
    assert drawn == (of_rows[1] / "report.html").read_text()
    shown = in_terminal(blocks)
    assert too_wide(shown) == []
    for words in ("prompt attention", "mean", "median", "answer"):
        assert words in shown


def test_more_texts_than_a_page_shows_are_counted():
    tokens = [{"text": "a", "learnable": True, "signals": {"nll": 1.0}}]
    data = {"examples": [{"title": f"sample {n}", "tokens": tokens} for n in range(25)]}
    drawn = page("score", "Scores", score_verb.lay_out(data), {})
    assert "The first 20 of 25 texts." in drawn
    assert "sample 19" in drawn
    assert "sample 20" not in drawn
    assert "25 texts, 25 tokens." in drawn


def test_one_text_of_one_token_is_no_plural():
    data = {"examples": [{"title": "sample 1", "tokens": [{"text": "a", "learnable": False}]}]}
    assert "1 text, 1 token." in page("score", "Scores", score_verb.lay_out(data), {})


@pytest.mark.parametrize("name", ["two.ndjson", "UPPER.JSONL"])
def test_rows_are_known_by_the_ending_of_their_file(score, tmp_path, name):
    result = score(write_rows(tmp_path / name, sums(2)), "--json")
    assert result.exit_code == 0, result.stderr
    assert [example["title"] for example in json.loads(result.stdout)] == ["sample 1", "sample 2"]


def test_where_there_is_no_colour_every_token_has_its_numbers(score):
    result = score("The answer is 42.", "--signals", "nll")
    (numbers,) = [
        line.split() for line in result.stdout.splitlines() if "answer" in line and "·The" not in line
    ][-1:]
    assert float(numbers[-1]) > 0


def test_a_text_that_ends_like_a_file_is_a_text_where_it_is_more_than_a_word(score):
    assert score("Please read notes.txt").exit_code == 0


def test_a_text_is_scored_as_it_is_from_its_second_token(score):
    result = score("The answer is 42.", "--json")
    (example,) = json.loads(result.stdout)
    assert "".join(token["text"] for token in example["tokens"]) == "The answer is 42."
    assert [token["learnable"] for token in example["tokens"]] == [False] + [True] * (
        len(example["tokens"]) - 1
    )


def test_a_text_may_be_long_and_hold_anything(score):
    assert score("A long text, with a slash / and a null-like \\0. " * 200).exit_code == 0


def test_a_text_longer_than_the_maximum_is_cut_and_said_to_be(score):
    result = score("The answer is 42. " * 20, "--max-length", "16", "--json")
    assert len(json.loads(result.stdout)[0]["tokens"]) == 16
    assert "note: the text is longer than 16 tokens" in result.stderr


def test_a_text_file_is_scored_as_text(score, tmp_path):
    (tmp_path / "notes.md").write_text("Hello world.\nSecond line.", encoding="utf-8")
    result = score(tmp_path / "notes.md", "--json")
    (example,) = json.loads(result.stdout)
    assert "".join(token["text"] for token in example["tokens"]) == "Hello world.\nSecond line."


def test_the_terminal_shows_tokens_and_a_table_of_the_signals(score):
    result = score("The answer is 42.")
    assert result.exit_code == 0
    assert "answer" in result.stdout
    assert "entropy" in result.stdout
    assert "written:" in result.stderr


def test_quiet_leaves_only_the_result(score):
    assert score("The answer is 42.", "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (
            "a text",
            ["--signals", "nll,perplexity"],
            "signals are nll, entropy, prompt_attention, content_attention, reference_nll, excess_nll; got perplexity.",
        ),
        ("a text", ["--signals", ","], "got none"),
        ("a text", ["--signals", "prompt_attention"], "a plain text has none: give conversations"),
        ("a text", ["--layers", "first"], "layers are -1, deep, or numbers such as 10,20; got 'first'"),
        ("", [], "fewer than two tokens"),
        ("missing.jsonl", [], "the file missing.jsonl does not exist"),
        ("missing.NDJSON", [], "the file missing.NDJSON does not exist"),
        ("hi.txt", [], "the file hi.txt does not exist"),
        ("notes/README.MD", [], "the file notes/README.MD does not exist"),
        ("a text", ["--signals", "excess_nll"], "excess_nll needs a second model: name it with --reference"),
        ("a text", ["--reference", "m", "--signals", "nll"], "--reference m is not used"),
        ("a text", ["--max-length", "1"], "--max-length must be at least 2, got 1"),
        ("a text", ["--samples", "0"], "--samples must be at least 1, got 0"),
        ("a text", ["--device", "tpu9"], "device 'tpu9' is not there"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(score, source, options, words):
    result = score(source, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_layer_out_of_range_is_named_with_those_there_are(score, desk):
    result = score(desk.data, "--signals", "prompt_attention", "--layers", "7")
    assert result.exit_code == 2
    assert "layer 7 is out of range: the model has 2 attention layers" in result.stderr


def test_a_text_file_that_is_not_utf8_is_refused(score, tmp_path):
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    result = score(tmp_path / "latin.txt")
    assert result.exit_code == 2
    assert "latin.txt is not UTF-8: byte 3 (line 1)" in result.stderr


def test_text_that_was_rendered_already_gets_no_second_bos(desk, tmp_path):
    from tests.tiny.models import llama as tiny_llama
    from tests.tiny.tokenizers import character_tokenizer

    tokenizer = character_tokenizer(adds_bos=True)
    tokenizer.save_pretrained(tmp_path / "bos")
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "bos")
    texts = []
    for text in ("hi", "<s>hi"):
        result = desk.tokenry(
            "score", text, "--model", tmp_path / "bos", "--output", tmp_path / "out", "--json"
        )
        (example,) = json.loads(result.stdout)
        texts.append([token["text"] for token in example["tokens"]])
    assert texts == [["<s>", "h", "i"]] * 2
