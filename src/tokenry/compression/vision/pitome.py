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

from tokenry.compression.vision.plan import DROPPED, MergePlan
from tokenry.compression.vision.reducer import REDUCERS, Attention, LayerReducer, Tokens
from tokenry.compression.vision.shares import EncoderShape, counts_at_ratio, ratio_at
from tokenry.compression.vision.tome import MERGED, PADDING, arrange, match_even_odd, unit_vectors
from tokenry.core.errors import UserError
from tokenry.core.tensors.patching import Encoder

Form = Literal["vision", "clip", "text"]
Variant = Literal["core", "bsm", "even_odd"]
Energy = Literal["code", "paper", "gaussian"]


# --- schedules -----------------------------------------------------------------------------------------------------------------------


def removed_tokens(tokens: int, ratio: float) -> int:
    """Tell how many of so many tokens a layer removes: floor(T - T · ratio).

    Args:
        tokens: T, without special tokens.
        ratio: share that is kept.

    Raises:
        UserError: the ratio is not in [0.5, 1].
    """
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
    """Tell how many tokens are left after each layer.

    Args:
        tokens: N, the class token included.
        num_layers: L.
        ratio: share of its tokens that each layer keeps.
        class_token: one of them is the class token, which is not counted.

    Raises:
        UserError: the ratio is not in [0.5, 1].
    """
    require_ratio(ratio)
    return counts_at_ratio(tokens, num_layers, ratio, int(class_token))


def margin_schedule(num_layers: int, start: float, slope: float) -> list[float]:
    """Lower the margin with depth: start - slope · l / L for layer l."""
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
        margin: cosine from which on a neighbour is near. Gaussian: 1 - sigma.
        alpha: how much the far ones count against it.
        kind: f of the neighbours: `code` (s - margin if near), `paper` (s if near), `gaussian`.
        attention_mask: False for padding, which is nobody's neighbour.

    Returns:
        float32 or better; -inf for padding.

    Raises:
        UserError: alpha is not positive, the margin is no number or, for the Gaussian, not below 1, or the kind is unknown.

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
    if kind not in _NEARNESS:
        raise UserError(f"energy must be one of {', '.join(_NEARNESS)}, got {kind!r}.")
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
    """Match the crowded tokens of images; energies rank them.

    Args:
        metric: what tokens are compared by (cosine).
        ratio: share of the tokens to keep, the class token not counted.
        margin: see `energy_score`.
        alpha: see `energy_score`.
        variant: `core`, `bsm`, or `even_odd` for ToMe's matching, which takes no energy and counts the class token.
        class_token: token 0 is never merged.
        energy: see `energy_score`.

    Raises:
        UserError: the ratio, the variant or the energy's numbers are out of range.

    Source: PiToMe, algorithm 1, and the released code.
    """
    _require_variant(variant)
    return _MATCHINGS[variant](metric, ratio, int(class_token), _Scale(margin, alpha, energy))


@dataclass(frozen=True)
class _Scale:
    """The numbers of an energy."""

    margin: float
    alpha: float = 1.0
    kind: Energy = "code"

    def by_rank(self, metric: Tensor) -> Int[Tensor, "batch tokens"]:
        """Tokens by falling energy, the first of equals first."""
        energy = energy_score(metric, self.margin, self.alpha, self.kind)
        return energy.argsort(dim=1, descending=True, stable=True)


@torch.no_grad()
def _match_core(metric: Tensor, ratio: float, special: int, scale: _Scale) -> MergePlan:
    patches = metric[:, special:]
    r = removed_tokens(patches.shape[1], ratio)
    if r == 0:
        return _keep_all(metric)
    order = scale.by_rank(patches)
    merged, partners, protected = order[:, 0 : 2 * r : 2], order[:, 1 : 2 * r : 2], order[:, 2 * r :]
    target = _cosine(patches, merged, partners).argmax(dim=2) + protected.shape[1]
    return _plan(special, torch.cat([protected, partners], dim=1), merged, target)


