"""The controls drop what they say, where they say, and run at the token counts of any other method."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SiglipVisionConfig, SiglipVisionModel

from tests import tiny
from tests.tiny.models import PIXELS, SIZES, made
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.reducer import Tokens
from tokenry.compression.vision.controls import (
    ClassAttentionDrop,
    NormDrop,
    RandomDrop,
    keep_highest,
)
from tokenry.compression.vision.tome import ToMe
from tokenry.core.errors import UserError

CONTROLS = [RandomDrop, NormDrop, ClassAttentionDrop]


@pytest.fixture
def vit():
    return tiny.vit()


@pytest.fixture
def images():
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def counts_of(model, reducer, *inputs, **more):
    with apply_token_reduction(model, reducer) as reduction, torch.no_grad():
        model(*inputs, **more)
        return reduction.token_counts


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(
    ("schedule", "counts"),
    [
        ({"r": 3}, (17, 14, 11, 8)),
        ({"r": [5, 0, 2]}, (17, 12, 12, 10)),
        ({"r": [4]}, (17, 13, 13, 13)),
        ({"r": (3, -1.0)}, (17, 11, 8, 8)),
        ({"r": 100}, (17, 9, 5, 3)),
        ({"r": 0}, (17, 17, 17, 17)),
        ({"ratio": 0.75}, (17, 13, 10, 8)),
        ({"ratio": 1.0}, (17, 17, 17, 17)),
        ({"counts": [17, 6, 1]}, (17, 17, 6, 1)),
    ],
)
def test_so_many_tokens_leave_each_layer(vit, images, control, schedule, counts):
    assert counts_of(vit, control(**schedule), images) == counts


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_runs_at_the_token_counts_of_another_method(vit, images, control):
    counts = counts_of(vit, ToMe(r=[5, 1, 3]), images)
    assert counts_of(vit, control(counts=counts[1:]), images) == counts
    assert counts_of(vit, control(r=[5, 1, 3]), images) == counts


def test_dropping_after_the_layer_leaves_the_mlp_all_tokens(vit, images):
    with apply_token_reduction(vit, NormDrop(r=4)) as early, torch.no_grad():
        vit(images)
        flops = early.flops
    with apply_token_reduction(vit, NormDrop(r=4, after="layer")) as late, torch.no_grad():
        vit(images)
        assert late.token_counts == early.token_counts
        assert flops < late.flops < late.dense_flops


@given(st.integers(0, 99), st.integers(0, 2), st.integers(0, 8))
@settings(max_examples=25, deadline=None)
def test_special_tokens_survive_and_the_others_keep_their_order(seed, special, keep):
    signal = torch.randn(2, 8 + special, generator=torch.Generator().manual_seed(seed))
    signal[:, :special] = -100
    kept = keep_highest(signal, keep, Tokens(special)).kept
    assert kept.shape == (2, special + keep)
    assert (kept[:, :special] == torch.arange(special)).all()
    assert (kept.diff(dim=1) > 0).all()


def test_norm_drop_keeps_the_longest_hidden_states(vit, images):
    with torch.no_grad():
        dense = vit(images, output_hidden_states=True).hidden_states[1][:, 1:]
    with apply_token_reduction(vit, NormDrop(counts=[5, 5, 5], after="layer")) as reduction, torch.no_grad():
        vit(images)
        kept = reduction.plans[0].kept
    assert (kept[:, 1:] - 1 == dense.norm(dim=-1).topk(4).indices.sort(dim=1).values).all()


def test_class_attention_drop_keeps_what_the_class_token_looks_at(vit, images):
    vit.set_attn_implementation("eager")
    with torch.no_grad():
        row = vit(images, output_attentions=True).attentions[0].mean(dim=1)[:, 0, 1:]
    with apply_token_reduction(vit, ClassAttentionDrop(counts=[6, 6, 6])) as reduction, torch.no_grad():
        vit(images)
        kept = reduction.plans[0].kept
    assert (kept[:, 1:] - 1 == row.topk(5).indices.sort(dim=1).values).all()


def test_a_seed_repeats_a_random_drop_and_another_seed_does_not(vit, images):
    kept = []
    with apply_token_reduction(vit, RandomDrop(r=4)) as reduction, torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            vit(images)
            kept.append(reduction.places())
    assert kept[0].equal(kept[1])
    assert not kept[0].equal(kept[2])


def test_a_random_drop_differs_between_the_images_of_a_batch(vit, images):
    with apply_token_reduction(vit, RandomDrop(r=4)) as reduction, torch.no_grad():
        vit(images)
        assert reduction.places().unique(dim=0).shape[0] == 3


def test_gradient_checkpointing_replays_a_random_drop(vit, images):
    gradients = []
    for checkpointing in (False, True):
        vit.zero_grad()
        vit.train()
        if checkpointing:
            vit.gradient_checkpointing_enable({"use_reentrant": False})
        with apply_token_reduction(vit, RandomDrop(r=4)):
            torch.manual_seed(3)
            vit(images).last_hidden_state.sum().backward()
        gradients.append([p.grad.clone() for p in vit.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("control", [RandomDrop, NormDrop, ClassAttentionDrop])
def test_padding_is_dropped_before_any_word(control):
    bert = tiny.bert(vocab_size=20)
    ids = torch.randint(1, 20, (2, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[0, 6:] = 0
    with apply_token_reduction(bert, control(counts=[8, 7, 6])) as reduction, torch.no_grad():
        bert(ids, attention_mask=mask)
        places = reduction.places()
    assert (places[0, :6] == torch.arange(6)).all()
    assert (places[0, 6:] == -1).all()
    assert (places[1] >= 0).sum() == 6


def test_without_a_class_token_random_and_norm_work_and_class_attention_says_so(images):
    siglip = made(SiglipVisionModel, SiglipVisionConfig(**SIZES, **PIXELS))
    assert counts_of(siglip, RandomDrop(r=3), images) == (16, 13, 10, 7)
    assert counts_of(siglip, NormDrop(r=3), images) == (16, 13, 10, 7)
    with pytest.raises(
        UserError, match="has no class token whose attention could rank the others: use NormDrop"
    ):
        apply_token_reduction(siglip, ClassAttentionDrop(r=3))


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got no schedule: give exactly one of r"),
        ({"r": 3, "ratio": 0.5}, "got r and ratio: give exactly one"),
        ({"ratio": 0.0}, r"ratio must be in \(0, 1\], got 0.0"),
        ({"ratio": 1.5}, r"ratio must be in \(0, 1\], got 1.5"),
        ({"ratio": float("nan")}, r"ratio must be in \(0, 1\], got nan"),
        ({"r": -1}, "r must not be negative, got -1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(control, options, message):
    with pytest.raises(UserError, match=message):
        control(**options)


def test_an_unknown_place_in_the_layer_is_refused():
    control = RandomDrop(r=2)
    # As from a command line: the test run would check the annotation first.
    object.__setattr__(control, "after", "mlp")
    with pytest.raises(UserError, match="after must be one of attention, layer, got 'mlp'"):
        control.__post_init__()


def test_counts_of_another_model_are_refused(vit, images):
    with pytest.raises(UserError, match="counts lists 4 layers, but the model has 3"):
        apply_token_reduction(vit, RandomDrop(counts=[17, 12, 9, 5]))
    with pytest.raises(UserError, match="r lists 4 layers, but the model has 3"):
        apply_token_reduction(vit, RandomDrop(r=[1, 1, 1, 1]))
    for counts, message in (
        ([17, 20, 5], "counts says 20 tokens after layer 2, where 17 come in"),
        ([0, 0, 0], "counts says 0 tokens after layer 1"),
    ):
        with apply_token_reduction(vit, RandomDrop(counts=counts)), pytest.raises(UserError, match=message):
            vit(images)
