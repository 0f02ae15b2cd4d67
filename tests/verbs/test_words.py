"""`tokenry words train`, `evaluate` and `generate`: both models, every kind of unit, resumed, compared, and what is refused."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.tiny.chats import write_model
from tests.tiny.tokenizers import byte_level
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.architectures import FlatLM, WordPooledLM
from tokenry.verbs._training import TellSteps

TEXT = "\n\n".join(
    f"the {one} sat on the {two}.\nIt said: {one}, {two}!"
    for one in ("cat", "dog", "owl", "fox")
    for two in ("mat", "log", "hut")
)
SMALL = (
    "--n-embd", 16, "--n-layer", 1, "--n-head", 2, "--n-word-layer", 1, "--n-word-head", 2, "--n-prefix", 1, "--max-words", 16,
    "--max-word-len", 6, "--steps", 4, "--batch-size", 2, "--held-out", 0.2, "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    (folder / "text.txt").write_text(TEXT)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXT.split("\n\n"))
    (folder / "rows.jsonl").write_text(rows)
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """A pooled model, a flat one, and one of the paper's words."""
    kinds = {"pooled": (), "flat": ("--flat",), "paper": ("--splitting", "paper", "--units", "characters")}
    for name, options in kinds.items():
        check_verb("words train", folder / "text.txt", *SMALL, *options, output=folder / name)
    return {name: folder / name for name in kinds}


def saved(folder):
    return json.loads((folder / "result.json").read_text())


def test_both_models_are_trained_and_drawn(runs):
    pooled, flat = saved(runs["pooled"]), saved(runs["flat"])
    assert (pooled["model"], flat["model"]) == ("word-pooled", "flat")
    assert pooled["texts"] == flat["texts"] == [10, 2]
    assert pooled["words"] == flat["words"]
    assert len(pooled["curve"]) == 4
    assert pooled["bits_per_byte"]["value"] > 0
    assert WordPooledLM.from_pretrained(runs["pooled"] / "model").num_parameters() == pooled["parameters"]
    assert FlatLM.from_pretrained(runs["flat"] / "model").num_parameters() == flat["parameters"]
    assert not list((runs["pooled"] / "checkpoints").glob("checkpoint-*"))
    page = (runs["pooled"] / "report.html").read_text()
    assert "the first held-out text" in page
    assert "bits per byte on 2 held-out texts" in page


def test_subwords_of_a_tokenizer_are_units(folder, tmp_path):
    byte_level().save_pretrained(tmp_path / "tokenizer")
    found = check_verb(
        "words train",
        folder / "rows.jsonl",
        *SMALL,
        "--units",
        tmp_path / "tokenizer",
        output=tmp_path / "result",
    )
    assert found["unit_count"] == len(byte_level()) + 2
    assert 1 <= found["units_per_word"] < 6
    check_verb(
        "words generate",
        tmp_path / "result",
        "the cat",
        "--max-new-words",
        4,
        "--device",
        "cpu",
        output=tmp_path / "generated",
    )


@pytest.mark.parametrize("options", [(), ("--flat",)])
def test_whole_words_are_units(options, folder, tmp_path):
    arguments = (folder / "rows.jsonl", *SMALL, "--units", "words", *options)
    found = check_verb("words train", *arguments, output=tmp_path / "result")
    assert found["units_per_word"] < 2
    measured = check_verb(
        "words evaluate",
        tmp_path / "result",
        folder / "text.txt",
        "--device",
        "cpu",
        output=tmp_path / "measured",
    )
    assert measured["bits_per_byte"]["value"] > 0


