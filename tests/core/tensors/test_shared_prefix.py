"""A prefix that is read once changes nothing that is written, in models with every kind of window and position."""

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM

from tests import tiny
from tests.tiny.tokenizers import word_tokenizer
from tokenry.core.tensors import shared_prefix as module
from tokenry.core.tensors.shared_prefix import keeps_tokens, shared_prefix
from tokenry.models import LocalText, Sampling

SIZE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
SIZE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5}
BEGIN = [f"w{number % 50}" for number in range(7, 40)]
# In a batch with the longest, the padding of the others is shorter and longer than what they share.
ENDS = (["w3", "w4"], ["w8"], [f"w{number % 50}" for number in range(60)], ["w4"] * 5)
PROMPTS = [" ".join([*BEGIN, *end]) for end in ENDS]


def mistral():
    return MistralForCausalLM(MistralConfig(**SIZE, sliding_window=8)).eval()


def gemma():
    config = Gemma3TextConfig(
        **SIZE,
        sliding_window=8,
        head_dim=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    return Gemma3ForCausalLM(config).eval()


MODELS = {
    "Llama": lambda: tiny.llama(initializer_range=0.5),
    "GPT-2": lambda: tiny.gpt2(initializer_range=0.3, n_positions=128),
    "Mistral": mistral,
    "Gemma 3": gemma,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_same_texts_are_written_with_the_same_log_probs(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    plain, shared = (
        LocalText(model, word_tokenizer(), batch_size=3, share_prefix=share).generate(PROMPTS, Sampling(10))
        for share in (False, True)
    )
    assert [text.text for text in shared] == [text.text for text in plain]
    for one, other in zip(plain, shared, strict=True):
        torch.testing.assert_close(
            torch.tensor(one.log_probs), torch.tensor(other.log_probs), rtol=1e-4, atol=1e-4
        )


def test_the_prefix_is_read_once_and_the_rest_alone():
    model, read = tiny.llama(), []
    model.model.register_forward_pre_hook(
        lambda module, args, options: read.append(options["input_ids"].numel()), with_kwargs=True
    )
    LocalText(model, word_tokenizer(), batch_size=2, share_prefix=True).generate(PROMPTS[:2] * 2, Sampling(1))
    # All begin alike; the longer ones come first, and w3 w4 and w8 have no token in common.
    assert read[-3:] == [len(BEGIN), 2 * 2, 2 * 1]


@pytest.mark.parametrize(("prompts", "shared"), [
    ([[1] * 40 + [2], [1] * 40 + [3]], 40),
    ([[1] * 40, [1] * 40], 39),
    ([[1] * 40], None),
    ([[1] * 10 + [2], [1] * 10 + [3]], None),
    ([[2], [1] * 40], None),
])  # fmt: skip
def test_every_prompt_keeps_a_token_of_its_own(prompts, shared):
    found = shared_prefix(tiny.llama(), prompts)
    assert (found and len(found.tokens)) == shared


def test_a_model_with_recurrent_layers_reads_its_prompts_whole():
    model = tiny.llama()
    assert keeps_tokens(model)
    model.config.layer_types = ["linear_attention", "full_attention"]
    assert not keeps_tokens(model)
    assert module.shared_prefix(model, [[1] * 40] * 2) is None
