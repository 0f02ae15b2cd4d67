"""Put a trainable compressor between the vision tower and the projector of a LLaVA-style model, and take it out again.

    handle = attach_compressor(model, QueCC(CompressorConfig(kernel_size=24)))
    model(**inputs), model.generate(**inputs), trainer.train()     # prompts as the processor writes them
    handle.remove()

Tower, selection of features, projector and language model are the model's own: the compressor stands where the projector reads,
and the prompt is given as many placeholders per image as there are compressed tokens. The question for QueCC is the text between a
row's last image and its answer, read by the language model itself without gradient (the paper) or as the mean of its embeddings.

Source: Inference Optimal VLMs Need Only One Visual Token but Larger Models (arXiv 2411.03312), QueCC; any number of images per row.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from tokenry.compression.vision.placeholders import (
    Side,
    kept_columns,
    placeholder_images,
    rebuild_prompt,
)
from tokenry.compression.vision.quecc import (
    CompressorConfig,
    QueCC,
    TokenPackerCompressor,
    WindowCompressor,
)
from tokenry.compression.vision.short_generation import ShortPrompts
from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.handles import replaced

QuestionEncoder = Literal["last_hidden_state", "mean_embedding"]

_KINDS: dict[str, type[WindowCompressor]] = {kind.__name__: kind for kind in (QueCC, TokenPackerCompressor)}
_NAME = "visual_compressor"


def question_tokens(
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None,
    labels: Int[Tensor, "batch seq"] | None,
    image_token_id: int,
    end_ids: Sequence[int] = (),
) -> Bool[Tensor, "batch seq"]:
    """Find the question of every row: the text after its last image, up to the first learned token or the first `end_ids`.

    Args:
        input_ids: the prompt, with or without an answer.
        attention_mask: 0 at padding.
        labels: -100 where nothing is learned; None while generating.
        end_ids: tokens that end the question, such as those of "ASSISTANT".
    """
    placeholders = input_ids == image_token_id
    after = placeholders.flip(1).cumsum(1).flip(1) == 0
    ended = torch.zeros_like(after)
    if labels is not None:
        ended |= labels != IGNORED
    if 0 < len(end_ids) <= input_ids.shape[1]:
        spelled = torch.tensor(list(end_ids), device=input_ids.device)
        found = (input_ids.unfold(1, len(end_ids), 1) == spelled).all(-1)
        ended[:, : found.shape[1]] |= found
    question = after & ((ended & after).cumsum(1) == 0)
    return question if attention_mask is None else question & attention_mask.bool()


class AttachedCompressor(ShortPrompts):
    """A compressor in a model, from `attach_compressor`; also a context manager that removes it at the end.

    While attached, the compressor is a submodule of the model (`visual_compressor`): the optimizer, `to` and `train` see it. Removed, it keeps
    what it has learned.
    """

    def __init__(
        self,
        model: Any,
        compressor: WindowCompressor,
        question_encoder: QuestionEncoder,
        feature_layers: Sequence[int],
        question_end_ids: Sequence[int],
    ) -> None:
        super().__init__(model)
        self.compressor = compressor
        self._inner = model.model
        self._question_encoder = question_encoder
        self._feature_layers = tuple(feature_layers)
        self._question_end_ids = tuple(question_end_ids)
        self._tower_states: Sequence[Tensor] = ()
        self._text: Tensor | None = None
        self._any_resolution = hasattr(self._inner, "pack_image_features")
        tower, projector = self._inner.vision_tower, self._inner.multi_modal_projector
        self._inner.add_module(_NAME, compressor)
        self._on_removal(
            partial(delattr, self._inner, _NAME),
            tower.register_forward_pre_hook(_ask_for_hidden_states, with_kwargs=True).remove,
            tower.register_forward_hook(self._remember_hidden_states).remove,
            projector.register_forward_pre_hook(self._compress).remove,
        )
        if self._any_resolution:
            self._pack = self._inner.pack_image_features
            self._on_removal(replaced(self._inner, "pack_image_features", _tiles_side_by_side))

    def _method(self) -> str:
        return type(self.compressor).__name__

    def _details(self) -> Iterator[str]:
        config = self.compressor.config
        yield f"{config.grid_size**2} to {config.num_tokens} tokens per image or tile"
        yield f"keys and values of layers {', '.join(map(str, self._feature_layers))}"

    def short_prompt(self, inputs: Mapping[str, Any], padding_side: Side = "right") -> dict[str, Any]:
        """Give every image of a prompt its number of compressed tokens, as `model(**inputs)` does by itself.

        Args:
            inputs: the processor's output (and labels); a prompt that is short already is returned unchanged.
            padding_side: side on which rows are padded if they come to differ in length and are not padded yet.

        Raises:
            UserError: the number of placeholders does not fit the images.
        """
        given, images = dict(inputs), self._images(inputs)
        kept = [tiles * self.compressor.config.num_tokens for tiles in self._tiles(inputs)]
        if images == kept:
            return given
        keep = kept_columns(
            given["input_ids"], self._image_token, images, [torch.arange(tokens) for tokens in kept]
        )
        return rebuild_prompt(given, keep, padding_side=padding_side).inputs

    def encode_question(
        self, question_ids: Int[Tensor, "questions seq"], mask: Tensor | None = None
    ) -> Float[Tensor, "questions 1 text_hidden"]:
        """Embed questions, without gradient: the last state of the last token, or the mean of the input embeddings.

        Args:
            question_ids: padded on either side.
            mask: 0 at padding.
        """
        keep = torch.ones_like(question_ids, dtype=torch.bool) if mask is None else mask.bool()
        packed = rebuild_prompt({"input_ids": question_ids}, keep, padding_side="right").inputs
        ids = packed["input_ids"]
        real = packed.get("attention_mask", torch.ones_like(ids))
        with torch.no_grad():
            if self._question_encoder == "mean_embedding":
                embedded = self._model.get_input_embeddings()(ids) * real[..., None]
                return embedded.sum(1, keepdim=True) / real.sum(1)[:, None, None]
            states = self._inner.language_model(input_ids=ids, attention_mask=real, use_cache=False)
            last = real.sum(1) - 1
            return states.last_hidden_state[torch.arange(len(ids), device=ids.device), last][:, None]

    @property
    def _image_token(self) -> int:
        return int(self._model.config.image_token_id)

    def _tiles(self, inputs: Mapping[str, Any]) -> list[int]:
        """Number of images that the tower sees for each image of the prompt."""
        if not self._any_resolution:
            return [1] * len(inputs["pixel_values"])
        config = self._model.config
        side = config.vision_config.image_size
        return [
            image_size_to_num_patches(size, config.image_grid_pinpoints, side)
            for size in inputs["image_sizes"]
        ]

    def _images(self, inputs: Mapping[str, Any]) -> list[int]:
        """Number of placeholders of each image in this prompt: those of the processor, or the compressed ones."""
        tiles = self._tiles(inputs)
        grid = self.compressor.config.grid_size
        kept = [number * self.compressor.config.num_tokens for number in tiles]
        if self._any_resolution:
            # What the model would make of its tiles without a compressor, in features of width one.
            blank = [torch.zeros(number, grid**2, 1) for number in tiles]
            packed, _ = self._pack(
                blank,
                inputs["image_sizes"],
                vision_feature_select_strategy="default",
                image_newline=torch.zeros(1),
            )
            possible = [[len(image) for image in packed], kept]
        else:
            possible = [[grid**2] * len(tiles), [grid**2 + 1] * len(tiles), kept]
        found = int((inputs["input_ids"] == self._image_token).sum())
        for images in possible:
            if sum(images) == found:
                return images
        raise UserError(
            f"the prompt has {found} image placeholders (token {self._image_token}), but its {len(tiles)} images need "
            f"{sum(possible[0])}, or {sum(kept)} if they are shortened already: pass what the processor returned, unchanged."
        )

    def _question(self, inputs: Mapping[str, Any], prompt: Mapping[str, Any]) -> Tensor | None:
        """The embedding of the question for every tile; `inputs` as given, `prompt` the shortened one."""
        if not self.compressor.takes_text:
            return None
        input_ids = prompt["input_ids"]
        images = placeholder_images(input_ids, self._image_token, self._images(prompt))
        rows = torch.stack(
            [(images == number).any(1).long().argmax() for number in range(int(images.max()) + 1)]
        )
        asked, place = rows.unique(return_inverse=True)
        if (question_ids := inputs.get("question_ids")) is not None:
            ids, keep = question_ids[asked], inputs.get("question_mask")
            keep = torch.ones_like(ids, dtype=torch.bool) if keep is None else keep[asked].bool()
        else:
            keep = question_tokens(
                input_ids,
                prompt.get("attention_mask"),
                prompt.get("labels"),
                self._image_token,
                self._question_end_ids,
            )[asked]
            ids = input_ids[asked]
        if len(silent := asked[~keep.any(1)]):
            raise UserError(
                f"row {int(silent[0])} asks nothing: there is no text between its last image and its answer; put the question "
                "after the image, or give question_ids and question_mask."
            )
        tiles = torch.tensor(self._tiles(inputs), device=place.device)
        return self.encode_question(ids, keep)[place].repeat_interleave(tiles, 0)

    def _shortened(self, inputs: dict[str, Any], generating: bool) -> dict[str, Any] | None:
        if inputs.get("pixel_values") is None:
            return None
        if inputs.get("input_ids") is None:
            raise UserError(
                "a compressed image needs the prompt's input_ids, got none: its placeholders and its question are read there."
            )
        prompt = self.short_prompt(inputs, "left" if generating else "right")
        self._text = self._question(inputs, prompt)
        return {
            name: value for name, value in prompt.items() if name not in ("question_ids", "question_mask")
        }

    def _remember_hidden_states(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        self._tower_states = output.hidden_states

    def _compress(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        """Compress the features that the projector is about to read."""
        (features,) = args
        # Both are used once: features requested outside a forward have no question.
        states, self._tower_states = self._tower_states, ()
        text, self._text = self._text, None
        tokens, dtype = self.compressor.config.grid_size**2, next(self.compressor.parameters()).dtype
        multi = torch.cat([states[layer][:, -tokens:] for layer in self._feature_layers], dim=-1)
        if text is not None:  # several answers to one prompt may have several copies of its images
            text = text.repeat_interleave(len(features) // len(text), 0).to(dtype)
        compressed = self.compressor(features[:, -tokens:].to(dtype), multi.to(dtype), text)
        return (compressed.to(features.dtype),)


def attach_compressor(
    model: nn.Module,
    compressor: WindowCompressor,
    question_encoder: QuestionEncoder = "last_hidden_state",
    feature_layers: Sequence[int] = (12, 16, 22, 23),
    question_end_ids: Sequence[int] = (),
) -> AttachedCompressor:
    """Make a LLaVA or LLaVA-NeXT model carry the few tokens of a compressor instead of all visual tokens.

    `model(...)` and `model.generate(...)` take prompts as the processor writes them. The output of a forward has the length of
    the shortened prompt; `generate` returns the prompt as it came, followed by what was generated. Both also take `question_ids` and
    `question_mask`, (batch, any length), for a question that is not the text after the image. Each tile of a LLaVA-NeXT image is
    compressed by itself, and the tiles stand side by side, the whole image first, without newline tokens.

    Args:
        model: a transformers LlavaForConditionalGeneration or LlavaNextForConditionalGeneration.
        compressor: trained or new; it becomes a submodule of the model.
        question_encoder: `last_hidden_state`, a pass of the language model over the question (the paper; costs 2 N Q FLOPs), or
            `mean_embedding`, the mean of the question's input embeddings (next to nothing).
        feature_layers: entries of the tower's hidden_states that are keys and values; the default is for the 24 layers of ViT-L.
        question_end_ids: tokens that end the question, where no labels tell (such as those of "ASSISTANT").

    Raises:
        UserError: the model has no such parts, a width or the grid does not fit, a layer does not exist, or a compressor is there.

    Source: arXiv 2411.03312, QueCC.
    """
    inside = _find_model(model)
    _require_fit(inside, compressor, feature_layers)
    compressor.to(next(inside.model.multi_modal_projector.parameters()).device)
    return AttachedCompressor(inside, compressor, question_encoder, feature_layers, question_end_ids)


def save_compressor(compressor: WindowCompressor, path: Path) -> None:
    """Write a compressor alone (weights, kind and config) to a safetensors file."""
    about = {"compressor": type(compressor).__name__, "config": json.dumps(asdict(compressor.config))}
    weights = {name: value.contiguous() for name, value in compressor.state_dict().items()}
    with atomic_write(Path(path)) as partial:
        save_file(weights, partial, metadata=about)


def load_compressor(path: Path) -> WindowCompressor:
    """Read a compressor that `save_compressor` wrote, in the dtype that it had.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            about = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give a file that save_compressor wrote.") from error
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give a file that save_compressor wrote."
        ) from error
    kind = _KINDS.get(about.get("compressor", ""))
    if kind is None:
        raise UserError(f"{path} holds no compressor: give a file that save_compressor wrote.")
    compressor = kind(CompressorConfig(**json.loads(about["config"])))
    compressor.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    return compressor


