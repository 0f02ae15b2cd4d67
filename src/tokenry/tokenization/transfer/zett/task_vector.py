"""Let a fine-tuned model follow its base through training with a new tokenizer.

    weights of the fine-tuned model += share · (adapted base − base)        without the rows per token, which have another vocabulary

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 4; task arithmetic (arXiv 2212.04089).
"""

import torch
from transformers import PreTrainedModel

from tokenry.core.errors import UserError


@torch.no_grad()
def apply_task_vector(
    finetuned: PreTrainedModel, base: PreTrainedModel, adapted: PreTrainedModel, lam: float = 0.5
) -> PreTrainedModel:
    """Add what the base has learned with the new tokenizer to a fine-tuned model.

    Args:
        finetuned: a variant of the base, transferred or not; changed in place.
        base: the base model before its transfer.
        adapted: the base model, transferred and trained on (`NShotTrainer`).
        lam: share of the change that is added.

    Returns:
        The fine-tuned model.

    Raises:
        UserError: the models are not variants of one another.
    """
    parts = [_without_rows(model) for model in (finetuned, base, adapted)]
    names = [{name: tuple(weight.shape) for name, weight in part.items()} for part in parts]
    if not names[0] == names[1] == names[2]:
        different = sorted({name for shapes in names for name in shapes.items() ^ names[0].items()})
        raise UserError(
            f"the three models have different weights (such as {different[0][0]}): give a base and variants of it."
        )
    of_finetuned, of_base, of_adapted = parts
    for name, weight in of_finetuned.items():
        change = of_adapted[name].to(weight.device).float() - of_base[name].to(weight.device).float()
        weight.copy_(weight.float() + lam * change)
    return finetuned


def _without_rows(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    head = model.get_output_embeddings()
    rows = [model.get_input_embeddings().weight]
    if head is not None:
        rows += [side for side in (head.weight, getattr(head, "bias", None)) if side is not None]
    return {
        name: weight for name, weight in model.named_parameters() if not any(weight is side for side in rows)
    }
