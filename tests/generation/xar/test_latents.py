import numpy as np
import pytest
import torch
from PIL import Image

from tokenry.core.errors import UserError
from tokenry.generation.xar.latents import read_latents


def encode(images, output, crop=None):
    return read_latents(images, output, None, crop, None, torch.device("cpu"), lambda what, share: None)


def test_images_are_encoded_as_they_are_seen_and_once(tmp_path):
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 3
    half = np.zeros((8, 8), np.uint8)
    half[:4] = 255
    Image.fromarray(half).save(folder / "0.png")
    Image.fromarray(half).save(folder / "1.png", exif=turned)
    rows = encode(tmp_path / "images", tmp_path / "latents")
    assert rows.shape == (1, 8, 8)
    upright, over = rows.latents([0, 1])
    assert torch.equal(over, upright.flip(1, 2))
    (folder / "0.png").touch()
    assert torch.equal(encode(tmp_path / "images", tmp_path / "latents").latents([0])[0], upright)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    (folder / "0.png").write_text("no image")
    with pytest.raises(UserError, match=r"0\.png cannot be read as an image .*: remove it"):
        encode(tmp_path / "images", tmp_path / "latents")
