"""Layouts, adapters, schedules and prompt lookup by themselves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.decoding.multi_token.gated_lora import GatedLoRALinear, add_gated_lora
from tokenry.decoding.multi_token.layout import block_layout, mtp_layout
from tokenry.decoding.multi_token.sampler import latent_consistency
from tokenry.decoding.multi_token.schedule import Pace, RunningPace, prompt_lookup_draft, simulate_schedule

# --- layouts -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 7), st.integers(1, 4))
def test_tokens_never_see_masks_and_masks_see_their_block_alone(tokens, k):
    layout = mtp_layout(tokens, k)
    seen, gate, group = layout.attn_allowed[0], layout.gate[0], layout.group[0]
    assert not seen[~gate][:, gate].any()
    foreign = group[:, None] != group
    assert not (seen & foreign)[:, gate].any()
    assert seen.diagonal().all()
    assert (seen.sum(1) == layout.position_ids[0] + 1).all(), (
        "each row sees one row for every position up to its own"
    )


def test_sampled_blocks_are_rows_of_all_blocks():
    every, some = mtp_layout(6, 2), block_layout(6, torch.tensor([[1, 4]]), 2)
    rows = [
        next(row for row in range(18) if (every.group[0, row], every.slot[0, row]) == pair)
        for pair in zip(some.group[0], some.slot[0], strict=True)
    ]
    assert torch.equal(some.attn_allowed[0], every.attn_allowed[0][rows][:, rows])
    for name in ("position_ids", "labels_index", "sampler_prev_index", "gate"):
        assert torch.equal(getattr(some, name)[0], getattr(every, name)[0, rows])
    # Tokens stand first here, so that the row of a token is its number.
    assert torch.equal(some.anchor_row, some.sampler_prev_index)


@pytest.mark.parametrize(("n", "k"), [(0, 1), (3, 0)])
def test_a_layout_has_tokens_and_masks(n, k):
    with pytest.raises(UserError, match="must be at least 1, got 0"):
        mtp_layout(n, k)


def test_consistency_of_nothing_is_zero_with_a_graph():
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    latent_consistency(hidden, torch.full((1, 3), -1)).backward()
    assert hidden.grad.abs().sum() == 0


# --- gated LoRA --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [tiny.llama(), tiny.gpt2()], ids=["linear", "conv1d"])
def test_adapters_stand_beside_every_linear_layer_but_the_head(model):
    names = {name for name, _ in model.named_parameters()}
    lora = add_gated_lora(model, 2, 4)
    adapted = {name.replace("/", ".") for name in lora.layers}
    assert adapted == {
        name.removesuffix(".weight")
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and not any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
    }
    assert {name for name, _ in model.named_parameters()} == names
    lora.remove()


def test_only_named_layers_are_adapted_and_none_inside_another():
    lora = add_gated_lora(tiny.llama(), 2, 4, ["q_proj", "mlp.up_proj"])
    assert {name.split("/", 3)[3] for name in lora.layers} == {"self_attn/q_proj", "mlp/up_proj"}
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert not any("base_layer" in name or "lora_A" in name for name in add_gated_lora(wrapped, 2, 4).layers)


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(
        UserError, match="has no layer named q_prj: targets are ends of the names of linear layers"
    ):
        add_gated_lora(tiny.llama(), 2, 4, "q_prj")


def test_a_layer_that_does_not_say_how_wide_it_is_is_refused():
    with pytest.raises(UserError, match="Bilinear has no in_features and out_features"):
        GatedLoRALinear(nn.Bilinear(2, 2, 2), 1, 1)
    with pytest.raises(UserError, match="LlamaRMSNorm has no in_features and out_features"):
        add_gated_lora(tiny.llama(), 2, 4, "input_layernorm")


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_rows_are_gathered_as_a_gate_would_multiply_them(gate):
    base, gate = nn.Linear(3, 5), torch.tensor(gate)
    layer = GatedLoRALinear(base, rank=2, alpha=3)
    nn.init.normal_(layer.lora_B.weight)
    x = torch.randn(len(gate), 3)
    with torch.no_grad(), layer.gate.on(gate):
        found = layer(x)
        expected = base(x) + gate[:, None] * 1.5 * x @ layer.lora_A.weight.T @ layer.lora_B.weight.T
        torch.testing.assert_close(found, expected)
        assert torch.equal(found[~gate], base(x)[~gate])
    assert layer.gate.rows is None


# --- schedules ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=5, max_size=30))
def test_a_schedule_writes_all_tokens_in_steps_of_at_most_a_block(correct):
    for mode in ("linear", "quadratic"):
        steps = simulate_schedule(torch.tensor(correct), mode)
        assert steps[0] == 1
        assert all(1 <= count <= 4 for count in steps)
        assert sum(steps[:-1]) < len(correct) <= sum(steps)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UserError, match="mode must be one of linear, quadratic, got 'auto'"):
        simulate_schedule(torch.ones(3, 2, dtype=torch.bool), "auto")
    with pytest.raises(UserError, match="9 tokens are asked for, and correct has 3 rows: give one for each"):
        simulate_schedule(torch.zeros(3, 2, dtype=torch.bool), "linear", 9)


@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([5, 6, 7, 8, 5, 6], [7, 8]),
        ([5, 6, 7, 5, 6, 8, 5, 6], [8, 5]),
        ([1, 5, 6, 7, 2, 6, 9, 5, 6], [7, 2]),
        ([3, 3], [3]),
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_prompt_lookup_drafts_what_followed_the_longest_ending_last(tokens, draft):
    assert prompt_lookup_draft(torch.tensor(tokens), ngram=3, k=2).tolist() == draft


def ran(pace, right, drafted, seconds, steps=60):
    """Steps in which so many drafted tokens are right, none is looked up, and each row costs as much as said."""
    pace.looked_up(0, 100)
    for step in range(steps):
        pace.observe(*(torch.tensor([value]) for value in (right, drafted, True)))
        rows = 4 + step % 3
        pace.timed(rows, seconds(rows))
    return pace.choose()


def test_the_pace_is_quadratic_where_rows_are_free_and_drafts_right():
    assert ran(RunningPace(4), 4, 4, lambda rows: 1.0) == Pace(4, True)


def test_the_pace_is_linear_where_rows_cost_much():
    pace = ran(RunningPace(4), 4, 4, lambda rows: 0.2 + 0.1 * rows)
    assert not pace.quadratic
    assert pace.masks > 0


def test_a_step_that_was_held_up_does_not_change_the_pace():
    held = iter(range(10**6))
    pace = ran(RunningPace(4), 4, 4, lambda rows: (0.2 + 0.001 * rows) * (50 if next(held) % 10 == 5 else 1))
    assert pace == Pace(4, True)


def test_masks_are_given_up_where_none_is_right_and_tried_again():
    pace = RunningPace(3)
    assert ran(pace, 0, 3, lambda rows: 0.01 * rows) == Pace(0, False)
    assert sum(pace.choose().masks > 0 for _ in range(64)) == 2


@given(st.integers(1, 5), st.floats(0.05, 0.95))
def test_expected_tokens_are_those_of_the_simulation(k, right):
    pace = RunningPace(k)
    together = [right**place for place in range(1, k + 1)]
    torch.manual_seed(0)
    correct = torch.rand(3000, k) < right
    for mode in ("linear", "quadratic"):
        steps = simulate_schedule(correct, mode)
        expected = pace._tokens(Pace(k, mode == "quadratic"), together)
        assert expected == pytest.approx(sum(steps) / len(steps), rel=0.12)
