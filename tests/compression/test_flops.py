"""The account of multiply-adds is what the model computes: counted by torch, operation for operation."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTConfig, ViTModel

from tests.compression.first_tokens import DropFirst, MergeFirst
from tests.tiny.encoders import FAMILIES, LAYERS, inputs, texts, tiny, tokens_of
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.flops import LayerCost, encoder_flops, layer_costs
from tokenry.compression.vision.tome import ToMe
from tokenry.core.tensors.patching import find_encoder


def counted(model, given) -> int:
    """Multiply-adds of the layers, by torch: it counts two operations each, and sees the attention only if it is eager."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")
    counters: list[FlopCounterMode] = []

    def start(*_):
        counters.append(FlopCounterMode(display=False))
        counters[-1].__enter__()

    def stop(*_):
        counters[-1].__exit__(None, None, None)

    hooks = []
    for layer in find_encoder(model).layers:
        hooks += [layer.register_forward_pre_hook(start), layer.register_forward_hook(stop)]
    with torch.no_grad():
        model(**given)
    for hook in hooks:
        hook.remove()
    return sum(counter.get_total_flops() for counter in counters) // 2


def one(family):
    """One image or text, without padding."""
    given = inputs(family, batch=1)
    return given if "pixel_values" in given else {"input_ids": texts(batch=1)}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untouched_encoder_computes_what_the_account_says(family):
    model = tiny(family)
    tokens = [tokens_of(family)] * LAYERS
    assert encoder_flops(layer_costs(find_encoder(model)), tokens, tokens) == counted(model, one(family))


@pytest.mark.parametrize("reducer", [DropFirst(r=2), MergeFirst(r=2)], ids=["drop", "merge"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_patched_encoder_computes_what_its_handle_says(family, reducer):
    model = tiny(family)
    model.set_attn_implementation("eager")
    dense = counted(model, one(family))
    reduction = apply_token_reduction(model, reducer)
    assert counted(model, one(family)) == reduction.flops < reduction.dense_flops == dense


def test_what_matching_computes_is_not_in_the_account():
    """It is no part of the model: N/2 · N/2 · head_dim per layer, below a hundredth of a layer's at any real size."""
    model = tiny("vit")
    model.set_attn_implementation("eager")
    reduction = apply_token_reduction(model, ToMe(r=2))
    matching = sum((tokens + 1) // 2 * (tokens // 2) * 8 for tokens in (17, 15, 13))
    assert counted(model, one("vit")) == reduction.flops + matching


def test_a_layer_that_reduces_at_its_end_pays_for_all_its_tokens():
    model = tiny("vit")
    model.set_attn_implementation("eager")

    class Late(DropFirst):
        def layer_reducers(self, encoder):
            reducers = list(super().layer_reducers(encoder))
            for reducer in reducers:
                object.__setattr__(reducer, "after", "layer")
            return reducers

    late = apply_token_reduction(model, Late(r=2))
    assert counted(model, one("vit")) == late.flops
    costs = layer_costs(find_encoder(model))
    assert late.flops == encoder_flops(costs, [17, 15, 13], [17, 15, 13])


def test_a_plain_vit_costs_four_and_eight_squares():
    """4 N C² + 2 N² C of attention and 8 N C² of the MLP."""
    tiny("vit")  # skips where the layers have another form
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
    )
    cost = layer_costs(find_encoder(ViTModel(config)))[0]
    assert cost == LayerCost(4 * 24**2, 8 * 24**2, 24)
    assert cost.flops(17, 13) == 4 * 17 * 24**2 + 2 * 17**2 * 24 + 8 * 13 * 24**2


def test_tome_saves_the_published_share_of_a_vit_s():
    """The layers' share is a little larger than that of the whole model, which embeds patches as before."""
    cost = LayerCost(4 * 384**2, 8 * 384**2, 384)
    dense, patches = encoder_flops([cost] * 12, [197] * 12, [197] * 12), 196 * 768 * 384

    def saved(r):
        entering = [197 - r * layer for layer in range(12)]
        return dense - encoder_flops([cost] * 12, entering, [tokens - r for tokens in entering])

    assert [round(100 * saved(r) / dense, 1) for r in (8, 11, 13)] == [26.0, 35.5, 41.8]
    assert [round(100 * saved(r) / (dense + patches), 1) for r in (8, 11, 13)] == [25.7, 35.1, 41.2]
