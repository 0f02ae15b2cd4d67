"""The image features of a vision-language model, token by token: what entered the projector for each, and the frame it is from.

One description per architecture says where its projector is; everything else is read off the model's own `get_image_features`
while it runs: every row carries its number through the projector, so a model may reorder, crop and pack rows freely.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.compression.vision.diversity import NEWLINE
from tokenry.compression.vision.zoo_prune import mlp_sensitivity, projector_interaction
from tokenry.core.errors import UserError
from tokenry.core.tensors.handles import replaced

Layers = tuple[nn.Module, nn.Module, nn.Module]


@dataclass(frozen=True)
class Architecture:
    """Where a model keeps what pruning needs; functions of the inner model (`model.model`).

    Attributes:
        projector: the module that maps a row per visual token to the language model's width.
        layers: its first linear layer, its activation and its second linear layer.
        keeps_positions: positions are those of the image's grid (M-RoPE), so they cannot be numbered afresh.
    """

    projector: Callable[[Any], nn.Module]
    layers: Callable[[Any], Layers]
    keeps_positions: bool = False


_LLAVA = Architecture(
    projector=lambda inner: inner.multi_modal_projector,
    layers=lambda inner: (
        inner.multi_modal_projector.linear_1,
        inner.multi_modal_projector.act,
        inner.multi_modal_projector.linear_2,
    ),
)
# Qwen's merger first normalises patches and joins four of them to a token; what follows is a two-layer projector.
_QWEN = Architecture(
    projector=lambda inner: inner.visual.merger.mlp,
    layers=lambda inner: tuple(inner.visual.merger.mlp),
    keeps_positions=True,
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "LlavaForConditionalGeneration": _LLAVA,
    "LlavaNextForConditionalGeneration": _LLAVA,
    "Qwen2VLForConditionalGeneration": _QWEN,
    "Qwen2_5_VLForConditionalGeneration": _QWEN,
}


@dataclass(frozen=True)
class Frames:
    """The frames of an AnyRes image.

    Attributes:
        labels: the frame of every token (0 = the whole image), `NEWLINE` at newline tokens.
        tokens: number of tokens of a frame, before unpadding.
    """

    labels: Int[Tensor, "tokens"]
    tokens: int


@dataclass(frozen=True)
class ImageTokens:
    """The visual tokens of one image, as the language model would get them.

    Attributes:
        features: projected features.
        rows: row of every token in `Encoded.entering`, -1 at newline tokens; None if not requested.
        frames: None for images that are not cut into frames.
    """

    features: Float[Tensor, "tokens dim"]
    rows: Int[Tensor, "tokens"] | None = None
    frames: Frames | None = None


@dataclass(frozen=True)
class Encoded:
    """The images of a batch and, if requested, everything that entered the projector."""

    images: tuple[ImageTokens, ...]
    entering: Float[Tensor, "rows width"] | None


def supported_model(model: nn.Module) -> tuple[PreTrainedModel, Architecture]:
    """Find the vision-language model, also inside PEFT or DDP, and its description."""
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__name__ in ARCHITECTURES and isinstance(module, PreTrainedModel):
                return module, ARCHITECTURES[kind.__name__]
    raise UserError(
        f"{type(model).__name__} is not supported: visual tokens can be pruned in {', '.join(ARCHITECTURES)} of transformers."
    )


def encode_images(
    model: PreTrainedModel, architecture: Architecture, inputs: Mapping[str, Any], with_rows: bool
) -> Encoded:
    """Run the model's own `get_image_features` on what the processor returned.

    Args:
        model: the outer model.
        inputs: the processor's output.
        with_rows: also return what entered the projector for every token.
    """
    inner: Any = model.model
    given = {name: inputs[name] for name in names(inner.get_image_features) if inputs.get(name) is not None}
    with _watched(architecture.projector(inner), with_rows) as seen, _watched_packing(inner, seen) as packed:
        output = inner.get_image_features(**given, return_dict=True)
    made = list(getattr(output, "pooler_output", output))
    entering = seen.get("entering")
    if packed:
        images = tuple(_framed(features, *packing) for features, packing in zip(made, packed, strict=True))
    elif with_rows:
        images = tuple(_untagged(image) for image in made)
    else:
        images = tuple(ImageTokens(image) for image in made)
    return Encoded(images, entering)


def names(function: Callable[..., Any]) -> list[str]:
    """The arguments that a method of a model names."""
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]


class Sensitivity:
    """The sensitivity of every visual token; the closed form's product of the weights is computed once."""

    def __init__(self, model: PreTrainedModel, architecture: Architecture, seed: int) -> None:
        self._model, self._architecture, self._seed = model, architecture, seed
        self._interaction: tuple[tuple[Any, ...], Tensor] | None = None

    @torch.no_grad()
    def of(self, encoded: Encoded, method: str | None) -> list[Tensor]:
        """Sensitivity of the tokens of every image, nan at newline tokens; zeros where no method is named."""
        if method is None:
            return [
                torch.zeros(len(image.features), device=image.features.device) for image in encoded.images
            ]
        assert encoded.entering is not None
        layers = self._architecture.layers(self._model.model)
        first, activation, second = _plain(layers[0]), layers[1], _plain(layers[2])
        rows = mlp_sensitivity(
            encoded.entering,
            first.weight,
            first.bias,
            second.weight,
            method,
            generator=torch.Generator().manual_seed(self._seed),
            activation=activation,
            interaction=self._of_weights(first.weight, second.weight) if method == "closed_form" else None,
        )
        nowhere = rows.new_tensor([float("nan")])
        return [torch.cat((rows, nowhere))[image.rows] for image in encoded.images]

    def _of_weights(self, w1: Tensor, w2: Tensor) -> Tensor:
        key = tuple((w.data_ptr(), 0 if w.is_inference() else w._version, w.device) for w in (w1, w2))
        if self._interaction is None or self._interaction[0] != key:
            self._interaction = key, projector_interaction(w1, w2)
        return self._interaction[1]


