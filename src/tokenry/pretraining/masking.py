"""What replaced-token detection does to a batch: which tokens are masked, what replaces them, what the labels are, and the losses.

ELECTRA (arXiv 2003.10555), by the released code (google-research/electra, 8a46635).

    masked      m = max(1, round(p · tokens)) tokens of every row; each becomes [MASK] with probability 1 − keep_prob
    replaced    x̃[t] ~ softmax(generator[t] / temperature) where masked, x[t] elsewhere
    label       1 where masked and x̃[t] ≠ x[t]: a token that was guessed right is an original
    loss        Σ w · nll / (Σ w + 1e-6)  +  disc_weight · Σ real · bce / (Σ real + 1e-6)
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tokenry.core.errors import UserError, require_above_zero, require_at_least, require_fraction
from tokenry.core.train.numbered import mixed, uniform_numbers

EPSILON = 1e-6
"""Added to the number of tokens that a loss is a mean of."""
_KEEP, _SAMPLE = 1 << 32, 1 << 33  # beyond every place in a row: other draws than those of the positions


class MaskedBatch(NamedTuple):
    """A batch whose masked tokens are to be predicted.

    Attributes:
        input_ids: with [MASK] in most of the chosen places.
        positions: of the chosen tokens in their rows; 0 where the weight is 0.
        labels: the tokens that stood there; 0 where the weight is 0.
        weights: 1 for a chosen token, 0 for a slot that the row does not fill.
    """

    input_ids: Int[Tensor, "batch seq"]
    positions: Int[Tensor, "batch slots"]
    labels: Int[Tensor, "batch slots"]
    weights: Float[Tensor, "batch slots"]

    @property
    def selected(self) -> Bool[Tensor, "batch seq"]:
        """Whether a token was chosen."""
        rows, slots = self.weights.nonzero(as_tuple=True)
        chosen = torch.zeros_like(self.input_ids, dtype=torch.bool)
        chosen[rows, self.positions[rows, slots]] = True
        return chosen


def most_predictions(length: int, p: float) -> int:
    """The number of slots that the released code gives to rows of at most `length` tokens."""
    return max(1, int((p + 0.005) * length))


def prediction_counts(tokens: Int[Tensor, "batch"], p: float, most: int) -> Int[Tensor, "batch"]:
    """How many tokens of a row are predicted: a share `p` of its tokens, special ones included, rounded half to even, at least 1."""
    return (tokens.float() * p).round().long().clamp(max=most).clamp(min=1)


def candidates(
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
    special_ids: Collection[int],
) -> Bool[Tensor, "batch seq"]:
    """The tokens that may be masked: neither padding nor special."""
    special = torch.tensor(sorted(special_ids), device=input_ids.device, dtype=input_ids.dtype)
    return attention_mask.bool() & ~torch.isin(input_ids, special)


def row_keys(
    input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"], number: int
) -> Int[Tensor, "batch"]:
    """A key of each row that follows from its own tokens and a number, such as that of the step.

    What is drawn by it depends neither on padding nor on the other rows, so that batches may be split between processes in any way.
    """
    places = attention_mask.long().cumsum(1)
    tokens = mixed(input_ids.long() + (places << 32)) * attention_mask.long()
    return mixed(tokens.sum(1) + mixed(torch.full_like(places[:, 0], number + 1)))


def mask_tokens(
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
    special_ids: Collection[int],
    mask_id: int,
    p: float = 0.15,
    keep_prob: float = 0.15,
    max_predictions: int | None = None,
    generator: torch.Generator | None = None,
    replace: bool = False,
    *,
    keys: Int[Tensor, "batch"] | None = None,
) -> MaskedBatch:
    """Choose the tokens of every row that are to be predicted, and mask most of them.

    Args:
        input_ids: token ids, padded on either side.
        attention_mask: 1 for tokens, 0 for padding.
        special_ids: tokens that are never chosen, [MASK] among them.
        mask_id: id of [MASK].
        p: share of the tokens.
        keep_prob: probability that a chosen token is left as it is.
        max_predictions: most slots of a row; by default (p + 0.005) · seq.
        generator: random numbers.
        replace: draw positions with replacement, as the released code does: some come twice, and fewer tokens are masked.
        keys: of the rows, from which the draws follow instead of from `generator`; see `row_keys`.
    """
    if not 0.0 < p < 1.0:
        raise UserError(f"mask_prob must be in (0, 1), got {p}: the paper's is 0.15.")
    require_fraction(keep_prob, "keep_prob")
    require_at_least(1, max_predictions=max_predictions)
    batch, length = input_ids.shape
    among = candidates(input_ids, attention_mask, {*special_ids, mask_id})
    most = max_predictions or most_predictions(length, p)
    counts = prediction_counts(attention_mask.sum(1), p, most)
    slots = most if replace else min(most, length)

    def draw(width: int, kind: int) -> Float[Tensor, "batch width"]:
        if keys is None:
            return torch.rand(batch, width, generator=generator, device=input_ids.device)
        places = torch.arange(width, device=input_ids.device).expand(batch, -1)
        if not (kind or replace):  # by place among the tokens of the row, whatever padding stands before them
            places = attention_mask.long().cumsum(1)
        return uniform_numbers(keys, places + kind)

    if replace:
        steps = among.float().cumsum(1)
        drawn = torch.searchsorted(steps, draw(slots, 0) * steps[:, -1:], right=True).clamp(max=length - 1)
        counts = counts * among.any(1)
    else:
        drawn = draw(length, 0).masked_fill(~among, -1.0).topk(slots, dim=1).indices
        counts = counts.minimum(among.sum(1))
    weights = (torch.arange(slots, device=input_ids.device) < counts[:, None]).float()
    return mask_at(input_ids, drawn, weights, draw(slots, _KEEP), mask_id, keep_prob)


def mask_at(
    input_ids: Int[Tensor, "batch seq"],
    drawn: Int[Tensor, "batch slots"],
    weights: Float[Tensor, "batch slots"],
    uniform: Float[Tensor, "batch slots"],
    mask_id: int,
    keep_prob: float = 0.15,
) -> MaskedBatch:
    """Mask the drawn places: those whose number in [0, 1) is below 1 − keep_prob become [MASK]."""
    positions = drawn * weights.long()
    labels = input_ids.gather(1, positions) * weights.long()
    rows, slots = ((weights > 0) & (uniform < 1 - keep_prob)).nonzero(as_tuple=True)
    masked = input_ids.clone()
    masked[rows, positions[rows, slots]] = mask_id
    return MaskedBatch(masked, positions, labels, weights)


def sample_replacements(
    logits: Float[Tensor, "*rows vocabulary"],
    temperature: float = 1.0,
    disallow: Int[Tensor, "*rows"] | None = None,
    generator: torch.Generator | None = None,
    *,
    uniform: Float[Tensor, "*rows vocabulary"] | None = None,
) -> Int[Tensor, "*rows"]:
    """Draw a token from every row of logits by Gumbel noise: argmax(logits / temperature + gumbel).

    Args:
        logits: of the generator.
        temperature: of the distribution.
        disallow: the true tokens, where they are not to be drawn.
        generator: random numbers.
        uniform: numbers in [0, 1) to make the noise of, instead of drawing them.

    Raises:
        UserError: a temperature that is not above 0.
    """
    require_above_zero(temperature=temperature)
    logits = logits.detach().to(
        torch.promote_types(logits.dtype, torch.float32)
    )  # 256 levels of noise would tie
    logits = _disallowed(logits / temperature, disallow)
    if uniform is None:
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
    noise = (uniform + 1e-9).log_().neg_().add_(1e-9).log_().neg_()
    return (logits + noise).argmax(-1)


def sample_at(
    logits: Float[Tensor, "rows vocabulary"],
    quantiles: Float[Tensor, "rows"],
    temperature: float = 1.0,
    disallow: Int[Tensor, "rows"] | None = None,
) -> Int[Tensor, "rows"]:
    """Draw from the same distributions with one number in [0, 1) per row: the token at that quantile of the summed probabilities."""
    logits = _disallowed(logits if temperature == 1.0 else logits / temperature, disallow)
    sums = logits.softmax(-1).cumsum(-1)
    found = torch.searchsorted(sums, quantiles[:, None].to(sums) * sums[:, -1:], right=True)
    return found[:, 0].clamp(max=logits.shape[-1] - 1)


def sample_quantiles(
    keys: Int[Tensor, "batch"], positions: Int[Tensor, "batch slots"]
) -> Float[Tensor, "batch slots"]:
    """The number by which each slot draws, from the key of its row."""
    places = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
    return uniform_numbers(keys, places + _SAMPLE)


def _disallowed(logits: Tensor, tokens: Tensor | None) -> Tensor:
    if tokens is None:
        return logits
    return logits.scatter_add(-1, tokens[..., None], logits.new_full((*tokens.shape, 1), -1000.0))


def corrupt(
    input_ids: Int[Tensor, "batch seq"],
    masked: MaskedBatch,
    sampled: Int[Tensor, "batch slots"],
    official_duplicates: bool = False,
) -> Int[Tensor, "batch seq"]:
    """Write what was sampled into the original text, at the chosen positions.

    With `official_duplicates` a position that was drawn several times receives the mean of their ids, rounded down, as in the released
    code; else the last of them, of which there is one alone where positions are drawn without replacement.
    """
    if official_duplicates:
        return scatter_update(input_ids, sampled, masked.positions)[0]
    rows, slots = masked.weights.nonzero(as_tuple=True)
    corrupted = input_ids.clone()
    corrupted[rows, masked.positions[rows, slots]] = sampled[rows, slots].to(corrupted.dtype)
    return corrupted


def scatter_update(
    sequence: Tensor, updates: Tensor, positions: Int[Tensor, "batch slots"]
) -> tuple[Tensor, Int[Tensor, "batch seq"]]:
    """Write updates into sequences (batch, seq, …) as the released code does.

    Returns:
        The sequences, in which a position has the mean of its updates (of integers: rounded down), position 0 none; and 1 where it has any.
    """
    index = positions.reshape(*positions.shape, *[1] * (sequence.dim() - 2)).expand_as(updates)
    sums = torch.zeros_like(sequence).scatter_add_(1, index, updates.to(sequence.dtype))
    times = torch.zeros(sequence.shape[:2], dtype=torch.long, device=sequence.device)
    times.scatter_add_(1, positions.long(), torch.ones_like(positions, dtype=torch.long))
    times[:, 0] = 0
    of_each = times.clamp(min=1).reshape(*times.shape, *[1] * (sequence.dim() - 2))
    means = sums / of_each if sequence.is_floating_point() else sums // of_each
    written = (times > 0).reshape(of_each.shape)
    return torch.where(written, means.to(sequence.dtype), sequence), (times > 0).long()


def rtd_labels(
    original: Int[Tensor, "batch seq"],
    corrupted: Int[Tensor, "batch seq"],
    selected: Bool[Tensor, "batch seq"],
) -> Int[Tensor, "batch seq"]:
    """1 where a chosen token differs from the original, 0 elsewhere: "was masked" is not what is asked."""
    return (selected.bool() & (original != corrupted)).long()


def discriminator_losses(
    disc_logits: Float[Tensor, "batch seq"], labels: Int[Tensor, "batch seq"], real: Tensor
) -> Float[Tensor, "batch seq"]:
    """The binary cross-entropy of every token in nats, in float32; 0 where `real` is 0."""
    losses = binary_cross_entropy_with_logits(disc_logits.float(), labels.float(), reduction="none")
    return losses * real.float()


def mean_of(total: Float[Tensor, ""], number: Tensor | float | int) -> Float[Tensor, ""]:
    """The mean of a sum over `number` tokens; 0 of none."""
    return total / (number + EPSILON)


def rtd_loss(
    gen_logits: Float[Tensor, "batch slots vocabulary"],
    mlm_labels: Int[Tensor, "batch slots"],
    weights: Float[Tensor, "batch slots"],
    disc_logits: Float[Tensor, "batch seq"],
    rtd_labels: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
    disc_weight: float = 50.0,
) -> dict[str, Tensor]:
    """Form all losses from logits, under the names of the released code.

    Returns:
        `total_loss`, `gen_loss`, `disc_loss`; `gen_per_token` of every slot, `disc_per_example` of every row, all in nats; `disc_probs` that
        a token was replaced, and `disc_preds`, whether that is above a half.
    """
    per_token = cross_entropy(gen_logits.float().transpose(1, 2), mlm_labels.long(), reduction="none")
    losses, real = discriminator_losses(disc_logits, rtd_labels, attention_mask), attention_mask.float()
    gen_loss = mean_of((weights * per_token).sum(), weights.sum())
    disc_loss = mean_of(losses.sum(), real.sum())
    return {
        "total_loss": gen_loss + disc_weight * disc_loss,
        "gen_loss": gen_loss,
        "disc_loss": disc_loss,
        "gen_per_token": per_token,
        "disc_per_example": losses.sum(1) / (real.sum(1) + EPSILON),
        "disc_probs": disc_logits.float().sigmoid(),
        "disc_preds": (disc_logits > 0).long(),
    }
