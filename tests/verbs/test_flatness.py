"""The verb `flatness`: causal and masked models, texts and conversations, what it stores, draws and refuses."""

import math

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertForMaskedLM, PreTrainedTokenizerFast

from tests import tiny
from tests.verbs.check_verb import check_refused, check_verb
from tokenry.core.io.files import read_json
from tokenry.verbs import flatness as verb

QUICK = ("--most-draws", 8, "--batch-size", 2, "--sequences", 6, "--max-length", 64)


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    words = ["[PAD]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(61))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **marks).save_pretrained(folder)
    tiny.bert(BertForMaskedLM, max_position_embeddings=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "words.txt"
    paragraphs = (" ".join(f"w{(7 * word * row) % 61}" for word in range(12)) for row in range(1, 9))
    file.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return file


def test_conversations_under_a_causal_model(desk, tmp_path):
    saved = check_verb(
        "flatness", desk.model, desk.data, *QUICK, "--eigenvalue", "--tolerance", 0.9, output=tmp_path / "out"
    )
    assert saved["what"] == "Hessian"
    assert not saved["masked"]
    assert sum(group["value"] for group in saved["groups"]) == pytest.approx(saved["trace"]["value"])
    assert saved["trace"]["samples"] == 8
    assert saved["top_eigenvalue"] > 0
    assert any("math kernel" in note for note in saved["notes"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "result.json"]


def test_texts_under_a_masked_model(masked_model, text, tmp_path):
    saved = check_verb("flatness", masked_model, text, *QUICK, "--fisher", output=tmp_path / "out")
    assert saved["what"] == "Fisher"
    assert saved["masked"]
    assert saved["relative"] is None
    assert saved["trace"]["value"] > 0
    assert any("asked for" in note for note in saved["notes"])
    saved = check_verb(
        "flatness", masked_model, text, *QUICK, "--include", "layer.0,layer.1", output=tmp_path / "layers"
    )
    assert [group["name"] for group in saved["groups"]] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]


def test_an_interrupted_measurement_goes_on(masked_model, text, tmp_path, monkeypatch):
    plan = verb.Plan(
        str(masked_model),
        str(text),
        most_draws=16,
        batch_size=2,
        sequences=6,
        tolerance=1e-6,
        output=tmp_path,
    )
    expected = verb.run(plan, lambda what, share: None).data["trace"]

    def stop(what, share):
        if what.startswith("draw 8"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verb.run(plan, stop)
    (folder,) = tmp_path.glob("draws-*")
    assert read_json(folder / "draws.json")["estimate"]["draws"] == 8
    said = []
    assert verb.run(plan, lambda what, share: said.append(what)).data["trace"] == expected
    assert next(what for what in said if what.startswith("draw")).startswith("draw 16")
    assert math.isfinite(expected["value"])
    assert not folder.exists()


def test_what_it_refuses(desk, masked_model, text, tmp_path):
    long = tmp_path / "long.txt"
    long.write_text(" ".join(["w1"] * 40), encoding="utf-8")
    for arguments, words in (
        ((masked_model, long), "a sample takes 40 positions"),
        ((desk.model, text, "--tolerance", 0), "--tolerance must be between 0 and 1"),
        ((desk.model, text, "--mask-share", 0), "--mask-share must be in (0, 1]"),
        ((desk.model, text, "--batch-size", 0), "--batch-size must be at least 1"),
        ((desk.model, tmp_path / "none.txt"), "cannot be read as UTF-8 text"),
        ((desk.model, text, "--include", "lora_"), "no trainable parameter is left"),
        ((tmp_path, text), "has no tokenizer"),
    ):
        check_refused("flatness", *arguments, "--output", tmp_path / "out", words=words)