def _plain(layer: nn.Module) -> nn.Linear:
    # A subclass (quantised, adapted) does not compute a product with its weight.
    if type(layer) is not nn.Linear:
        raise UserError(
            f"sensitivity needs the projector's plain weights but it has a {type(layer).__name__}: leave the projector out of "
            "adapters and quantisation, or use method='divprune'."
        )
    return layer


# A row number in base 256: every digit is exact in bfloat16 and float16.
_DIGITS = 3


def _tagged(projected: Tensor) -> Tensor:
    """Append to every projected row its number, digit by digit."""
    numbers = torch.arange(projected.shape[:-1].numel(), device=projected.device).view(projected.shape[:-1])
    digits = torch.stack([(numbers >> 8 * place) & 255 for place in range(_DIGITS)], dim=-1)
    return torch.cat((projected, digits.to(projected.dtype)), dim=-1)


def _untagged(tagged: Tensor) -> ImageTokens:
    digits = tagged[..., -_DIGITS:].long()
    rows = sum(digits[..., place] << 8 * place for place in range(_DIGITS))
    return ImageTokens(tagged[..., :-_DIGITS], torch.as_tensor(rows))


@contextmanager
def _watched(projector: nn.Module, with_rows: bool) -> Iterator[dict[str, Any]]:
    """While it lasts, keep what enters the projector, and number what leaves it."""
    seen: dict[str, Any] = {"numbered": with_rows}

    def hook(_: nn.Module, args: tuple[Tensor, ...], projected: Tensor) -> Tensor:
        seen["entering"] = args[0].detach().flatten(0, -2)
        return _tagged(projected) if seen["numbered"] else projected

    if not with_rows:
        yield seen
        return
    with projector.register_forward_hook(hook):
        yield seen


@contextmanager
def _watched_packing(inner: Any, seen: dict[str, Any]) -> Iterator[list[tuple[Tensor, int]]]:
    """While it lasts, pack row numbers beside the features, where a model packs the frames of an image (AnyRes)."""
    packed: list[tuple[Tensor, int]] = []
    pack = getattr(inner, "pack_image_features", None)
    if pack is None:
        yield packed
        return
    seen["numbered"] = False  # newline tokens have no numbers to carry

    def pack_both(frames: Any, *args: Any, image_newline: Any = None, **kwargs: Any) -> Any:
        newline = None if image_newline is None else image_newline.new_full((1,), -1, dtype=torch.float64)
        numbers, start = [], 0
        for image in frames:
            count = image.shape[:2].numel()
            numbers.append(torch.arange(start, start + count, dtype=torch.float64, device=image.device))
            numbers[-1] = numbers[-1].view(*image.shape[:2], 1)
            start += count
        rows, _ = pack(numbers, *args, image_newline=newline, **kwargs)
        packed.extend((row[:, 0].long(), frames[0].shape[1]) for row in rows)
        return pack(frames, *args, image_newline=image_newline, **kwargs)

    restore = replaced(inner, "pack_image_features", pack_both)
    try:
        yield packed
    finally:
        restore()


def _framed(features: Tensor, rows: Tensor, tokens_per_frame: int) -> ImageTokens:
    """Label every token with its frame, counted from the image's own first one."""
    labels = torch.where(rows < 0, NEWLINE, rows // tokens_per_frame - rows[0] // tokens_per_frame)
    return ImageTokens(features, rows, Frames(labels, tokens_per_frame))
