"""Load an image encoder and its image processor: a classifier where the config says so, else the tower and its pooled features.

Any ViT-like model of transformers; of CLIP and SigLIP the vision tower. Safetensors only, and no code from the model's folder is run.
The processor works with Pillow alone; torchvision is used where it is installed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL.Image import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from tokenry.core.errors import UserError
from tokenry.core.tensors.patching import Encoder, find_encoder
from tokenry.models.checkpoint import (
    as_dtype,
    find_folder,
    first_sentence,
    require_config,
    require_weights,
)
from tokenry.models.loading import MODEL_PATTERNS, WEIGHTS, load_weights, require_complete

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class ImageEncoder:
    """An image encoder with its image processor.

    Attributes:
        name: name under which it was loaded.
        model: a classifier, or the tower that makes features.
        processor: the image processor of transformers.
        classes: names of the classes in the order of the logits; empty where the model is no classifier.
        has_pooler: the model pools its features itself, with weights that were loaded.
        encoder: the layers of the model.
    """

    name: str
    model: PreTrainedModel
    processor: Any
    classes: tuple[str, ...]
    has_pooler: bool
    encoder: Encoder

    def pixels(self, images: Sequence[Image]) -> Float[Tensor, "batch 3 height width"]:
        """Resize, crop and normalise RGB images as the model expects them, on its device and in its dtype.

        Raises:
            UserError: the processor makes images of different sizes.
        """
        try:
            made = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        except ValueError as error:
            raise UserError(
                f"the image processor of {self.name} makes no batch of these images ({first_sentence(error)}): "
                "let it resize all to one size."
            ) from error
        return made.to(self.model.device, self.model.dtype)

    def __call__(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch outputs"]:
        """Return the logits of a classifier, else the pooled features: the model's own, the class token, or the mean."""
        try:
            output = self.model(pixels)
        except ValueError as error:
            raise UserError(
                f"{self.name} does not take what its image processor makes ({first_sentence(error)}): "
                "set the processor's size to the model's image_size."
            ) from error
        if self.classes:
            return output.logits
        if self.has_pooler and output.pooler_output is not None:
            return output.pooler_output
        tokens = output.last_hidden_state
        return tokens[:, 0] if self.encoder.special_tokens else tokens.mean(dim=1)

    def visible(self, pixels: Float[Tensor, "batch 3 height width"]) -> UInt8[Tensor, "batch height width 3"]:
        """Undo the normalisation, to show the images as the model sees them."""
        shown = pixels.float().cpu()
        if getattr(self.processor, "do_normalize", False):
            mean, std = (
                torch.tensor(values, dtype=torch.float32)[:, None, None]
                for values in (self.processor.image_mean, self.processor.image_std)
            )
            shown = shown * std + mean
        return (shown.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def load_image_encoder(
    name: str | os.PathLike,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageEncoder:
    """Load an image encoder and its processor, in evaluation mode on the CPU.

    Args:
        name: a local folder, or a name on the Hugging Face hub.
        dtype: a torch dtype or its name; None keeps the type in which the weights are stored.
        revision: a branch, tag or commit; for names on the hub.
        mean: mean of each colour over the training data, in [0, 1]; with `std`, it replaces a processor: images are resized to the
            model's image_size and normalised with both.
        std: standard deviation of each colour.

    Raises:
        UserError: no such model, one that reads no images, writes text or has layers of no supported family; weights or processor
            missing, damaged or pickled.
    """
    wanted = as_dtype(dtype)
    folder = find_folder(name, MODEL_PATTERNS, revision)
    config = _image_config(name, folder)
    processor = _load_processor(name, folder, config, mean, std)
    require_weights(name, folder, WEIGHTS)
    classifies = any("ForImageClassification" in kind for kind in config.architectures or ())
    kind = AutoModelForImageClassification if classifies else AutoModel
    model, loading = load_weights(
        kind, name, folder, "an image encoder", dtype=wanted, trust_remote_code=False
    )
    missing = loading["missing_keys"]
    # A tower that was trained without its pooler is saved without one, and gets a random one here.
    random_pooler = {key for key in missing if "pooler" in key and not classifies}
    require_complete(model, name, set(missing) - random_pooler)
    tower = model if classifies else getattr(model, "vision_model", model)
    if not isinstance(tower, PreTrainedModel):
        raise UserError(
            f"the vision tower of {type(model).__name__} is no model of its own in this transformers version: install a newer one."
        )
    labels = model.config.id2label if classifies else {}
    classes = tuple(str(labels[index]) for index in sorted(labels))
    return ImageEncoder(
        str(name), tower.eval(), processor, classes, not random_pooler, encoder=find_encoder(tower)
    )


def _image_config(name: str | os.PathLike, folder: Path) -> PretrainedConfig:
    require_config(name, folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the config of {name} cannot be read: {first_sentence(error)}") from error
    if config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UserError(
            f"{name} is a {config.model_type} model, which writes text about images: give an image encoder, such as its vision tower "
            "saved by itself."
        )
    if not hasattr(_vision_config(config), "image_size"):
        raise UserError(
            f"{name} is a {config.model_type} model, which reads no images: give an image encoder such as ViT, DeiT, DINOv2, CLIP or "
            "SigLIP."
        )
    return config


def _vision_config(config: PretrainedConfig) -> PretrainedConfig:
    return getattr(config, "vision_config", config)


def _load_processor(
    name: str | os.PathLike,
    folder: Path,
    config: PretrainedConfig,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Any:
    if mean is not None or std is not None:
        return _plain_processor(config, mean, std)
    if not any((folder / file).is_file() for file in _PROCESSOR_FILES):
        raise UserError(
            f"{name} has no image processor (no {_PROCESSOR_FILES[0]}): save it beside the model with processor.save_pretrained, or give "
            "mean and std of the colours it was trained with, and images are resized to its image_size and normalised with them."
        )
    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError(f"the image processor of {name} cannot be loaded: {first_sentence(error)}") from error


def _plain_processor(
    config: PretrainedConfig, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Any:
    for values, what, least in ((mean, "mean", 0.0), (std, "std", 1e-6)):
        if values is None or len(values) != 3 or not all(least <= value <= 1 for value in values):
            raise UserError(
                f"mean and std go together, three numbers in [0, 1] each (std above 0), one per colour, such as 0.5,0.5,0.5; {what} is "
                f"{'not given' if values is None else ','.join(map(str, values))}."
            )
    size = _vision_config(config).image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return ViTImageProcessor(size={"height": height, "width": width}, image_mean=mean, image_std=std)
