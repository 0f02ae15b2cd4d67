"""Gated LoRA: low-rank adapters that act on mask rows only, so that token rows stay those of the base model, bit for bit.

    y[row] = W x[row] + b                                     token rows
    y[row] = W x[row] + b + (alpha / rank) · B A x[row]       mask rows

The mask rows are gathered, adapted and added back, rather than all rows multiplied by a gate of zeros and ones. The base's layers stay
in their places under their names; adapters hook onto what they put out. They cannot be merged into W.

Source: Your LLM Knows the Future (arXiv 2507.11851), section 3.1.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.tensors.output_head import backbone, causal_lm

ALL_LINEAR = "all-linear"


class Gate:
    """The rows that adapters act on, in the flattened batch; None for no row.

    Attributes:
        rows: their numbers.
        run: the same rows where they stand one behind the other, as the masks of a single text do.
    """

    def __init__(self) -> None:
        self.rows: Int[Tensor, "rows"] | None = None
        self.run: slice | None = None
        self._is_held = False

    @contextmanager
    def on(self, masks: Bool[Tensor, "*rows"]) -> Iterator[None]:
        """Let adapters act on `masks` for a while."""
        before = self.rows, self.run
        self.rows = masks.flatten().nonzero()[:, 0]
        self.run = _run_of(self.rows)
        try:
            yield
        finally:
            if not self._is_held:
                self.rows, self.run = before

    @contextmanager
    def held(self) -> Iterator[None]:
        """Leave the gate as the last forward had it: gradient checkpointing runs layers again in the backward."""
        self._is_held = True
        try:
            yield
        finally:
            self.rows, self.run, self._is_held = None, None, False


def _run_of(rows: Int[Tensor, "rows"]) -> slice | None:
    """The rows as a slice where they are neighbours."""
    if not len(rows):
        return None
    first, last = rows[[0, -1]].tolist()
    return slice(first, last + 1) if last - first + 1 == len(rows) else None


class GatedLoRALinear(nn.Module):
    """A linear layer, and an adapter for the rows of a gate; the base layer is not part of this module.

    Args:
        base: a layer with `in_features` and `out_features`, or the `Conv1D` of GPT-2.
        alpha: scales what the adapter adds by alpha / rank.
        gate: rows that it acts on; one of its own by default.

    Raises:
        UserError: the layer does not say how many features it takes.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float | int, gate: Gate | None = None) -> None:
        super().__init__()
        require_at_least(1, rank=rank)
        features = _features(base)
        if features is None:
            raise UserError(
                f"{type(base).__name__} has no in_features and out_features, so gated LoRA cannot be put beside it: "
                "name other layers in targets."
            )
        self._base = (base,)
        self.gate, self.scale = Gate() if gate is None else gate, alpha / rank
        device = next(iter(base.parameters())).device
        self.lora_A = nn.Linear(features[0], rank, bias=False, device=device)
        self.lora_B = nn.Linear(rank, features[1], bias=False, device=device)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows out"]:
        """The base layer's output, adapted on the rows of the gate."""
        (base,) = self._base
        return self.adapted(base(x), x)

    def adapted(
        self, y: Float[Tensor, "*rows out"], x: Float[Tensor, "*rows features"]
    ) -> Float[Tensor, "*rows out"]:
        """Add to the base layer's output `y`, in place."""
        rows = self.gate.rows
        if rows is None:
            return y
        down, up, run = self.lora_A.weight, self.lora_B.weight, self.gate.run
        if run is not None and y.dtype == down.dtype and not torch.is_grad_enabled():
            within = linear(x.flatten(0, -2)[run], down)
            y.view(-1, y.shape[-1])[run].addmm_(within, up.t(), alpha=self.scale)
            return y
        masked = x.flatten(0, -2).index_select(0, rows).to(down.dtype)
        added = linear(linear(masked, down), up).to(y.dtype)
        y.view(-1, y.shape[-1]).index_add_(0, rows, added, alpha=self.scale)
        return y

    def after_base(self, base: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
        """The same as a forward hook of the base layer."""
        return self.adapted(y, inputs[0])


class GatedLoRA(nn.Module):
    """Adapters on the linear layers of a model, with one gate; made by `add_gated_lora`.

    Attributes:
        gate: rows that the adapters act on.
        layers: adapters by the name of their layer, with / for the dots.
    """

    def __init__(
        self, model: nn.Module, rank: int, alpha: float | int, targets: str | Sequence[str] = ALL_LINEAR
    ) -> None:
        super().__init__()
        self.gate = Gate()
        self.layers = nn.ModuleDict()
        self._hooks = []
        for name, base in _linear_layers(causal_lm(model), targets):
            layer = GatedLoRALinear(base, rank, alpha, self.gate)
            self.layers[name.replace(".", "/")] = layer
            self._hooks.append(base.register_forward_hook(layer.after_base))

    def remove(self) -> None:
        """Take the adapters off the model."""
        while self._hooks:
            self._hooks.pop().remove()


def add_gated_lora(
    model: nn.Module, rank: int, alpha: float | int, targets: str | Sequence[str] = ALL_LINEAR
) -> GatedLoRA:
    """Put a gated adapter beside linear layers of a causal language model; its gate is closed at first.

    Args:
        model: causal language model, wrapped or not.
        alpha: scales what they add by alpha / rank.
        targets: ends of the names of layers, or `all-linear` for all but the output head.

    Raises:
        UserError: no such layer, or one that does not say how many features it takes.
    """
    return GatedLoRA(model, rank, alpha, targets)


def _linear_layers(inner: nn.Module, targets: str | Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """The layers to adapt, by their names in the model; nothing inside a layer that is adapted."""
    body, chosen = backbone(inner), ""
    of_body = {id(module) for module in body.modules()}
    found = 0
    for name, module in inner.named_modules():
        if id(module) not in of_body or (chosen and name.startswith(chosen)):
            continue
        if targets == ALL_LINEAR:
            is_wanted = _features(module) is not None
        else:
            ends = (targets,) if isinstance(targets, str) else tuple(targets)
            is_wanted = name.rpartition(".")[2] in ends or name.endswith(tuple(f".{end}" for end in ends))
        if is_wanted:
            chosen, found = f"{name}.", found + 1
            yield name, module
    if not found:
        raise UserError(
            f"{type(inner).__name__} has no layer named {targets}: targets are ends of the names of linear layers, or {ALL_LINEAR!r}."
            if targets != ALL_LINEAR
            else f"{type(inner).__name__} has no linear layers with in_features and out_features, so gated LoRA has nowhere to stand."
        )


def _features(layer: nn.Module) -> tuple[int, int] | None:
    """The numbers of input and output features of a linear layer; None for other layers."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    features = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    return features if all(isinstance(number, int) for number in features) else None  # type: ignore[return-value]
