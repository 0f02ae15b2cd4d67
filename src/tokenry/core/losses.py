"""Per-token NLL, entropy and weighted cross-entropy from hidden states, never holding logits beyond a chunk of rows.

Two passes: score without a graph (`row_nll`), choose, then form loss and gradients of the chosen rows only
(`weighted_cross_entropy`, gradients in the forward, so nothing of size rows × vocabulary waits for the backward):

    nll[t]  = logsumexp(logits[t - 1]) − logits[t - 1, labels[t]]
    loss    = Σ weights[t] · nll[t]
    logits  = softcap · tanh(scale · (hidden @ weight.T + bias) / softcap)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tokenry.core.alignment import at_tokens, predicting_rows
from tokenry.core.errors import UserError

# 16 million logits (64 MB in float32) are enough to keep every matrix product busy on CPU and GPU alike.
CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class OutputHead:
    """The map from hidden states to logits of one causal language model.

    `module` maps a row of hidden states to raw logits, which are then multiplied by `scale` and soft-capped.
    """

    module: nn.Module
    vocabulary: int
    scale: float = 1.0
    softcap: float | None = None

    @cached_property
    def linear(self) -> nn.Linear | None:
        """The module itself where it is a plain matrix: the gradients then need no autograd.

        An adapter on the head, a quantised or an offloaded head keeps its own forward instead.
        """
        # Not the type: fully_shard makes a subclass, and offloading hooks replace the forward of the instance.
        plain = getattr(self.module.forward, "__func__", None) is nn.Linear.forward
        known = plain and type(self.module.weight) in (nn.Parameter, Tensor, DTensor)
        return self.module if known else None  # type: ignore[return-value]

    def logits(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocabulary"]:
        """Compute the logits of `rows`, in float32 (float64 for a float64 model)."""
        raw: Tensor = self.module(rows)
        logits = raw.to(_accumulation_dtype(raw.dtype))
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """Find the transformers causal language model inside PEFT, DDP and other wrappers.

    Raises:
        UserError: there is no model with an output head.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None:
            return module
    raise UserError(
        f"{type(model).__name__} has no output head: a causal language model (AutoModelForCausalLM) is needed."
    )


