"""`tokenry images train` and `tokenry images sample`: pixels, latents, autoencoders, resumed runs, distances, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny.images import write_classifier
from tests.verbs.check_verb import check_refused, check_verb, tokenry

QUICK = ("--steps", 2, "--batch-size", 4, "--device", "cpu")


def write_digits(folder, number=12, side=8, mode="L"):
    draw = np.random.default_rng(0)
    for index in range(number):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (side, side) if mode == "L" else (side, side, 3)
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8), mode).save(path)
    return folder


def write_latents(file, number=12, std=1.0, **changed):
    tensors = {"latents": std * torch.randn(number, 4, 4, 4), "labels": torch.arange(number) % 3}
    save_file(tensors | changed, file)
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    saved = check_verb("images train", write_digits(folder / "data"), "--cell", 4, "--held-out", 0.25, *QUICK, output=folder / "run")  # fmt: skip
    return folder, saved


def test_pixels_are_learned_in_cells(trained):
    folder, saved = trained
    assert saved["grid"] == [1, 8, 8]
    assert saved["units"] == [{"name": "cell:4", "entities": 4, "tokens": 64}]
    assert saved["source"]["classes"] == ["a", "b"]
    assert saved["images"] == [9, 3]
    assert saved["held_out_loss"] > 0
    assert load_file(folder / "run/latents/latents-00000.safetensors")["latents"].shape == (12, 1, 8, 8)
    assert not list((folder / "run/checkpoints").glob("checkpoint-*"))


def test_samples_are_saved_drawn_and_measured(trained, tmp_path):
    folder, _ = trained
    saved = check_verb(
        "images sample", folder / "run", "--images", 10, "--steps", 2, "--device", "cpu", "--reference", folder / "data", output=tmp_path / "s",
    )  # fmt: skip
    assert (saved["unit"], saved["calls"], saved["images"]) == ("cell:4", 8, 10)
    assert saved["distance"]["low"] <= saved["distance"]["value"] <= saved["distance"]["high"]
    assert saved["distance"]["dimensions"] == 64
    assert len(list((tmp_path / "s/images").glob("*.png"))) == 10
    samples = load_file(tmp_path / "s/samples.safetensors")
    assert samples["labels"].tolist() == [0, 1] * 5
    panels = saved["pictures"]["filled"][0]["panels"]
    assert [sum(place >= 0 for place in places) for _, places in panels] == [16, 32, 48]
    again = check_verb("images sample", folder / "run", "--images", 10, "--steps", 2, "--device", "cpu", "--batch-size", 3, output=tmp_path / "t")  # fmt: skip
    torch.testing.assert_close(load_file(tmp_path / "t/samples.safetensors")["latents"], samples["latents"], atol=1e-4, rtol=1e-4)  # fmt: skip
    assert again["distance"] is None


def test_features_of_an_encoder_measure_the_distance(trained, tmp_path):
    folder, _ = trained
    model = write_classifier(tmp_path / "vit")
    saved = check_verb(
        "images sample", folder / "run", "--images", 6, "--steps", 1, "--solver", "ode", "--class", "b", "--device", "cpu", "--reference",
        folder / "run/latents", "--features", model, output=tmp_path / "s",
    )  # fmt: skip
    assert (saved["distance"]["dimensions"], saved["classes"]) == (3, ["b"])


def test_latents_are_learned_in_several_units(tmp_path):
    file = write_latents(tmp_path / "latents.safetensors", std=5.0)
    saved = check_verb(
        "images train", file, "--unit", "cell:2", "--unit", "scale:1,2,4", "--scale", 0.2, "--held-out", 0.25, *QUICK, output=tmp_path / "run",
    )  # fmt: skip
    assert [unit["name"] for unit in saved["units"]] == ["cell:2", "scale:1,2,4"]
    assert saved["source"] == {
        "kind": "latents",
        "classes": ["0", "1", "2"],
        "vae": None,
        "shift": 0.0,
        "scale": 0.2,
        "crop": None,
    }
    sampled = check_verb(
        "images sample", tmp_path / "run", "--images", 3, "--unit", "scale:1,2,4", "--steps", 1, "--device", "cpu", "--reference", file,
        output=tmp_path / "s",
    )  # fmt: skip
    assert (sampled["entities"], sampled["distance"]["dimensions"]) == (3, 64)
    assert not (tmp_path / "s/images").exists(), "latents alone are no images"
    check_refused("images sample", tmp_path / "run", "--unit", "patch", words="the model was trained on cell:2, scale:1,2,4, not on 'patch'")  # fmt: skip


def test_an_autoencoder_makes_and_decodes_the_latents(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(
        3, 3, ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2, (8, 8), latent_channels=4, norm_num_groups=4, scaling_factor=2.0
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    data = write_digits(tmp_path / "data", side=16, mode="RGB")
    saved = check_verb("images train", data, "--vae", tmp_path / "vae", "--cell", 4, "--held-out", 0.25, *QUICK, output=tmp_path / "run")  # fmt: skip
    assert saved["grid"] == [4, 8, 8]
    assert (saved["source"]["kind"], saved["source"]["scale"]) == ("vae", 2.0)
    sampled = check_verb("images sample", tmp_path / "run", "--images", 2, "--steps", 1, "--device", "cpu", output=tmp_path / "s")  # fmt: skip
    assert sampled["entities"] == 4
    assert Image.open(tmp_path / "s/images/00000.png").size == (16, 16)


def test_a_stopped_run_is_resumed_and_no_other(trained, tmp_path):
    folder, _ = trained
    options = ("--held-out", 0.25, *QUICK, "--save-every", 1, "--output", tmp_path / "run")
    assert tokenry("images train", folder / "data", *options).exit_code == 0
    import shutil

    shutil.rmtree(tmp_path / "run/model")
    check_refused("images train", folder / "data", *options, words="holds a training that was begun: resume it (--resume)")  # fmt: skip
    check_refused("images train", folder / "data", *options, "--resume", "--seed", 3, words="belongs to a training with other settings")  # fmt: skip
    assert tokenry("images train", folder / "data", *options, "--resume").exit_code == 0
    assert json.loads((tmp_path / "run/result.json").read_text())["steps"] == 2
    check_refused("images train", folder / "data", *options, words="model exists already")


def test_images_are_cut_to_one_size_when_it_is_asked_for(tmp_path):
    data = write_digits(tmp_path / "data")
    Image.new("L", (12, 10)).save(data / "a/0.png")
    options = ("--held-out", 0.25, *QUICK)
    check_refused("images train", data, *options, "--output", tmp_path / "r", words="a/0.png is 12 × 10 and a/10.png 8 × 8: one model takes one size; --crop 256 cuts all to squares")  # fmt: skip
    saved = check_verb("images train", data, "--crop", 4, "--scale", 2, *options, output=tmp_path / "run")
    assert (saved["grid"], saved["source"]["scale"]) == ([1, 4, 4], 2.0)
    sampled = check_verb(
        "images sample", tmp_path / "run", "--images", 2, "--steps", 1, "--device", "cpu", "--reference", data, output=tmp_path / "s",
    )  # fmt: skip
    assert sampled["distance"]["preparation"] == "middle square, 4 × 4 px; grid of 4 × 4"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"std": 5.0}, "the noise one of 1: multiply them by 0."),
        ({"std": 0.0}, "have a standard deviation of 0, and the noise one of 1: they do not vary"),
        ({"labels": torch.arange(11)}, "has latents of 12 × 4 × 4 × 4 and labels of 11"),
        ({"labels": torch.arange(12) - 1}, "has labels from -1 to 10"),
        ({"latents": torch.full((12, 4, 4, 4), float("nan"))}, "holds values that are not finite"),
        ({"latents": torch.randn(12, 4, 4)}, "has latents of 12 × 4 × 4 and labels of 12"),
    ],
)
def test_latents_that_cannot_be_used_are_refused(tmp_path, changed, words):
    file = write_latents(tmp_path / "latents.safetensors", **changed)
    check_refused("images train", file, *QUICK, "--output", tmp_path / "run", words=words)


def test_shards_of_two_shapes_are_refused(tmp_path):
    write_latents(tmp_path / "one.safetensors")
    write_latents(tmp_path / "two.safetensors", latents=torch.randn(12, 4, 6, 6))
    check_refused(
        "images train", tmp_path, *QUICK, "--output", tmp_path / "run", words="one model takes one shape"
    )
    (tmp_path / "two.safetensors").write_bytes(b"torn")
    check_refused(
        "images train",
        tmp_path,
        *QUICK,
        "--output",
        tmp_path / "run",
        words="two.safetensors cannot be read as .safetensors",
    )
    save_file({"latents": torch.zeros(1)}, tmp_path / "two.safetensors")
    check_refused(
        "images train", tmp_path, *QUICK, "--output", tmp_path / "run", words="has no tensor 'labels'"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cell", 3), "a grid of 4 × 4 cannot be cut into cells of 3: both sides must be divisible by it"),
        (("--unit", "rings"), "a partition must be patch, cell:K, subsample:S, scale:A,B,… or image, got 'rings'"),
        (("--unit", "scale:1,2"), "the last scale must be the grid, which is 4 × 4"),
        (("--held-out", 0.01), "has 12 images, of which a share of 0.01 holds out 0"),
        (("--held-out", 0), "--held-out must be in (0, 1), got 0"),
        (("--steps", 0), "--steps must be at least 1, got 0"),
        (("--scale", 0), "--scale must be above 0, got 0"),
        (("--average", 1), "--average must be in [0, 1), got 1"),
        (("--label-dropout", 2), "--label-dropout must be in [0, 1], got 2"),
        (("--size", "XL"), "XL"),
        (("--vae", "somewhere"), "holds latents already: leave the autoencoder (--vae) out"),
        (("--output", "out.json"), "--output must name a folder"),
    ],
)  # fmt: skip
def test_wrong_options_of_train_are_one_sentence(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    write_latents(tmp_path / "latents.safetensors")
    check_refused("images train", "latents.safetensors", "--device", "cpu", *options, words=words)


def test_what_holds_no_images_is_refused(tmp_path):
    check_refused("images train", tmp_path / "nowhere", words="nowhere does not exist")
    check_refused("images train", tmp_path, words="holds no image")
    write_digits(tmp_path / "data", 3)
    check_refused("images train", tmp_path / "data", "--vae", tmp_path, "--output", tmp_path / "r", words="holds no autoencoder of diffusers")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--images", 0), "--images must be at least 1, got 0"),
        (("--steps", 0), "--steps must be at least 1, got 0"),
        (("--guidance", -1), "--guidance must be at least 0, got -1"),
        (("--solver", "heun"), "heun"),
        (("--class", "z"), "the model knows the classes a, b, not 'z'"),
        (("--unit", "cell:2"), "the model was trained on cell:4, not on 'cell:2'"),
        (("--features", "somewhere"), "features measure a distance: name what it is the distance to (--reference)"),
    ],
)  # fmt: skip
def test_wrong_options_of_sample_are_one_sentence(trained, tmp_path, options, words):
    folder, _ = trained
    check_refused("images sample", folder / "run", *options, "--output", tmp_path / "s", words=words)


def test_a_folder_without_a_model_and_a_reference_of_another_shape_are_refused(trained, tmp_path):
    folder, _ = trained
    check_refused("images sample", tmp_path, words="holds no model of `tokenry images train`")
    other = write_latents(tmp_path / "latents.safetensors")
    check_refused("images sample", folder / "run", "--reference", other, "--output", tmp_path / "s", words="the reference has latents of 4 × 4 × 4, and the model makes 1 × 8 × 8")  # fmt: skip
