"""`tokenry theory permutation` and `tokenry theory reach`: constructions, trainings, and what real models depend on."""

import pytest

from tests import tiny
from tests.tiny.chats import write_model
from tests.verbs.check_verb import check_refused, check_verb


def test_constructions_solve_the_task_in_every_precision(tmp_path):
    saved = check_verb("theory permutation", "--n", 3, "--lists", 16, output=tmp_path / "result")
    assert len(saved["models"]) == 6
    assert all(row["accuracy"] == 1.0 for row in saved["models"])
    assert saved["best_causal_mse"] == 0.25


def test_a_trained_model_stands_beside_them(tmp_path):
    options = ("--n", 2, "--layout", "none", "--lists", 16, "--steps", 20)
    saved = check_verb("theory permutation", *options, output=tmp_path / "result")
    assert [row["model"].split(",")[0] for row in saved["models"]] == ["written down"] * 3 + ["trained"] * 2


def test_a_language_model_is_asked_in_words(tmp_path):
    model = write_model(tmp_path / "model", positions=1024)
    options = ("--n", 3, "--lists", 16, "--model", model, "--prompts", 4, "--device", "cpu")
    saved = check_verb("theory permutation", *options, output=tmp_path / "result")
    assert [row["layout"] for row in saved["in_words"]] == ["plain", "filler", "repeated"]
    assert all(row["right"]["samples"] == 4 for row in saved["in_words"])
    assert saved["in_words"][0]["change"] is None


def test_a_causal_model_is_found_to_be_one(tmp_path):
    model = write_model(tmp_path / "model")
    saved = check_verb("theory reach", model, "--tokens", 6, "--device", "cpu", output=tmp_path / "result")
    assert (saved["later"], saved["earlier"], saved["scratch_tokens"]) == (0, 15, 3)


def test_a_model_without_a_causal_mask_is_said_to_have_none(tmp_path):
    from transformers import BertForMaskedLM

    tiny.bert(BertForMaskedLM).save_pretrained(tmp_path / "bert")
    saved = check_verb(
        "theory reach", tmp_path / "bert", "--tokens", 4, "--device", "cpu", output=tmp_path / "result"
    )
    assert (saved["later"], saved["scratch_tokens"]) == (6, 0)


@pytest.mark.parametrize(
    ("verb", "options", "words"),
    [
        ("permutation", "--layout front", "--layout must be one of none, suffix, both, got 'front'"),
        ("permutation", "--n 0", "--n must be at least 1, got 0"),
        ("permutation", "--beta 0", "--beta must be above 0 and finite, got 0"),
        ("permutation", "--n 1 --steps 5", "a list of one row is in order already"),
        ("permutation", "--n 1 --model embedded", "a list of one row is in order already"),
        (
            "permutation",
            "--n 27 --model embedded",
            "there are 26 letters to put in order, got --n 27: give fewer",
        ),
        ("permutation", "--prompts 1", "--prompts must be at least 2, got 1"),
        ("permutation", "--model nowhere/at-all", "nowhere/at-all"),
        ("reach", "nowhere/at-all", "nowhere/at-all"),
        ("reach", "--tokens 1", "--tokens must be at least 2, got 1"),
    ],
)
def test_wrong_input_is_one_sentence(verb, options, words):
    check_refused(f"theory {verb}", *options.split(), words=words)
