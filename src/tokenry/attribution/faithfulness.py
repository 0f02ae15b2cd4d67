"""Faithfulness of attributions: does what is called important carry the prediction? Random scores stand in every table.

    e'_i = e_i · b_i        b_id ~ Bernoulli(q_i): each number of a token's embedding is kept with probability q_i
    S    = 1 − distance(p, p')  with q = scores (soft sufficiency), C = distance(p, p') with q = 1 − scores (soft comprehensiveness)
    Soft-NS = max(0, S − S_0) / (1 − S_0)           Soft-NC = C / (1 − S_0)           S_0: all embeddings are zero

    sufficiency        mean over shares of 1 − distance(p, p'), only the top share of the tokens kept
    comprehensiveness  mean over shares of distance(p, p'), the top share of the tokens zeroed
    aopc               mean over shares of p(target) − p'(target), likewise zeroed

p is the distribution of the next token, distance Hellinger's: √(Σ (√p − √q)²) / √2. By default q is the rank of a token,
(rank + 1/2) / length, the same numbers for every method: raw scores reward a method for how flat or peaked they are, and flat random
scores then come out best.

Source: Zhao and Aletras (arXiv 2305.10496) for the soft metrics; as used in ReAGent (arXiv 2402.00794).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from tokenry.attribution.attribution import AttributionMethod, Probability, attribute
from tokenry.attribution.reagent import keep_top
from tokenry.core.errors import UserError, require_at_least, require_one_of, require_share
from tokenry.core.stats import Estimate, bootstrap, estimate_of_mean
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import backbone, causal_lm, output_head

SCALES = ("rank", "max", "none")
DISTANCES = ("hellinger", "reagent-code")
RANDOM = "random"


class FaithfulnessScores(NamedTuple):
    """The metrics of one text; higher = more faithful."""

    soft_ns: float
    soft_nc: float
    sufficiency: float
    comprehensiveness: float
    aopc: float


def distance(
    p: Float[Tensor, "*rows vocabulary"], q: Float[Tensor, "*#rows vocabulary"], kind: str = "hellinger"
) -> Float[Tensor, "*rows"]:
    """Distance of two distributions: Hellinger's, in [0, 1], or the squared one of ReAGent's released code, in [0, √2]."""
    squares = (p.sqrt() - q.sqrt()).square().sum(dim=-1)
    return (squares / 2).sqrt() if kind == "hellinger" else squares * 0.5**0.5


def soft_normalized(
    sufficiency: float | int, comprehensiveness: float | int, zero: float | int
) -> tuple[float, float]:
    """Soft-NS and Soft-NC from S, C and S_0; nan where zeroed embeddings predict the same."""
    if zero == 1:
        return float("nan"), float("nan")
    return max(0.0, sufficiency - zero) / (1 - zero), comprehensiveness / (1 - zero)


def keep_probabilities(scores: Float[Tensor, "seq"], scale: str = "rank") -> Float[Tensor, "seq"]:
    """How much of each token is kept: by its rank, by its score over the largest, or by the score itself, in [0, 1]."""
    if scale == "rank":
        return (scores.argsort(stable=True).argsort().to(scores) + 0.5) / len(scores)
    return (scores / scores.max() if scale == "max" else scores).clamp(0, 1)


@dataclass(frozen=True)
class FaithfulnessConfig:
    """How faithfulness is measured.

    Attributes:
        scale: how scores become probabilities, see `keep_probabilities`.
        distance: of two distributions, see `distance`.
        draws: random masks per text.
        shares: shares of the tokens that the hard metrics keep or zero.
    """

    scale: str = "rank"
    distance: str = "hellinger"
    draws: int = 4
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5)
    seed: int = 0

    def __post_init__(self) -> None:
        require_one_of(self.scale, SCALES, "scale")
        require_one_of(self.distance, DISTANCES, "distance")
        require_at_least(1, draws=self.draws)
        for share in self.shares:
            require_share(share, "shares")


DEFAULT = FaithfulnessConfig()


def faithfulness(
    model: nn.Module,
    context: Int[Tensor, "seq"],
    scores: Float[Tensor, "seq"],
    target: int | None = None,
    config: FaithfulnessConfig = DEFAULT,
    uniform: Float[Tensor, "draws seq dim"] | None = None,
) -> FaithfulnessScores:
    """Measure how well scores of a context tell what its next token depends on; all perturbed texts are one batch.

    Args:
        model: a causal language model.
        scores: importance of its tokens.
        target: the token that `aopc` is about; None for the most probable one.
        config: how it is measured.
        uniform: the random numbers of the masks; None draws them.
    """
    inner = causal_lm(model)
    if scores.shape != context.shape or not bool(scores.isfinite().all()):
        raise UserError(
            f"faithfulness needs one finite score per token: {len(context)} tokens, {int(scores.isfinite().sum())} finite scores."
        )
    with evaluation_mode(inner), torch.no_grad():
        embedded = inner.get_input_embeddings()(context[None].to(inner.device))[0]
        if uniform is None:
            generator = Generator().manual_seed(config.seed)
            uniform = torch.rand(config.draws, *embedded.shape, generator=generator)
        q = keep_probabilities(scores.cpu().to(uniform.dtype), config.scale)[:, None]
        top = torch.stack([keep_top(scores.cpu(), 0, share) for share in config.shares])
        masks = [
            uniform < q,
            uniform < 1 - q,
            _whole(torch.zeros(1, len(context), dtype=torch.bool), embedded),
        ]
        masks += [_whole(top, embedded), _whole(~top, embedded)]
        kept = torch.cat([torch.ones(1, *embedded.shape, dtype=torch.bool), *masks]).to(embedded.device)
        rows = backbone(inner)(inputs_embeds=embedded * kept, use_cache=False).last_hidden_state[:, -1]
        p = output_head(inner).logits(rows).softmax(dim=-1).cpu()
    apart = distance(p, p[:1], config.distance)
    sizes = [1, *map(len, masks)]
    _, enough, without, nothing, top_kept, top_zeroed = apart.split(sizes)
    soft = soft_normalized(float(1 - enough.mean()), float(without.mean()), float(1 - nothing.mean()))
    of_target = p[:, int(p[0].argmax()) if target is None else target]
    return FaithfulnessScores(
        *soft,
        float(1 - top_kept.mean()),
        float(top_zeroed.mean()),
        float(of_target[0] - of_target[-len(top) :].mean()),
    )


def replacement_aopc(
    probability: Probability,
    context: Int[Tensor, "seq"],
    scores: Float[Tensor, "seq"],
    vocabulary: Int[Tensor, "ids"],
    config: FaithfulnessConfig = DEFAULT,
) -> float:
    """AOPC of a function that only returns p(answer): mean over shares of the drop of p when random tokens replace the top share.

    Args:
        scores: importance of the tokens of the context.
        vocabulary: tokens that replacements are drawn from.
        config: the shares, and the draws of replacements for each.
    """
    generator = Generator().manual_seed(config.seed)
    top = torch.stack([keep_top(scores.cpu(), 0, share) for share in config.shares]).repeat(config.draws, 1)
    drawn = vocabulary.cpu()[torch.randint(len(vocabulary), top.shape, generator=generator)]
    p = probability(torch.cat([context[None].cpu(), torch.where(top, drawn, context.cpu())])).double().cpu()
    return float(p[0] - p[1:].mean())


def soft_normalized_sufficiency(
    model: nn.Module,
    context: Int[Tensor, "seq"],
    scores: Float[Tensor, "seq"],
    config: FaithfulnessConfig = DEFAULT,
) -> float:
    """Soft-NS of the scores of one text."""
    return faithfulness(model, context, scores, config=config).soft_ns


def soft_normalized_comprehensiveness(
    model: nn.Module,
    context: Int[Tensor, "seq"],
    scores: Float[Tensor, "seq"],
    config: FaithfulnessConfig = DEFAULT,
) -> float:
    """Soft-NC of the scores of one text."""
    return faithfulness(model, context, scores, config=config).soft_nc


@dataclass(frozen=True)
class FaithfulnessRow:
    """The faithfulness of one method over several texts.

    Attributes:
        log_ratios: ln(mean of the method / mean of random) of each metric, with a bootstrap interval over texts; > 0: better than random.
        forwards: sequences that the model read for the attributions.
    """

    method: str
    means: Mapping[str, Estimate]
    log_ratios: Mapping[str, Estimate]
    forwards: int


def faithfulness_report(
    model: nn.Module,
    contexts: Sequence[Int[Tensor, "_"]],
    methods: Mapping[str, str | AttributionMethod],
    targets: Sequence[int | None] | None = None,
    config: FaithfulnessConfig = DEFAULT,
    vocabulary: Int[Tensor, "ids"] | None = None,
) -> list[FaithfulnessRow]:
    """Attribute the next token of every text by every method, and measure each beside random scores.

    Args:
        model: a causal language model.
        methods: the methods, by the names they have in the rows.
        targets: the next token of every text; None for the model's own.
        config: how faithfulness is measured.
        vocabulary: tokens that replacements are drawn from.
    """
    if not contexts:
        raise UserError("there are no texts to measure methods on: give at least one.")
    measured: dict[str, list[FaithfulnessScores]] = {}
    forwards: dict[str, int] = {}
    wanted = targets or [None] * len(contexts)
    for name, method in {**methods, RANDOM: RANDOM}.items():
        found = [
            attribute(
                model,
                context[None],
                None if target is None else [target],
                f"{RANDOM}:seed={number}" if name == RANDOM else method,
                vocabulary=vocabulary,
            )
            for number, (context, target) in enumerate(zip(contexts, wanted, strict=True))
        ]
        forwards[name] = sum(answer.forwards for answer in found)
        measured[name] = [
            faithfulness(model, context, answer.scores[0], answer.targets[0][0], config)
            for context, answer in zip(contexts, found, strict=True)
        ]
    return [_row(name, scores, measured[RANDOM], forwards[name]) for name, scores in measured.items()]


def _row(
    name: str, ours: Sequence[FaithfulnessScores], random: Sequence[FaithfulnessScores], forwards: int
) -> FaithfulnessRow:
    columns = {
        metric: (np.array([getattr(row, metric) for row in ours]), np.array([getattr(row, metric) for row in random]))
        for metric in FaithfulnessScores._fields
    }  # fmt: skip
    return FaithfulnessRow(
        name,
        {metric: estimate_of_mean(mine) for metric, (mine, _) in columns.items()},
        {metric: bootstrap(_log_ratio, mine, theirs) for metric, (mine, theirs) in columns.items()},
        forwards,
    )


def _log_ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Nan where a mean is not positive, and so has no logarithm."""
    ratio = ours.mean() / theirs.mean() if theirs.mean() > 0 else np.nan
    return float(np.log(ratio)) if ratio > 0 else float("nan")


def _whole(kept: Bool[Tensor, "masks seq"], embedded: Tensor) -> Bool[Tensor, "masks seq dim"]:
    """Masks of whole tokens, for every number of their embeddings."""
    return kept[..., None].expand(-1, -1, embedded.shape[-1])