def test_a_stopped_run_is_resumed_with_the_same_weights(folder, tmp_path):
    arguments = (folder / "text.txt", *SMALL, "--save-every", 2)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert tokenry("words train", *arguments, "--output", whole).exit_code == 0

    def press_ctrl_c(clock, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TellSteps, "on_step_end", press_ctrl_c)
        ran = tokenry("words train", *arguments, "--output", stopped)
    signal.signal(signal.SIGINT, heard)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert (
        ran.stderr.splitlines()[-1] == "tokenry: stopped after step 3 of 4 of training; go on with --resume."
    )
    assert (stopped / "checkpoints" / "checkpoint-3").is_dir()
    check_refused("words train", *arguments, "--output", stopped, words="begun: resume it (--resume)")
    other = (*arguments, "--seed", 1, "--resume", "--output", stopped)
    check_refused("words train", *other, words="belongs to a training with other settings")
    assert tokenry("words train", *arguments, "--resume", "--output", stopped).exit_code == 0
    ours, theirs = (WordPooledLM.from_pretrained(path / "model").state_dict() for path in (stopped, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    check_refused("words train", *arguments, "--output", whole, words="exists already: name a new folder")


@pytest.mark.parametrize("against", ["flat", "causal"])
def test_a_model_stands_beside_another_of_the_same_texts(against, folder, runs, tmp_path):
    other = runs["flat"] if against == "flat" else write_model(tmp_path / "causal")
    found = check_verb(
        "words evaluate",
        runs["pooled"],
        folder / "text.txt",
        "--against",
        other,
        "--device",
        "cpu",
        output=tmp_path / "result",
    )
    assert found["texts"] == 12
    difference = found["bits_per_byte"]["value"] - found["other"]["value"]
    assert found["difference"]["value"] == pytest.approx(difference)
    assert sum(row["accuracy"]["samples"] for row in found["frequencies"]) <= found["words"]


def test_a_model_alone_is_measured_on_one_text(folder, runs, tmp_path):
    (tmp_path / "one.txt").write_text("the cat sat on a log.")
    found = check_verb(
        "words evaluate",
        runs["paper"] / "model",
        tmp_path / "one.txt",
        "--device",
        "cpu",
        output=tmp_path / "result",
    )
    assert (found["texts"], found["difference"]) == (1, None)


def test_texts_go_on_and_begin(runs, tmp_path):
    options = ("--samples", 2, "--max-new-words", 5, "--device", "cpu")
    found = check_verb("words generate", runs["pooled"], "the cat", *options, output=tmp_path / "result")
    assert [sample["words"] <= 5 for sample in found["samples"]] == [True, True]
    begun = check_verb("words generate", runs["paper"], *options, output=tmp_path / "begun")
    assert begun["prompt"] == ""


# --- bad input -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--units", "nowhere/at-all"), "nowhere/at-all"),
        (("--max-words", 1), "--max-words must be at least 2, got 1"),
        (("--n-prefix", 0), "--n-prefix must be at least 1, got 0"),
        (("--n-head", 3), "--n-embd must be a multiple of --n-head, got 16 and 3"),
        (("--dropout", 1), "--dropout must be in [0, 1), got 1"),
        (("--held-out", 0), "--held-out must be in (0, 1), got 0"),
        (("--held-out", 0.01), "has 12 texts, of which a share of 0.01 holds out 0"),
        (("--learning-rate", 0), "--learning-rate must be above 0, got 0"),
        (("--warmup", 1), "--warmup must be in [0, 1), got 1"),
        (("--steps", 0), "--steps must be at least 1, got 0"),
        (("--splitting", "paper", "--max-word-len", 2), "and words have at most 2"),
        (("--output", "x.json"), "must name a folder, which holds the model too"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused("words train", folder / "text.txt", *SMALL, *options, words=words)
    assert not Path(tmp_path / "runs" / "words" / "model").exists()


def test_what_is_no_model_of_words_or_cannot_be_compared_is_refused(folder, runs, tmp_path):
    text = folder / "text.txt"
    check_refused("words evaluate", tmp_path, text, words="holds no words.json")
    (tmp_path / "empty.txt").write_text("\n")
    check_refused("words evaluate", runs["pooled"], tmp_path / "empty.txt", words="holds no text")
    check_refused(
        "words evaluate",
        runs["pooled"],
        text,
        "--against",
        runs["paper"],
        "--device",
        "cpu",
        words="cut words in different ways",
    )
    causal = write_model(tmp_path / "causal")
    check_refused(
        "words evaluate",
        runs["paper"],
        text,
        "--against",
        causal,
        "--device",
        "cpu",
        words="have lost their spaces",
    )
    check_refused("words generate", runs["flat"], "the", "--device", "cpu", words="is a flat baseline")
    check_refused(
        "words generate",
        runs["pooled"],
        "the",
        "--max-new-words",
        99,
        "--device",
        "cpu",
        words="do not fit the 16 positions",
    )
    check_refused(
        "words generate", runs["paper"], "Ω", "--device", "cpu", words="the character 'Ω' is not among"
    )
    (runs["flat"] / "model" / "config.json").rename(runs["flat"] / "model" / "kept.json")
    check_refused("words evaluate", runs["flat"], text, "--device", "cpu", words="holds no model of words")
    (runs["flat"] / "model" / "kept.json").rename(runs["flat"] / "model" / "config.json")
