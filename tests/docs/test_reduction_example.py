"""The example of a user's own reducer runs as it stands in the docs."""

import re
from pathlib import Path

import torch
from transformers import ViTConfig, ViTModel

PAGE = Path(__file__).parents[2] / "docs/which-reduction.md"


def test_the_reducer_of_the_docs_halves_the_patches():
    example = re.findall(r"```python\n(from dataclasses.*?)```", PAGE.read_text(), re.DOTALL)[0]
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=5,
        num_attention_heads=2,
        intermediate_size=32,
    )
    names = {"model": ViTModel(config).eval()}
    exec(example, names)
    names["model"](pixel_values=torch.zeros(2, 3, 32, 32))
    assert names["reduction"].token_counts == (17, 17, 17, 17, 9, 9)
