"""Layouts, schedules, losses and decoding against an independent float64 implementation."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.golden import golden_arrays
from tokenry.core.tensors.alignment import IGNORED
from tokenry.decoding.multi_token.decode import MultiTokenDecoding
from tokenry.decoding.multi_token.drafter import Drafter
from tokenry.decoding.multi_token.gated_lora import GatedLoRALinear
from tokenry.decoding.multi_token.layout import mtp_layout
from tokenry.decoding.multi_token.schedule import simulate_schedule

SLUG = "25-multi-token"


@pytest.fixture(scope="module")
def saved():
    return golden_arrays(SLUG, "dev-model.npz")


@pytest.fixture(scope="module")
def drafter(saved):
    return golden_drafter(saved)


def golden_drafter(saved):
    """The trained model of the reference, and its drafter."""
    weights = {name[2:]: value.double() for name, value in saved.items() if name.startswith("W|")}
    base = {
        name.removeprefix("m.").replace(".base.", "."): value
        for name, value in weights.items()
        if name.startswith("m.") and not name.endswith((".A", ".B"))
    }
    vocabulary, width = base["model.embed_tokens.weight"].shape
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in base if ".layers." in name),
        num_attention_heads=int(saved["heads"]),
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).double().eval()
    model.load_state_dict(base)
    drafter = Drafter(model, int(saved["k"]), int(saved["lora_rank"]), int(saved["lora_alpha"]))
    with torch.no_grad():
        drafter.masks.copy_(weights["mask"])
        for name, layer in drafter.lora.layers.items():
            name = "m." + name.replace("/", ".")
            layer.lora_A.weight.copy_(weights[f"{name}.A"])
            layer.lora_B.weight.copy_(weights[f"{name}.B"])
    drafter.sampler.load_state_dict(
        {name: value for name, value in weights.items() if name[:2] in ("w1", "w2", "n1", "n2")}
    )
    return drafter


def near(found, expected, **tolerance):
    torch.testing.assert_close(found, expected.to(found.dtype), **{"rtol": 0.0, "atol": 0.0} | tolerance)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 2), (5, 3)])
def test_layouts(n, k):
    saved = {
        name.partition("|")[2]: value
        for name, value in golden_arrays(SLUG, "dev-layout.npz").items()
        if name.startswith(f"n{n}k{k}|")
    }
    layout = mtp_layout(n, k)
    for name in ("group", "slot", "position_ids", "gate", "attn_allowed"):
        near(getattr(layout, name)[0], saved[name])
    near(layout.anchor_row[0], saved["lcm_anchor_row"])
    for name, index in (("labels", layout.labels_index[0]), ("sampler_prev", layout.sampler_prev_index[0])):
        near(saved["tokens"][index.clamp(min=0)].masked_fill(index < 0, IGNORED), saved[name])


@pytest.mark.parametrize("mode", ["linear", "quadratic"])
def test_schedules(mode):
    saved = golden_arrays(SLUG, "dev-schedule.npz")
    steps = simulate_schedule(saved["correct"], mode, int(saved["T"]))
    assert steps == saved[f"tokens_per_step|{mode}"].tolist()
    assert sum(steps) / len(steps) == pytest.approx(float(saved[f"acceptance|{mode}"]))


def test_the_sampler(drafter, saved):
    z, previous = saved["sampler_z"], saved["sampler_prev"]
    found = drafter.head.logits(drafter.sampler(drafter.embed(previous), z))
    near(found, saved["sampler_logits"], atol=1e-5)


def test_gated_lora(drafter, saved):
    own = drafter.lora.layers["model/layers/0/self_attn/q_proj"]
    layer = GatedLoRALinear(
        drafter.model.model.layers[0].self_attn.q_proj, drafter.rank, drafter.alpha
    ).double()
    layer.load_state_dict(own.state_dict())
    drafter.lora.gate.rows = None
    with layer.gate.on(saved["glora_gate"].bool()):
        near(layer(saved["glora_x"]), saved["glora_y"], rtol=1e-9, atol=1e-9)


def test_hidden_states_and_logits(drafter, saved):
    tokens = saved["tokens"]
    layout = mtp_layout(tokens.shape[1], drafter.k)
    with torch.no_grad():
        hidden = drafter.hidden_states(tokens, layout)
        near(hidden, saved["hidden"], atol=2e-4)
        logits, gate = drafter.model.lm_head(hidden), layout.gate[0]
        near(logits[:, ~gate], saved["logits_ntp"], atol=2e-4)
        near(logits[:, gate], saved["logits_mtp"], atol=2e-4)
        near(drafter.model(tokens).logits, saved["logits_ar"], atol=2e-4)


def test_losses(drafter, saved):
    with torch.no_grad():
        losses = drafter.losses(saved["tokens"])
    near(losses.base, saved["loss_base_all_rows"], rtol=1e-4)
    near(losses.sampler, saved["loss_sampler"], rtol=1e-4)
    near(losses.consistency, saved["loss_lcm_sumsq"], rtol=1e-4)


def test_gradients(drafter, saved):
    """The reference's gradients have those of its last training batch added to them: a twentieth of their norm."""
    drafter.zero_grad()
    losses = drafter.losses(saved["tokens"])
    (losses.base + losses.sampler + losses.consistency).backward()
    layer = drafter.lora.layers["model/layers/0/self_attn/q_proj"]
    found = [drafter.masks.grad, layer.lora_A.weight.grad, layer.lora_B.weight.grad]
    for gradient, name in zip(found, ("grad_mask_embeddings", "grad_A0", "grad_B0"), strict=True):
        expected = saved[name].double()
        assert (gradient - expected).norm() < 0.08 * expected.norm()
    assert all(
        parameter.grad is None for parameter in drafter.model.parameters() if not parameter.requires_grad
    )


@pytest.mark.parametrize("mode", ["linear", "quadratic"])
@pytest.mark.parametrize("number", range(4))
def test_decoding(drafter, saved, mode, number):
    prompt, greedy = saved[f"gen{number}|prompt"], saved[f"gen{number}|greedy"]
    decoder = MultiTokenDecoding(drafter, mode)
    found = drafter.model.generate(
        prompt[None],
        custom_generate=decoder,
        do_sample=False,
        max_new_tokens=60,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert found[0, len(prompt) :][: len(greedy)].tolist() == greedy.tolist()
    steps = saved[f"gen{number}|{mode}|tokens_per_step"].tolist()
    assert decoder.account.blocks[0][: len(steps)] == steps
    assert decoder.account.rows[: len(steps)] == saved[f"gen{number}|{mode}|rows_per_step"].tolist()
