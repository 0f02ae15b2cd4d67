"""Row losses: any loss of single rows, in one pass with the head, against autograd on full logits."""

import pytest
import torch
from torch import nn

from tokenry.core.tensors.alignment import predicting_rows
from tokenry.core.tensors.losses import OutputHead, row_entropy, weighted_loss
from tokenry.core.tensors.row_losses import RowLosses, cross_entropy, normalise

VOCABULARY, DIM = 50, 8


def own_probability(logits, targets, *, entropy):
    """−p · log p with p held constant: a multiple of cross-entropy."""
    values = cross_entropy(logits, targets, entropy=entropy)
    probability = (-values.nll).exp()
    logits *= probability[:, None]
    return values._replace(loss=probability * values.nll, slope=probability)


def square(logits, targets, *, entropy):
    """½ Σ (p − onehot)²: its gradient is no multiple of that of the NLL."""
    nll, is_best, normaliser = normalise(logits, targets)
    logits /= normaliser[:, None]
    entropies = torch.special.entr(logits).sum(-1)
    probabilities = logits.clone()
    logits[torch.arange(len(targets)), targets] -= 1
    loss = logits.square().sum(-1) / 2
    logits -= (logits * probabilities).sum(-1, keepdim=True)
    logits *= probabilities
    return RowLosses(loss, nll, is_best, entropies)


def _by_autograd(row_loss, logits, targets):
    log_p = logits.log_softmax(-1)
    nll = -log_p.gather(-1, targets[:, None])[:, 0]
    if row_loss is cross_entropy:
        return nll
    if row_loss is own_probability:
        return (-nll).exp().detach() * nll
    onehot = nn.functional.one_hot(targets, logits.shape[-1])
    return (log_p.exp() - onehot).square().sum(-1) / 2


def _head(kind: str, **options) -> OutputHead:
    torch.manual_seed(0)
    module = nn.Linear(DIM, VOCABULARY, bias=kind == "bias", dtype=torch.float64)
    if kind == "module":
        matrix = module.forward
        module.forward = lambda rows: matrix(rows)  # no longer a plain matrix
    return OutputHead(module, VOCABULARY, **options)


def _batch():
    torch.manual_seed(1)
    hidden = torch.randn(3, 7, DIM, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(3, 7) * (torch.rand(3, 7) > 0.4)
    weights[:, 0] = 0
    return hidden, torch.randint(0, VOCABULARY, (3, 7)), weights


@pytest.mark.parametrize("row_loss", [cross_entropy, own_probability, square])
@pytest.mark.parametrize("kind", ["matrix", "bias", "module"])
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.7}, {"softcap": 2.0}, {"scale": 1.5, "softcap": 2.0, "temperature": 1.7}],
)
def test_every_row_loss_has_the_gradients_of_autograd_through_every_head(row_loss, kind, options):
    head, (hidden, labels, weights) = _head(kind, **options), _batch()
    tokens = weights != 0
    logits = head.logits(predicting_rows(hidden, tokens))
    expected = (_by_autograd(row_loss, logits, labels[tokens]) * weights[tokens]).sum()
    inputs = [hidden, *head.module.parameters()]
    wanted = torch.autograd.grad(expected, inputs)
    loss = weighted_loss(hidden, labels, weights, head, row_loss=row_loss, chunk_elements=4 * VOCABULARY)
    torch.testing.assert_close(loss.total, expected)
    for gradient, right in zip(torch.autograd.grad(loss.total, inputs), wanted, strict=True):
        torch.testing.assert_close(gradient, right)
    rows = predicting_rows(hidden, tokens).detach()
    torch.testing.assert_close(loss.entropy[tokens], row_entropy(rows, head), rtol=1e-6, atol=1e-6)


def test_the_temperature_divides_after_the_soft_cap():
    rows = 10 * torch.randn(4, DIM, dtype=torch.float64)
    capped = _head("matrix", softcap=3.0).logits(rows)
    for kind in ("matrix", "module"):
        head = _head(kind, softcap=3.0, temperature=0.5)
        torch.testing.assert_close(head.logits(rows), capped / 0.5)
        torch.testing.assert_close(head.scratch_logits(rows), capped / 0.5)


@pytest.mark.parametrize("kind", ["bias", "module"])
def test_a_token_that_is_ruled_out_leaves_no_nan(kind):
    head, (hidden, labels, weights) = _head("bias"), _batch()
    with torch.no_grad():
        head.module.bias[7] = -torch.inf
    if kind == "module":
        matrix = head.module.forward
        head.module.forward = lambda rows: matrix(rows)
    labels[labels == 7] = 8
    loss = weighted_loss(hidden, labels, weights, head)
    loss.total.backward()
    assert all(bool(value[weights != 0].isfinite().all()) for value in loss[1:])
    assert bool(hidden.grad.isfinite().all())
    assert bool(row_entropy(hidden.detach()[0], head).isfinite().all())
