"""Per-token NLL, entropy and weighted cross-entropy from hidden states, never holding logits beyond a chunk of rows.

Two passes: score without a graph (`row_nll`), choose, then form loss and gradients of the chosen rows only
(`weighted_cross_entropy`, gradients in the forward, so nothing of size rows × vocabulary waits for the backward):

    nll[t]  = logsumexp(logits[t - 1]) − logits[t - 1, labels[t]]
    loss    = Σ weights[t] · nll[t]
    logits  = softcap · tanh(scale · (hidden @ weight.T + bias) / softcap)

Models that do more with their hidden states (`check_output_head` finds out) compute these logits with their own forward.
"""

import itertools
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
from transformers.utils import ModelOutput

from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import at_tokens, predicting_rows
from tokenry.core.tensors.modes import evaluation_mode

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

    @property
    def is_plain(self) -> bool:
        """Whether hidden states meet the head as they are; else the rest of the model's forward is between them."""
        return not isinstance(self.module, _RestOfForward)

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


def backbone(model: nn.Module) -> nn.Module:
    """The part of a causal language model that maps token ids to hidden states: the model without its output head.

    Raises:
        UserError: the model has no output head, or no part apart from it.
    """
    inner = causal_lm(model)
    # A few classes bear the prefix of a model that they are a part of; their backbone is called `model` like all others.
    found: nn.Module = inner.base_model if inner.base_model is not inner else getattr(inner, "model", inner)
    if found is inner:
        raise UserError(
            f"{type(inner).__name__} has no backbone apart from its output head, so per-token losses cannot be computed."
        )
    return found


def output_head(model: nn.Module) -> OutputHead:
    """Read how a transformers causal language model makes logits: head, scale and soft-cap, or the rest of its own forward.

    Scales go by several names: `logit_scale` (Cohere), `logits_scaling` (Granite, divides), `lm_head_multiplier` (Falcon-H1).
    What these do not explain was found by `check_output_head`.

    Raises:
        UserError: the model has no output head.
    """
    inner = causal_lm(model)
    return _through_forward(inner) if getattr(inner, _OWN_LOGITS, False) else _plain_head(inner)


@torch.no_grad()
def check_output_head(
    model: nn.Module, input_ids: Int[Tensor, "1 seq"] | None = None, logits: Tensor | None = None
) -> None:
    """Compare the logits that `output_head` explains with the model's own on a few tokens, and note what explains them.

    A head behind further layers (BERT, RoFormer), or logits that are scaled in a way of the model's own, are computed by the
    model's own forward from then on. A model that does more would be trained on the wrong loss in silence.

    Args:
        model: a causal language model, wrapped or not, that can run; in evaluation mode if dropout is to be off.
        input_ids: the few tokens; by default those of `short_text`.
        logits: what the model says about them, where it is known.

    Raises:
        UserError: neither explains the model's logits, or they are not finite.
    """
    inner = causal_lm(model)
    body = backbone(inner)
    with evaluation_mode(inner):
        ids = short_text(inner) if input_ids is None else input_ids
        expected = (inner(input_ids=ids, use_cache=False).logits if logits is None else logits)[0]
        rows = body(input_ids=ids, use_cache=False).last_hidden_state[0]
        if not bool(torch.isfinite(expected).all()):
            raise UserError(
                f"the logits of {type(inner).__name__} are not finite on a few tokens: its weights are damaged, load another copy, or its "
                "training has diverged; try a lower learning rate."
            )
        # In another order: what belongs to the place of a token, or to its neighbours, is no map from its hidden state.
        order = torch.arange(len(rows) - 1, -1, -1, device=rows.device)
        rows, expected = rows[order], expected[order.to(expected.device)]
        plain, own = _plain_head(inner), _through_forward(inner)
        is_plain, is_own = _explains(plain, rows, expected), _explains(own, rows, expected)
        if is_plain and is_own:
            # A soft-cap hardly bends the logits of a few tokens: it shows in hidden states that are many times larger.
            large = rows * (_LARGE_LOGITS / expected.float().abs().max().clamp(min=1e-6)).to(rows)
            bent = _logits_or_none(own, large)
            is_plain = bent is None or not bool(bent.isfinite().all()) or _explains(plain, large, bent)
        if not is_plain and not is_own:
            raise UserError(
                f"{type(inner).__name__} computes its logits in a way that tokenry does not know (not from the hidden state of "
                "the token before alone): per-token losses would be wrong, so this model cannot be used."
            )
    setattr(inner, _OWN_LOGITS, not is_plain)


