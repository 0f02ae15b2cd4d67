"""`tokenry images pfid` and `images post-train`: figures with their conditions, a decoder that is saved, one sentence for bad input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.tiny import vq
from tests.tiny.images import write_classifier
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.generation import load_vq_tokenizer

SMALL = ("--size", 16, "--device", "cpu", "--draws", 8)
FEW = ("--steps", 4, "--batch-size", 4, "--allow-blur")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    vq.emu3().save_pretrained(folder / "emu3")
    vq.diffusers_vq().save_pretrained(folder / "vq")
    tiny.llama(vocab_size=16 + 2).save_pretrained(folder / "generator")
    draw = np.random.default_rng(0)
    for number in range(12):
        place = folder / "pictures" / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(place / f"{number}.png")
    return folder


def test_tokenizers_stand_side_by_side_with_their_grid(places, tmp_path):
    saved = check_verb(
        "images pfid", places / "emu3", places / "pictures", "--against", places / "vq", "--rates", "0.5,0.9",
        "--strengths", "0.1", *SMALL, output=tmp_path / "result",
    )  # fmt: skip
    assert [len(row["cells"]) for row in saved["tokenizers"]] == [2, 2]
    assert saved["grid"] == "alpha 0.5, 0.9 × delta 10 % of the codebook"
    assert saved["preparation"] == "middle square, 16 × 16 px"
    assert len(saved["warnings"]) == 1


def test_a_codebook_that_is_too_small_for_the_strengths_is_told_of(places, tmp_path):
    saved = check_verb(
        "images pfid",
        places / "emu3",
        places / "pictures",
        *SMALL,
        "--rates",
        "0.5",
        output=tmp_path / "result",
    )
    assert "has 16 codes, so that no strength reaches another one" in saved["warnings"][1]
    assert saved["tokenizers"][0]["pfid"] == saved["tokenizers"][0]["rfid"]


def test_the_features_of_an_image_encoder_are_compared_where_one_is_named(places, tmp_path):
    encoder = write_classifier(tmp_path / "vit")
    saved = check_verb(
        "images pfid", places / "emu3", places / "pictures", "--features", encoder, *SMALL, "--rates", "0.5",
        "--strengths", "0.1", output=tmp_path / "result",
    )  # fmt: skip
    assert saved["features"] == str(encoder)
    assert not saved["warnings"]


def test_a_decoder_is_post_trained_and_saved_and_nothing_else_changes(places, tmp_path):
    given = places / "vq", places / "generator", places / "pictures"
    saved = check_verb("images post-train", *given, *SMALL, *FEW, output=tmp_path / "result")
    assert (saved["pairs"], saved["held_out"]) == (9, 3)
    assert set(saved["before"]) == {"gfid", "pfid", "rfid", "cells"}
    assert saved["change"]["value"] == pytest.approx(
        saved["after"]["gfid"]["value"] - saved["before"]["gfid"]["value"]
    )
    before = load_vq_tokenizer(places / "vq").module.state_dict()
    for name, weight in load_vq_tokenizer(tmp_path / "result/tokenizer").module.state_dict().items():
        trained = name.startswith(("decoder.", "post_quant_conv."))
        assert trained or torch.equal(weight, before[name]), name
    again = tokenry(
        "images post-train", *given, *SMALL, *FEW, "--output", tmp_path / "result", "--json", "--quiet"
    )
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["after"] == saved["after"], "what is done is not done again"


def test_a_perceptual_term_is_made_of_an_image_encoder(places, tmp_path):
    given = places / "emu3", places / "generator", places / "pictures"
    encoder = write_classifier(tmp_path / "vit")
    options = (*SMALL, "--steps", 2, "--batch-size", 4, "--perceptual", encoder, "--no-reencode")
    saved = check_verb("images post-train", *given, *options, output=tmp_path / "result")
    assert set(saved["losses"]) == {"loss", "mse", "perceptual", "adversarial", "discriminator"}


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("pfid", "emu3 nowhere", "nowhere does not exist"),
        ("pfid", "pictures pictures", "holds no config.json"),
        ("pfid", "emu3 pictures --rates 1.5", "--rates must be in [0, 1], got 1.5"),
        ("pfid", "emu3 pictures --strengths 0", "--strengths must be in (0, 1]"),
        ("pfid", "emu3 pictures --size 15", "15 × 15 are no multiple of the tokenizer's 2 × 2"),
        ("pfid", "emu3 pictures --limit 1", "--limit must be at least 2, got 1"),
        ("post-train", "vq generator pictures", "needs a perceptual term"),
        (
            "post-train",
            "vq generator pictures --sigma 1.5 --allow-blur",
            "--sigma must be in [0, 1], got 1.5",
        ),
        ("post-train", "vq generator pictures --allow-blur", "9 images to train on and --batch-size is 64"),
        ("post-train", "vq generator pictures --allow-blur --output x.json", "output must name a folder"),
        (
            "post-train",
            "vq generator pictures --allow-blur --batch-size 4 --steps 1 --guidance 2",
            "16 codes, the token for no class and 1 classes, but class 1 is asked for",
        ),
    ],
)
def test_wrong_input_is_one_sentence(verb, arguments, words, places, tmp_path):
    names = ("emu3", "vq", "generator", "pictures", "nowhere")
    given = [str(places / word) if word in names else word for word in arguments.split()]
    if "--output" not in given and verb == "post-train":
        given += ["--output", str(tmp_path / "run")]
    if "--size" not in given:
        given += ["--size", "16"]
    check_refused(f"images {verb}", *given, "--device", "cpu", words=words)
