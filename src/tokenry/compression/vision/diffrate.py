"""DiffRate: prune and merge in the same layer, both by one sort on class attention, as many tokens as a learned schedule says.

    order = special tokens, then patches by the attention of the class token (mean over heads), descending
    prune : the first `prune_kept` of the order stay
    merge : the first `merge_kept` of these stay; each of the others goes into the one it is most similar to (cosine), as a plain mean
    size  = size + sum of size · similarity over what was merged in

Source: DiffRate (arXiv 2305.17997). The size that is scaled by similarity is in the official code only. Schedules are learned by
`search_rates`; all their counts include the special tokens.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from operator import index
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tokenry.compression.flops import LayerCost
from tokenry.compression.plan import MergePlan, special_first
from tokenry.compression.precision import precise
from tokenry.compression.reducer import REDUCERS, Attention, LayerReducer, Tokens
from tokenry.compression.vision.published_rates import PUBLISHED_RATES, RELEASED_NAMES
from tokenry.compression.vision.shares import EncoderShape
from tokenry.compression.vision.tome import unit_vectors
from tokenry.core.errors import UserError, require_one_of
from tokenry.core.io.files import read_json, write_json
from tokenry.core.io.settings import of_kind
from tokenry.core.tensors.patching import Encoder

Count = int | Float[Tensor, ""]
"""A number of tokens; a tensor where it is to be learned."""

By = Literal["both", "prune", "merge"]


# --- schedules -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """Number of tokens that stay in each layer, special tokens included; a count above the tokens that are there changes nothing.

    Attributes:
        prune_kept: tokens left by pruning, one count per layer.
        merge_kept: tokens left by the merging that follows; at or above `prune_kept` nothing is merged.
    """

    prune_kept: Sequence[int]
    merge_kept: Sequence[int]

    def __post_init__(self) -> None:
        for name in ("prune_kept", "merge_kept"):
            object.__setattr__(self, name, tuple(_whole(count, name) for count in getattr(self, name)))
        if len(self.prune_kept) != len(self.merge_kept) or not self.prune_kept:
            raise UserError(
                f"prune_kept and merge_kept need one count per layer each, got {len(self.prune_kept)} and {len(self.merge_kept)}."
            )

    @classmethod
    def load(cls, path: Path) -> "Schedule":
        """Read a schedule that `save` wrote.

        Raises:
            UserError: the file is missing or holds no schedule.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.keys() != {"prune_kept", "merge_kept"}:
            raise UserError(
                f"{path} holds no schedule: expected a JSON object with prune_kept and merge_kept, one count per layer each."
            )
        return cls(**content)

    def save(self, path: Path) -> None:
        """Write the schedule as JSON, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load_published(cls, model: str, gflops: float) -> "Schedule":
        """One of the schedules that the authors learned on ImageNet-1k.

        Args:
            model: "deit-tiny", "deit-small" or "deit-base" (without distillation token); "vit-base", "vit-large" or "vit-huge" (pre-trained
                as masked auto-encoders); or the authors' name for it, such as "ViT-L-MAE".
            gflops: multiply-adds of the model with it, in 1e9, as `vit_flops` counts them.

        Raises:
            UserError: there is none for this model and this number of GFLOPs.
        """
        name = RELEASED_NAMES.get(model, model)
        if (name, gflops) not in PUBLISHED_RATES:
            of_model = [pair for pair in PUBLISHED_RATES if pair[0] == name] or list(PUBLISHED_RATES)
            known = ", ".join(f"{model_name} at {target}" for model_name, target in of_model)
            raise UserError(
                f"there is no published schedule for {model} at {gflops} GFLOPs: choose from {known}, or learn one with search_rates."
            )
        return cls(*PUBLISHED_RATES[name, gflops])


def _whole(count: object, name: str) -> int:
    try:
        whole = index(count)  # type: ignore[arg-type]
    except TypeError as error:
        raise UserError(
            f"{name} must hold whole numbers of tokens, got {count!r}: round it yourself."
        ) from error
    if whole < 1 or isinstance(count, bool):
        raise UserError(f"{name} must keep at least 1 token in every layer, got {count!r}.")
    return whole


def uniform_schedule(
    costs: Sequence[LayerCost], tokens: int, special: int, share: float, by: By = "both"
) -> Schedule:
    """Keep the same fraction of the patches in every layer but the first, at a share of the dense FLOPs.

    The control of a learned schedule, which leaves the first layer alone too.

    Args:
        tokens: number of tokens that enter the first layer.
        special: number of special ones among them.
        share: share of the layers' dense FLOPs; met as nearly as whole numbers allow.
        by: prune half of the tokens to remove and merge the others, prune all, or merge all.
    """
    dense = scheduled_flops(costs, tokens, [tokens] * len(costs), [tokens] * len(costs))

    def at(permille: int) -> Schedule:
        return _at_rate(permille / 1000, len(costs), tokens, special, by)

    def share_at(permille: int) -> float:
        schedule = at(permille)
        return float(scheduled_flops(costs, tokens, schedule.prune_kept, schedule.merge_kept) / dense)

    above = bisect_left(range(1000), share, key=share_at)
    return at(min((above, max(above - 1, 0)), key=lambda permille: abs(share_at(permille) - share)))


def _at_rate(rate: float, layers: int, tokens: int, special: int, by: By) -> Schedule:
    left = [tokens] + [
        max(1, round((tokens - special) * rate**layer)) + special for layer in range(1, layers)
    ]
    entering = [tokens, *left[:-1]]
    pruned = {
        "both": [(before + after + 1) // 2 for before, after in zip(entering, left, strict=True)],
        "prune": left,
        "merge": entering,
    }
    return Schedule(pruned[by], left)


# --- FLOPs ---------------------------------------------------------------------------------------------------------------------------


def scheduled_flops(
    costs: Sequence[LayerCost], tokens: int, prune_kept: Sequence[Count], merge_kept: Sequence[Count]
) -> Float[Tensor, ""]:
    """Multiply-adds of the layers for one image under a schedule: attention at the tokens that enter, the MLP at those that stay.

    Given tensors, the gradient goes to both counts of a layer, whichever was the least, and not to the layer before: the counts of a
    layer feel its own MLP and the next layer's attention.

    Source: DiffRate, FLOPs of the training objective.
    """
    flops = torch.zeros((), dtype=torch.float64)
    entering = torch.tensor(tokens, dtype=torch.float64)
    for cost, prune, merge in zip(costs, prune_kept, merge_kept, strict=True):
        staying = _least(entering, _precise(prune), _precise(merge))
        flops = flops + cost.flops(entering, staying)
        entering = staying
    return flops


def _precise(count: Count) -> Tensor:
    return torch.as_tensor(count).to("cpu", torch.float64)


def _least(before: Tensor, prune: Tensor, merge: Tensor) -> Tensor:
    least = torch.stack([before, prune, merge]).min().detach()
    return least + (prune - prune.detach()) + (merge - merge.detach())


def vit_flops(
    prune_kept: Sequence[Count],
    merge_kept: Sequence[Count],
    hidden_size: int,
    patch_size: int,
    num_patches: int,
    num_labels: int,
) -> Float[Tensor, ""]:
    """Multiply-adds of a whole plain ViT for one image, counted as the paper does; differentiable when given tensors.

    An MLP is four times as wide as the residual stream, images have three channels, and the class token is counted as if it had been
    embedded too.
    """
    width = hidden_size
    costs = [LayerCost(4 * width**2, 8 * width**2, width)] * len(prune_kept)
    tokens = num_patches + 1
    embedding = tokens * width * 3 * patch_size**2
    return scheduled_flops(costs, tokens, prune_kept, merge_kept) + embedding + width * num_labels


# --- one layer -----------------------------------------------------------------------------------------------------------------------


def importance_order(importance: Float[Tensor, "batch tokens"], special: int) -> Int[Tensor, "batch tokens"]:
    """Special tokens first, then the others by importance, descending; of equals the first."""
    return special_first(importance[:, special:].argsort(dim=1, descending=True, stable=True), special)


def diffrate_merge(
    x: Float[Tensor, "batch tokens hidden"], kept: int, special: int = 1
) -> tuple[MergePlan, Float[Tensor, "batch merged"]]:
    """Merge each token from position `kept` on into the most similar one before it.

    Args:
        x: tokens, sorted by importance; compared by cosine.
        kept: number of tokens that stay; all if there are fewer.
        special: leading tokens into which nothing is merged.

    Returns:
        The plan, and the cosine of each merged token with the token it goes into.

    Source: DiffRate, token merging.
    """
    batch, tokens, _ = x.shape
    index = torch.arange(tokens, device=x.device).expand(batch, -1)
    kept = min(kept, tokens)
    unit = unit_vectors(x.detach())
    cosine = unit[:, kept:] @ unit[:, :kept].transpose(1, 2)
    cosine[:, :, :special] = -torch.inf
    similarity, target = cosine.max(dim=2)
    return MergePlan(tokens, index[:, :kept], index[:, kept:], target), similarity


def scale_merged(
    plan: MergePlan, similarity: Float[Tensor, "batch merged"]
) -> Float[Tensor, "batch tokens 1"]:
    """Factors of the sizes before a plan: the similarity of a merged token to the one it goes into, and 1 elsewhere."""
    scale = similarity.new_ones((similarity.shape[0], plan.tokens))
    return scale.scatter(1, plan.merged, similarity)[..., None]


def take(
    x: Shaped[Tensor, "batch tokens *channels"], index: Int[Tensor, "batch taken"]
) -> Shaped[Tensor, "batch taken *channels"]:
    """Select tokens, in the order of `index`."""
    return MergePlan.keep(index, x.shape[1]).merge(x)


def masked_softmax(
    logits: Float[Tensor, "batch heads queries tokens"],
    policy: Float[Tensor, "batch tokens"],
    eps: float = 1e-6,
    bounded: bool = False,
) -> Float[Tensor, "batch heads queries tokens"]:
    """Attention over the living tokens, differentiable in which are alive; a token always sees itself.

    The derivative for a dead key is exp(logit) / sum over the living: where attention is sharp and the dead key would have had it all,
    that has no bound, though bringing the key back could not change attention by more than 1.

    Args:
        logits: logits of the first queries, or of all.
        policy: 1 for a living key, 0 for a dead one.
        eps: keeps the attention to a dead token above 0.
        bounded: take for a dead key the change that bringing it back would make, instead of the derivative; the values are the same.

    Source: DiffRate, attention in training (after DynamicViT); `bounded` is not in it.
    """
    queries, tokens = logits.shape[-2:]
    logits = precise(logits)
    itself = torch.eye(queries, tokens, device=logits.device, dtype=logits.dtype)
    # Dead keys count for the maximum too: it only scales.
    exponentials = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    seen = policy.to(logits.dtype)[:, None, None, :]
    if bounded:
        with torch.no_grad():
            living = (exponentials * (seen + (1 - seen) * itself)).sum(dim=-1, keepdim=True) + eps
            damping = living / (living + exponentials * (1 - seen))
        seen = seen.detach() + damping * (seen - seen.detach())
    seen = seen + (1 - seen) * itself
    exponentials = exponentials * seen
    return (exponentials + eps / tokens) / (exponentials.sum(dim=-1, keepdim=True) + eps)


# --- the method ----------------------------------------------------------------------------------------------------------------------


def _from_options(schedule: str | Schedule = "", **options: Any) -> "DiffRate":
    """Make the method; the schedule may be a file or a published one such as `deit-small@2.9`."""
    if isinstance(schedule, Schedule):
        return DiffRate(schedule, **options)
    if not schedule:
        raise UserError(
            "diffrate needs a schedule: give the JSON file that Schedule.save wrote (search_rates learns one), or a published one such "
            "as deit-small@2.9."
        )
    model, published, gflops = schedule.partition("@")
    if published and not Path(schedule).exists():
        return DiffRate(Schedule.load_published(model, of_kind(float, gflops, "the GFLOPs")), **options)
    return DiffRate(Schedule.load(Path(schedule)), **options)


@REDUCERS.register("diffrate", make=_from_options)
@dataclass(frozen=True)
class DiffRate:
    """Prune and merge by a schedule, in the order of class attention.

    Attributes:
        schedule: number of tokens that stay in each layer; see `search_rates` and `Schedule.load_published`.
        merge: "mean" is the paper's plain mean; "weighted" weighs each token by its size.
        size_clamp: "min1" keeps every size at 1 or more before sizes are added, as the search does; "none" is the official
            evaluation, where dissimilar tokens can make a size smaller.
        importance: "class" is the attention that the class token pays; "received" is what all tokens pay, on average, for models
            without class token: merging only, and sizes are not scaled by similarity (the paper's CAFormer variant).
        proportional_attention: attention counts keys by their size.

    Source: DiffRate (arXiv 2305.17997).
    """

    schedule: Schedule
    merge: Literal["mean", "weighted"] = "mean"
    size_clamp: Literal["none", "min1"] = "none"
    importance: Literal["class", "received"] = "class"
    proportional_attention: bool = True

    def __post_init__(self) -> None:
        require_one_of(self.merge, ("mean", "weighted"), "merge")
        require_one_of(self.size_clamp, ("none", "min1"), "size_clamp")
        require_one_of(self.importance, ("class", "received"), "importance")

    @classmethod
    def at(cls, share: float, shape: EncoderShape) -> dict[str, Any]:
        """The options that cost a share of the dense FLOPs: a uniform schedule, not a searched one."""
        return {"schedule": uniform_schedule(shape.costs, shape.tokens, shape.special, share)}

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """One sort, prune and merge per layer, also where the schedule changes nothing.

        Raises:
            UserError: the schedule does not fit the model, or the model has no class token, or reads text.
        """
        require_image_encoder(encoder)
        if self.importance == "class":
            require_class_token(encoder)
        counts = list(zip(self.schedule.prune_kept, self.schedule.merge_kept, strict=True))
        if len(counts) != len(encoder.layers):
            raise UserError(
                f"the schedule has {len(counts)} layers, but {type(encoder.model).__name__} has {len(encoder.layers)}: give one that "
                "was made for this model."
            )
        least, allowed = min(map(min, counts)), encoder.special_tokens + 1
        if least < allowed:
            raise UserError(
                f"every count of the schedule must be at least {allowed}, got {least}: special tokens and one patch must stay."
            )
        return [_Compress(self, *counted) for counted in counts]


def require_image_encoder(encoder: Encoder) -> None:
    """Raise `UserError` for an encoder of text."""
    if encoder.modality != "image":
        raise UserError(
            f"{type(encoder.model).__name__} reads text, which DiffRate does not know (padding would be ranked): use ToMe or PiToMe."
        )


def require_class_token(encoder: Encoder) -> None:
    """Raise `UserError` where there is no class token whose attention could rank the patches."""
    if encoder.special_tokens == 0:
        raise UserError(
            f"{type(encoder.model).__name__} has no class token whose attention could rank the patches: apply DiffRate with "
            'importance="received" and a schedule that only merges, or use ToMe or PiToMe.'
        )


@dataclass(frozen=True)
class _Compress(LayerReducer):
    method: DiffRate
    prune_kept: int
    merge_kept: int

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        count = hidden_states.shape[1]
        if self.method.importance == "received":
            self._require_no_pruning(count)
        order = importance_order(self._importance(attention), tokens.special)[:, : self.prune_kept]
        merging, similarity = diffrate_merge(take(hidden_states, order), self.merge_kept, tokens.special)
        plan = MergePlan(count, take(order, merging.kept), take(order, merging.merged), merging.target)
        size = similarity.new_ones((*hidden_states.shape[:2], 1)) if tokens.size is None else tokens.size
        if self.method.merge == "weighted":
            merged = plan.merge_weighted(hidden_states, size)[0]
        else:
            merged = plan.merge(hidden_states, "mean")
        if self.method.importance == "class":
            size = size * scale_merged(plan, similarity)
        if self.method.size_clamp == "min1":
            size = size.clamp_min(1)
        size = plan.merge(size, "sum")
        return merged, replace(tokens, size=size, plan=plan)

    def _importance(self, attention: Attention) -> Tensor:
        if self.method.importance == "class":
            return attention.class_row.mean(dim=1)
        return attention.weights.mean(dim=(1, 2))

    def _require_no_pruning(self, tokens: int) -> None:
        if self.prune_kept < tokens:
            raise UserError(
                f'the schedule prunes {tokens} tokens to {self.prune_kept}, but by importance="received" tokens are only merged: give '
                "prune_kept counts that no layer falls below."
            )
