"""Zero-TPrune: read attention as a graph in which tokens vote for tokens; drop those that are alike, then those with few votes.

Source: Zero-TPrune (arXiv 2305.17328); no code was released.
    votes       s_j <- sum_i s_i A_ij, from s = 1/N, per head (weighted page rank)
    importance  sqrt(mean over heads of s_j^2), heads whose votes vary too little or too much left out
    S-stage     of the less important half, drop the r tokens most similar to one of the more important half
    I-stage     of the others, keep the fraction keep_rate with the highest importance
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from tokenry.compression.vision.controls import highest
from tokenry.compression.vision.page_rank import (
    Aggregation,
    aggregate_heads,
    one_step_vote,
    page_rank,
    require_graph,
    require_window,
)
from tokenry.compression.vision.plan import DROPPED, MergePlan
from tokenry.compression.vision.precision import precise
from tokenry.compression.vision.reducer import REDUCERS, Attention, LayerReducer, Tokens
from tokenry.compression.vision.shares import EncoderShape, nearest_strength
from tokenry.core.errors import UserError, require_one_of, require_share
from tokenry.core.tensors.patching import Encoder

Partition = Literal["sequential-u", "sequential-i", "alternate", "random"]
PreVote = Literal["wpr", "one_step"]


@dataclass(frozen=True)
class ZeroTPruneConfig:
    """Where, how much and by what to prune. Without arguments: the schedule of DeiT-S at 224 px, no window for heads.

    Attributes:
        layers: prune after these layers; the first is 1.
        keep_rates: fraction that the I-stage keeps, for each of them.
        r: tokens that the S-stage removes, for each of them.
        iterations: rounds of votes, for each of them: many in early layers, where the votes have not settled, one in the last.
        tol: stop earlier when a round moves less than this (sum of absolute changes); None never does.
        v_min: least variance of a head's votes that lets it take part (votes rescaled to mean 1); None for no bound.
        v_max: highest such variance. The bounds depend on the backbone: the paper's [0.01, 0.7] suit DeiT and reject good heads of others.
        aggregation: "rms" favours tokens that one head is sure of; "mean" is the control.
        partition: which tokens the S-stage may remove; see `partition_by_importance`.
        metric_heads: compare tokens by the mean of the keys over heads, or by the keys of all heads.
        pre_vote: what the importance of both stages is; "one_step" is one round on attention sharpened with temperature 0.1.
        rescore: vote again on what the S-stage left before the I-stage.
        merge_similar: average what the S-stage removes into the token it is similar to, instead of dropping it.
        warm_start: begin the votes with those of the pruning layer before.
        seed: of the "random" partition.
    """

    layers: Sequence[int] = (1, 3, 6, 9, 11)
    keep_rates: Sequence[float | int] = (1.0, 0.9, 0.8, 0.7, 1.0)
    r: Sequence[int] = (10, 10, 10, 10, 10)
    iterations: Sequence[int] = (30, 5, 5, 1, 1)
    tol: float | None = None
    v_min: float | None = None
    v_max: float | None = None
    aggregation: Aggregation = "rms"
    partition: Partition = "sequential-u"
    metric_heads: Literal["mean", "concat"] = "mean"
    pre_vote: PreVote = "wpr"
    rescore: bool = False
    merge_similar: bool = False
    warm_start: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        lengths = [len(each) for each in (self.layers, self.keep_rates, self.r, self.iterations)]
        if len(set(lengths)) != 1:
            raise UserError(
                "layers, keep_rates, r and iterations must have one entry per pruning layer, got "
                f"{', '.join(map(str, lengths[:-1]))} and {lengths[-1]} entries."
            )
        if any(layer < 1 for layer in self.layers) or list(self.layers) != sorted(set(self.layers)):
            raise UserError(
                f"layers must ascend from 1 (the first layer) on, got {list(self.layers)}: tokens are pruned after each of them."
            )
        for keep_rate in self.keep_rates:
            require_share(float(keep_rate), "keep_rate")
        if any(r < 0 for r in self.r):
            raise UserError(
                f"r must not be negative, got {list(self.r)}: it is the number of tokens that the S-stage removes."
            )
        if any(iterations < 1 for iterations in self.iterations):
            raise UserError(f"iterations must be at least 1, got {list(self.iterations)}.")
        require_window(self.v_min, self.v_max)
        require_one_of(self.aggregation, get_args(Aggregation), "aggregation")
        require_one_of(self.partition, get_args(Partition), "partition")
        require_one_of(self.metric_heads, ("mean", "concat"), "metric_heads")
        require_one_of(self.pre_vote, get_args(PreVote), "pre_vote")

    @classmethod
    def deit_s(cls, **changes: Any) -> "ZeroTPruneConfig":
        """The paper's ablation on DeiT-S: 197 to 66 tokens, 3.08 of 4.55 GFLOPs, heads in the window [0.01, 0.7]."""
        return replace(cls(v_min=0.01, v_max=0.7), **changes)


