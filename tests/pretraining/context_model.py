"""The model behind the reference numbers of flatness: logits = gelu(E[x] W1 + b1) W2 + b2, in float64."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu

NAMES = ("E", "W1", "b1", "W2", "b2")


class ContextModel(nn.Module):
    def __init__(self, arrays):
        super().__init__()
        for name in NAMES:
            setattr(self, name, nn.Parameter(arrays[name].clone()))

    def forward(self, input_ids, labels=None, conditionals=None):
        logits = gelu(self.E[input_ids] @ self.W1 + self.b1) @ self.W2 + self.b2
        loss = None
        if conditionals is not None:
            loss = -(conditionals * logits.log_softmax(-1)).sum(-1).mean()
        elif labels is not None:
            loss = cross_entropy(logits.flatten(0, -2), labels.flatten())
        return SimpleNamespace(logits=logits, loss=loss)


def case(arrays):
    """Model, batch, what is left out, and the parameters that count."""
    model = ContextModel(arrays)
    batch = {"input_ids": arrays["x"][None], "labels": arrays["y"][None]}
    used = arrays["params_used"].tolist()
    exclude = tuple(name for number, name in enumerate(NAMES) if number not in used)
    return model, batch, exclude, [getattr(model, NAMES[number]) for number in used]


def exact_hessian(loss, parameters):
    """The whole Hessian of the loss, row by row."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    rows = [
        torch.cat(
            [
                part.flatten()
                for part in torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True)
            ]
        )
        if one.requires_grad
        else torch.zeros_like(flat)
        for one in flat
    ]
    return torch.stack(rows)
