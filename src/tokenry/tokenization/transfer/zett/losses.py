"""What the hypernetwork is trained on: the language model's loss, and two distances between predicted rows and known ones.

    identity loss    mean over tokens of |predicted − source row|²                           (warm-up: every token spells itself)
    lexical loss     Σ over tokens of one piece of distance(predicted, its source row)
                     / (their number + 1e-8) / mean norm of the first piece's row over all tokens
    language model   Σ weight · NLL / Σ weight

Both distances are averaged over the input and the output side where a model has two.

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), sections 3.2 and 3.3, and the released `train.py`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from tokenry.core.errors import require_one_of
from tokenry.core.tensors.alignment import at_tokens, predicting_rows

_LEAST_COUNT = 1e-8
_HUBER_DELTA, _HUBER_SCALE = 1e-3, 30.0


def lexical_loss(
    predicted: Float[Tensor, "tokens dim"],
    source: Float[Tensor, "vocabulary dim"],
    surface_forms: Int[Tensor, "tokens pieces"],
    pad_id: int,
    predicted_output: Float[Tensor, "tokens dim"] | None = None,
    source_output: Float[Tensor, "vocabulary dim"] | None = None,
    distance: str = "mse",
) -> Float[Tensor, ""]:
    """Distance of predicted rows to source rows, over the tokens that the source vocabulary has.

    Tokens whose first piece has no source row (fallback ids) take no part.

    Args:
        predicted: input rows.
        source: input rows of the source model.
        surface_forms: source ids of each token's pieces.
        pad_id: id that pads surface forms.
        predicted_output: predicted output rows; None for a tied model.
        source_output: output rows of the source model; None for a tied model.
        distance: `mse` (squared L2), `rmse` (L2) or `huber`.

    Returns:
        0 where no token has a single piece.

    Source: arXiv 2405.07883, the auxiliary loss of section 3.2.
    """
    require_one_of(distance, tuple(_DISTANCES), "distance")
    sides = [(predicted, source)]
    if predicted_output is not None and source_output is not None:
        sides.append((predicted_output, source_output))
    known = surface_forms[:, 0] < len(source)
    single = single_piece(surface_forms, pad_id) & known
    first = surface_forms[:, 0].clamp(max=len(source) - 1)
    losses = [_lexical(rows, of_source[first], single, known, distance) for rows, of_source in sides]
    return torch.stack(losses).mean()


def _lexical(predicted: Tensor, targets: Tensor, single: Tensor, known: Tensor, distance: str) -> Tensor:
    summed = torch.where(single, _DISTANCES[distance](predicted, targets), 0.0).sum()
    norm = targets[known].norm(dim=1).mean() if bool(known.any()) else targets.new_ones(())
    return summed / (single.sum(dtype=summed.dtype) + _LEAST_COUNT) / norm


def single_piece(surface_forms: Int[Tensor, "tokens pieces"], pad_id: int) -> Bool[Tensor, "tokens"]:
    """Which tokens the source vocabulary spells with one piece."""
    return (surface_forms[:, 1:] == pad_id).all(dim=1)


def identity_loss(
    predicted: Float[Tensor, "tokens dim"],
    source: Float[Tensor, "vocabulary dim"],
    ids: Int[Tensor, "tokens"],
    predicted_output: Float[Tensor, "tokens dim"] | None = None,
    source_output: Float[Tensor, "vocabulary dim"] | None = None,
) -> Float[Tensor, ""]:
    """Distance of the rows that are predicted for source tokens, each spelled by itself, to their own rows.

    Source: arXiv 2405.07883, section 3.3 (MIMICK-style warm-up).
    """
    losses = [_squared(predicted, source[ids]).mean()]
    if predicted_output is not None and source_output is not None:
        losses.append(_squared(predicted_output, source_output[ids]).mean())
    return torch.stack(losses).mean()


def clm_loss(
    logits: Float[Tensor, "batch seq vocabulary"],
    labels: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """Mean NLL in nats of the tokens that follow a real one; as in the released code, the padding after a text is the first such.

    Labels of -100 count nowhere.
    """
    nll, weights = _next_token_nll(logits, labels, attention_mask)
    return (nll * weights).sum() / weights.sum().clamp(min=1)


def nats_per_byte(
    logits: Float[Tensor, "batch seq vocabulary"],
    labels: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
    byte_lengths: Int[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """The mean over rows of summed NLL / summed bytes: what the released code reports as bits per byte.

    The bytes of the first token count although it is not predicted; divide by ln 2 for bits. Between tokenizers compare
    `tokenry.core.text.bits_per_byte.text_loss`, which predicts every byte.
    """
    nll, weights = _next_token_nll(logits, labels, attention_mask)
    return ((nll * weights).sum(dim=1) / byte_lengths.sum(dim=1)).mean()


def _next_token_nll(logits: Tensor, labels: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """NLL at each token, and whether the token before it is real; 0 at the first."""
    tokens = torch.ones_like(labels, dtype=torch.bool)
    tokens[:, 0] = False
    nll = functional.cross_entropy(predicting_rows(logits, tokens), labels[tokens], reduction="none")
    before = predicting_rows(attention_mask[..., None].to(logits.dtype), tokens)[:, 0]
    weights = before * (labels[tokens] >= 0)
    return at_tokens(nll, tokens, 0.0), at_tokens(weights, tokens, 0.0)


def masked_lm_loss(
    logits: Float[Tensor, "batch seq vocabulary"], labels: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Mean NLL in nats of the labelled tokens, each predicted where it stands; 0 without labels."""
    labelled = labels >= 0
    nll = functional.cross_entropy(logits[labelled], labels[labelled], reduction="sum")
    return nll / labelled.sum().clamp(min=1)


def _squared(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).square().sum(dim=1)


def _euclidean(predicted: Tensor, target: Tensor) -> Tensor:
    squared = _squared(predicted, target)
    # The gradient of a root is infinite at 0, where a row that was copied is.
    return torch.where(squared > 0, squared.clamp(min=torch.finfo(squared.dtype).tiny).sqrt(), 0.0)


def _huber(predicted: Tensor, target: Tensor) -> Tensor:
    distances = functional.huber_loss(predicted, target, reduction="none", delta=_HUBER_DELTA)
    return distances.sum(dim=1) / _HUBER_DELTA / _HUBER_SCALE


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": _squared,
    "rmse": _euclidean,
    "huber": _huber,
}