def _importance(attn: Tensor, votes: Tensor, special: int, config: ZeroTPruneConfig) -> Tensor:
    if config.pre_vote == "one_step":
        return one_step_vote(attn)[:, special:]
    return aggregate_heads(votes[:, :, special:], config.v_min, config.v_max, config.aggregation)[0]


# --- the two stages ------------------------------------------------------------------------------------------------------------------


def partition_by_importance(
    importance: Float[Tensor, "batch tokens"], mode: Partition = "sequential-u", seed: int = 0
) -> tuple[Int[Tensor, "batch group_a"], Int[Tensor, "batch group_b"]]:
    """Divide the tokens into A, whose tokens may be removed (half of all, rounded down), and B, which they are compared with.

    Args:
        importance: of the tokens that can be pruned.
        mode: A = the least important half ("sequential-u"), the most important half ("sequential-i"), every second token in the order
            of importance ("alternate"), or any half ("random").
        seed: of the random permutation, the same for every image.

    Returns:
        Indices of both groups, most important first.

    Raises:
        UserError: the mode is unknown.

    Source: Zero-TPrune, partition of the S-stage.
    """
    require_one_of(mode, get_args(Partition), "partition")
    order = importance.argsort(dim=1, descending=True, stable=True)
    tokens = order.shape[1]
    half = tokens // 2
    if mode == "sequential-i":
        return order[:, :half], order[:, half:]
    if mode == "alternate":
        return order[:, 1::2], order[:, ::2]
    if mode == "random":
        drawn = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
        first, second = (ranks.sort().values.to(order.device) for ranks in (drawn[:half], drawn[half:]))
        return order[:, first], order[:, second]
    return order[:, tokens - half :], order[:, : tokens - half]


def best_similarity(
    metric: Float[Tensor, "batch tokens dim"],
    group_a: Int[Tensor, "batch group_a"],
    group_b: Int[Tensor, "batch group_b"],
) -> tuple[Float[Tensor, "batch group_a"], Int[Tensor, "batch group_a"]]:
    """Find for each token of A the most similar one of B (cosine; 0 where a vector is zero).

    Returns:
        The similarity, and the index of that token among all.
    """
    unit = normalize(precise(metric), dim=-1, eps=1e-12)
    a, b = (unit.gather(1, group[..., None].expand(-1, -1, unit.shape[2])) for group in (group_a, group_b))
    similarity, partner = (a @ b.transpose(1, 2)).max(dim=2)
    return similarity, group_b.gather(1, partner)


def similarity_prune(
    importance: Float[Tensor, "batch tokens"],
    metric: Float[Tensor, "batch tokens dim"],
    r: int,
    mode: Partition = "sequential-u",
    seed: int = 0,
) -> Int[Tensor, "batch removed"]:
    """The S-stage: the r tokens of group A that are most similar to one of group B, ascending.

    Args:
        importance: of the tokens that can be pruned.
        metric: what they are compared by.
        r: how many are removed; at most half of the tokens.
        mode: see `partition_by_importance`.
        seed: of the random partition.

    Raises:
        UserError: r is negative, or more than half of the tokens.

    Source: Zero-TPrune, S-stage.
    """
    return _similar(importance, metric, r, mode, seed)[0]


