"""Many contexts in one forward pass, against the model itself."""

import gc

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.decoding.byte_level import token_tree
from tokenry.decoding.byte_level.token_tree import CalledModel, Context, TokenTree

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
GLU = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 1, "initializer_range": 0.5}
CONFIGS = {
    "llama": transformers.LlamaConfig(**GLU),
    "gpt2": transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=50, initializer_range=0.5, bos_token_id=0, eos_token_id=0
    ),
    "qwen3": transformers.Qwen3Config(**GLU, head_dim=8),
    "gemma3": transformers.Gemma3TextConfig(**GLU, head_dim=8, sliding_window=512),
    "bloom": transformers.BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2),
    "mamba": transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4),
    "short window": transformers.MistralConfig(**GLU, sliding_window=4),
}
TREES = {"llama", "gpt2", "qwen3", "gemma3", "short window"}


def load(name):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def alone(model, context):
    logits = model(input_ids=torch.tensor([context.ids()])).logits[0, -1]
    return logits.float().log_softmax(-1)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_context_gets_what_it_gets_alone(name):
    model = load(name)
    tree, root = TokenTree(model), Context().then(1)
    some = [
        root.then(3, 4, 5, 6),
        root.then(3, 4, 9),
        root.then(3, 4, 5),
        root.then(7),
        root.then(3, 4, 5, 6, 8, 2, 1),
    ]
    found = tree.log_probs(some)
    for context, row in zip(some, found, strict=True):
        torch.testing.assert_close(row, alone(model, context), atol=1e-4, rtol=1e-4)
    assert tree.is_tree == (name in TREES)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@settings(max_examples=10, deadline=None)
@given(
    steps=st.lists(
        st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=4), min_size=1, max_size=4
    )
)
def test_what_was_computed_serves_what_comes_later(name, steps):
    model = load(name)
    tree, root = TokenTree(model), Context().then(1)
    for sequences in steps:
        contexts = [root.then(*ids) for ids in sequences]
        for context, row in zip(contexts, tree.log_probs(contexts), strict=True):
            torch.testing.assert_close(row, alone(model, context), atol=1e-4, rtol=1e-4)


def test_new_contexts_are_one_forward_pass_of_their_new_tokens():
    model = load("llama")
    tree, root, passes = TokenTree(model), Context().then(1), []
    model.model.register_forward_pre_hook(
        lambda module, args, given: passes.append(given["input_ids"].numel()), with_kwargs=True
    )
    some = [root.then(3, 4, 5), root.then(3, 4, 9), root.then(8)]
    tree.hold(some)
    tree.log_probs(some)
    more = [some[0].then(2), some[1]]
    tree.log_probs(more)
    assert passes == [6, 1]


def test_a_mask_that_is_too_large_is_computed_piece_by_piece(monkeypatch):
    model, root = load("llama"), Context().then(1)
    some = [root.then(*range(2, 20)), root.then(2, 3, 4, 9, 9), root.then(5)]
    whole = TokenTree(model).log_probs(some)
    monkeypatch.setattr(token_tree, "_MASK_ELEMENTS", 50)
    torch.testing.assert_close(TokenTree(model).log_probs(some), whole, atol=1e-4, rtol=1e-4)


def test_what_is_no_longer_needed_is_dropped(monkeypatch):
    monkeypatch.setattr(token_tree, "_SPARE_TOKENS", 4)
    model = load("llama")
    tree, root = TokenTree(model), Context().then(1)
    for token in range(2, 40):
        context = root.then(5, token)
        torch.testing.assert_close(tree.log_probs([context])[0], alone(model, context), atol=1e-4, rtol=1e-4)
        assert tree._known <= 2 * 3 + 4


def test_asking_again_for_what_is_known_computes_nothing(monkeypatch):
    monkeypatch.setattr(token_tree, "_SPARE_TOKENS", 0)
    tree, root = TokenTree(load("llama")), Context().then(1)
    contexts = [root.then(2, token) for token in range(3, 20)]
    tree.hold(contexts)
    monkeypatch.setattr(tree, "_run_tree", lambda new: pytest.fail("a forward pass"))
    tree.log_probs(contexts[:1])


def test_contexts_live_as_long_as_somebody_holds_them():
    root = Context()
    held = root.then(1, 2)
    assert root.then(1, 2) is held
    del held
    gc.collect()
    assert len(root._children) == 0


def test_a_model_in_training_trains_on():
    model = load("llama").train()
    model.model.layers[0].self_attn.attention_dropout = 0.5
    tree, context = TokenTree(model), Context().then(1, 2, 3)
    first = tree.log_probs([context])
    assert model.training
    assert torch.equal(first, TokenTree(model).log_probs([context]))


def test_half_precision_is_a_tree_too():
    tree = TokenTree(load("llama").to(torch.bfloat16))
    assert tree.is_tree
    assert tree.log_probs([Context().then(1, 2)]).dtype == torch.float32


def test_a_context_that_is_too_long_is_refused():
    with pytest.raises(
        UserError, match="a context of 1025 tokens is longer than the 1024 that the model allows"
    ):
        TokenTree(load("gpt2")).hold([Context().then(*[1] * 1025)])


def test_an_empty_context_is_refused():
    with pytest.raises(UserError, match="needs a token before the text"):
        TokenTree(load("llama")).hold([Context()])


def test_a_function_is_called_once_for_all():
    asked = []

    def uniform(sequences):
        asked.append(sequences)
        return torch.zeros(len(sequences), 3)

    root = Context()
    assert CalledModel(uniform).log_probs([root, root.then(1, 2)]).shape == (2, 3)
    assert asked == [[(), (1, 2)]]


def test_what_may_be_needed_soon_comes_along_in_the_same_pass_and_never_makes_one(monkeypatch):
    tree, passes = TokenTree(load("llama")), []
    monkeypatch.setattr(tree._model.model, "forward", counted(tree._model.model.forward, passes))
    one = Context().then(3, 4)
    soon = [one.then(5), one.then(5, 6)]
    tree.hold([one], lambda: soon)
    assert len(passes) == 1
    tree.log_probs(soon)
    assert len(passes) == 1
    tree.hold([one], lambda: [one.then(9)])
    assert len(passes) == 1


def counted(forward, passes):
    def call(*arguments, **options):
        passes.append(1)
        return forward(*arguments, **options)

    return call


def test_what_is_too_long_for_the_model_does_not_come_along():
    tree = TokenTree(load("gpt2"))
    longest = Context().then(*[1] * 1024)
    tree.hold([longest.parent], lambda: [longest.then(2)])
    assert longest.parent in tree._hidden
