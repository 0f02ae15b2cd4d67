"""The linearised model: same logits to the bit, contributions that sum, DecompX's numbers for encoders, and what is refused."""

from functools import partial
from importlib import import_module

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests import tiny
from tests.attribution.test_decompx import MODELS, arrays_of, classifier, inputs
from tests.tiny.models import made
from tokenry.attribution import attribute, contributions, linearised
from tokenry.core.errors import UserError

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": None, "eos_token_id": None}
DECODERS = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    "mistral": partial(made, MistralForCausalLM, MistralConfig(**GROUPED, sliding_window=3)),
    "qwen2": partial(made, Qwen2ForCausalLM, Qwen2Config(**GROUPED)),
    "qwen3": partial(made, Qwen3ForCausalLM, Qwen3Config(**GROUPED)),
    "gemma2": partial(made, Gemma2ForCausalLM, Gemma2Config(**GROUPED, attn_implementation="eager")),
    "gemma3": partial(made, Gemma3ForCausalLM, Gemma3TextConfig(**GROUPED)),
}
ENCODERS = {name: partial(made, *given) for name, given in MODELS.items()}
ENCODERS["modernbert"] = partial(
    made,
    ModernBertForSequenceClassification,
    ModernBertConfig(**SIZES, num_labels=3, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2),
)
IDS = torch.tensor([[5, 9, 12, 7, 20, 21], [30, 31, 32, 1, 1, 1]])
MASK = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])


def with_biases(model):
    """The model with biases and gains that are not those of its initialisation."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name.lower():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", DECODERS)
def test_a_decoder_says_the_same_and_its_contributions_sum_to_the_logit(architecture, side):
    model = with_biases(DECODERS[architecture]())
    ids, mask = (IDS, MASK) if side == "right" else (IDS.flip(1), MASK.flip(1))
    plain = model(ids[:1], use_cache=False).logits
    with linearised(model):
        assert torch.equal(model(ids[:1], use_cache=False).logits, plain)
    found = contributions(model, ids, [8, 4], mask)
    torch.testing.assert_close(found.tokens.sum(1) + found.bias, found.logit, rtol=1e-5, atol=1e-5)
    if architecture in ("llama", "mistral", "qwen3", "gemma2", "gemma3"):
        torch.testing.assert_close(found.bias, torch.zeros(2), rtol=0, atol=2e-5)
    if architecture != "gemma2":  # its logits are capped
        torch.testing.assert_close(found.logit[0], plain[0, -1, 8], rtol=1e-4, atol=1e-5)
    assert float(found.tokens[mask == 0].abs().max()) == 0
    alone = contributions(model, ids[1][mask[1] == 1][None], [4])
    torch.testing.assert_close(found.tokens[1][mask[1] == 1], alone.tokens[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_says_the_same_and_its_contributions_sum_to_the_logit(architecture):
    model = with_biases(ENCODERS[architecture]())
    plain = model(input_ids=IDS, attention_mask=MASK).logits
    with linearised(model):
        assert torch.equal(model(input_ids=IDS, attention_mask=MASK).logits, plain)
    found = contributions(model, IDS, [2, 0], MASK)
    torch.testing.assert_close(found.logit, torch.stack([plain[0, 2], plain[1, 0]]))
    assert float(found.tokens[MASK == 0].abs().max()) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("label", [0, 1, 2])
def test_it_is_decompx_with_a_bias_token(label):
    arrays = arrays_of("bert")
    found = contributions(classifier("bert", arrays), inputs(arrays)[0], [label])
    expected = arrays["decompx/biastoken_none/classifier"][:, :, label]
    torch.testing.assert_close(found.tokens, expected[:, :-1], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.bias, expected[:, -1], rtol=1e-6, atol=1e-8)


def test_the_model_and_its_gradients_are_afterwards_what_they_were():
    model = tiny.llama()
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()

    def gradient():
        return torch.autograd.grad(model(inputs_embeds=embedded, use_cache=False).logits.sum(), embedded)[0]

    before, frozen = gradient(), [parameter.requires_grad for parameter in model.parameters()]
    with linearised(model):
        assert not torch.allclose(gradient(), before)
    contributions(model, IDS[:1], [3])
    assert torch.equal(gradient(), before)
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen


def test_through_the_one_interface():
    model = tiny.llama()
    found = attribute(model, IDS[:1], [8], "decompx:method=linear")
    torch.testing.assert_close(found.scores, contributions(model, IDS[:1], [8]).tokens)
    encoder = ENCODERS["modernbert"]()
    label = int(encoder(IDS[:1]).logits.argmax())
    chosen = attribute(encoder, IDS[:1], method="decompx:method=linear").scores
    torch.testing.assert_close(chosen, contributions(encoder, IDS[:1], [label]).tokens)


def test_a_layer_that_is_not_known_is_refused_by_name():
    model = made(PhiForCausalLM, PhiConfig(**SIZES))
    with pytest.raises(UserError, match="PhiForCausalLM cannot be made linear: PhiDecoderLayer is not known"):
        contributions(model, IDS[:1], [3])


def test_contributions_that_do_not_sum_are_refused(monkeypatch):
    module = import_module("tokenry.attribution.linearised")
    own = module._linear_forward
    monkeypatch.setattr(
        module, "_linear_forward", lambda part: None if "RMSNorm" in type(part).__name__ else own(part)
    )
    with pytest.raises(UserError, match="has a nonlinearity that is not known"):
        contributions(tiny.llama(), IDS[:1], [3])
