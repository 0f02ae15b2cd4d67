"""The prompt of a vision-language model: a processor's output, refused or read, and merged with features.

embeddings = embeddings of the text, with the features of image after image at the placeholders
positions  = those given, those of the image's grid (M-RoPE), or counted
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.compression.vision.image_features import Architecture, ImageTokens, names
from tokenry.compression.vision.placeholders import placeholder_images
from tokenry.core.errors import UserError


def brings_images(inputs: Mapping[str, Any]) -> bool:
    """Whether images are encoded in this call.

    Raises:
        UserError: images come in a way in which their tokens cannot be found.
    """
    encoded = inputs.get("mm_encoder_outputs")
    if encoded and encoded.get("image") is not None:
        raise UserError(
            "mm_encoder_outputs holds images that are encoded already: pass pixel_values, so that they can be pruned."
        )
    return inputs.get("pixel_values") is not None


def prompt_ids(inputs: Mapping[str, Any]) -> Int[Tensor, "batch seq"]:
    """The ids in which placeholders are looked for.

    Raises:
        UserError: there are none, or the prompt continues a cache.
    """
    input_ids: Tensor | None = inputs.get("input_ids")
    if input_ids is None or inputs.get("inputs_embeds") is not None:
        raise UserError(
            "visual tokens are found by their placeholders in input_ids: pass input_ids and no inputs_embeds, as the processor "
            "returns them."
        )
    cache = inputs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise UserError(
            f"past_key_values holds {cache.get_seq_length()} tokens already, and images are pruned only where a cache begins: "
            "pass the whole conversation without past_key_values."
        )
    return input_ids


def refuse_pruned_cache(model: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
    """Refuse to continue a cache that already holds the images of the prompt, with fewer tokens than the prompt has."""
    cache, input_ids = inputs.get("past_key_values"), inputs.get("input_ids")
    if cache is None or input_ids is None or cache.get_seq_length() == 0:
        return
    if bool((input_ids == model.config.image_token_id).any()):
        raise UserError(
            "past_key_values holds the images of this prompt with fewer tokens than it has placeholders: pass the whole "
            "conversation with its pixel_values and without past_key_values."
        )


def refuse_positions(inputs: Mapping[str, Any], keep_positions: bool) -> None:
    """Refuse positions that would lose their meaning.

    Raises:
        UserError: positions are given but to be numbered afresh, or packed rows cannot be told from gaps.
    """
    if inputs.get("position_ids") is None:
        return
    if not keep_positions:
        raise UserError(
            "position_ids are given but pruning numbers positions afresh: leave them out, or prune with keep_positions=True."
        )
    if inputs.get("attention_mask") is None:
        raise UserError(
            "position_ids without an attention_mask look like packed samples, which cannot be pruned: pass the processor's "
            "attention_mask too."
        )


def refuse_generation_without_positions(model: PreTrainedModel) -> None:
    """Refuse to generate where the installed transformers numbers new tokens without regard to the positions of the prompt.

    Raises:
        UserError: transformers is older than 5.2.
    """
    if Version(transformers.__version__) < Version("5.2"):
        raise UserError(
            f"transformers {transformers.__version__} forgets the positions of the prompt while it generates, so {type(model).__name__} "
            "cannot keep them: install transformers 5.2 or later."
        )


def attention_mask_of(inputs: Mapping[str, Any]) -> Tensor:
    """The attention mask of a prompt; without one, all of it is attended to."""
    mask: Tensor | None = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def prompt_positions(
    model: PreTrainedModel, architecture: Architecture, inputs: Mapping[str, Any], generating: bool
) -> Tensor:
    """The positions that the unpruned prompt has in this model: given, of the image's grid, or counted."""
    if inputs.get("position_ids") is not None:
        return inputs["position_ids"]
    if architecture.keeps_positions:
        wanted = names(model.model.get_rope_index)
        if "mm_token_type_ids" in wanted and inputs.get("mm_token_type_ids") is None:
            raise UserError(
                "mm_token_type_ids are missing, without which the image's positions are not known: pass everything that the "
                "processor returned."
            )
        return model.model.get_rope_index(**{name: inputs[name] for name in wanted if name in inputs})[0]
    mask = attention_mask_of(inputs)
    if generating:
        return mask.long().cumsum(-1).sub(1).clamp(min=0)
    return torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)


def merged_embeddings(
    model: PreTrainedModel, input_ids: Int[Tensor, "batch seq"], images: Sequence[ImageTokens]
) -> Float[Tensor, "batch seq dim"]:
    """The embeddings of a prompt, with the features of its images at their placeholders."""
    placeholder_images(input_ids, model.config.image_token_id, [len(image.features) for image in images])
    embeddings = model.get_input_embeddings()(input_ids)
    features = torch.cat([image.features for image in images]).to(embeddings.device, embeddings.dtype)
    return embeddings.masked_scatter((input_ids == model.config.image_token_id)[..., None], features)
