"""Tokens that see what they are told to, against each branch as a row of its own."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.core.tensors.output_head import backbone
from tokenry.core.tensors.tree_attention import TreeAttention, attends_as_told, require_tree_attention

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "initializer_range": 0.5,
}
GLU = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 1}
IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
CONFIGS = {
    "llama": transformers.LlamaConfig(**GLU),
    "qwen2": transformers.Qwen2Config(**GLU),
    "qwen3": transformers.Qwen3Config(**GLU, head_dim=8),
    "mistral": transformers.MistralConfig(**GLU, sliding_window=4),
    "gemma2": transformers.Gemma2Config(**GLU, head_dim=8, sliding_window=4),
    "gemma3": transformers.Gemma3TextConfig(
        **GLU,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "phi3": transformers.Phi3Config(**GLU, sliding_window=5, **IDS),
    "gpt2": transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=50, initializer_range=0.5, **IDS
    ),
    "gpt_neox": transformers.GPTNeoXConfig(**SMALL, intermediate_size=32),
}


def load(name, attention="sdpa", dtype=torch.float32):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=attention)
    return model.to(dtype).eval()


def alone(model, ids):
    return backbone(model)(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]


def read_paths(model, paths, steps):
    """Read a tree, node by node in `steps`, and return the hidden state of each path's last token."""
    nodes = sorted(
        {path[: end + 1] for path in paths for end in range(len(path))}, key=lambda node: (len(node), node)
    )
    tree, hidden, seen = TreeAttention(model), {}, []
    size = -(-len(nodes) // steps)
    for start in range(0, len(nodes), size):
        new = nodes[start : start + size]
        seen += new
        sees = torch.tensor([[node[: len(other)] == other for other in seen] for node in new])
        ids, positions = ([node[-1] for node in new], [len(node) - 1 for node in new])
        rows = tree.read(torch.tensor([ids]), torch.tensor([positions]), sees[None])[0]
        hidden |= dict(zip(new, rows, strict=True))
    return torch.stack([hidden[path] for path in paths])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "attention"),
    [
        (name, kernel)
        for name in CONFIGS
        for kernel in ("sdpa", "eager")
        if (name, kernel) != ("gemma2", "sdpa")
    ],
)
def test_branches_of_a_tree_are_what_they_are_alone(name, attention):
    model = load(name, attention)
    paths = [(1, 3, 4, 5, 6, 7, 8), (1, 3, 4, 9), (1, 2), (1, 3, 4, 5, 6, 9, 9, 2)]
    for steps in (1, 3):
        for row, path in zip(read_paths(model, paths, steps), paths, strict=True):
            torch.testing.assert_close(row, alone(model, path)[-1], atol=2e-5, rtol=1e-4)
    assert attends_as_told(model)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt2"])
def test_a_batch_with_padding_goes_on_as_its_rows_alone(name):
    model = load(name)
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12]]
    ids = torch.tensor([prompts[0], [0, 0, 0, 0, *prompts[1]]])
    real = torch.tensor([[1] * 6, [0, 0, 0, 0, 1, 1]]).bool()
    tree = TreeAttention(model)
    hidden = tree.read(ids, real=real)
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(hidden[row, -len(prompt) :], alone(model, prompt), atol=2e-5, rtol=1e-4)
    drafts = [[20, 21, 22], [30, 31, 32]]
    tree.read(torch.tensor(drafts))
    # The first row keeps two tokens of its draft, the second none: places of the second are filled up.
    tree.keep(
        torch.tensor([[*range(8)], [4, 5, 5, 5, 5, 5, 5, 5]]),
        torch.tensor([[1] * 8, [1, 1, 0, 0, 0, 0, 0, 0]]).bool(),
    )
    assert tree.tokens == 8
    hidden = tree.read(torch.tensor([[40], [41]]))
    for row, path in enumerate([[*prompts[0], 20, 21, 40], [*prompts[1], 41]]):
        torch.testing.assert_close(hidden[row, -1], alone(model, path)[-1], atol=2e-5, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["llama", "gemma3", "gpt2"]),
    steps=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_what_is_forgotten_leaves_no_trace(name, steps, seed):
    """Drafts of some tokens of which some are kept, step by step, against the kept tokens read at once."""
    draw = torch.Generator().manual_seed(seed)
    model, kept = load(name), torch.randint(1, 50, (1, 3), generator=draw)
    with torch.no_grad():
        tree = TreeAttention(model)
        tree.read(kept)
        for count, accepted in steps:
            draft = torch.randint(1, 50, (1, count), generator=draw)
            tree.read(draft)
            kept = torch.cat([kept, draft[:, :accepted]], 1)
            tree.keep(torch.arange(kept.shape[1])[None])
        last = tree.read(torch.tensor([[7]]))[0, -1]
        expected = alone(model, [*kept[0].tolist(), 7])[-1]
    torch.testing.assert_close(last, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_cropping_keeps_the_first_tokens(name):
    model, ids = load(name), torch.tensor([[0, 11, 12, 13, 14], [21, 22, 23, 24, 25]])
    hidden = []
    for kept in (lambda tree: tree.crop(3), lambda tree: tree.keep(torch.arange(3).expand(2, -1))):
        tree = TreeAttention(model)
        tree.read(ids, real=ids > 0)
        kept(tree)
        assert tree.tokens == 3
        assert tree.positions.tolist() == [[0, 0, 1], [0, 1, 2]]
        hidden.append(tree.read(torch.tensor([[7], [8]])))
    torch.testing.assert_close(*hidden)


@torch.no_grad()
def test_embeddings_stand_in_the_place_of_tokens():
    model = load("llama")
    ids = torch.tensor([[1, 2, 3]])
    embedded = TreeAttention(model).read(model.get_input_embeddings()(ids))
    torch.testing.assert_close(embedded, TreeAttention(model).read(ids))


def test_half_precision_attends_as_told_too():
    assert attends_as_told(load("gemma3", dtype=torch.bfloat16))


RECURRENT = {
    "state-space": transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4),
    "linear-attention": transformers.Qwen3NextConfig(
        **GLU, head_dim=8, layer_types=["linear_attention", "full_attention", "full_attention"], num_experts=0,
        linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers_are_refused_by_name(kind):
    model = transformers.AutoModelForCausalLM.from_config(RECURRENT[kind]).eval()
    words = rf"{type(model).__name__} \({type(model).__name__}\) has linear-attention or state-space layers, whose state cannot be taken back"
    with pytest.raises(UserError, match=words):
        TreeAttention(model)
    with pytest.raises(UserError, match=words):
        require_tree_attention(model)
    assert not attends_as_told(model)


def test_a_model_that_attends_otherwise_than_told_is_refused():
    bloom = transformers.BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2)
    model = transformers.AutoModelForCausalLM.from_config(bloom).eval()
    with pytest.raises(UserError, match=r"BloomForCausalLM\) does not attend as it is told to"):
        require_tree_attention(model)
    require_tree_attention(load("llama"))


def test_a_model_that_overlooks_its_mask_is_found_out(monkeypatch):
    model = tiny.llama(initializer_range=0.5)
    forward = model.model.forward
    monkeypatch.setattr(
        model.model,
        "forward",
        lambda *args, **options: forward(*args, **(options | {"attention_mask": None})),
    )
    assert not attends_as_told(model)


def test_flash_attention_is_refused_by_name(monkeypatch):
    model = load("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(
        UserError,
        match=r"runs flash attention, which takes no mask .* load it with attn_implementation='sdpa'",
    ):
        require_tree_attention(model)