def _similar(importance: Tensor, metric: Tensor, r: int, mode: Partition, seed: int) -> tuple[Tensor, Tensor]:
    """What the S-stage removes, ascending, and the token that each of these is similar to."""
    _require_r(r, importance.shape[1])
    group_a, group_b = partition_by_importance(importance, mode, seed)
    # In the order of their indices, so that of equally similar tokens the first goes.
    group_a = group_a.sort(dim=1).values
    if r == 0:
        return group_a[:, :0], group_a[:, :0]
    similarity, partner = best_similarity(metric, group_a, group_b)
    removed = highest(similarity, r)
    return group_a.gather(1, removed), partner.gather(1, removed)


def _require_r(r: int, tokens: int) -> None:
    if not 0 <= r <= tokens // 2:
        raise UserError(
            f"r must be from 0 to half of the tokens that can be pruned, here {tokens // 2} of {tokens}, got {r}: "
            "the S-stage removes tokens of the less important half."
        )


def importance_prune(importance: Float[Tensor, "batch tokens"], keep: int) -> Int[Tensor, "batch kept"]:
    """The I-stage: the `keep` most important tokens, ascending; of equals the first.

    Raises:
        UserError: no token would be kept, or more than there are.

    Source: Zero-TPrune, I-stage.
    """
    if not 1 <= keep <= importance.shape[1]:
        raise UserError(f"keep must be from 1 to {importance.shape[1]}, the number of tokens, got {keep}.")
    return highest(importance, keep)


def _kept_by_both(tokens: int, r: int, keep_rate: float | int) -> int:
    """How many of the tokens that can be pruned both stages leave."""
    _require_r(r, tokens)
    # 0.7 * 10 is 7.000000000000001 or 6.999999999999999, as the case may be.
    keep = int((tokens - r) * keep_rate + 1e-9)
    if tokens and not keep:
        raise UserError(
            f"keep_rate {keep_rate} and r = {r} leave none of {tokens} tokens: raise keep_rate or prune in fewer layers."
        )
    return keep


# --- one pruning layer ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pruned:
    """What a pruning layer decided.

    Attributes:
        kept: indices of what is left, ascending.
        partner: for each token that the S-stage removed the one it is similar to, `DROPPED` for all others.
        votes: of all tokens.
    """

    kept: Int[Tensor, "batch kept"]
    partner: Int[Tensor, "batch tokens"]
    votes: Float[Tensor, "batch heads tokens"]


@dataclass(frozen=True)
class _Step:
    """One pruning layer of a schedule."""

    config: ZeroTPruneConfig
    keep_rate: float | int
    r: int
    iterations: int

    def prune(self, attn: Tensor, metric: Tensor, special: int, initial: Tensor | None = None) -> _Pruned:
        """Run I', S and I on images that have the same number of tokens and no padding."""
        config = self.config
        keep = _kept_by_both(attn.shape[-1] - special, self.r, self.keep_rate)
        votes, _ = page_rank(attn, self.iterations, config.tol, initial)
        importance = _importance(attn, votes, special, config)
        removed, partner = _similar(importance, metric[:, special:], self.r, config.partition, config.seed)
        alive = torch.ones_like(importance).scatter(1, removed, 0.0)
        left = highest(alive, alive.shape[1] - self.r)
        importance = self._vote_again(attn, left, special) if config.rescore else importance.gather(1, left)
        first = torch.arange(special, device=left.device).expand(left.shape[0], -1)
        kept = torch.cat([first, left.gather(1, highest(importance, keep)) + special], dim=1)
        similar = torch.full_like(votes[:, 0], DROPPED, dtype=torch.long)
        return _Pruned(kept, similar.scatter(1, removed + special, partner + special), votes)

    def _vote_again(self, attn: Tensor, left: Tensor, special: int) -> Tensor:
        config = self.config
        first = torch.arange(special, device=left.device).expand(left.shape[0], -1)
        graph = _normalised(_subgraph(attn, torch.cat([first, left + special], dim=1)))
        votes, _ = page_rank(graph, self.iterations, config.tol, None)
        return aggregate_heads(votes[:, :, special:], config.v_min, config.v_max, config.aggregation)[0]

    def fit(self, tokens: int) -> "_Step":
        """The same for a text of so many words: no more than half of them are similar, and one is always left."""
        r = min(self.r, tokens // 2)
        return replace(self, r=r, keep_rate=max(self.keep_rate, 1 / max(1, tokens - r)))


def _subgraph(attn: Tensor, index: Tensor) -> Tensor:
    """The rows and columns of these tokens."""
    index = index[:, None, :, None]
    rows = attn.gather(2, index.expand(-1, attn.shape[1], -1, attn.shape[3]))
    return rows.gather(3, index.transpose(2, 3).expand(-1, attn.shape[1], rows.shape[2], -1))


def _normalised(graph: Tensor) -> Tensor:
    """Rows that sum to 1 again; a token that attended only to removed ones votes for all alike."""
    total = graph.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, graph / total, 1 / graph.shape[-1])


