"""The verb `compress prompt`: what it keeps, saves and draws, and what it refuses."""

import json

import pytest
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from tests.compression.text.test_scorers import SIZES, TOKENIZER
from tests.tiny.chats import write_model, write_rows
from tests.tiny.models import made
from tests.tiny.tokenizers import chatml_tokenizer
from tests.verbs.check_verb import check_refused, check_verb
from tokenry.core.text.token_counts import text_token_counts
from tokenry.verbs.compress import prompt

TEXT = "The answer is 42, of course! Hello world, what is the question? Yes or no."
QUICK = ("--draws", "2", "--shares", "0.5")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("prompt") / "model")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folders = {}
    for kind, labels in ((BertForSequenceClassification, 3), (BertForTokenClassification, 2)):
        folder = tmp_path_factory.mktemp("encoders") / kind.__name__
        made(kind, BertConfig(vocab_size=len(TOKENIZER), num_labels=labels, **SIZES)).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        folders[labels] = folder
    return folders


def test_a_prompt_is_shortened_to_a_number_of_tokens_and_compared_with_random_words(target, tmp_path):
    out = tmp_path / "out"
    found = check_verb(
        "compress prompt", TEXT, "--tokens", 15, "--protect", "numbers", "--question", " So", "--answer", " 42", "--target", target,
        *QUICK, output=out,
    )  # fmt: skip
    (row,) = found["prompts"]
    assert row["tokens"] <= 15 < row["original_tokens"]
    assert (out / "prompt.txt").read_text() == row["text"]
    assert int(text_token_counts(chatml_tokenizer(), [row["text"]])[0]) == row["tokens"]
    assert "42" in row["text"]
    assert row["protected_words"] == 1
    curve = found["curve"]
    assert [line["share"] for line in curve["shares"]] == sorted([0.5, curve["here"]], reverse=True)
    assert curve["area"]["samples"] == 2
    assert curve["verdict"] == "too few"
    assert "".join(word["text"] for word in found["words"][0]) == TEXT


def test_rows_are_shortened_alike_and_judged_by_what_the_target_says(target, tmp_path):
    rows = [{"prompt": TEXT, "question": " So?", "answer": " Yes"}, {"prompt": f"Again: {TEXT}"}]
    out = tmp_path / "out"
    found = check_verb(
        "compress prompt", write_rows(tmp_path / "rows.jsonl", rows), "--keep", 0.6, "--target", target, *QUICK, output=out
    )  # fmt: skip
    assert [row["kept_words"] / row["words"] for row in found["prompts"]] == pytest.approx(
        [0.6, 0.6], abs=0.05
    )
    assert found["curve"]["answers"][0] == " Yes"
    written = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in written] == [row["text"] for row in found["prompts"]]
    assert written[0]["question"] == " So?"


@pytest.mark.parametrize(
    ("scorer", "labels"),
    [
        ("linear", None),
        ("globenc", 3),
        ("decompx", 3),
        ("decompx-class-0", 3),
        ("token-classifier", 2),
        ("random", None),
    ],
)
def test_every_scorer_has_a_name(scorer, labels, target, encoders, tmp_path):
    own = () if labels is None else ("--model", encoders[labels])
    found = check_verb(
        "compress prompt", TEXT, "--no-curve", "--scorer", scorer, "--target", target, *own, output=tmp_path / "out"
    )  # fmt: skip
    assert found["curve"] is None
    assert found["prompts"][0]["kept_words"] < found["prompts"][0]["words"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((TEXT, "--tokens", "3", "--protect", r"[\s\S]+"), "--tokens 3 is too few: the protected 20 words alone need 25; use --tokens 25 or more"),
        ((TEXT, "--keep", "0.1", "--protect", r"\w+"), "--keep 0.1 keeps 2 of 20 words, and 15 are protected: use --keep 0.75 or more"),
        ((TEXT, "--keep", "0.5", "--tokens", "9"), "give --keep 0.5 or --tokens 9, not both"),
        ((TEXT, "--keep", "80"), "--keep must be in (0, 1], got 80.0"),
        ((TEXT, "--tokens", "0"), "--tokens must be at least 1, got 0"),
        ((TEXT, "--scorer", "tfidf"), "--scorer must be one of self-information, linear, globenc"),
        ((TEXT, "--scorer", "globenc"), "the scorer globenc needs a fine-tuned encoder classifier: name one with --model"),
        ((TEXT, "--scorer", "token-classifier"), "needs a token classifier: name one with --model"),
        ((TEXT, "--protect", "("), "protect takes numbers, code, quotes, json-keys or a regular expression"),
        ((TEXT, "--shares", ""), "shares needs at least one share"),
        ((TEXT, "--draws", "0"), "--draws must be at least 1"),
        ((" ",), "the prompt is empty"),
        (("nothing.txt",), "the file nothing.txt does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_shortened_is_refused(target, arguments, words):
    check_refused("compress prompt", *arguments, "--target", target, words=words)


def test_a_model_of_another_kind_is_refused(target, encoders):
    for scorer, model, words in (
        ("globenc", target, "LlamaForSequenceClassification"),
        ("self-information", encoders[3], "BertForSequenceClassification"),
        ("token-classifier", target, "LlamaForTokenClassification"),
    ):
        check_refused(
            "compress prompt", TEXT, "--scorer", scorer, "--model", model, "--target", target, words=words
        )


def test_rows_without_prompts_are_refused(target, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "a"}])
    check_refused("compress prompt", rows, "--target", target, words="row 1 has no text under `prompt`")


def test_a_scorer_that_loses_to_random_words_is_said_to():
    data = {"curve": {"area": {"value": -1.0, "standard_error": 0.1, "samples": 9}, "prompts": 1, "verdict": "opposite"}, "scorer": "linear"}  # fmt: skip
    assert "linear is worse than random words here" in prompt._verdict(data)
