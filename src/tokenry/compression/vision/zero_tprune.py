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

from tokenry.compression.plan import DROPPED, MergePlan, special_first
from tokenry.compression.reducer import REDUCERS, Attention, LayerReducer, Tokens, per_length
from tokenry.compression.vision.page_rank import (
    Aggregation,
    aggregate_heads,
    one_step_vote,
    page_rank,
    require_graph,
    require_window,
)
from tokenry.compression.vision.shares import EncoderShape, nearest_strength
from tokenry.compression.vision.zero_tprune_stages import Partition, kept_by_both, most_similar
from tokenry.core.errors import UserError, require_one_of, require_share
from tokenry.core.tensors.choices import top_k_indices
from tokenry.core.tensors.patching import Encoder

PreVote = Literal["wpr", "one_step"]


@dataclass(frozen=True)
class ZeroTPruneConfig:
    """Where, how much and by what to prune. Without arguments: the schedule of DeiT-S at 224 px, no window for heads.

    Attributes:
        layers: prune after these layers; the first is 1.
        keep_rates: fraction that the I-stage keeps, per pruning layer.
        r: number of tokens that the S-stage removes, per pruning layer.
        iterations: rounds of votes, per pruning layer: many in early layers, where the votes have not settled, one in the last.
        tol: stop earlier when a round moves less than this (sum of absolute changes); None never does.
        v_min: least variance of a head's votes that lets it take part (votes rescaled to mean 1); None for no bound.
        v_max: highest such variance. The bounds depend on the backbone: the paper's [0.01, 0.7] suit DeiT and reject good heads of others.
        aggregation: "rms" favours tokens that one head is sure of; "mean" is the control.
        partition: which tokens the S-stage may remove; see `partition_by_importance`.
        metric_heads: compare tokens by the mean of the keys over heads, or by the keys of all heads.
        pre_vote: the importance of both stages; "one_step" is one round on attention sharpened with temperature 0.1.
        rescore: vote again on what the S-stage left before the I-stage.
        merge_similar: average what the S-stage removes into the token it is similar to, instead of dropping it.
        warm_start: begin the votes with those of the pruning layer before.
        seed: random seed of the "random" partition.
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
        lengths = [len(entries) for entries in (self.layers, self.keep_rates, self.r, self.iterations)]
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


# --- one pruning layer ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One pruning layer of a schedule."""

    config: ZeroTPruneConfig
    keep_rate: float | int
    r: int
    iterations: int

    def prune(
        self, attn: Tensor, metric: Tensor, special: int, initial: Tensor | None = None
    ) -> tuple[MergePlan, Float[Tensor, "batch heads tokens"]]:
        """Run I', S and I on images that have the same number of tokens and no padding; also returns the votes of all tokens."""
        config, free = self.config, attn.shape[-1] - special
        keep = kept_by_both(free, self.r, self.keep_rate)
        votes, _ = page_rank(attn, self.iterations, config.tol, initial)
        one_step = config.pre_vote == "one_step"
        importance = one_step_vote(attn)[:, special:] if one_step else self._aggregate(votes, special)
        removed, partner = most_similar(
            importance, metric[:, special:], self.r, config.partition, config.seed
        )
        alive = torch.ones_like(importance).scatter(1, removed, 0.0)
        left = top_k_indices(alive, free - self.r)
        importance = self._vote_again(attn, left, special) if config.rescore else importance.gather(1, left)
        chosen = left.gather(1, top_k_indices(importance, keep))
        plan = MergePlan.keep(special_first(chosen, special), attn.shape[-1])
        if config.merge_similar:
            # What the S-stage removed goes where its partner is, or is dropped where the I-stage dropped the partner.
            place = plan.place()
            target = torch.full_like(place, DROPPED)
            plan = plan.sending(target.scatter(1, removed + special, place.gather(1, partner + special)))
        return plan, votes

    def _aggregate(self, votes: Tensor, special: int) -> Tensor:
        config = self.config
        return aggregate_heads(votes[:, :, special:], config.v_min, config.v_max, config.aggregation)[0]

    def _vote_again(self, attn: Tensor, left: Tensor, special: int) -> Tensor:
        graph = _normalised(_subgraph(attn, special_first(left, special)))
        votes, _ = page_rank(graph, self.iterations, self.config.tol, None)
        return self._aggregate(votes, special)

    def fit(self, tokens: int) -> "_Step":
        """This step for a text of `tokens` words: the S-stage removes at most half of them, and one is always left."""
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
    initial: Float[Tensor, "batch heads tokens"] | None = None,
    **options: Any,
) -> Int[Tensor, "batch kept"]:
    """Prune after one layer: importance, then the S-stage, then the I-stage.

    Args:
        attn: (batch, heads, tokens, tokens), the layer's attention weights after softmax.
        metric: what tokens are compared by, usually the layer's keys.
        num_special: leading tokens that vote and are always kept (class, distillation).
        iterations: rounds of votes.
        keep_rate: fraction that the I-stage keeps.
        r: tokens that the S-stage removes.
        initial: votes to begin with; None for 1 / tokens.
        **options: how tokens are ranked (tol, v_min, v_max, aggregation, partition, pre_vote, rescore, seed): see `ZeroTPruneConfig`; the
            window of heads is [0.01, 0.7] unless given.

    Returns:
        Indices of the kept tokens, ascending: the special ones, then floor((tokens - special - r) · keep_rate) others.

    Raises:
        UserError: `attn` holds no attention weights, or no token would be left.

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
    config = ZeroTPruneConfig.deit_s(
        layers=(1,), keep_rates=(keep_rate,), r=(r,), iterations=(iterations,), **options
    )
    return _steps(config)[1].prune(attn, metric, num_special, initial)[0].kept


def token_trace(
    config: ZeroTPruneConfig, num_tokens: int, num_layers: int, num_special: int = 1
) -> tuple[int, ...]:
    """Number of tokens that enter each layer, and that leave the last; nothing has to run for it.

    Raises:
        UserError: a pruning layer does not exist, or would remove too many tokens.
    """
    steps = _steps(config)
    _require_layers(config, num_layers)
    counts = [num_tokens]
    for layer in range(1, num_layers + 1):
        step, free = steps.get(layer), counts[-1] - num_special
        kept = kept_by_both(free, step.r, step.keep_rate) if step else free
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
            plan, votes = self._prune(attention.weights, self._metric(attention), tokens)
        carry_out = tokens.merge if self.step.config.merge_similar else tokens.drop
        reduced, left = carry_out(hidden_states, plan)
        if self.step.config.warm_start:
            survivors = votes.gather(2, _for_each_head(plan.kept, votes))
            left = _VotedTokens(left.special, left.size, left.mask, left.plan, survivors)
        return reduced, left

    def _metric(self, attention: Attention) -> Tensor:
        if self.step.config.metric_heads == "mean":
            return attention.keys
        return attention.call.key.transpose(1, 2).flatten(2)

    def _prune(self, attn: Tensor, metric: Tensor, tokens: Tokens) -> tuple[MergePlan, Tensor]:
        step, special = self.step, tokens.special
        before = tokens.votes if isinstance(tokens, _VotedTokens) else None
        initial = None if before is None else _normalised(before)
        if tokens.mask is None:
            step = step.fit(attn.shape[-1] - special) if self.any_length else step
            return step.prune(attn, metric, special, initial)
        votes = torch.zeros_like(attn[:, :, 0])

        def plan(rows: Tensor, real: Tensor) -> MergePlan:
            own = _for_each_head(real, votes)
            start = None if initial is None else initial[rows].gather(2, own)
            vectors = metric[rows].gather(1, real[..., None].expand(-1, -1, metric.shape[2]))
            fitted = step.fit(real.shape[1] - special)
            pruned, cast = fitted.prune(_subgraph(attn[rows], real), vectors, special, start)
            votes[rows] = votes[rows].scatter(2, own, cast)
            return pruned

        return per_length(tokens.mask, plan), votes


def _for_each_head(index: Tensor, votes: Tensor) -> Tensor:
    return index[:, None].expand(-1, votes.shape[1], -1)


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
        config: the schedule, and how tokens are ranked.

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
