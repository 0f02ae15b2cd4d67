"""The example of a user's own reducer runs as it stands in the docs."""

import re

import torch

from tests import ROOT, tiny

PAGE = ROOT / "docs/which-reduction.md"


def test_the_reducer_of_the_docs_halves_the_patches():
    example = re.findall(r"```python\n(from dataclasses.*?)```", PAGE.read_text(), re.DOTALL)[0]
    names = {"model": tiny.vit(image_size=32, patch_size=8, num_channels=3, num_hidden_layers=5)}
    exec(example, names)
    names["model"](pixel_values=torch.zeros(2, 3, 32, 32))
    assert names["reduction"].token_counts == (17, 17, 17, 17, 9, 9)
