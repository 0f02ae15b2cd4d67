"""`tokenry draft`: a drafter trained, texts written with it, and what it is worth."""

import shutil

import pytest

from tests.tiny.chats import sums, write_model, write_rows
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.decoding import Drafter
from tokenry.models import load_model

ON_CPU = ("--device", "cpu", "--dtype", "float32")
SMALL = ("--masks", 2, "--rank", 2, "--max-steps", 4, "--batch-size", 4, *ON_CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draft")
    write_model(folder / "model")
    write_rows(folder / "rows.jsonl", sums(24))
    (folder / "prompts.txt").write_text("What is 1 + 2?\n3\nThe answer is\n", encoding="utf-8")
    drafter = Drafter(load_model(folder / "model"), k=2, rank=2)
    drafter.save(folder / "trained/drafter")
    return folder


def test_a_drafter_is_trained_and_loaded(folder, tmp_path):
    saved = check_verb(
        "draft train",
        folder / "model",
        folder / "rows.jsonl",
        *SMALL,
        "--learning-rate",
        1e-2,
        output=tmp_path / "run",
    )
    assert saved["steps"] == 4
    assert len(saved["curve"]) == 4
    assert {"head", "sampler", "consistency", "accuracy"} <= saved["curve"][-1].keys()
    drafter = Drafter.load(tmp_path / "run/drafter", load_model(folder / "model"))
    assert (drafter.k, drafter.rank) == (2, 2)
    assert not list((tmp_path / "run/checkpoints").glob("checkpoint-*"))
    check_refused(
        "draft train",
        folder / "model",
        folder / "rows.jsonl",
        "--output",
        tmp_path / "run",
        words="drafter exists already: name a new folder",
    )


@pytest.mark.parametrize("mode", ["auto", "quadratic"])
def test_texts_are_written_with_a_drafter(mode, folder, tmp_path):
    arguments = (
        folder / "trained",
        folder / "prompts.txt",
        "--mode",
        mode,
        "--max-new-tokens",
        6,
        "--batch-size",
        2,
        *ON_CPU,
    )
    saved = check_verb("draft generate", *arguments, output=tmp_path / "texts")
    assert [sum(text["steps"]) for text in saved["texts"]] == [len(text["tokens"]) for text in saved["texts"]]
    assert saved["tokens"] == sum(len(text["tokens"]) for text in saved["texts"]) > 0
    assert saved["model"] == str(folder / "model")


def test_ways_to_write_are_timed(folder, tmp_path):
    arguments = (folder / "trained", folder / "prompts.txt", "--max-new-tokens", 6, *ON_CPU)
    saved = check_verb("draft bench", *arguments, output=tmp_path / "bench")
    assert [way["way"] for way in saved["ways"]] == ["greedy", "prompt lookup", "auto", "linear", "quadratic"]
    assert {way["same"] for way in saved["ways"]} == {3}
    assert saved["ways"][0]["tokens_per_step"] == 1
    assert saved["ways"][1]["tokens_per_step"] is None
    shown = " ".join(tokenry("report", tmp_path / "bench").stdout.split())
    assert "the drafter does not pay" in shown or "times as fast as token by token" in shown


def test_conversations_are_prompts_too(folder, tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", sums(2))
    arguments = (folder / "trained", prompts, "--max-new-tokens", 3, *ON_CPU, "--json", "--quiet")
    assert tokenry("draft generate", *arguments, "--output", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--masks", 0), "masks must be at least 1, got 0"),
        (("--block-share", 0), "must be in (0, 1], got 0.0"),
        (("--consistency", -1), "consistency must be at least 0, got -1.0"),
        (("--epochs", 0), "epochs must be above 0, got 0.0"),
    ],
)
def test_a_training_that_cannot_be_is_refused(options, words, folder):
    check_refused("draft train", folder / "model", folder / "rows.jsonl", *options, words=words)


def test_a_drafter_that_is_not_there_or_of_another_model_is_refused(folder, tmp_path):
    for verb in ("draft generate", "draft bench"):
        check_refused(verb, tmp_path, folder / "prompts.txt", words="holds no drafter")
    shutil.copytree(folder / "trained", tmp_path / "trained")
    settings = tmp_path / "trained/drafter/drafter.json"
    settings.write_text(settings.read_text().replace('"width": 32', '"width": 40'))
    check_refused(
        "draft generate",
        tmp_path / "trained",
        folder / "prompts.txt",
        words="with width 40, and this model has 32",
    )
    (tmp_path / "none.txt").write_text("\n")
    check_refused("draft bench", folder / "trained", tmp_path / "none.txt", words="holds no prompts")