def short_text(model: nn.Module, tokens: int = 6) -> Int[Tensor, "1 seq"]:
    """Different tokens to try a model out on: none that its config gives a role (padding, image, end, …), where it has enough."""
    inner = causal_lm(model)
    config = inner.config.get_text_config()
    roles = {
        number
        for settings in (inner.config, config)
        for name, value in settings.to_dict().items()
        if name.endswith(("_token_id", "_token_index"))
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, int)
    }
    # From the middle of the vocabulary: the first and the last ids are often such that no text has.
    middle = config.vocab_size // 3
    numbers = itertools.chain(range(middle, config.vocab_size), range(middle))
    ordinary = (number for number in numbers if number not in roles)
    found = list(itertools.islice(ordinary, tokens)) or [0]
    return torch.tensor([(found * tokens)[:tokens]], device=next(inner.parameters()).device)


# The attribute of a model whose logits are more than head, scale and soft-cap; copies of the model bear it too.
_OWN_LOGITS = "_tokenry_own_logits"
_LARGE_LOGITS = 50.0


def _plain_head(inner: PreTrainedModel) -> OutputHead:
    config = inner.config.get_text_config()
    scale = 1.0
    for name, power in (("logit_scale", 1), ("lm_head_multiplier", 1), ("logits_scaling", -1)):
        value = getattr(config, name, None)
        if value is not None:
            scale *= float(value) ** power
    return OutputHead(
        module=inner.get_output_embeddings(),
        vocabulary=config.vocab_size,
        scale=scale,
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _through_forward(inner: PreTrainedModel) -> OutputHead:
    return OutputHead(module=_RestOfForward(inner), vocabulary=inner.config.get_text_config().vocab_size)


class _RestOfForward(nn.Module):
    """What a model does with its hidden states: its own forward, in which the backbone gives `rows` instead of computing."""

    def __init__(self, inner: PreTrainedModel) -> None:
        super().__init__()
        self._inner = (inner,)  # in a tuple, as it is no part of this module

    def forward(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocabulary"]:
        (inner,) = self._inner
        body = backbone(inner)
        # Some models call the decoder in a wrapper, past the wrapper's own forward.
        parts: list[Any] = [body]
        if isinstance(getattr(body, "decoder", None), nn.Module):
            parts.append(body.decoder)
        before = [vars(part).get("forward") for part in parts]
        known = _HiddenStates(last_hidden_state=rows[None])
        ids = torch.zeros(1, rows.shape[0], dtype=torch.long, device=rows.device)
        try:
            for part in parts:
                part.forward = lambda *args, **kwargs: known
            logits: Tensor = inner.forward(input_ids=ids, use_cache=False).logits[0]
            return logits
        finally:
            for part, forward in zip(parts, before, strict=True):
                if forward is None:
                    del part.forward
                else:
                    part.forward = forward


@dataclass
class _HiddenStates(ModelOutput):
    """The output of a backbone of any kind: hidden states, and None for all else that is asked of it."""

    last_hidden_state: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _explains(head: OutputHead, rows: Tensor, expected: Tensor) -> bool:
    """Whether `head` gives these logits, as nearly as their dtype allows."""
    found = _logits_or_none(head, rows)
    if found is None or found.shape[-1] < expected.shape[-1]:
        return False
    nearness = 1e-4 if rows.dtype.itemsize >= 4 else 1e-2
    found, expected = found[:, : expected.shape[-1]].to(expected.device), expected.to(found.dtype)
    largest = float(expected.abs().max())
    return torch.allclose(found, expected, atol=nearness * largest + 1e-6, rtol=nearness)


def _logits_or_none(head: OutputHead, rows: Tensor) -> Tensor | None:
    try:
        return head.logits(rows)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        # A head of another width, or a forward that asks more of its backbone than hidden states: said in many ways.
        return None


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
