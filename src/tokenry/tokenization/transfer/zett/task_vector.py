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
        base: before.
        adapted: the base, transferred and trained on (`NShotTrainer`).
        lam: how much of it.

    Returns:
        The fine-tuned model.

    Raises:
        UserError: the models are not variants of one another.
    """
    parts = [_without_rows(model) for model in (finetuned, base, adapted)]
    names = [{name: tuple(each.shape) for name, each in part.items()} for part in parts]
    if not names[0] == names[1] == names[2]:
        different = sorted({name for each in names for name in each.items() ^ names[0].items()})
        raise UserError(
            f"the three models have different weights (such as {different[0][0]}): give a base and variants of it."
        )
    of_finetuned, of_base, of_adapted = parts
    for name, each in of_finetuned.items():
        change = of_adapted[name].to(each.device).float() - of_base[name].to(each.device).float()
        each.copy_(each.float() + lam * change)
    return finetuned


def _without_rows(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    head = model.get_output_embeddings()
    rows = [model.get_input_embeddings().weight]
    if head is not None:
        rows += [each for each in (head.weight, getattr(head, "bias", None)) if each is not None]
    return {name: each for name, each in model.named_parameters() if not any(each is one for one in rows)}
