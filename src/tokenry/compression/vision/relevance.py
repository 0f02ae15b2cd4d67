"""Does a projector's sensitivity mark the tokens that the answer depends on? A check on a few of the user's own images.

ZOO-Prune (arXiv 2509.24837) keeps tokens for which the projector is steep. That is a property of the projector: in some models it
goes with relevance, in others against it. To first order, relevance = |gradient of the log-probability · embedding|.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.compression.vision.image_features import (
    Architecture,
    Sensitivity,
    encode_images,
    supported_model,
)
from tokenry.compression.vision.placeholders import placeholder_images
from tokenry.compression.vision.vlm_prompt import (
    attention_mask_of,
    brings_images,
    merged_embeddings,
    prompt_ids,
    prompt_positions,
)
from tokenry.core.errors import UserError


def relevance_correlation(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[float, ...]:
    """Check on a few of your own images whether the projector's sensitivity marks the tokens that the answer depends on.

    Relevance of a visual token, to first order: by how much the log-probability of the likeliest next token (of the labels,
    where `inputs` has them) changes if the token's embedding becomes zero, |gradient · embedding|. One forward and backward of
    the unpruned model; its parameters get no gradient.

    Args:
        model: a supported model, pruned or not.
        inputs: what the processor returned for prompts with images.

    Returns:
        Spearman correlation of sensitivity (closed form) with relevance over the tokens of each image, in [−1, 1]; nan where
        either is constant.

    Warns:
        UserWarning: the mean is negative, so that `method="zoo"` prefers what matters least.

    Raises:
        UserError: the model is not supported, or there are no images in the inputs.
    """
    target, architecture = supported_model(model)
    if not brings_images(inputs):
        raise UserError(
            "relevance can only be compared on images: pass what the processor returned for them."
        )
    input_ids = prompt_ids(inputs)
    with torch.no_grad():
        encoded = encode_images(target, architecture, inputs, with_rows=True)
        embeddings = merged_embeddings(target, input_ids, encoded.images)
        sensitivities = Sensitivity(target, architecture, seed=0).of(encoded, "closed_form")
    relevance = _relevance(target, architecture, inputs, embeddings)
    owners = placeholder_images(
        input_ids, target.config.image_token_id, [len(image.features) for image in encoded.images]
    )
    correlations = tuple(
        rank_correlation(sensitivity, relevance[owners == number])
        for number, sensitivity in enumerate(sensitivities)
    )
    warn_if_against(correlations)
    return correlations


def rank_correlation(sensitivity: Float[Tensor, "tokens"], relevance: Float[Tensor, "tokens"]) -> float:
    """Spearman correlation over the tokens of one image that have a sensitivity; nan where either is constant."""
    known = ~sensitivity.isnan()  # newline tokens have none
    pair = [values[known.to(values.device)].double().cpu().numpy() for values in (sensitivity, relevance)]
    if any(len(values) < 2 or values.min() == values.max() for values in pair):
        return float("nan")
    return float(spearmanr(*pair).statistic)


def warn_if_against(correlations: Sequence[float]) -> None:
    """Warn if sensitivity goes against relevance on average; images without a correlation do not count."""
    known = [value for value in correlations if value == value]
    if known and sum(known) < 0:
        warnings.warn(
            f"the projector's sensitivity goes against relevance on these images (mean rank correlation "
            f"{sum(known) / len(known):.2f} over {len(known)}): method='zoo' would drop what matters most, use "
            "method='divprune'.",
            stacklevel=3,
        )


def _relevance(
    model: PreTrainedModel, architecture: Architecture, inputs: Mapping[str, Any], embeddings: Tensor
) -> Float[Tensor, "batch seq"]:
    """|gradient · embedding| of the log-probability of the labels, or of the likeliest next token."""
    mask = attention_mask_of(inputs)
    prompt: dict[str, Any] = {"attention_mask": mask, "labels": inputs.get("labels"), "use_cache": False}
    if architecture.keeps_positions:
        prompt["position_ids"] = prompt_positions(model, architecture, inputs, generating=False)
    with torch.enable_grad():
        embeddings = embeddings.detach().requires_grad_()
        output = model(inputs_embeds=embeddings, **prompt)
        if output.loss is not None:
            said = output.loss
        else:
            last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
            logits = output.logits[torch.arange(len(last), device=last.device), last.to(output.logits.device)]
            said = logits.float().log_softmax(-1).amax(-1).sum()
        (gradient,) = torch.autograd.grad(said, embeddings)
    return (gradient.float() * embeddings.detach().float()).sum(-1).abs()
