"""A tiny image classifier and a folder of images, for the tests of `tokenry compress vision`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedModel, ViTImageProcessor

from tests.tiny.models import vit_classifier
from tokenry.core.errors import UserError
from tokenry.core.tensors.patching import find_encoder

SIZE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
IMAGE = {"image_size": 32, "patch_size": 8}
CLASSES = ("cat", "dog", "ship")


def write_processor(folder: Path) -> Path:
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_model(model: PreTrainedModel, folder: Path) -> Path:
    """Save a model with a processor; skips where this transformers version has another form of its layers."""
    if not isinstance(getattr(model, "vision_model", model), PreTrainedModel):
        pytest.skip(
            "the vision tower of this transformers version is no model of its own: needs transformers >= 5.2"
        )
    try:
        find_encoder(model)
    except UserError as error:
        if "of this transformers version" in str(error):
            pytest.skip(str(error))
        raise
    model.save_pretrained(folder)
    return write_processor(folder)


def write_classifier(folder: Path) -> Path:
    """A ViT with large random weights, so that images differ in what it says of them."""
    names = dict(enumerate(CLASSES))
    model = vit_classifier(
        **SIZE,
        **IMAGE,
        num_channels=3,
        initializer_range=0.5,
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    return write_model(model, folder)


def write_images(folder: Path, number: int = 6) -> list[str]:
    """Images of noise in two folders; returns their names."""
    draw = np.random.default_rng(0)
    names = [f"{'ab'[index % 2]}/{index}.{'jpg' if index % 3 else 'png'}" for index in range(number)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40)).save(folder / name)
    return sorted(names)