def _steps(config: ZeroTPruneConfig) -> dict[int, _Step]:
    """The pruning layers by their number, from 1."""
    schedule = zip(config.layers, config.keep_rates, config.r, config.iterations, strict=True)
    return {layer: _Step(config, keep_rate, r, iterations) for layer, keep_rate, r, iterations in schedule}


def zero_tprune_layer(
    attn: Tensor,
    metric: Float[Tensor, "batch tokens dim"],
    num_special: int,
    iterations: int,
    keep_rate: float | int,
    r: int,
    *,
    tol: float | None = None,
    v_min: float | None = 0.01,
    v_max: float | None = 0.7,
    aggregation: Aggregation = "rms",
    partition: Partition = "sequential-u",
    pre_vote: PreVote = "wpr",
    rescore: bool = False,
    initial: Float[Tensor, "batch heads tokens"] | None = None,
    seed: int = 0,
) -> Int[Tensor, "batch kept"]:
    """Prune after one layer: importance, then the S-stage, then the I-stage.

    Args:
        attn: (batch, heads, tokens, tokens), the layer's attention weights after softmax.
        metric: what tokens are compared by, usually the layer's keys.
        num_special: leading tokens that vote and are always kept (class, distillation).
        iterations: rounds of votes.
        keep_rate: fraction that the I-stage keeps.
        r: tokens that the S-stage removes.
        tol: stop the votes when a round moves less than this.
        v_min: least variance of a head that takes part.
        v_max: highest such variance.
        aggregation: of the heads.
        partition: of the S-stage.
        pre_vote: what importance is; for this and the options above see `ZeroTPruneConfig`.
        rescore: vote again before the I-stage.
        initial: votes to begin with; None for 1 / tokens.
        seed: of the random partition.

    Returns:
        Indices of the kept tokens, ascending: the special ones, then floor((tokens - special - r) · keep_rate) others.

    Raises:
        UserError: `attn` holds no attention weights, an option is out of range, or no token would be left.

    Source: Zero-TPrune (arXiv 2305.17328), I', S and I stages.
    """
    require_graph(attn)
    if not 0 <= num_special <= attn.shape[-1]:
        raise UserError(
            f"num_special must be from 0 to {attn.shape[-1]}, the number of tokens, got {num_special}."
        )
    if metric.shape[:2] != attn.shape[::3]:
        raise UserError(
            f"metric must have one vector for each of the {attn.shape[-1]} tokens of {attn.shape[0]} images, got the shape "
            f"{tuple(metric.shape)}."
        )
    config = ZeroTPruneConfig(
        layers=(1,),
        keep_rates=(keep_rate,),
        r=(r,),
        iterations=(iterations,),
        tol=tol,
        v_min=v_min,
        v_max=v_max,
        aggregation=aggregation,
        partition=partition,
        pre_vote=pre_vote,
        rescore=rescore,
        seed=seed,
    )
    return _steps(config)[1].prune(attn, metric, num_special, initial).kept


