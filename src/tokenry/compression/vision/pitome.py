"""PiToMe: score each token by how crowded its neighbourhood is, protect the isolated ones, merge among the crowded.

Source: Spectrum-Preserving Token Merging (arXiv 2405.16148); where the paper and the released code differ, the code is the default.

    energy_i = mean over j of f(cosine_ij)          f(s) = s - margin if s > margin else alpha · (exp(s - margin) - 1)
    core     the 2r tokens of highest energy, by rank: 0, 2, 4, ... are merged, each into the most similar of 1, 3, 5, ...
    bsm      all tokens by rank: of 0, 2, 4, ... the r with the best partner among 1, 3, 5, ... are merged into it

Text takes a Gaussian f, merges ranks 0 ... r-1 into ranks r ... 2r-1, and leaves padding out of all of it.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import elu

from tokenry.compression.plan import DROPPED, MergePlan, special_first
from tokenry.compression.reducer import REDUCERS, Attention, LayerReducer, Tokens
from tokenry.compression.vision.shares import EncoderShape, counts_at_ratio, ratio_at
from tokenry.compression.vision.tome import MERGED, PADDING, arrange, keep_all, match_even_odd, unit_vectors
from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.patching import Encoder

Form = Literal["vision", "clip", "text"]
Variant = Literal["core", "bsm", "even_odd"]
Energy = Literal["code", "paper", "gaussian"]


# --- schedules -----------------------------------------------------------------------------------------------------------------------


def removed_tokens(tokens: int, ratio: float) -> int:
    """Number of tokens a layer removes, of `tokens` that are not special: floor(T - T · ratio)."""
    require_ratio(ratio)
    return math.floor(tokens - tokens * ratio)


def require_ratio(ratio: float) -> None:
    """Raise `UserError` unless a layer can keep this share of its tokens."""
    if not 0.5 <= ratio <= 1.0:
        raise UserError(
            f"ratio must be in [0.5, 1], got {ratio}: it is the share of tokens that each layer keeps, and merging pairs keeps at "
            "least half."
        )


def ratio_schedule(tokens: int, num_layers: int, ratio: float, class_token: bool = True) -> list[int]:
    """Number of tokens left after each layer, the class token included; the ratio does not count the class token."""
    require_ratio(ratio)
    return counts_at_ratio(tokens, num_layers, ratio, int(class_token))


def margin_schedule(num_layers: int, start: float, slope: float) -> list[float]:
    """Margin of each layer l, which falls with depth: start - slope · l / L."""
    return [start - slope * layer / num_layers for layer in range(num_layers)]


# --- energy --------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def energy_score(
    metric: Float[Tensor, "batch tokens dim"],
    margin: float,
    alpha: float = 1.0,
    kind: Energy = "code",
    attention_mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, "batch tokens"]:
    """Score how crowded the neighbourhood of each token is, itself included.

    Args:
        metric: what tokens are compared by (cosine), without special tokens.
        margin: cosine from which a neighbour counts as near. Gaussian: 1 - sigma.
        alpha: weight of the far neighbours, which lower the score.
        kind: f of the neighbours: `code` (s - margin if near), `paper` (s if near), `gaussian`.
        attention_mask: False for padding, which is nobody's neighbour and scores -inf.

    Source: PiToMe, equation 4; `code` and `gaussian` as in the released code.
    """
    _require_energy(kind, margin, alpha)
    unit = unit_vectors(metric)
    # The one (tokens, tokens) matrix; f is taken in place where it can be.
    near = _NEARNESS[kind](unit @ unit.transpose(1, 2), margin, alpha)
    if attention_mask is None:
        return near.mean(dim=2)
    seen = attention_mask.to(near.dtype)
    mean = (near @ seen[:, :, None])[..., 0] / seen.sum(dim=1, keepdim=True)
    return mean.masked_fill(~attention_mask, -torch.inf)


def _elu(cosine: Tensor, margin: float, alpha: float) -> Tensor:
    return elu(cosine.sub_(margin), alpha, inplace=True)


def _elu_unshifted(cosine: Tensor, margin: float, alpha: float) -> Tensor:
    return torch.where(cosine >= margin, cosine, alpha * torch.expm1(cosine - margin))


def _gaussian(cosine: Tensor, margin: float, alpha: float) -> Tensor:
    sigma = 1.0 - margin
    exponent = cosine.sub_(1.0).square_().mul_(-0.5 / sigma**2)
    return exponent.exp_().div_(sigma * math.sqrt(2.0 * math.pi))


_NEARNESS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "code": _elu,
    "paper": _elu_unshifted,
    "gaussian": _gaussian,
}


def _require_energy(kind: str, margin: float, alpha: float) -> None:
    require_one_of(kind, tuple(_NEARNESS), "energy")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise UserError(f"alpha must be positive, got {alpha}: it scales how much far tokens count.")
    if not math.isfinite(margin):
        raise UserError(
            f"margin must be a number, got {margin}: it is the cosine from which on a token is near."
        )
    if kind == "gaussian" and margin >= 1.0:
        raise UserError(f"margin must be below 1 for the Gaussian energy, got {margin}: sigma is 1 - margin.")


# --- matching ------------------------------------------------------------------------------------------------------------------------


def pitome_matching(
    metric: Float[Tensor, "batch tokens dim"],
    ratio: float,
    margin: float,
    alpha: float = 1.0,
    variant: Variant = "core",
    class_token: bool = False,
    energy: Energy = "code",
) -> MergePlan:
    """Match the crowded tokens of images, ranked by energy.

    Args:
        metric: what tokens are compared by (cosine).
        ratio: share of the tokens to keep, the class token not counted.
        margin: see `energy_score`.
        alpha: see `energy_score`.
        variant: `core`, `bsm`, or `even_odd` for ToMe's matching, which takes no energy and counts the class token.
        class_token: token 0 is never merged.
        energy: see `energy_score`.

    Source: PiToMe, algorithm 1, and the released code.
    """
    require_one_of(variant, get_args(Variant), "variant")
    return _match(variant, metric, ratio, int(class_token), _LayerEnergy(margin, alpha, energy), None)


def pitome_text_matching(
    metric: Float[Tensor, "batch tokens dim"],
    ratio: float,
    margin: float,
    class_token: bool = True,
    attention_mask: Bool[Tensor, "batch tokens"] | None = None,
) -> MergePlan:
    """Match the crowded tokens of texts: ranks 0 ... r-1 go into ranks r ... 2r-1.

    Each text merges what it would alone: padding counts in no energy, ranks last, merges with nothing, and is dropped as far as no
    other text of the batch needs the room.

    Args:
        metric: what tokens are compared by (cosine).
        ratio: share of each text's own tokens to keep, the class token not counted.
        margin: 1 - sigma of the Gaussian energy.
        class_token: token 0 is never merged.
        attention_mask: False for padding, which stands on the right; None where there is none.

    Source: PiToMe, the released code for BERT; there, padding takes part.
    """
    energy = _LayerEnergy(margin, kind="gaussian")
    return _match("text", metric, ratio, int(class_token), energy, attention_mask)


@dataclass(frozen=True)
class _LayerEnergy:
    """The energy of one layer."""

    margin: float
    alpha: float = 1.0
    kind: Energy = "code"

    def __post_init__(self) -> None:
        _require_energy(self.kind, self.margin, self.alpha)

    def score(self, metric: Tensor, mask: Tensor | None = None) -> Float[Tensor, "batch tokens"]:
        return energy_score(metric, self.margin, self.alpha, self.kind, mask)


def _by_rank(energy: Tensor) -> Int[Tensor, "batch tokens"]:
    """Tokens by falling energy, the first of equals first."""
    return energy.argsort(dim=1, descending=True, stable=True)


@torch.no_grad()
def _match_core(
    metric: Tensor, ratio: float, special: int, energy: _LayerEnergy, mask: Tensor | None
) -> MergePlan:
    patches = metric[:, special:]
    r = removed_tokens(patches.shape[1], ratio)
    order = _by_rank(energy.score(patches))
    if r == 0:
        return MergePlan.keep(special_first(order, special), metric.shape[1])
    merged, partners, protected = order[:, 0 : 2 * r : 2], order[:, 1 : 2 * r : 2], order[:, 2 * r :]
    target = _cosine(patches, merged, partners).argmax(dim=2) + protected.shape[1]
    return _plan(special, torch.cat([protected, partners], dim=1), merged, target)


@torch.no_grad()
def _match_all(
    metric: Tensor, ratio: float, special: int, energy: _LayerEnergy, mask: Tensor | None
) -> MergePlan:
    patches = metric[:, special:]
    r = removed_tokens(patches.shape[1], ratio)
    if patches.shape[1] < 2:
        return keep_all(metric)
    order = _by_rank(energy.score(patches))
    sources, partners = order[:, ::2], order[:, 1::2]
    best, partner = _cosine(patches, sources, partners).max(dim=2)
    by_score = best.argsort(dim=1, descending=True, stable=True)
    merged, left = by_score[:, :r], by_score[:, r:]
    kept = torch.cat([sources.gather(1, left), partners], dim=1)
    return _plan(special, kept, sources.gather(1, merged), partner.gather(1, merged) + left.shape[1])


def _match_even_odd(
    metric: Tensor, ratio: float, special: int, energy: _LayerEnergy, mask: Tensor | None
) -> MergePlan:
    return match_even_odd(metric, removed_tokens(metric.shape[1], ratio), special)


@torch.no_grad()
def _match_text(
    metric: Tensor, ratio: float, special: int, energy: _LayerEnergy, mask: Tensor | None
) -> MergePlan:
    """`pitome_text_matching` for any number of special tokens.

    Example, for two texts of 4 and 2 words, ratio 0.5, ranks instead of words: the first merges ranks 0, 1 into 2, 3, the second rank 0
    into 1. Both keep two places; the second has used one of them, so one padding token fills the other.
    """
    require_ratio(ratio)
    words = metric[:, special:]
    seen = None if mask is None else mask[:, special:]
    score = energy.score(words, seen)
    length = torch.isfinite(score).sum(dim=1, keepdim=True)
    counts = [removed_tokens(own, ratio) for own in length[:, 0].tolist()]
    r = max(counts)
    order = _by_rank(score)
    if r == 0:
        return MergePlan.keep(special_first(order, special), metric.shape[1])
    removed = torch.tensor(counts, device=metric.device)[:, None]
    rank = torch.arange(words.shape[1], device=metric.device)
    partners = (removed + rank[:r]).clamp(max=len(rank) - 1)
    cosine = _cosine(words, order[:, :r], order.gather(1, partners))
    cosine.masked_fill_((rank[:r] >= removed)[:, None], -torch.inf)

    # From here on in ranks: who goes into which, and where that leaves everyone.
    into = torch.zeros_like(order)
    into[:, :r] = removed + cosine.argmax(dim=2)
    group = torch.where(rank < removed, MERGED, (rank < 2 * removed).long())
    group = torch.where(rank < length, group, PADDING)
    kept, gone, target = arrange(group, into, int((length - removed).max()))
    return _plan(special, order.gather(1, kept), order.gather(1, gone), target, ragged=seen is not None)


_MATCHINGS: dict[str, Callable[[Tensor, float, int, _LayerEnergy, Tensor | None], MergePlan]] = {
    "core": _match_core,
    "bsm": _match_all,
    "even_odd": _match_even_odd,
    "text": _match_text,
}


def _match(
    matching: str, metric: Tensor, ratio: float, special: int, energy: _LayerEnergy, mask: Tensor | None
) -> MergePlan:
    """A ratio of 1 leaves tokens where they are; below it they stand by rank even where none is merged, but in `even_odd`."""
    return keep_all(metric) if ratio == 1 else _MATCHINGS[matching](metric, ratio, special, energy, mask)


def _cosine(metric: Tensor, these: Tensor, those: Tensor) -> Float[Tensor, "batch these those"]:
    width = metric.shape[2]
    left, right = (
        unit_vectors(metric.gather(1, index[..., None].expand(-1, -1, width))) for index in (these, those)
    )
    return left @ right.transpose(1, 2)


def _plan(special: int, kept: Tensor, merged: Tensor, target: Tensor, ragged: bool = False) -> MergePlan:
    """Put the special tokens in front of a plan for the others."""
    place = torch.where(target == DROPPED, DROPPED, target + special) if ragged else target + special
    tokens = special + kept.shape[1] + merged.shape[1]
    return MergePlan(tokens, special_first(kept, special), merged + special, place, ragged)


# --- the method ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """What a form fixes, and its defaults.

    Attributes:
        slope: how much the margin falls; None for down to 0.
        layers: number of first layers that merge.
        after: where a layer merges: after attention by the keys, or at its end by the hidden states.
        reduce: a plain mean, or None for the mean weighted by sizes.
    """

    margin: float
    slope: float | None = None
    layers: int = sys.maxsize
    after: Literal["attention", "layer"] = "attention"
    reduce: Literal["mean"] | None = "mean"


_FORMS: dict[Form, _Form] = {
    "vision": _Form(0.75, reduce=None),
    "clip": _Form(0.9, after="layer"),
    "text": _Form(0.9, slope=0.25, layers=3),
}


@dataclass(frozen=True)
class _MergeCrowded(LayerReducer):
    """One matching in one layer."""

    ratio: float
    matching: str
    energy: _LayerEnergy
    reduced_by: Literal["mean"] | None
    after: Literal["attention", "layer"] = "attention"

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        metric = attention.keys if self.after == "attention" else hidden_states
        plan = _match(self.matching, metric, self.ratio, tokens.special, self.energy, tokens.mask)
        return tokens.merge(hidden_states, plan, self.reduced_by)


@REDUCERS.register("pitome")
@dataclass(frozen=True)
class PiToMe:
    """Merge the tokens in the most crowded neighbourhoods, a share of them in every layer.

    Attributes:
        ratio: share of its tokens that each layer keeps, in [0.5, 1]. The paper's: 0.9 to 0.975 for images, 0.5 to 0.85 for text.
        form: `vision` (keys, between attention and MLP, sizes followed), `clip` (the released patch of Hugging Face CLIP: hidden
            states, after the layer, plain means), `text` (Gaussian energy, plain means). None: vision for images, text for text.
        variants: how each layer matches. `official`: for vision `bsm` in the first half and `core` in the second, for clip `even_odd` in
            the first 13 layers, then `core`. `mae`: the official one of MAE models, core first. Or one name for all, or one per layer.
        energy: f of the energy of images: of the released `code` or of the `paper`.
        alpha: how much far tokens count in it.
        margin: of the first layer; None: 0.75 for vision, 0.9 for clip and text.
        margin_slope: how much less it would be after the last; None: down to 0 for images, 0.25 for text.
        layers: how many of the first layers merge; None: all for images, 3 for text.
        proportional_attention: merged tokens count by their size. The released ViT code leaves it out (False), which costs accuracy on
            models that were not trained so. Where sizes are not followed (clip, text) it does nothing.

    Source: PiToMe (arXiv 2405.16148).
    """

    ratio: float = 0.9
    form: Form | None = None
    variants: Literal["official", "mae"] | Variant | Sequence[Variant] = "official"
    energy: Energy = "code"
    alpha: float = 1.0
    margin: float | None = None
    margin_slope: float | None = None
    layers: int | None = None
    proportional_attention: bool = True

    def __post_init__(self) -> None:
        require_ratio(self.ratio)
        _require_energy(self.energy, 0.0 if self.margin is None else self.margin, self.alpha)
        if self.margin_slope is not None and not math.isfinite(self.margin_slope):
            raise UserError(f"margin_slope must be a number, got {self.margin_slope}.")
        if self.form is not None:
            require_one_of(self.form, get_args(Form), "form")
        if self.layers is not None and self.layers < 0:
            raise UserError(
                f"layers must not be negative, got {self.layers}: it counts the layers that merge."
            )
        for name in [self.variants] if isinstance(self.variants, str) else self.variants:
            if name not in ("official", "mae"):
                require_one_of(name, get_args(Variant), "variant")

    @classmethod
    def at(cls, share: float, shape: EncoderShape) -> dict[str, Any]:
        """The options that cost a share of the dense FLOPs."""
        return {"ratio": ratio_at(share, shape)}

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """One matching per layer.

        Raises:
            UserError: the form does not fit the encoder, or the options do not fit the form.
        """
        name: Form = self.form or ("vision" if encoder.modality == "image" else "text")
        if encoder.modality == "text" and name != "text":
            raise UserError(
                f'form="{name}" would merge padding with text: leave form out for a text encoder.'
            )
        form, number = _FORMS[name], len(encoder.layers)
        start = form.margin if self.margin is None else self.margin
        slope = next(given for given in (self.margin_slope, form.slope, start) if given is not None)
        kind: Energy = "gaussian" if name == "text" else self.energy
        energies = [
            _LayerEnergy(margin, self.alpha, kind) for margin in margin_schedule(number, start, slope)
        ]
        layers = form.layers if self.layers is None else self.layers
        return [
            _MergeCrowded(self.ratio, matching, energy, form.reduce, form.after)
            if layer < layers and self.ratio < 1
            else None
            for layer, (matching, energy) in enumerate(
                zip(self._matchings(name, number), energies, strict=True)
            )
        ]

    def _matchings(self, form: Form, layers: int) -> list[str]:
        """The matching of each layer."""
        if form == "text":
            if self.variants != "official" or self.energy != "code":
                raise UserError(
                    "variants and energy are options for images: text is always split by halves on the Gaussian energy, so leave them out."
                )
            return ["text"] * layers
        half = math.ceil(layers / 2)
        presets = {variant: [variant] * layers for variant in get_args(Variant)} | {
            "official": ["bsm"] * half + ["core"] * (layers - half),
            "mae": ["core"] * half + ["bsm"] * (layers - half),
        }
        if form == "clip":
            presets["official"] = (["even_odd"] * 13 + ["core"] * layers)[:layers]
        variants = presets[self.variants] if isinstance(self.variants, str) else list(self.variants)
        if len(variants) != layers:
            raise UserError(
                f"variants names {len(variants)} layers, but the model has {layers}: name one per layer, or one for all."
            )
        return variants
