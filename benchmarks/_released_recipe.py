"""A step of ssToken as its authors released it, written from a description of their training loop (arXiv 2510.18250).

What it costs is what it does: eager attention whose weights of all layers are kept, logits of the whole vocabulary at every
position, and three cross-entropies over them (the model's own, one per sample with a graph, the final one). Right padding.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

IGNORED = -100


def released_loss(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    history_nll: Tensor,
    share: float = 0.6,
    balance: float = 0.5,
    layer: int = -1,
) -> Tensor:
    """Mean cross-entropy of the selected tokens; the model must use eager attention."""
    outputs = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        labels=labels,
        output_attentions=True,
        use_cache=False,
    )
    selected = torch.full_like(labels, IGNORED)
    for row in range(len(labels)):
        nll = cross_entropy(outputs.logits[row, :-1], labels[row, 1:], reduction="none")
        response = (labels[row] != IGNORED).nonzero()[:, 0]
        rel = history_nll[row, response] - nll[response - 1]
        normalised = (rel - rel.min()) / (rel.max() - rel.min() + 1e-8)
        attention = outputs.attentions[layer][row].mean(dim=0)[response, : response[0]].sum(dim=-1)
        score = balance * normalised + (1 - balance) * attention
        kept = response[torch.topk(score, math.ceil(share * len(response) - 1e-9)).indices]
        selected[row, kept] = labels[row, kept]
    return cross_entropy(outputs.logits[:, :-1].flatten(0, 1), selected[:, 1:].flatten())