def token_trace(
    config: ZeroTPruneConfig, num_tokens: int, num_layers: int, num_special: int = 1
) -> tuple[int, ...]:
    """How many tokens enter each layer, and how many leave the last; nothing has to run for it.

    Raises:
        UserError: a pruning layer does not exist, or cannot remove so many tokens.
    """
    steps = _steps(config)
    _require_layers(config, num_layers)
    counts = [num_tokens]
    for layer in range(1, num_layers + 1):
        step, free = steps.get(layer), counts[-1] - num_special
        kept = _kept_by_both(free, step.r, step.keep_rate) if step else free
        counts.append(num_special + kept)
    return tuple(counts)


def _require_layers(config: ZeroTPruneConfig, num_layers: int) -> None:
    beyond = [layer for layer in config.layers if layer > num_layers]
    if beyond:
        raise UserError(
            f"layers must be from 1 to {num_layers}, the number of the model's layers, got {beyond[0]}."
        )


# --- in a model ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _VotedTokens(Tokens):
    """Tokens that remember the votes of the pruning layer before; they travel with the forward they belong to."""

    votes: Float[Tensor, "batch heads voters"] | None = None


@dataclass(frozen=True)
class _PruneAfter(LayerReducer):
    """One pruning layer."""

    step: _Step
    any_length: bool
    after: Literal["attention", "layer"] = "layer"

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        with torch.no_grad():
            pruned = self._prune(attention.weights, self._metric(attention), tokens)
        if self.step.config.merge_similar:
            reduced, left = tokens.merge(hidden_states, _merge_plan(pruned))
        else:
            plan = MergePlan.keep(pruned.kept, hidden_states.shape[1])
            reduced, left = tokens.drop(hidden_states, plan)
        if self.step.config.warm_start:
            votes = pruned.votes.gather(2, pruned.kept[:, None, :].expand(-1, pruned.votes.shape[1], -1))
            left = _VotedTokens(left.special, left.size, left.mask, left.plan, votes)
        return reduced, left

    def _metric(self, attention: Attention) -> Tensor:
        if self.step.config.metric_heads == "mean":
            return attention.keys
        return attention.call.key.transpose(1, 2).flatten(2)

    def _prune(self, attn: Tensor, metric: Tensor, tokens: Tokens) -> _Pruned:
        before = tokens.votes if isinstance(tokens, _VotedTokens) else None
        initial = None if before is None else _normalised(before)
        if tokens.mask is not None:
            return _prune_each_length(self.step, attn, metric, tokens.special, tokens.mask, initial)
        step = self.step.fit(attn.shape[-1] - tokens.special) if self.any_length else self.step
        return step.prune(attn, metric, tokens.special, initial)


def _prune_each_length(
    step: _Step, attn: Tensor, metric: Tensor, special: int, mask: Tensor, initial: Tensor | None
) -> _Pruned:
    """Prune texts of equal length together, each as if it stood alone; shorter ones keep padding to fill their rows."""
    lengths = mask.sum(dim=1)
    parts = []
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        real = mask[rows].nonzero()[:, 1].view(len(rows), length)
        start = None
        if initial is not None:
            start = initial[rows].gather(2, real[:, None, :].expand(-1, attn.shape[1], -1))
        vectors = metric[rows].gather(1, real[..., None].expand(-1, -1, metric.shape[2]))
        part = step.fit(length - special).prune(_subgraph(attn[rows], real), vectors, special, start)
        parts.append((rows, real, part))
    longest = max(part.kept.shape[1] for _, _, part in parts)
    # Padding, in its order, before what was dropped: only padding fills up a row.
    kept = mask.to(torch.uint8).argsort(dim=1, stable=True)[:, :longest].clone()
    partner = torch.full_like(mask, DROPPED, dtype=torch.long)
    votes = torch.zeros_like(attn[:, :, 0])
    for rows, real, part in parts:
        chosen = real.gather(1, part.kept)
        filling = kept[rows, : longest - chosen.shape[1]]
        kept[rows] = torch.cat([chosen, filling], dim=1)
        ahead = real.gather(1, part.partner.clamp_min(0)).where(part.partner != DROPPED, DROPPED)
        partner[rows[:, None], real] = ahead
        votes[
            rows[:, None, None], torch.arange(votes.shape[1], device=rows.device)[:, None], real[:, None]
        ] = part.votes
    return _Pruned(kept, partner, votes)


