"""A base in 4 bits: what is asked of transformers, and what is refused where it cannot be computed."""

import importlib.metadata
import importlib.util

import pytest
import torch

from tests.tiny.chats import QUICK
from tests.tiny.models import llama as tiny_llama
from tokenry.core.errors import UserError
from tokenry.verbs._tune import bench as bench_module
from tokenry.verbs._tune.bench import Bench
from tokenry.verbs._tune.plan import make_plan
from tokenry.verbs._tune.quantization import loaded_in_4bit

CUDA = torch.device("cuda", 0)


@pytest.fixture
def bitsandbytes(monkeypatch):
    """As if it were installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.50.0")


def test_a_cpu_is_refused_in_one_sentence_before_anything_is_trained(desk):
    arguments = ("tune", desk.model, desk.data, *QUICK, "--weighing", "full", "--quantize", "4bit")
    result = desk.tokenry(*arguments, "--output", desk.folder / "quantized")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--quantize 4bit needs a CUDA GPU, and training runs on cpu: leave it out." in result.stderr
    assert not (desk.folder / "quantized" / "plan.json").exists()


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs bitsandbytes, which is not installed: `pip install 'tokenry\[quantize\]'`"
    ):
        loaded_in_4bit(CUDA, torch.bfloat16)


def test_it_is_for_adapters():
    with pytest.raises(UserError, match="--quantize 4bit is for adapters, and --full-weights trains none"):
        bench_module.Plan(quantize="4bit", full_weights=True)


def test_the_model_alone_is_loaded_in_4_bits(bitsandbytes, monkeypatch):
    loaded, model = [], tiny_llama()
    monkeypatch.setattr(model, "to", lambda device: model)
    monkeypatch.setattr(
        bench_module, "load_model", lambda name, **options: loaded.append((name, options)) or model
    )
    bench = Bench.__new__(Bench)
    bench.plan = make_plan({"model": "mine", "data": "mine.jsonl", "quantize": "4bit", "dtype": "bfloat16"})
    bench.args = type("Args", (), {"device": CUDA})
    bench.load()
    bench.load("a reference")
    (_, ours), (_, reference) = loaded
    assert ours["quantization_config"].load_in_4bit
    assert ours["quantization_config"].bnb_4bit_quant_type == "nf4"
    assert ours["quantization_config"].bnb_4bit_compute_dtype == torch.bfloat16
    assert ours["device_map"] == {"": CUDA}
    assert reference == {"dtype": "bfloat16"}