def _ask_for_hidden_states(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "output_hidden_states": True}


def _tiles_side_by_side(
    image_features: Sequence[Float[Tensor, "tiles kept hidden"]], *_: Any, **__: Any
) -> tuple[list[Tensor], Int[Tensor, "images"]]:
    packed = [tiles.flatten(0, 1) for tiles in image_features]
    return packed, torch.tensor([len(image) for image in packed], device=packed[0].device)


def _find_model(model: nn.Module) -> Any:
    """The model with a tower, a projector and a language model; also inside PEFT or DDP."""
    parts = ("vision_tower", "multi_modal_projector", "language_model")
    for module in model.modules():
        inner = getattr(module, "model", None)
        if hasattr(module, "lm_head") and all(hasattr(inner, part) for part in parts):
            return module
    raise UserError(
        f"{type(model).__name__} has no vision tower, projector and language model to put a compressor between: give a "
        "LlavaForConditionalGeneration or LlavaNextForConditionalGeneration."
    )


def _require_fit(model: Any, compressor: WindowCompressor, feature_layers: Sequence[int]) -> None:
    if hasattr(model.model, _NAME):
        raise UserError("the model has a compressor already: call remove() on its handle first.")
    vision, ours = model.config.vision_config, compressor.config
    if not isinstance(model.config.vision_feature_layer, int):
        raise UserError(
            f"the model projects several layers of its tower ({model.config.vision_feature_layer}), and a compressor stands for "
            "one: load it with vision_feature_layer=-2."
        )
    fits = [
        ("hidden_size", ours.hidden_size, vision.hidden_size, "the vision tower's width"),
        ("grid_size", ours.grid_size, vision.image_size // vision.patch_size, "the vision tower's grid"),
        ("num_levels", ours.num_levels, len(feature_layers), "the number of feature_layers"),
    ]
    if compressor.takes_text:
        width = model.config.text_config.hidden_size
        fits.append(("text_hidden_size", ours.text_hidden_size, width, "the language model's width"))
    for name, got, needed, what in fits:
        if got != needed:
            raise UserError(
                f"{name} must be {needed}, {what}, got {got}: make the compressor for this model."
            )
    states = vision.num_hidden_layers + 1
    if wrong := [layer for layer in feature_layers if not -states <= layer < states]:
        raise UserError(
            f"feature layer {wrong[0]} does not exist: the tower has {states} hidden states (its input and {states - 1} layers), "
            f"so choose from {-states} to {states - 1}."
        )
