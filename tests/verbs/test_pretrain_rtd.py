"""`tokenry pretrain rtd`: from nothing, going on, resumed, with its control, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, GPT2Config

from tests.tiny.pretraining import encoder_config, mask_tokenizer
from tests.verbs.check_verb import check_refused, check_verb, tokenry

FEW = ("--steps", 4, "--batch-size", 4, "--max-length", 12, "--held-out", 0.2, "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rtd")
    for kind in ("electra", "longformer"):
        encoder_config(kind).save_pretrained(folder / kind)
        mask_tokenizer().save_pretrained(folder / kind)
    numbers = torch.randint(5, 40, (20, 16), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [" ".join(f"w{number}" for number in row) for row in numbers]
    (folder / "corpus.txt").write_text("\n\n".join(texts))
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def test_an_encoder_is_pretrained_from_nothing_and_goes_on(folder, tmp_path):
    first = check_verb(
        "pretrain rtd", folder / "corpus.txt", "--encoder", folder / "electra", "--generator-share", 0.5, *FEW,
        output=tmp_path / "first",
    )  # fmt: skip
    assert first["is_new"]
    assert first["blocks"] == [32, 8], "a text of 16 tokens is two blocks of at most 12"
    assert len(first["curve"]) == 4
    assert 0 <= first["held_out_figures"]["auc"] <= 1
    assert not list((tmp_path / "first" / "checkpoints").glob("checkpoint-*"))
    encoder = tmp_path / "first" / "encoder"
    assert AutoModel.from_pretrained(encoder).num_parameters() == first["parameters"]
    again = check_verb(
        "pretrain rtd",
        folder / "corpus.jsonl",
        "--encoder",
        encoder,
        "--tie",
        "none",
        *FEW,
        output=tmp_path / "again",
    )
    assert not again["is_new"]
    page = (tmp_path / "first" / "report.html").read_text()
    assert "on held-out text the encoder ranks a replaced token" in page


def test_the_control_is_masked_language_modelling(folder, tmp_path):
    saved = check_verb(
        "pretrain rtd",
        folder / "corpus.txt",
        "--encoder",
        folder / "longformer",
        "--mlm",
        *FEW,
        output=tmp_path / "mlm",
    )
    assert saved["objective"] == "MLM"
    assert saved["beside"] == 0
    assert saved["held_out_figures"]["loss"] > 0
    assert AutoModel.from_pretrained(tmp_path / "mlm" / "encoder").config.model_type == "longformer"


@pytest.mark.parametrize("objective", [(), ("--mlm",)])
def test_a_stopped_run_is_resumed_with_the_same_weights(folder, tmp_path, objective):
    arguments = (
        folder / "corpus.txt",
        "--encoder",
        folder / "electra" / "config.json",
        *objective,
        *FEW,
        "--save-every",
        2,
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert tokenry("pretrain rtd", *arguments, "--output", whole).exit_code == 0

    class StoppedError(Exception):
        pass

    def stop(self, args, state, control, **_):
        if state.global_step == 3:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenry.verbs._training.TellSteps.on_step_end", stop)
        assert tokenry("pretrain rtd", *arguments, "--output", stopped).exit_code == 1
    assert [path.name for path in (stopped / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]
    check_refused("pretrain rtd", *arguments, "--output", stopped, words="begun: resume it (--resume)")
    check_refused(
        "pretrain rtd",
        *arguments,
        "--seed",
        1,
        "--resume",
        "--output",
        stopped,
        words="belongs to a training with other settings",
    )
    assert tokenry("pretrain rtd", *arguments, "--resume", "--output", stopped).exit_code == 0
    ours, theirs = (AutoModel.from_pretrained(path / "encoder").state_dict() for path in (stopped, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    check_refused("pretrain rtd", *arguments, "--output", whole, words="exists already: name a new folder")


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mask-prob", 1.0), "--mask-prob must be in (0, 1), got 1.0"),
        (("--held-out", 0), "--held-out must be in (0, 1), got 0"),
        (("--max-length", 12, "--held-out", 0.01), "has 20 texts, of which a share of 0.01 holds out 0"),
        (("--generator-share", 0), "--generator-share must be in (0, 1], got 0"),
        (("--max-length", 12, "--held-out", 0.2, "--generator-share", 0.01), "leaves a generator of width 0"),
        (("--learning-rate", 0), "--learning-rate must be above 0, got 0"),
        (("--max-length", 41), "--max-length is 41, and"),
        (("--steps", 0), "--steps must be at least 1, got 0"),
        (("--max-length", 12, "--held-out", 0.2, "--tie", "all"), "--tie 'all' shares every layer"),
        (("--output", "x.json"), "must name a folder, which holds the encoder too"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = (folder / "corpus.txt", "--encoder", folder / "electra", "--device", "cpu", *options)
    check_refused("pretrain rtd", *given, words=words)
    assert not Path(tmp_path / "runs" / "rtd" / "encoder").exists()


def test_a_corpus_without_text_is_refused(folder, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"number": 1}\n{"text": " "}\n')
    (tmp_path / "empty.txt").write_text("\n\n")
    for name in ("rows.jsonl", "empty.txt"):
        check_refused(
            "pretrain rtd", tmp_path / name, "--encoder", folder / "electra", *FEW, words="holds no text"
        )


def test_an_encoder_that_is_none_is_refused(folder, tmp_path):
    GPT2Config(vocab_size=40, n_embd=8, n_head=2, n_layer=1).save_pretrained(tmp_path / "gpt2")
    mask_tokenizer().save_pretrained(tmp_path / "gpt2")
    corpus = folder / "corpus.txt"
    check_refused(
        "pretrain rtd",
        corpus,
        "--encoder",
        tmp_path / "gpt2",
        *FEW,
        words="no masked language model of this kind",
    )
    (tmp_path / "x.json").write_text("{}")
    check_refused(
        "pretrain rtd",
        corpus,
        "--encoder",
        tmp_path / "x.json",
        *FEW,
        words="is no configuration that transformers knows",
    )
    encoder_config("bert").save_pretrained(tmp_path / "bert")
    check_refused("pretrain rtd", corpus, "--encoder", tmp_path / "bert", *FEW, words="has no tokenizer")


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    mask_tokenizer(60).save_pretrained(tmp_path)
    check_refused(
        "pretrain rtd", folder / "corpus.txt", "--encoder", folder / "electra", "--tokenizer", tmp_path, *FEW,
        words="the tokenizer has 60 tokens and the models have 40",
    )  # fmt: skip
    bare = mask_tokenizer()
    bare.mask_token = None
    bare.save_pretrained(tmp_path / "bare")
    check_refused(
        "pretrain rtd", folder / "corpus.txt", "--encoder", folder / "electra", "--tokenizer", tmp_path / "bare", *FEW,
        words="has no mask token",
    )  # fmt: skip
