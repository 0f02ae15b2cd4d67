"""What must hold for the attention mass of any batch: padding, order of the batch and the sum over all columns."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from tokenry.core.tensors.attention import attention_mass, prompt_attention_mass, resolve_layers

SIZE = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _model(config, implementation):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


MODELS = [
    _model(LlamaConfig(**SIZE), "sdpa"),
    _model(LlamaConfig(**SIZE), "eager"),
    _model(Gemma3TextConfig(**SIZE, sliding_window=3), "sdpa"),
]


@st.composite
def batches(draw):
    """Samples of different lengths: token ids, and two sets of columns for each."""
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    ids = [torch.randint(3, 30, (length,), generator=generator) for length in lengths]
    return ids, [torch.rand(2, length, generator=generator) < 0.5 for length in lengths]


def _padded(tensor: torch.Tensor, left: int, seq: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (left, seq - left - tensor.shape[-1]))


def _read(model, ids, columns, lefts, seq):
    """The mass of the real rows of each sample, when it stands `left` positions from the start of a row of `seq`."""
    stack = [
        torch.stack([_padded(x, left, seq) for x, left in zip(xs, lefts, strict=True)])
        for xs in (ids, columns)
    ]
    mask = stack[0] != 0
    with attention_mass(model, [0, -1], stack[1]) as mass, torch.no_grad():
        model(
            stack[0],
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        )
    return [
        torch.stack([layer[i, :, left : left + len(x)] for layer in mass.by_layer.values()])
        for i, (x, left) in enumerate(zip(ids, lefts, strict=True))
    ]


@settings(max_examples=40, deadline=None)
@given(batch=batches(), model=st.sampled_from(MODELS), data=st.data())
def test_padding_never_changes_the_mass_of_real_rows(batch, model, data):
    ids, columns = batch
    seq = max(map(len, ids)) + data.draw(st.integers(0, 4), label="extra")
    lefts = [data.draw(st.integers(0, seq - len(x)), label="left") for x in ids]
    together = _read(model, ids, columns, lefts, seq)
    for i, mass in enumerate(together):
        (alone,) = _read(model, ids[i : i + 1], columns[i : i + 1], [0], len(ids[i]))
        torch.testing.assert_close(mass, alone, atol=5e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(batch=batches(), model=st.sampled_from(MODELS))
def test_every_row_pays_a_total_mass_of_one(batch, model):
    ids, columns = batch
    everything = [torch.ones_like(sets) for sets in columns]
    seq = max(map(len, ids))
    for mass in _read(model, ids, everything, [0] * len(ids), seq):
        torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(batch=batches(), model=st.sampled_from(MODELS))
def test_the_order_of_the_batch_does_not_matter(batch, model):
    ids, columns = batch
    seq = max(map(len, ids))
    forward = _read(model, ids, columns, [0] * len(ids), seq)
    backward = _read(model, ids[::-1], columns[::-1], [0] * len(ids), seq)
    for mass, other in zip(forward, backward[::-1], strict=True):
        torch.testing.assert_close(mass, other, atol=5e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999), seq=st.integers(1, 9), groups=st.sampled_from([1, 2, 4]), segments=st.booleans()
)
def test_mass_from_queries_and_keys_is_the_sum_of_the_softmax(seed, seq, groups, segments):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 4, seq, 6, generator=generator, dtype=torch.float64)
    k = torch.randn(2, 4 // groups, seq, 6, generator=generator, dtype=torch.float64)
    prompt = torch.rand(2, seq, generator=generator) < 0.5
    ids = (
        (torch.rand(2, seq, generator=generator) < 0.3).long().cumsum(1)
        if segments
        else torch.zeros(2, seq).long()
    )
    visible = (ids[:, :, None] == ids[:, None, :]).tril()
    logits = q @ k.repeat_interleave(groups, dim=1).mT / 6**0.5
    weights = logits.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
    expected = (weights * prompt[:, None, None, :]).sum(-1).mean(1).masked_fill(prompt, torch.nan)
    mass = prompt_attention_mass(q, k, prompt, segment_ids=ids if segments else None)
    torch.testing.assert_close(mass, expected, atol=1e-12, rtol=1e-12, equal_nan=True)


@given(total=st.integers(1, 100))
def test_the_deep_layers_are_the_last_third_rounded_up(total):
    deep = resolve_layers("deep", total)
    assert 3 * len(deep) >= total > 3 * (len(deep) - 1)
    assert deep == tuple(range(total))[-len(deep) :]
