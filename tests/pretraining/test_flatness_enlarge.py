"""Wider models of the same function: reference numbers, every architecture that is known, and traces of one space."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm
from transformers import (
    BertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tests import tiny
from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.pretraining import enlarge_transformer
from tokenry.pretraining.flatness.enlarge import enlarged

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SIZES, "intermediate_size": 24}
IDS = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(0))
MODELS = {
    "llama": lambda: tiny.llama(),
    "tied llama": lambda: tiny.llama(tie_word_embeddings=True),
    "gpt2": lambda: tiny.gpt2(),
    "bert": lambda: tiny.bert(BertForMaskedLM),
    "electra": lambda: tiny.made(ElectraForMaskedLM, ElectraConfig(embedding_size=8, **WIDE)),
    "roberta": lambda: tiny.made(RobertaForMaskedLM, RobertaConfig(**WIDE)),
    "modernbert": lambda: tiny.made(
        ModernBertForMaskedLM,
        ModernBertConfig(
            pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, **WIDE
        ),
    ),
    "opt": lambda: tiny.made(OPTForCausalLM, OPTConfig(ffn_dim=24, word_embed_proj_dim=16, **SIZES)),
    "qwen2": lambda: tiny.made(Qwen2ForCausalLM, Qwen2Config(num_key_value_heads=2, **WIDE)),
    "mistral": lambda: tiny.made(MistralForCausalLM, MistralConfig(num_key_value_heads=2, **WIDE)),
}


def test_golden_widening():
    arrays = golden_arrays("16-flatness", "dev-enlarge.npz")
    times = int(arrays["times"])
    gain, bias = (enlarged(arrays[name], "vector", times) for name in ("ln_gain", "ln_bias"))
    matrix, offset = enlarged(arrays["W"], "matrix", times), enlarged(arrays["c"], "vector", times)
    output = enlarged(arrays["D"], "output", times)
    for found, name in ((gain, "ln_gain_big"), (matrix, "W_big"), (offset, "c_big"), (output, "D_big")):
        torch.testing.assert_close(found, arrays[name], rtol=1e-8, atol=1e-12)
    rows = enlarged(arrays["x"], "embedding", times)
    hidden = gelu(layer_norm(rows, rows.shape[-1:], gain, bias) @ matrix.T + offset)
    large = hidden @ output.T + enlarged(arrays["db"], "fixed", times)
    torch.testing.assert_close(large, arrays["small_out"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_wider_model_computes_the_same(name):
    small = MODELS[name]().double()
    with torch.no_grad():
        for parameter in small.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    before = {key: value.clone() for key, value in small.state_dict().items()}
    weights, config = enlarge_transformer(small.state_dict(), small.config, 3)
    large = type(small)(config).double().eval()
    large.load_state_dict(weights)
    torch.testing.assert_close(large(input_ids=IDS).logits, small(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)
    assert large.get_input_embeddings().weight.shape[1] == 3 * small.get_input_embeddings().weight.shape[1]
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())


BAD = [
    (lambda: enlarge_transformer({}, tiny.vit().config, 2), "the model type must be one of bert"),
    (lambda: enlarge_transformer({}, tiny.gpt2().config, 2), "lacks the output that is tied"),
    (lambda: enlarge_transformer(tiny.llama().state_dict(), tiny.llama().config, 0), "times must be at least 1"),
    (lambda: enlarged(torch.ones(2, 2), "square", 2), "role must be one of"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "words"), BAD)
def test_what_cannot_be_enlarged_is_refused_in_one_sentence(act, words):
    with pytest.raises(UserError, match=words):
        act()