def output_head(model: nn.Module) -> OutputHead:
    """Read how a transformers causal language model makes logits: head, scale and soft-cap.

    Scales go by several names: `logit_scale` (Cohere), `logits_scaling` (Granite, divides), `lm_head_multiplier` (Falcon-H1).

    Raises:
        UserError: the model has no output head.
    """
    inner = causal_lm(model)
    config = inner.config.get_text_config()
    scale = 1.0
    for name, power in (("logit_scale", 1), ("lm_head_multiplier", 1), ("logits_scaling", -1)):
        value = getattr(config, name, None)
        if value is not None:
            scale *= float(value) ** power
    head = inner.get_output_embeddings()
    return OutputHead(
        module=head,
        vocabulary=config.vocab_size,
        scale=scale,
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def check_output_head(model: nn.Module) -> None:
    """Compare the logits that `output_head` explains with the model's own, on a few tokens.

    A model whose forward does more than head, scale and soft-cap would otherwise be trained on the wrong loss in silence.

    Raises:
        UserError: the two differ, or are not finite.
    """
    inner = causal_lm(model)
    head = output_head(inner)
    device = next(inner.parameters()).device
    ids = torch.arange(1, 5, device=device).clamp(max=head.vocabulary - 1)[None]
    training = inner.training
    inner.eval()
    with torch.no_grad():
        expected = inner(input_ids=ids, use_cache=False).logits[0]
        hidden = inner.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        explained = head.logits(hidden)[:, : expected.shape[-1]]
    inner.train(training)
    if not bool(torch.isfinite(expected).all()):
        raise UserError(
            f"the logits of {type(inner).__name__} are not finite on four tokens: its weights are damaged, load another copy."
        )
    largest = expected.float().abs().max()
    if not torch.allclose(
        explained.to(expected.dtype), expected, atol=1e-2 * float(largest) + 1e-6, rtol=1e-2
    ):
        raise UserError(
            f"{type(inner).__name__} computes its logits in a way that tokenry does not know (not head, scale and "
            "soft-cap): per-token losses would be wrong, so this model cannot be used."
        )


def row_nll(
    rows: Float[Tensor, "rows dim"],
    targets: Int[Tensor, "rows"],
    head: OutputHead,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Float[Tensor, "rows"]:
    """Compute −log p(target) of every row in nats, without a graph, in float32."""
    nll = torch.empty(targets.shape, dtype=_accumulation_dtype(rows.dtype), device=rows.device)

    def score(rows: Tensor) -> Tensor:
        for part in _chunks(rows.shape[0], head.vocabulary, chunk_elements):
            nll[part], _ = _nll_of_logits(_logits(rows[part], head), targets[part])
        return nll

    with torch.no_grad():
        _as_forward(head, rows, score)
    return nll


def row_entropy(
    rows: Float[Tensor, "rows dim"], head: OutputHead, *, chunk_elements: int = CHUNK_ELEMENTS
) -> Float[Tensor, "rows"]:
    """Compute the entropy of the predicted distribution of every row in nats, without a graph, in float32."""
    entropy = torch.empty(rows.shape[:1], dtype=_accumulation_dtype(rows.dtype), device=rows.device)

    def score(rows: Tensor) -> Tensor:
        for part in _chunks(rows.shape[0], head.vocabulary, chunk_elements):
            log_probabilities = _logits(rows[part], head).log_softmax(-1)
            entropy[part] = -(log_probabilities.exp() * log_probabilities).sum(-1)
        return entropy

    with torch.no_grad():
        _as_forward(head, rows, score)
    return entropy


def token_nll(
    hidden_states: Float[Tensor, "batch seq dim"],
    labels: Int[Tensor, "batch seq"],
    head: OutputHead,
    tokens: Bool[Tensor, "batch seq"],
) -> Float[Tensor, "batch seq"]:
    """Compute the NLL of `tokens` in nats, aligned to them; nan elsewhere. Only the rows that predict them meet the head."""
    return at_tokens(row_nll(predicting_rows(hidden_states, tokens), labels[tokens], head), tokens)


def token_entropy(
    hidden_states: Float[Tensor, "batch seq dim"], head: OutputHead, tokens: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Compute the entropy in nats of the distributions that predict `tokens`, aligned to them; nan elsewhere."""
    return at_tokens(row_entropy(predicting_rows(hidden_states, tokens), head), tokens)


class WeightedLoss(NamedTuple):
    """A weighted loss, and what the logits behind it say: nan where no weight is.

    Attributes:
        total: Σ weights[t] · nll[t], with gradients (0 with a graph when every weight is zero).
        nll: of the weighted tokens, in nats.
        entropy: of the distributions that predict them, in nats.
        accuracy: 1 where no token has a higher logit than the label, 0 elsewhere.
    """

    total: Float[Tensor, ""]
    nll: Float[Tensor, "batch seq"]
    entropy: Float[Tensor, "batch seq"]
    accuracy: Float[Tensor, "batch seq"]


def weighted_cross_entropy(
    hidden_states: Float[Tensor, "batch seq dim"],
    labels: Int[Tensor, "batch seq"],
    weights: Float[Tensor, "batch seq"],
    head: OutputHead,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch seq"]]:
    """Sum weights[t] · nll[t] over the tokens with a non-zero weight, with gradients; the others never meet the head.

    Returns:
        The sum (0 with a graph when every weight is zero), and the NLL of the weighted tokens in nats (nan elsewhere).
    """
    loss = weighted_loss(hidden_states, labels, weights, head, chunk_elements=chunk_elements)
    return loss.total, loss.nll


def weighted_loss(
    hidden_states: Float[Tensor, "batch seq dim"],
    labels: Int[Tensor, "batch seq"],
    weights: Float[Tensor, "batch seq"],
    head: OutputHead,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> WeightedLoss:
    """The loss of `weighted_cross_entropy`, with the entropy and the accuracy that its logits tell at no further cost.

    Where the head is a plain matrix, the entropy needs no pass over the vocabulary: with E the mean over the predicted
    distribution, and the gradient that the row h gets (before its weight),

        entropy = nll − (E[logits] − logits[label])        E[logits] − logits[label] = h · ∂nll/∂h
    """
    tokens = weights != 0
    rows = predicting_rows(hidden_states, tokens)
    targets, row_weights = labels[tokens], weights[tokens]
    linear = head.linear
    if linear is None:
        total, *told = _through_module(rows, targets, row_weights, head, chunk_elements)
    else:
        scale, softcap = head.scale, head.softcap
        told = []

        def loss(rows: Tensor) -> Tensor:
            total, *told[:] = _FusedCrossEntropy.apply(
                rows, linear.weight, linear.bias, targets, row_weights, scale, softcap, chunk_elements
            )
            return total

        total = _as_forward(head, rows, loss)
    if not targets.numel():
        total = total + hidden_states.sum() * 0.0
    return WeightedLoss(total, *(at_tokens(values.detach(), tokens) for values in told))


def _as_forward(head: OutputHead, rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Run `compute(rows)`, in the place of the head's own forward where its matrix is sharded (a unit of FSDP2, ZeRO-3).

    The hooks around that forward gather the matrix: once, and on every rank alike, however many chunks a rank needs.
    """
    linear = head.linear
    if linear is None or (type(linear.weight) is not DTensor and linear.weight.numel()):
        return compute(rows)
    linear.forward = compute  # type: ignore[assignment, method-assign]
    try:
        return linear(rows)
    finally:
        del linear.forward


def _through_module(
    rows: Tensor, targets: Tensor, weights: Tensor, head: OutputHead, chunk_elements: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted cross-entropy through the head's own forward, recomputing each chunk of logits in the backward."""

    def of_chunk(chunk: Tensor, chunk_targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_probabilities = head.logits(chunk).log_softmax(-1)
        nll = -log_probabilities.gather(-1, chunk_targets[:, None])[:, 0]
        with torch.no_grad():
            entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
            accuracy = (-nll >= log_probabilities.amax(-1)).to(nll.dtype)
        return nll, entropy, accuracy

    parts = list(_chunks(rows.shape[0], head.vocabulary, chunk_elements)) or [slice(0, 0)]
    chunks = [checkpoint(of_chunk, rows[part], targets[part], use_reentrant=False) for part in parts]
    nll, entropy, accuracy = (torch.cat(values) for values in zip(*chunks, strict=True))
    return (nll * weights).sum(), nll, entropy, accuracy


class _FusedCrossEntropy(torch.autograd.Function):
    """Loss and gradients of a linear head chunk by chunk in one go: three matrix products per row and none in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        scale: float,
        softcap: float | None,
        chunk_elements: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        accumulate = _accumulation_dtype(rows.dtype)
        matrix = _matmul_operand(weight)
        grad_rows = torch.empty_like(rows) if rows.requires_grad else None
        grad_weight = None
        grad_bias = (
            torch.zeros_like(bias, dtype=accumulate) if bias is not None and bias.requires_grad else None
        )
        nll, entropy, accuracy = torch.empty(3, *targets.shape, dtype=accumulate, device=rows.device)
        for part in list(_chunks(rows.shape[0], weight.shape[0], chunk_elements)) or [slice(0, 0)]:
            chunk = rows[part].to(matrix.dtype)
            logits = _linear_logits(chunk, matrix, bias, scale, softcap)
            slope = None if softcap is None else 1 - (logits / softcap).square()
            nll[part], accuracy[part] = _nll_of_logits(logits, targets[part], keep_probabilities=True)
            by_gradient = softcap is None and bias is None and grad_rows is not None
            if not by_gradient:
                entropy[part] = torch.special.entr(logits).sum(-1)
            gradient = logits
            gradient[torch.arange(chunk.shape[0], device=rows.device), targets[part]] -= 1
            gradient *= (weights[part] * scale)[:, None]
            if slope is not None:
                gradient *= slope
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
            gradient = gradient.to(matrix.dtype)
            if grad_rows is not None:
                grad_rows[part] = torch.mm(gradient, matrix)
                if by_gradient:
                    above = (chunk.to(accumulate) * grad_rows[part].to(accumulate)).sum(-1) / weights[part]
                    entropy[part] = nll[part] - above
            if weight.requires_grad:
                grad_weight = _add_product(grad_weight, gradient.t(), chunk, accumulate)
        ctx.gradients = (grad_rows, grad_weight, grad_bias)
        ctx.dtypes = (rows.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(nll, entropy, accuracy)
        return (weights * nll).sum(), nll, entropy, accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "weighted_cross_entropy forms its gradients once: backward was called a second time."
            )
        scaled = [
            None if gradient is None else _scaled(gradient, grad_total, dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        ctx.gradients = None
        return (*scaled, None, None, None, None, None)


def _add_product(total: Tensor | None, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Add `left @ right` to `total`, summing in `dtype`; a single product is its own sum, so nothing is filled or converted."""
    if total is None:
        return torch.mm(left, right)
    if left.dtype == dtype:
        return total.addmm_(left, right)
    return total.to(dtype).add_(torch.mm(left, right))


def _scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`gradient` times a scalar tensor, in `dtype`, rounded once: the factor is not rounded to half precision first."""
    gradient = gradient.to(torch.promote_types(gradient.dtype, dtype))
    # Devices other than the CPU round a scalar tensor to the dtype of what it multiplies; a vector promotes that instead.
    exact = gradient.dtype == factor.dtype or gradient.is_cpu
    return (gradient.mul_(factor) if exact else gradient * factor.reshape(1)).to(dtype)


def _logits(rows: Tensor, head: OutputHead) -> Tensor:
    linear = head.linear
    if linear is None:
        return head.logits(rows)
    matrix = _matmul_operand(linear.weight)
    return _linear_logits(rows.to(matrix.dtype), matrix, linear.bias, head.scale, head.softcap)


def _linear_logits(
    rows: Tensor, matrix: Tensor, bias: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Logits of a plain matrix, in a fresh float32 buffer that the caller may overwrite."""
    with torch.autocast(rows.device.type, enabled=False):
        logits = (
            torch.mm(rows, matrix.t()) if bias is None else torch.addmm(bias.to(rows.dtype), rows, matrix.t())
        )
    logits = logits.to(_accumulation_dtype(logits.dtype))
    if scale != 1.0:
        logits *= scale
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def _nll_of_logits(
    logits: Tensor, targets: Tensor, *, keep_probabilities: bool = False
) -> tuple[Tensor, Tensor]:
    """NLL of `targets`, and which of them have the highest logit, in place: `logits` are overwritten (by the probabilities
    where these are kept).
    """
    logits -= logits.amax(-1, keepdim=True)
    of_target = logits.gather(-1, targets[:, None])[:, 0]
    normaliser = logits.exp_().sum(-1)
    if keep_probabilities:
        logits /= normaliser[:, None]
    return normaliser.log() - of_target, of_target == 0


def _matmul_operand(weight: Tensor) -> Tensor:
    """The head's matrix in the dtype that a matrix product would use here: autocast's where it is on."""
    device = weight.device.type
    return weight.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunks(rows: int, vocabulary: int, chunk_elements: int) -> Iterator[slice]:
    size = max(1, chunk_elements // vocabulary)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
