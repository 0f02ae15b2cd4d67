"""Gradients in bfloat16: summed and scaled in float32, whatever the number of chunks."""

import pytest
import torch
from torch import nn

from tokenry.core.tensors.losses import OutputHead, weighted_cross_entropy

VOCABULARY, DIM = 64, 8


def _gradients(dtype: torch.dtype, chunk_elements: int = 1 << 20, divisor: float = 1.0):
    torch.manual_seed(0)
    weight = torch.randn(VOCABULARY, DIM).to(torch.bfloat16)
    hidden_states = torch.randn(2, 9, DIM).to(torch.bfloat16).to(dtype).requires_grad_()
    head = OutputHead(nn.Linear(DIM, VOCABULARY, bias=False, dtype=dtype), VOCABULARY)
    head.module.weight.data = weight.to(dtype)
    labels = torch.randint(0, VOCABULARY, (2, 9))
    weights = torch.ones(2, 9)
    weights[:, 0] = 0
    total, _ = weighted_cross_entropy(hidden_states, labels, weights, head, chunk_elements=chunk_elements)
    (total / divisor).backward()
    return hidden_states.grad, head.module.weight.grad


@pytest.mark.parametrize("chunk_elements", [1 << 20, 5 * VOCABULARY, VOCABULARY])
def test_gradients_in_bfloat16_are_those_of_float32_to_its_precision(chunk_elements):
    exact = _gradients(torch.float32)
    for gradient, wanted in zip(_gradients(torch.bfloat16, chunk_elements), exact, strict=True):
        error = torch.linalg.vector_norm(gradient.float() - wanted) / torch.linalg.vector_norm(wanted)
        assert float(error) < 2**-7


def test_the_divisor_of_the_loss_is_not_rounded_to_bfloat16():
    # 1 / 292 is 0.2 % away from the nearest bfloat16: rounded first, every element would be off by that much.
    whole, parts = _gradients(torch.bfloat16), _gradients(torch.bfloat16, divisor=292.0)
    for gradient, part in zip(whole, parts, strict=True):
        torch.testing.assert_close(part, (gradient.float() / 292.0).to(torch.bfloat16), rtol=0, atol=0)


def test_tokens_without_weight_leave_a_gradient_of_zeros_on_the_head():
    head = OutputHead(nn.Linear(DIM, VOCABULARY, bias=False), VOCABULARY)
    total, _ = weighted_cross_entropy(
        torch.randn(1, 4, DIM), torch.ones(1, 4, dtype=torch.long), torch.zeros(1, 4), head
    )
    total.backward()
    assert torch.equal(head.module.weight.grad, torch.zeros(VOCABULARY, DIM))
