"""Prune the visual tokens of a vision-language model before its first layer: `prune_visual_tokens(model, ratio=0.1112)`.

Works on transformers' LLaVA, LLaVA-NeXT, Qwen2-VL and Qwen2.5-VL with what their processors return, unchanged, for `forward`
(also in training) and `generate`. The model's own `get_image_features` makes the features; then

    kept   = select(features, sensitivity, k)                       per image; AnyRes: per frame, newline tokens on top
    prompt = embeddings of text and kept features, in their order   attention mask, labels, positions shortened alike

Sources: ZOO-Prune (arXiv 2509.24837, step 6), DivPrune (arXiv 2503.02175). No attention is read or patched.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel

from tokenry.compression.vision.diversity import (
    coverage_radius,
    farthest_point_select,
    frame_budget,
    require_kept_fraction,
    select_in_groups,
    sensitivity_diverse_select,
    token_budget,
    with_newlines,
)
from tokenry.compression.vision.image_features import (
    Architecture,
    Encoded,
    ImageTokens,
    Sensitivity,
    encode_images,
    names,
    supported_model,
)
from tokenry.compression.vision.placeholders import ShortPrompt, Side, kept_columns, rebuild_prompt
from tokenry.compression.vision.short_generation import ShortPrompts
from tokenry.compression.vision.vlm_prompt import (
    attention_mask_of,
    brings_images,
    merged_embeddings,
    prompt_ids,
    prompt_positions,
    refuse_generation_without_positions,
    refuse_positions,
    refuse_pruned_cache,
)
from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.choices import top_k_indices


@dataclass(frozen=True)
class PrunedImage:
    """The tokens kept of one image.

    Attributes:
        tokens: number of visual tokens before pruning.
        kept: the kept ones, ascending.
        sensitivity: sensitivity of every token (output units per input unit), nan at newline tokens; None where the method needs none.
        frames: the AnyRes frame of every token (0 = the whole image), -9999 at newline tokens; None for other images.
        coverage: cosine distance of the worst represented token to its nearest kept one.
    """

    tokens: int
    kept: Int[Tensor, "kept"]
    sensitivity: Float[Tensor, "tokens"] | None
    frames: Int[Tensor, "tokens"] | None
    coverage: float


@dataclass(frozen=True)
class PrunedPrompt:
    """A pruned prompt.

    Attributes:
        images: one entry per image, in the order of the images.
        columns: the column of the processor's prompt that each token comes from, -1 at padding.
        attention_mask: mask of the shortened prompt, None if it has none; a hand-written decoding loop continues from it.
    """

    images: tuple[PrunedImage, ...]
    columns: Int[Tensor, "batch short"]
    attention_mask: Tensor | None


@dataclass(frozen=True)
class _Selection:
    """The sensitivity that a method needs, and its choice of k of (images, tokens, dim) features, ascending or not."""

    sensitivity: str | None
    select: Callable[[Tensor, Tensor, int, Generator], Tensor]


def _most_sensitive(_: Tensor, sensitivity: Tensor, k: int, __: Generator) -> Tensor:
    return top_k_indices(sensitivity, k)


def _at_random(features: Tensor, _: Tensor, k: int, generator: Generator) -> Tensor:
    order = torch.rand(features.shape[:-1], generator=generator).argsort(dim=-1)
    return order[..., :k].to(features.device)


def _diverse(features: Tensor, _: Tensor, k: int, __: Generator) -> Tensor:
    return farthest_point_select(features, k)


def _sensitive_and_diverse(features: Tensor, sensitivity: Tensor, k: int, _: Generator) -> Tensor:
    return sensitivity_diverse_select(features, sensitivity, k)


METHODS: Mapping[str, _Selection] = {
    "divprune": _Selection(None, _diverse),
    "zoo": _Selection("closed_form", _sensitive_and_diverse),
    "zoo-sampled": _Selection("sampled", _sensitive_and_diverse),
    "sensitivity": _Selection("closed_form", _most_sensitive),
    "random": _Selection(None, _at_random),
}


@dataclass(frozen=True)
class _Budget:
    """The tokens to keep: a fraction or a number of every image's."""

    ratio: float | None
    keep: int | None

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.keep is None):
            raise UserError(
                f"give either ratio (the fraction of visual tokens to keep) or keep (their number), got ratio={self.ratio} and "
                f"keep={self.keep}."
            )
        if self.ratio is not None:
            require_kept_fraction(self.ratio)
        if self.keep is not None and self.keep < 1:
            raise UserError(
                f"keep must be at least 1 visual token, got {self.keep}: leave images out instead of keeping none of them."
            )

    def __str__(self) -> str:
        return f"ratio={self.ratio}" if self.keep is None else f"keep={self.keep}"

    def of_image(self, tokens: int) -> int:
        """Number of tokens to keep of an image."""
        return min(self.keep, tokens) if self.keep is not None else token_budget(tokens, self.ratio or 0.0)

    def of_frame(self, frames: int, tokens: int) -> int:
        """Number of tokens to keep of every frame of an AnyRes image; at least one."""
        if self.keep is not None:
            return max(self.keep // frames, 1)
        return frame_budget(frames, tokens, self.ratio or 0.0)


def prune_visual_tokens(
    model: nn.Module,
    ratio: float | None = None,
    keep: int | None = None,
    method: str = "divprune",
    keep_positions: bool | None = None,
    seed: int = 0,
) -> "VisualTokenPruning":
    """Make a vision-language model carry only some of the visual tokens of every image, until `.remove()`.

    Args:
        model: LlavaForConditionalGeneration, LlavaNextForConditionalGeneration, Qwen2VLForConditionalGeneration or
            Qwen2_5_VLForConditionalGeneration; also inside a PEFT model. Videos are not pruned.
        ratio: fraction of the visual tokens to keep; 0.1112 keeps 64 of 576. Or:
        keep: number of tokens to keep of every image; a smaller image keeps all of its tokens. AnyRes images divide either
            budget equally among their frames and keep their newline tokens on top of it.
        method: `divprune` (mutually different tokens: the safe default), `zoo` (ZOO-Prune with the closed-form sensitivity),
            `zoo-sampled` (as published, 64 random directions), or the controls `sensitivity` (the most sensitive tokens) and
            `random`. Sensitivity need not mean relevance: see `relevance_correlation`.
        keep_positions: whether kept tokens and the text after them keep the positions they have in the unpruned prompt. None
            is the model's default: True for Qwen-VL, whose positions are the image's grid and cannot be numbered afresh; False
            for LLaVA, where the published figures were measured so and the shortened prompt is an ordinary one.
        seed: random seed of `random` and `zoo-sampled`.

    Returns:
        The handle: `.last` holds what was kept, `.remove()` restores the model; also a context manager.

    Raises:
        UserError: the model is not supported or pruned already, the budget or the method is not valid, or positions must be
            kept.
    """
    return VisualTokenPruning(model, ratio, keep, method, keep_positions, seed)


class VisualTokenPruning(ShortPrompts):
    """The pruning of one model, from `prune_visual_tokens`; also a context manager that removes it at the end.

    Attributes:
        last: the prompt as pruned in the last forward or generate with images; None before.
    """

    last: PrunedPrompt | None = None

    def __init__(
        self,
        model: nn.Module,
        ratio: float | None,
        keep: int | None,
        method: str,
        keep_positions: bool | None,
        seed: int,
    ) -> None:
        target, self._architecture = supported_model(model)
        _check(target, self._architecture, method, keep_positions)
        self._budget = _Budget(ratio, keep)
        super().__init__(target)
        self._name, self._selection = method, METHODS[method]
        self._keep_positions = (
            self._architecture.keeps_positions if keep_positions is None else keep_positions
        )
        self._generator = torch.Generator().manual_seed(seed)
        self._sensitivity = Sensitivity(self._model, self._architecture, seed)

    def _method(self) -> str:
        return f"{self._name}, {self._budget}"

    def _details(self) -> Iterator[str]:
        if self.last is not None:
            images = self.last.images
            tokens, kept = sum(image.tokens for image in images), sum(len(image.kept) for image in images)
            yield f"{tokens} to {kept} tokens in {len(images)} image{'s' * (len(images) != 1)}"

    def _shortened(self, inputs: dict[str, Any], generating: bool) -> dict[str, Any] | None:
        if not brings_images(inputs):
            if generating:
                refuse_pruned_cache(self._model, inputs)
            return None
        if not generating:
            short = self._shorten(inputs, "right").inputs
            return {name: value for name, value in short.items() if name != "input_ids"}
        if self._keep_positions:
            refuse_generation_without_positions(self._model)
        with torch.no_grad():
            return self._shorten(inputs, "left").inputs

    def _shorten(self, inputs: dict[str, Any], padding_side: Side) -> ShortPrompt:
        """Turn the processor's output into embeddings of the short prompt, with everything that is per token."""
        input_ids = prompt_ids(inputs)
        refuse_positions(inputs, self._keep_positions)
        encoded = encode_images(
            self._model, self._architecture, inputs, self._selection.sensitivity is not None
        )
        with torch.no_grad():
            images = self._choose(encoded)
        columns = kept_columns(
            input_ids,
            self._model.config.image_token_id,
            [image.tokens for image in images],
            [image.kept for image in images],
        )
        prompt = {**inputs, "inputs_embeds": merged_embeddings(self._model, input_ids, encoded.images)}
        if self._keep_positions:
            # Positions with gaps but no mask would be taken for packed samples.
            prompt["attention_mask"] = attention_mask_of(inputs)
            prompt["position_ids"] = prompt_positions(
                self._model, self._architecture, inputs, padding_side == "left"
            )
        for name in names(self._model.model.get_image_features):
            prompt.pop(name, None)
        short = rebuild_prompt(prompt, columns, padding_side, self._model.generation_config.pad_token_id)
        if self._architecture.keeps_positions:
            self._model.model.rope_deltas = _rope_deltas(short.inputs)
        self.last = PrunedPrompt(images, short.columns, short.inputs.get("attention_mask"))
        return short

    def _choose(self, encoded: Encoded) -> tuple[PrunedImage, ...]:
        """Choose the tokens of every image; images with equally many tokens are chosen from together."""
        sensitivities = self._sensitivity.of(encoded, self._selection.sensitivity)
        kept: dict[int, Tensor] = {}
        for numbers in _alike(encoded.images):
            images = [encoded.images[number] for number in numbers]
            weights = [sensitivities[number] for number in numbers]
            chosen = self._choose_in_frames(images[0], weights[0]) if images[0].frames is not None else None
            if chosen is None:
                features = torch.stack([image.features for image in images])
                k = self._budget.of_image(features.shape[1])
                chosen = (
                    self._selection.select(features, torch.stack(weights), k, self._generator).sort().values
                )
            kept |= dict(zip(numbers, chosen.view(len(numbers), -1), strict=True))
        return tuple(
            PrunedImage(
                tokens=len(image.features),
                kept=kept[number],
                sensitivity=sensitivities[number] if self._selection.sensitivity else None,
                frames=image.frames.labels if image.frames else None,
                coverage=float(coverage_radius(image.features, kept[number])),
            )
            for number, image in enumerate(encoded.images)
        )

    def _choose_in_frames(self, image: ImageTokens, sensitivity: Tensor) -> Tensor:
        """Choose equally many tokens in every frame, and all newline tokens."""
        assert image.frames is not None
        labels = image.frames.labels
        selected = select_in_groups(
            labels,
            self._budget.of_frame(len(labels[labels >= 0].unique()), image.frames.tokens),
            lambda members, few: self._selection.select(
                image.features[members], sensitivity[members], few, self._generator
            ),
        )
        return with_newlines(selected, labels)


def _alike(images: Sequence[ImageTokens]) -> list[list[int]]:
    """The images that tokens can be chosen from at once: AnyRes images alone, others with those of equal length."""
    alike: dict[tuple[str, int], list[int]] = {}
    for number, image in enumerate(images):
        key = ("tokens", len(image.features)) if image.frames is None else ("image", number)
        alike.setdefault(key, []).append(number)
    return list(alike.values())


def _rope_deltas(short: Mapping[str, Any]) -> Tensor:
    """Offset of a new token's position from its number (M-RoPE): highest position + 1 − tokens."""
    mask, positions = short["attention_mask"].bool(), short["position_ids"]
    highest = positions.view(-1, *mask.shape)[-3:].amax(0).masked_fill(~mask, 0).amax(1)
    return (highest + 1 - mask.sum(1))[:, None]


def _check(
    model: PreTrainedModel,
    architecture: Architecture,
    method: str,
    keep_positions: bool | None,
) -> None:
    if isinstance(getattr(vars(model).get("generate"), "__self__", None), VisualTokenPruning):
        raise UserError(
            f"this {type(model).__name__} is pruned already: call .remove() on the first handle before pruning it anew."
        )
    require_one_of(method, tuple(METHODS), "method")
    if keep_positions is False and architecture.keeps_positions:
        raise UserError(
            f"keep_positions=False is not possible with {type(model).__name__}: its visual tokens have positions on the image's "
            "grid (M-RoPE), so leave keep_positions out."
        )
