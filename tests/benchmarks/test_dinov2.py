"""What the vision benchmarks stand on: tensors are found in an ONNX graph, photographs in the data; both may be absent."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests import ROOT
from tokenry.core.errors import UserError

sys.path.insert(0, str(ROOT / "benchmarks"))
import _dinov2

sys.path.pop(0)

CLASSES = ("cat", "ship", "truck")


@pytest.fixture
def colours(tmp_path, monkeypatch):
    """Twelve photographs of one colour each, sorted by class: the red of the i-th is 20 i."""
    images = []
    for index in range(12):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (20 * index, 0, 0)).save(buffer, "jpeg", quality=95)
        images.append(np.frombuffer(buffer.getvalue(), np.uint8))
    (tmp_path / "cifar10").mkdir()
    np.savez(
        tmp_path / "cifar10" / "cifar10_subset.npz",
        classes=np.array(CLASSES),
        test_jpeg=np.concatenate(images),
        test_offsets=np.cumsum([0, *map(len, images)]),
        test_labels=np.repeat(np.arange(3, dtype=np.uint8), 4),
    )
    monkeypatch.setenv("TOKENRY_SHARED_DATA", str(tmp_path))


def tiny_graph():
    """A graph with one biased product of each order of addition, as the exporter writes them."""
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    layer = "backbone.encoder.layer.0."
    tensors = {
        "backbone.embeddings.cls_token": (1, 1, 4),
        f"{layer}attention.attention.query.bias": (4,),
        f"{layer}attention.output.dense.bias": (4,),
        f"{layer}mlp.fc1.bias": (6,),
        "decoder.final_conv.bias": (1,),
        "matrix_a": (4, 4),
        "matrix_b": (4, 4),
        "matrix_c": (4, 6),
        "class_position": (1, 1, 4),
        "patch_positions": (1, 9, 4),
    }
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}
    node = onnx.helper.make_node
    nodes = [
        node("Reshape", ["patch_positions", "shape"], ["grid"]),
        node("Concat", ["backbone.embeddings.cls_token", "patches"], ["tokens"]),
        node("Concat", ["class_position", "grid"], ["positions"]),
        node("MatMul", ["x", "matrix_a"], ["a"]),
        node("Add", [f"{layer}attention.attention.query.bias", "a"], ["query"]),
        node("MatMul", ["query", "matrix_b"], ["b"]),
        node("Add", ["b", f"{layer}attention.output.dense.bias"], ["dense"]),
        node("MatMul", ["dense", "matrix_c"], ["c"]),
        node("Add", ["c", f"{layer}mlp.fc1.bias"], ["fc1"]),
        node("MatMul", ["query", "dense"], ["scores"]),
        node("Add", ["fc1", "dense"], ["residual"]),
    ]
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    return onnx.helper.make_graph(nodes, "tiny", [], [], initializers), values


def test_matrices_are_found_by_their_biases_and_named_as_in_transformers_5():
    graph, values = tiny_graph()
    weights = _dinov2.backbone_weights(graph)
    assert weights.keys() == {
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "encoder.layer.0.attention.q_proj.bias",
        "encoder.layer.0.attention.q_proj.weight",
        "encoder.layer.0.attention.o_proj.bias",
        "encoder.layer.0.attention.o_proj.weight",
        "encoder.layer.0.mlp.fc1.bias",
        "encoder.layer.0.mlp.fc1.weight",
    }
    for name, matrix in (("attention.q_proj", "a"), ("attention.o_proj", "b"), ("mlp.fc1", "c")):
        found = weights[f"encoder.layer.0.{name}.weight"].numpy()
        assert np.array_equal(found, values[f"matrix_{matrix}"].T)


def test_the_position_of_the_class_token_comes_before_those_of_the_patches():
    graph, values = tiny_graph()
    positions = _dinov2.backbone_weights(graph)["embeddings.position_embeddings"].numpy()
    assert np.array_equal(positions[:, :1], values["class_position"])
    assert np.array_equal(positions[:, 1:], values["patch_positions"])


def test_absent_photographs_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENRY_SHARED_DATA", str(tmp_path))
    assert _dinov2.cifar10("test", 3) is None


@pytest.mark.usefixtures("colours")
def test_any_slice_of_the_photographs_is_balanced():
    photographs = _dinov2.cifar10("test", 2)
    assert photographs.classes == CLASSES
    assert photographs.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert photographs.images.shape == (6, 3, 32, 32)
    reds = photographs.images[:, 0].float().mean(dim=(1, 2)) / 20
    assert reds.round().tolist() == [0, 4, 8, 1, 5, 9]


@pytest.mark.usefixtures("colours")
def test_more_photographs_than_there_are_cannot_be_asked_for():
    with pytest.raises(UserError, match="are 4 per class, 5 were asked for"):
        _dinov2.cifar10("test", 5)


def test_pixel_values_are_those_of_the_image_processor():
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = _dinov2.image_processor()(
        images=[Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images], return_tensors="pt"
    )["pixel_values"]
    levels = (made - _dinov2.pixel_values(images)).abs() * 255 * torch.tensor(_dinov2._STD).view(3, 1, 1)
    assert levels.max() < 2.5


@pytest.mark.shared_data
def test_the_photographs_that_are_not_shipped_can_be_read():
    photographs = _dinov2.cifar10("train", 3)
    if photographs is None:
        pytest.skip("no CIFAR-10")
    assert photographs.labels.bincount().tolist() == [3] * 10
    assert photographs.images.float().std() > 30
