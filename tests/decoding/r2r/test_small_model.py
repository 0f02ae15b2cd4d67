"""A small model cut out of a large one, with tiny models and once with the embedded one."""

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.decoding.r2r.routed import routed_generate
from tokenry.decoding.r2r.rules import EntropyRule
from tokenry.decoding.r2r.small_model import Healing, HealingConfig, drop_layers
from tokenry.models import load_model, load_tokenizer


def test_layers_that_stay_are_as_they_were_and_keep_their_kind():
    config = Gemma3TextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )  # fmt: skip
    large = tiny.made(Gemma3ForCausalLM, config)
    small = drop_layers(large, [0, 3])
    assert small.config.layer_types == ["full_attention", "sliding_attention"]
    assert large.config.num_hidden_layers == 4
    for mine, theirs in zip(small.model.layers, large.model.layers[1:3], strict=True):
        assert torch.equal(mine.mlp.up_proj.weight, theirs.mlp.up_proj.weight)
    assert torch.equal(small.lm_head.weight, large.lm_head.weight)


def test_healing_brings_the_small_model_nearer():
    large = tiny.gpt2(initializer_range=0.3, n_layer=3)
    small = drop_layers(large, [1])
    texts = torch.randint(64, (30, 12), generator=torch.Generator().manual_seed(0)).tolist()
    healing = Healing(small, large, texts, HealingConfig(steps=60, learning_rate=1e-2))
    assert healing.seconds() > 0
    healing.run()
    assert sum(healing.losses[-10:]) < 0.7 * sum(healing.losses[:10])
    assert not small.training


def test_the_embedded_model_routes_to_itself():
    large, tokenizer = load_model("embedded"), load_tokenizer("embedded")
    small = drop_layers(large, range(20, 24))
    prompt = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    found = routed_generate(small, large, EntropyRule(), prompt, 2.0, max_new_tokens=6)
    account = found.account
    assert account.small_tokens + account.large_tokens == found.tokens.numel()
    assert account.activated(small.num_parameters(), large.num_parameters()) < large.num_parameters()


def test_a_model_without_known_layers_is_refused():
    with pytest.raises(UserError, match="layers to drop are some of 0 … 1, but not all, got none"):
        drop_layers(tiny.llama(), [])
    with pytest.raises(UserError, match=r"learning_rate must be above 0, got 0\.0"):
        HealingConfig(learning_rate=0.0)
