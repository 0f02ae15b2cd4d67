"""captum's gradient methods on embeddings: what they sum to, and what is said where captum is not installed."""

import sys

import pytest
import torch

from tests import tiny
from tokenry.attribution import attribute
from tokenry.core.errors import UserError

IDS = torch.tensor([[5, 9, 12, 7, 3]])


@pytest.mark.parametrize("target", [[8], [[8, 2]]])
def test_integrated_gradients_sum_to_the_difference_to_zero_embeddings(target):
    pytest.importorskip("captum")
    model = tiny.llama().double()
    found = attribute(model, IDS, target, "integrated-gradients:steps=200").scores[0]
    if target == [8]:
        embedded = model.get_input_embeddings()(IDS)
        log_p = model(inputs_embeds=torch.cat([embedded, 0 * embedded])).logits[:, -1].log_softmax(-1)[:, 8]
        assert float(found.sum()) == pytest.approx(float(log_p[0] - log_p[1]), rel=1e-2)
    assert bool(found.isfinite().all())


def test_gradient_shap_comes_from_its_seed_and_leaves_the_global_generator():
    pytest.importorskip("captum")
    model, methods = tiny.llama(), [f"gradient-shap:seed={seed}" for seed in (1, 1, 2)]
    before = torch.get_rng_state()
    one, same, other = (attribute(model, IDS, [8], method) for method in methods)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.scores, same.scores)
    assert not torch.equal(one.scores, other.scores)
    assert one.forwards == 32


@pytest.mark.parametrize("method", ["integrated-gradients", "gradient-shap"])
def test_without_captum_the_extra_is_named(monkeypatch, method):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(UserError, match=r"captum is not installed: pip install 'tokenry\[explain\]'"):
        attribute(tiny.llama(), IDS, [8], method)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("integrated-gradients:steps=0", "steps must be at least 1"),
        ("gradient-shap:noise=-1", "noise must be at least 0"),
    ],
)
def test_options_out_of_range_are_refused(method, words):
    with pytest.raises(UserError, match=words):
        attribute(tiny.llama(), IDS, [8], method)