@torch.no_grad()
def _match_all(metric: Tensor, ratio: float, special: int, scale: _Scale) -> MergePlan:
    patches = metric[:, special:]
    r = removed_tokens(patches.shape[1], ratio)
    if r == 0:
        return _keep_all(metric)
    order = scale.by_rank(patches)
    sources, partners = order[:, ::2], order[:, 1::2]
    best, partner = _cosine(patches, sources, partners).max(dim=2)
    by_score = best.argsort(dim=1, descending=True, stable=True)
    merged, left = by_score[:, :r], by_score[:, r:]
    kept = torch.cat([sources.gather(1, left), partners], dim=1)
    return _plan(special, kept, sources.gather(1, merged), partner.gather(1, merged) + left.shape[1])


def _match_even_odd(metric: Tensor, ratio: float, special: int, scale: _Scale) -> MergePlan:
    return match_even_odd(metric, removed_tokens(metric.shape[1], ratio), special)


_MATCHINGS: dict[str, Callable[[Tensor, float, int, _Scale], MergePlan]] = {
    "core": _match_core,
    "bsm": _match_all,
    "even_odd": _match_even_odd,
}


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

    Raises:
        UserError: the ratio is not in [0.5, 1], or the margin not below 1.

    Source: PiToMe, the released code for BERT; there, padding takes part.
    """
    return _match_text(metric, ratio, margin, int(class_token), attention_mask)


@torch.no_grad()
def _match_text(
    metric: Tensor, ratio: float, margin: float, special: int, attention_mask: Tensor | None
) -> MergePlan:
    require_ratio(ratio)
    words = metric[:, special:]
    seen = None if attention_mask is None else attention_mask[:, special:]
    energy = energy_score(words, margin, kind="gaussian", attention_mask=seen)
    length = torch.isfinite(energy).sum(dim=1, keepdim=True)
    counts = [removed_tokens(own, ratio) for own in length[:, 0].tolist()]
    r = max(counts)
    if r == 0:
        return _keep_all(metric)
    removed = torch.tensor(counts, device=metric.device)[:, None]
    order = energy.argsort(dim=1, descending=True, stable=True)
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


def _keep_all(metric: Tensor) -> MergePlan:
    batch, tokens, _ = metric.shape
    return MergePlan.keep(torch.arange(tokens, device=metric.device).expand(batch, -1), tokens)


def _cosine(metric: Tensor, these: Tensor, those: Tensor) -> Float[Tensor, "batch these those"]:
    width = metric.shape[2]
    left, right = (
        unit_vectors(metric.gather(1, index[..., None].expand(-1, -1, width))) for index in (these, those)
    )
    return left @ right.transpose(1, 2)


def _plan(special: int, kept: Tensor, merged: Tensor, target: Tensor, ragged: bool = False) -> MergePlan:
    """Put the special tokens in front of a plan for the others."""
    first = torch.arange(special, device=kept.device).expand(kept.shape[0], -1)
    place = torch.where(target == DROPPED, DROPPED, target + special) if ragged else target + special
    tokens = special + kept.shape[1] + merged.shape[1]
    return MergePlan(tokens, torch.cat([first, kept + special], dim=1), merged + special, place, ragged)


# --- the method ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _MergeCrowded(LayerReducer):
    """Between attention and MLP, by the keys, with sizes."""

    ratio: float
    variant: Variant
    scale: _Scale

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        plan = _MATCHINGS[self.variant](attention.keys, self.ratio, tokens.special, self.scale)
        return _unless_empty(hidden_states, tokens, plan, None)


@dataclass(frozen=True)
class _MergeCrowdedAfterwards(LayerReducer):
    """After the whole layer, by the hidden states, each mean a plain one."""

    ratio: float
    variant: Variant
    scale: _Scale
    after: Literal["attention", "layer"] = "layer"

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        plan = _MATCHINGS[self.variant](hidden_states, self.ratio, tokens.special, self.scale)
        return _unless_empty(hidden_states, tokens, plan, "mean")


@dataclass(frozen=True)
class _MergeCrowdedText(LayerReducer):
    ratio: float
    margin: float

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        plan = _match_text(attention.keys, self.ratio, self.margin, tokens.special, tokens.mask)
        return _unless_empty(hidden_states, tokens, plan, "mean")


def _unless_empty(
    hidden_states: Tensor, tokens: Tokens, plan: MergePlan, reduce: Literal["mean"] | None
) -> tuple[Tensor, Tokens]:
    if plan.merged.shape[1] == 0:
        return hidden_states, tokens
    return tokens.merge(hidden_states, plan, reduce)


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
        if self.form is not None and self.form not in get_args(Form):
            raise UserError(f"form must be one of {', '.join(get_args(Form))}, got {self.form!r}.")
        if self.layers is not None and self.layers < 0:
            raise UserError(
                f"layers must not be negative, got {self.layers}: it counts the layers that merge."
            )
        for name in [self.variants] if isinstance(self.variants, str) else self.variants:
            if name not in ("official", "mae"):
                _require_variant(name)

    @classmethod
    def at(cls, share: float, shape: EncoderShape) -> dict[str, Any]:
        """The options that cost a share of the dense FLOPs."""
        return {"ratio": ratio_at(share, shape)}

    def layer_reducers(self, encoder: Encoder) -> list[LayerReducer | None]:
        """One matching per layer.

        Raises:
            UserError: the form does not fit the encoder, or the options do not fit the form.
        """
        form: Form = self.form or ("vision" if encoder.modality == "image" else "text")
        if encoder.modality == "text" and form != "text":
            raise UserError(
                f'form="{form}" would merge padding with text: leave form out for a text encoder.'
            )
        defaults, number = _DEFAULTS[form], len(encoder.layers)
        start = defaults.margin if self.margin is None else self.margin
        falls_by = start if defaults.slope is None else defaults.slope
        margins = margin_schedule(number, start, falls_by if self.margin_slope is None else self.margin_slope)
        reducers = self._texts(margins) if form == "text" else self._images(form, margins)
        layers = defaults.layers if self.layers is None else self.layers
        return [reducer if layer < layers else None for layer, reducer in enumerate(reducers)]

    def _images(self, form: Form, margins: Sequence[float]) -> list[LayerReducer]:
        reducer = {"vision": _MergeCrowded, "clip": _MergeCrowdedAfterwards}[form]
        scales = [_Scale(margin, self.alpha, self.energy) for margin in margins]
        variants = self._variants(form, len(margins))
        return [reducer(self.ratio, variant, scale) for variant, scale in zip(variants, scales, strict=True)]

    def _texts(self, margins: Sequence[float]) -> list[LayerReducer]:
        if self.variants != "official" or self.energy != "code":
            raise UserError(
                "variants and energy are options for images: text is always split by halves on the Gaussian energy, so leave them out."
            )
        for margin in margins:
            _require_energy("gaussian", margin, self.alpha)
        return [_MergeCrowdedText(self.ratio, margin) for margin in margins]

    def _variants(self, form: Form, layers: int) -> list[Variant]:
        half = math.ceil(layers / 2)
        core: list[Variant] = ["core"]
        bsm: list[Variant] = ["bsm"]
        even_odd: list[Variant] = ["even_odd"]
        official: dict[Form, list[Variant]] = {
            "vision": bsm * half + core * (layers - half),
            "clip": (even_odd * 13 + core * layers)[:layers],
        }
        variants: list[Variant]
        match self.variants:
            case "official":
                variants = official[form]
            case "mae":
                variants = core * half + bsm * (layers - half)
            case "core" | "bsm" | "even_odd":
                variants = [self.variants] * layers
            case _:
                variants = list(self.variants)
        if len(variants) != layers:
            raise UserError(
                f"variants names {len(variants)} layers, but the model has {layers}: name one per layer, or one for all."
            )
        return variants


@dataclass(frozen=True)
class _Defaults:
    """Of a form: the first margin, how much it falls (None: down to 0), and the number of first layers that merge."""

    margin: float
    slope: float | None
    layers: int


_DEFAULTS: dict[Form, _Defaults] = {
    "vision": _Defaults(0.75, None, sys.maxsize),
    "clip": _Defaults(0.9, None, sys.maxsize),
    "text": _Defaults(0.9, 0.25, 3),
}


def _require_variant(name: str) -> None:
    if name not in _MATCHINGS:
        raise UserError(f"variant must be one of {', '.join(_MATCHINGS)}, got {name!r}.")