def _merge_plan(pruned: _Pruned) -> MergePlan:
    """Merge what is similar to a kept token into it; drop the rest."""
    tokens = pruned.partner.shape[1]
    place = MergePlan.keep(pruned.kept, tokens).place()
    gone = highest((place == DROPPED).to(torch.float32), tokens - pruned.kept.shape[1])
    partner = pruned.partner.gather(1, gone)
    target = place.gather(1, partner.clamp_min(0)).where(partner != DROPPED, DROPPED)
    return MergePlan(tokens, pruned.kept, gone, target, ragged=True)


_PAPER_LAYERS, _PAPER_PATCHES, _MOST = 12, 196, 6


def _scaled(strength: float, shape: EncoderShape) -> dict[str, Any]:
    """The paper's schedule with up to six times its losses, its layers at the same depth of this encoder."""
    depth, patches, factor = len(shape.costs), shape.tokens - shape.special, _MOST * strength
    paper = ZeroTPruneConfig()
    at_depth: dict[int, tuple[float, int, int]] = {}
    for layer, paper_keep, paper_r, iterations in zip(
        paper.layers, paper.keep_rates, paper.r, paper.iterations, strict=True
    ):
        similar = min(round(factor * paper_r * patches / _PAPER_PATCHES), (patches - 1) // 2)
        keep = max(1 - factor * (1 - paper_keep), 1 / max(1, patches - similar))
        place = max(1, math.floor(layer * depth / _PAPER_LAYERS))
        # In a shallow model several of the paper's layers fall on one, which prunes once.
        if place not in at_depth:
            patches = max(1, math.floor((patches - similar) * keep + 1e-9))
            at_depth[place] = (keep, similar, iterations)
    keep_rates, r, rounds = zip(*at_depth.values(), strict=True)
    return {"layers": tuple(at_depth), "keep_rates": keep_rates, "r": r, "iterations": rounds}


def _from_options(**options: Any) -> "ZeroTPrune":
    return ZeroTPrune(ZeroTPruneConfig(**options))


@REDUCERS.register("zero-tprune", options=ZeroTPruneConfig, make=_from_options)
@dataclass(frozen=True)
class ZeroTPrune:
    """Prune tokens after a few layers of a frozen encoder, by the graph that its attention is; with or without a class token.

    Attention weights are computed in the pruning layers only. On text, each row is pruned as if it stood alone, without its padding.

    Attributes:
        config: the schedule, and what tokens are ranked by.

    Source: Zero-TPrune (arXiv 2305.17328).
    """

    config: ZeroTPruneConfig = field(default_factory=ZeroTPruneConfig)

    @classmethod
    def at(cls, share: float, shape: EncoderShape) -> dict[str, Any]:
        """The options that cost a share of the dense FLOPs: the paper's schedule, stretched to the depth of the model and scaled."""

        def cost(strength: float) -> float:
            config = ZeroTPruneConfig(**_scaled(strength, shape))
            counts = token_trace(config, shape.tokens, len(shape.costs), shape.special)[:-1]
            return shape.share(counts, counts)

        return _scaled(nearest_strength(share, cost), shape)

    @property
    def proportional_attention(self) -> bool:
        """Off, as dropped tokens are counted nowhere; worth trying with `merge_similar`."""
        return False

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """One reducer after each pruning layer.

        Raises:
            UserError: a pruning layer does not exist.
        """
        _require_layers(self.config, len(encoder.layers))
        reducers: list[LayerReducer | None] = [None] * len(encoder.layers)
        # Whoever writes a schedule knows how many tokens an image has, but not how long each text will be.
        any_length = encoder.modality == "text"
        for layer, step in _steps(self.config).items():
            if step.r or step.keep_rate < 1:
                reducers[layer - 1] = _PruneAfter(step, any_length)
        return reducers
