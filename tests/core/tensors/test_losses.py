"""Per-token losses from hidden states against full logits, and the authors' numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.golden import golden
from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import check_labels, learnable_tokens, segment_ids
from tokenry.core.tensors.losses import (
    OutputHead,
    backbone,
    causal_lm,
    check_output_head,
    output_head,
    row_entropy,
    row_nll,
    token_nll,
    weighted_cross_entropy,
    weighted_loss,
)

GOLDEN = golden("01-sstoken")


def _head(
    vocabulary: int = 50, dim: int = 8, bias: bool = False, dtype: torch.dtype = torch.float64, **options
):
    torch.manual_seed(0)
    return OutputHead(nn.Linear(dim, vocabulary, bias=bias, dtype=dtype), vocabulary, **options)


def _identity_head(vocabulary: int) -> OutputHead:
    module = nn.Linear(vocabulary, vocabulary, bias=False, dtype=torch.float64)
    module.weight.data = torch.eye(vocabulary, dtype=torch.float64)
    return OutputHead(module, vocabulary)


def _batch(dtype: torch.dtype = torch.float64):
    torch.manual_seed(1)
    hidden = torch.randn(3, 7, 8, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 50, (3, 7))
    weights = torch.rand(3, 7, dtype=torch.float32) * (torch.rand(3, 7) > 0.4)
    weights[:, 0] = 0
    return hidden, labels, weights


def _reference_loss(hidden, labels, weights, head):
    logits = head.logits(hidden[:, :-1].reshape(-1, hidden.shape[-1]))
    nll = cross_entropy(logits, labels[:, 1:].reshape(-1), reduction="none")
    return (nll * weights[:, 1:].reshape(-1)).sum()


def test_row_nll_equals_cross_entropy_for_every_chunk_size():
    head, rows, targets = _head(), torch.randn(11, 8, dtype=torch.float64), torch.randint(0, 50, (11,))
    expected = cross_entropy(head.module(rows), targets, reduction="none")
    for chunk in (1, 120, 10_000):
        torch.testing.assert_close(row_nll(rows, targets, head, chunk_elements=chunk), expected)


def test_row_entropy_equals_the_entropy_of_the_softmax():
    head, rows = _head(), torch.randn(5, 8, dtype=torch.float64)
    expected = torch.distributions.Categorical(logits=head.module(rows)).entropy()
    torch.testing.assert_close(row_entropy(rows, head, chunk_elements=60), expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_weighted_cross_entropy_has_the_loss_and_gradients_of_full_logits(bias, scale, softcap):
    head = _head(bias=bias, scale=scale, softcap=softcap)
    hidden, labels, weights = _batch()
    _reference_loss(hidden, labels, weights, head).backward()
    expected = [hidden.grad.clone(), *(parameter.grad.clone() for parameter in head.module.parameters())]
    hidden.grad = None
    head.module.zero_grad()
    total, _ = weighted_cross_entropy(hidden, labels, weights, head, chunk_elements=150)
    total.backward()
    measured = [hidden.grad, *(parameter.grad for parameter in head.module.parameters())]
    for gradient, wanted in zip(measured, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_a_head_that_is_not_a_plain_matrix_has_the_same_gradients():
    class Adapted(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.extra = base, nn.Parameter(torch.randn(50, 8, dtype=torch.float64))

        def forward(self, rows):
            return self.base(rows) + rows @ self.extra.t()

    head = OutputHead(Adapted(_head().module), 50, softcap=5.0)
    hidden, labels, weights = _batch()
    expected = torch.autograd.grad(
        _reference_loss(hidden, labels, weights, head), [hidden, head.module.extra]
    )
    total, _ = weighted_cross_entropy(hidden, labels, weights, head, chunk_elements=150)
    for gradient, wanted in zip(
        torch.autograd.grad(total, [hidden, head.module.extra]), expected, strict=True
    ):
        torch.testing.assert_close(gradient, wanted)


def test_a_frozen_head_still_passes_gradients_to_the_hidden_states():
    head = _head()
    head.module.weight.requires_grad_(False)
    hidden, labels, weights = _batch()
    expected = torch.autograd.grad(_reference_loss(hidden, labels, weights, head), hidden)[0]
    total, _ = weighted_cross_entropy(hidden, labels, weights, head)
    torch.testing.assert_close(torch.autograd.grad(total, hidden)[0], expected)


def test_zero_weights_everywhere_give_a_zero_loss_with_a_graph():
    hidden, labels, weights = _batch()
    total, nll = weighted_cross_entropy(hidden, labels, torch.zeros_like(weights), _head())
    total.backward()
    assert float(total) == 0.0
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))
    assert nll.isnan().all()


def test_losses_are_float32_when_the_model_runs_in_bfloat16():
    head, (hidden, labels, weights) = _head(dtype=torch.bfloat16), _batch(torch.bfloat16)
    total, nll = weighted_cross_entropy(hidden, labels, weights, head)
    total.backward()
    assert total.dtype == nll.dtype == torch.float32
    assert hidden.grad.dtype == head.module.weight.grad.dtype == torch.bfloat16


def test_autocast_changes_the_product_but_not_the_dtype_of_the_loss():
    head, (hidden, labels, weights) = _head(dtype=torch.float32), _batch(torch.float32)
    exact, _ = weighted_cross_entropy(hidden, labels, weights, head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = weighted_cross_entropy(hidden, labels, weights, head)
    total.backward()
    assert total.dtype == hidden.grad.dtype == torch.float32
    torch.testing.assert_close(total, exact, rtol=2e-2, atol=0)


@settings(deadline=None, max_examples=30)
@given(left=st.integers(0, 4), right=st.integers(0, 4))
def test_padding_on_either_side_never_changes_a_loss(left, right):
    head = _head()
    hidden, labels, _ = _batch()
    segments = segment_ids(labels)
    plain = token_nll(hidden, labels, head, learnable_tokens(labels, segments))
    padded_hidden = nn.functional.pad(hidden, (0, 0, left, right), value=9.0)
    padded_labels = nn.functional.pad(labels, (left, right), value=3)
    mask = nn.functional.pad(torch.ones_like(labels), (left, right))
    tokens = learnable_tokens(padded_labels, segment_ids(padded_labels, mask))
    padded = token_nll(padded_hidden, padded_labels, head, tokens)
    torch.testing.assert_close(padded[:, left : left + 7], plain, equal_nan=True)


def test_the_head_of_a_soft_capped_model_is_explained():
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=2.0,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    check_output_head(model)
    assert output_head(model).softcap == 2.0


def _llama_whose_logits(change):
    class Changed(LlamaForCausalLM):
        def forward(self, input_ids, *args, **kwargs):
            output = super().forward(input_ids, *args, **kwargs)
            output.logits = change(output.logits, input_ids)
            return output

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return Changed(config)


def test_logits_that_are_changed_in_an_unknown_way_are_the_models_own():
    model = _llama_whose_logits(lambda logits, _: (logits * 2 + 1).sin())
    check_output_head(model)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    found = output_head(model).logits(backbone(model)(input_ids=ids).last_hidden_state[0])
    torch.testing.assert_close(found, model(ids).logits[0])


def test_a_soft_cap_of_an_unknown_name_is_seen_where_it_hardly_bends():
    model = _llama_whose_logits(lambda logits, _: torch.tanh(logits / 30) * 30)
    check_output_head(model)
    rows = torch.randn(3, 16) * 100
    assert float(output_head(model).logits(rows).abs().max()) <= 30


@pytest.mark.parametrize(
    "change",
    [
        lambda logits, ids: logits + nn.functional.one_hot(ids, 40),
        lambda logits, ids: logits * torch.arange(1, ids.shape[1] + 1)[:, None],
        lambda logits, ids: logits.cumsum(1),
    ],
    ids=["the tokens themselves", "their places", "the tokens before"],
)
def test_logits_that_take_more_than_a_hidden_state_are_refused(change):
    with pytest.raises(UserError, match="computes its logits in a way that tokenry does not know"):
        check_output_head(_llama_whose_logits(change))


def test_a_model_without_a_head_is_refused():
    with pytest.raises(UserError, match="has no output head"):
        causal_lm(nn.Linear(2, 2))


def test_labels_of_another_shape_or_vocabulary_are_refused():
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(UserError, match=r"labels have shape \(1, 3\) but input_ids \(1, 4\)"):
        check_labels(ids, ids[:, :3], 10)
    with pytest.raises(UserError, match="label 10 is not in the vocabulary of 10 tokens"):
        check_labels(ids, ids + 10, 10)


@pytest.mark.parametrize(
    "options", [{}, {"scale": 0.3}, {"softcap": 2.0}, {"bias": True}, {"bias": True, "scale": 2.0}]
)
@pytest.mark.parametrize("trained", ["all", "head", "through_the_module"])
def test_entropy_and_accuracy_are_those_of_full_logits(options, trained):
    head, (hidden, labels, weights) = _head(**options), _batch()
    if trained == "head":
        hidden = hidden.detach()
    elif trained == "through_the_module":
        plain = head.module.forward
        head.module.forward = lambda rows: plain(rows)
    logits = torch.full((3, 7, 50), float("nan"), dtype=torch.float64)
    logits[:, 1:] = head.logits(hidden[:, :-1].reshape(-1, 8)).detach().view(3, 6, 50)
    labels = torch.where(torch.rand(3, 7) > 0.5, logits.nan_to_num().argmax(-1), labels)
    loss = weighted_loss(hidden, labels, weights, head, chunk_elements=150)
    log_p, tokens = logits.log_softmax(-1), weights != 0
    expected = (-(log_p.exp() * log_p).sum(-1), (logits.nan_to_num().argmax(-1) == labels).double())
    for told, right in zip((loss.entropy, loss.accuracy), expected, strict=True):
        torch.testing.assert_close(told[tokens], right[tokens], rtol=1e-6, atol=1e-6)
        assert bool(told[~tokens].isnan().all())
    assert 0 < float(loss.accuracy[tokens].mean()) < 1


def test_golden_token_losses_of_single_samples():
    data = np.load(GOLDEN / "dev-select-single.npz")
    for case in range(int(data["n_cases"])):
        logits = torch.tensor(data[f"c{case}_logits"])[None]
        labels = torch.tensor(data[f"c{case}_labels"]).long()[None]
        expected = torch.tensor(data[f"c{case}_token_loss"])
        tokens = learnable_tokens(labels, segment_ids(labels))
        nll = token_nll(logits, labels, _identity_head(logits.shape[-1]), tokens)[0]
        torch.testing.assert_close(nll[tokens[0]], expected[tokens[0]], rtol=1e-9, atol=1e-12)


def test_golden_gradient_of_the_training_loss():
    data = np.load(GOLDEN / "dev-batch.npz")
    logits = torch.tensor(data["logits"], requires_grad=True)
    kept = torch.tensor(data["new_labels"]).long()
    weights = (kept != -100).double()
    total, _ = weighted_cross_entropy(logits, kept, weights, _identity_head(logits.shape[-1]))
    loss = total / weights.sum()
    loss.backward()
    torch.testing.assert_close(loss.item(), float(data["loss_token_mean"]), rtol=1e-9, atol=0)
    torch.testing.assert_close(logits.grad, torch.tensor(data["grad_logits"]), rtol=1e-9, atol=1e-12)
