"""Times and conditions: published embeddings, rows by their names, and norms that low precision does not spoil."""

import pytest
import torch

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.generation import Modulation, TimeEmbedding, modulate, rms_norm, sinusoids


def test_the_sinusoids_of_xar_are_the_reference():
    data = golden_arrays("34-xar", "dev-score.npz")
    assert torch.equal((1000 * data["t"]).floor().long(), data["t_index"])
    found = sinusoids(data["t_index"].float(), data["emb"].shape[-1])
    torch.testing.assert_close(found, data["emb"], atol=1e-4, rtol=0)


def test_an_odd_size_ends_in_nought():
    found = sinusoids(torch.tensor([[0.0, 3.0]]), 7)
    assert found.shape == (1, 2, 7)
    assert torch.equal(found[..., 6], torch.zeros(1, 2))
    assert torch.equal(found[0, 0], torch.tensor([1.0, 1, 1, 0, 0, 0, 0])), "cosines first"


def test_quantised_times_are_equal_inside_a_thousandth():
    times = torch.tensor([0.5001, 0.5009, 0.5011])
    quantised, continuous = TimeEmbedding(8, 6, quantised=True), TimeEmbedding(8, 6)
    first, second, third = quantised(times)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    assert (first - third).abs().max() > 1e-5
    assert (continuous(times)[0] - continuous(times)[1]).abs().max() > 1e-5


@pytest.mark.parametrize("rows", [("shift", "scale", "gate"), ("gate", "scale", "shift")])
def test_the_head_of_flow_omni_is_the_reference_up_to_its_modulation(rows):
    """The head's first block by hand: the order of the rows is a name, and another order is another network."""
    data = golden_arrays("30-flow-omni", "dev-head.npz")
    width, cond = int(data["width"]), int(data["cond"])
    time = TimeEmbedding(width).double()
    time.load_state_dict({f"mlp.{key}": data[f"w/time_embed.mlp.{key}"] for key in ("0.weight", "0.bias", "2.weight", "2.bias")})  # fmt: skip
    y = time(data["t"]) + data["cond_vec"] @ data["w/cond_embed.weight"].T + data["w/cond_embed.bias"]
    x = data["x"] @ data["w/input_proj.weight"].T + data["w/input_proj.bias"]

    def modulation(name, rows):
        found = Modulation(width, width, rows).double()
        found.linear.load_state_dict(
            {key: data[f"w/{name}.adaLN_modulation.1.{key}"] for key in ("weight", "bias")}
        )
        return found(y)

    def linear(name, value):
        return value @ data[f"w/{name}.weight"].T + data[f"w/{name}.bias"]

    def normed(value, weight=None, bias=None):
        return torch.nn.functional.layer_norm(value, (width,), weight, bias, 1e-6)

    for block in range(int(data["blocks"])):
        name = f"res_blocks.{block}"
        found = modulation(name, rows)
        inside = modulate(
            normed(x, data[f"w/{name}.in_ln.weight"], data[f"w/{name}.in_ln.bias"]),
            found["shift"],
            found["scale"],
        )
        x = x + found["gate"] * linear(
            f"{name}.mlp.2", torch.nn.functional.silu(linear(f"{name}.mlp.0", inside))
        )
    found = modulation("final_layer", ("shift", "scale"))
    velocity = linear("final_layer.linear", modulate(normed(x), found["shift"], found["scale"]))
    same = torch.allclose(velocity, data["velocity"], atol=1e-9, rtol=0)
    assert same == (rows == ("shift", "scale", "gate"))
    assert cond == data["cond_vec"].shape[1]


def test_a_modulation_that_starts_at_nought_is_the_identity():
    found = Modulation(4, 3, ("shift", "scale", "gate"))(torch.randn(2, 5, 4))
    x = torch.randn(2, 5, 3)
    assert found["gate"].shape == (2, 5, 3)
    assert torch.equal(modulate(x, found["shift"], found["scale"]), x)
    assert not Modulation(4, 3, ("shift",), zero=False)(torch.ones(1, 4))["shift"].eq(0).all()


def test_the_norm_is_computed_in_float32():
    x = (1e4 * torch.randn(4, 64)).to(torch.float16)
    found = rms_norm(x)
    assert found.dtype == torch.float16
    assert found.isfinite().all(), "the squares do not fit into float16"
    torch.testing.assert_close(found.float(), rms_norm(x.float()), atol=2e-3, rtol=0)
    double = torch.randn(3, 8, dtype=torch.float64)
    expected = double / (double.square().mean(-1, keepdim=True) + 1e-6).sqrt() * 2
    torch.testing.assert_close(rms_norm(double, torch.full((8,), 2.0, dtype=torch.float64)), expected)


def test_rows_need_names_of_their_own():
    with pytest.raises(UserError, match="the rows of a modulation must have names of their own"):
        Modulation(4, 3, ("shift", "shift"))
    with pytest.raises(UserError, match="width must be at least 1, got 0"):
        TimeEmbedding(0)
