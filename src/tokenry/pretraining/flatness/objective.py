"""What is measured: the loss of a model on a batch, the logits of its targets, and the parameters whose curvature counts.

    L(θ) = mean over the targets of −log p(label)

A causal or masked language model meets its vocabulary at the targets alone; any other module gives its own loss. Dropout is off. Flash
and fused attention have no second derivative, so that attention runs on the math kernel (or eagerly) for the call, and as before after it.

Source: Same Pre-training Loss, Better Downstream (arXiv 2210.14199): pooler and output bias are left out, as in the released code.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED, learnable_tokens, predicting_rows, segment_ids
from tokenry.core.tensors.gate import require_causal_lm
from tokenry.core.tensors.losses import backbone, causal_lm, check_output_head, output_head
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import accumulation_dtype

EXCLUDED = ("pooler", "output_bias")
"""Parameters that are left out: they do not matter for a prediction, or have a trivial curvature."""

_CAUSAL = re.compile(r"CausalLM|LMHead|DoubleHeads")
_MASKED = re.compile(r"MaskedLM")
_NO_SECOND_DERIVATIVE = re.compile(r"derivative for .* not implemented|double backward", re.S)

Batch = Any
"""A mapping of tensors as a model takes them, or whatever a loss function takes."""


class Targets(NamedTuple):
    """The targets of a batch.

    Attributes:
        logits: predicted for each, with a graph; float32 or better.
        labels: the tokens of the data.
    """

    logits: Float[Tensor, "targets vocabulary"]
    labels: Int[Tensor, "targets"]

    @property
    def nll(self) -> Float[Tensor, "targets"]:
        """−log p(label) of each, in nats."""
        return cross_entropy(self.logits, self.labels, reduction="none")


class Objective:
    """The loss of a model, or a loss function, as a function of the parameters that count.

    Args:
        loss_fn_or_model: a language model; a module whose output is a loss, has one, or has logits for the `labels` of its batch; or a
            function that computes the loss of a batch from `parameters`.
        exclude: parameters are left out whose names hold one of these; `output_bias` is the bias of the output head, whatever its name.
        include: only parameters whose names hold one of these; None for all.
        parameters: by name, of a loss function.

    Raises:
        UserError: nothing to train, or weights in half precision or split between ranks.

    Attributes:
        parameters: by name, those that count.
        groups: the layer of each.
        blocks: places of the output matrix, and of all others.
    """

    def __init__(
        self,
        loss_fn_or_model: nn.Module | Callable[[Batch], Tensor],
        exclude: Sequence[str] = EXCLUDED,
        include: Sequence[str] | None = None,
        parameters: Mapping[str, Tensor] | None = None,
        half: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16),
    ) -> None:
        given = loss_fn_or_model
        if isinstance(given, DistributedDataParallel):
            given = given.module
        self.model: Any = given if isinstance(given, nn.Module) else None
        self.loss_function = given
        self.shifts = _kind(self.model)
        if self.model is None and parameters is None:
            raise UserError(
                "a loss function needs parameters={name: tensor}: it does not say what it depends on."
            )
        named = (
            dict(self.model.named_parameters())
            if parameters is None and self.model
            else dict(parameters or {})
        )
        self.parameters = _chosen(named, self.model, exclude, include)
        self.groups = [group_of(name) for name in self.parameters]
        self.blocks = _blocks([*self.parameters.values()], self.model)
        _require_precise(self.parameters, half)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.parameters.values())).device

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], int]:
        """The mean loss of a batch with a graph, and the number of its targets (1 where they cannot be counted).

        Raises:
            UserError: no target, a loss that is not finite, or one that does not depend on a parameter.
        """
        if self.shifts is not None:
            targets = self.targets(batch)
            loss, number = targets.nll.mean(), len(targets.labels)
        else:
            loss, number = self._own_loss(batch), self._own_number(batch)
        if not loss.requires_grad:
            raise UserError(
                "the loss does not require gradients: compute it with a graph, outside of torch.no_grad."
            )
        if not bool(loss.isfinite()):
            raise UserError(
                f"the loss is {float(loss.detach())}: the model is damaged, or its training has diverged."
            )
        return loss, number

    def targets(self, batch: Batch) -> Targets:
        """Logits and labels of the targets of a batch; of a language model, only these rows meet the head.

        Raises:
            UserError: no target, or nothing that has logits.
        """
        inputs = on_device(batch, self.device)
        if self.shifts is None:
            return _own_targets(self.model, inputs)
        labels = _labels(inputs, self.shifts)
        read = {name: value for name, value in inputs.items() if name != "labels"}
        inner = causal_lm(self.model)
        hidden_states = backbone(inner)(**read, use_cache=False).last_hidden_state
        if self.shifts:
            mask, positions = read.get("attention_mask"), read.get("position_ids")
            tokens = learnable_tokens(labels, segment_ids(read["input_ids"], mask, positions))
            rows = predicting_rows(hidden_states, tokens)
        else:
            tokens = labels != IGNORED
            rows = hidden_states[tokens]
        _require_targets(int(tokens.sum()))
        return Targets(output_head(self.model).logits(rows), labels[tokens])

    def _own_loss(self, batch: Batch) -> Tensor:
        if self.model is None:
            return self.loss_function(batch)
        inputs = on_device(batch, self.device)
        found = self.model(**inputs) if isinstance(inputs, Mapping) else self.model(inputs)
        loss = found if isinstance(found, Tensor) else getattr(found, "loss", None)
        return _own_targets(self.model, inputs).nll.mean() if loss is None else loss

    def _own_number(self, batch: Batch) -> int:
        """Labels in the batch of a module: transformers takes the mean over them."""
        labels = batch.get("labels") if self.model is not None and isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            return 1
        return max(1, int((labels != IGNORED).sum()))

    @contextmanager
    def at_rest(self, twice: bool) -> Iterator[list[str]]:
        """Dropout off and, for second derivatives, attention on a kernel that has them; yields what was changed, in words.

        Raises:
            UserError: a language model whose logits are not those of its head, or an attention kernel without the derivatives.
        """
        with ExitStack() as stack:
            notes: list[str] = []
            if self.model is not None:
                if _drops(self.model):
                    notes.append("dropout was on in the model: it was switched off for the measurement")
                stack.enter_context(evaluation_mode(self.model))
            if twice:
                notes += stack.enter_context(_eager_attention(self.model))
                stack.enter_context(second_derivatives())
            if self.model is not None and self.shifts:
                require_causal_lm(self.model)
            elif self.model is not None and self.shifts is not None:
                check_output_head(self.model)
            stack.enter_context(torch.enable_grad())
            yield notes


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: on_device(value, device) for name, value in batch.items()}
    return batch


def rows_of(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The sequences of a batch one by one, without their padding."""
    mask = batch.get("attention_mask")
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    for row in range(max(map(len, tensors.values()), default=0)):
        # What all sequences share, such as positions, has a single row.
        one = {name: value if len(value) == 1 else value[row : row + 1] for name, value in tensors.items()}
        if mask is not None and mask.ndim == 2:
            real = mask[row].bool()
            one = {
                name: value[:, real] if value.shape[1:2] == real.shape else value
                for name, value in one.items()
            }
        yield one


def group_of(name: str) -> str:
    """The group of a parameter: its layer (`model.layers.3`), or the module that holds it."""
    numbered = re.match(r"(.*?\.\d+)\.", name)
    return numbered[1] if numbered else name.rpartition(".")[0] or name


def _kind(model: nn.Module | None) -> bool | None:
    """True for a causal, False for a masked language model, None for anything else."""
    inner = next(
        (
            module
            for module in (model.modules() if model is not None else ())
            if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None
        ),
        None,
    )
    name = type(inner).__name__
    if inner is None or getattr(inner.config, "is_encoder_decoder", False):
        return None
    return True if _CAUSAL.search(name) else False if _MASKED.search(name) else None


def _chosen(
    named: Mapping[str, Tensor],
    model: nn.Module | None,
    exclude: Sequence[str],
    include: Sequence[str] | None,
) -> dict[str, Tensor]:
    bias = None
    if isinstance(model, nn.Module) and _kind(model) is not None:
        bias = getattr(causal_lm(model).get_output_embeddings(), "bias", None)
    trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    if not trained:
        raise UserError(
            "the model has no trainable parameter, so its loss has no curvature: unfreeze some weights."
        )
    chosen = {
        name: parameter
        for name, parameter in trained.items()
        if (include is None or any(word in name for word in include))
        and not any(word in name for word in exclude)
        and not (parameter is bias and "output_bias" in exclude)
    }
    if not chosen:
        raise UserError(
            f"no trainable parameter is left by include={include and [*include]} and exclude={[*exclude]}: names are such as "
            f"{', '.join(list(trained)[:3])}."
        )
    return chosen


def _blocks(parameters: Sequence[Tensor], model: nn.Module | None) -> list[list[int]]:
    """Places of the parameters that may be probed apart: the output matrix of a language model, and all others.

    Logits are bilinear in that matrix and in what it multiplies, so that the residual of every target stands in the Hessian between the two.
    """
    matrix = None
    if model is not None and _kind(model) is not None:
        matrix = getattr(causal_lm(model).get_output_embeddings(), "weight", None)
    sides = [
        [place for place, one in enumerate(parameters) if (one is matrix) == own] for own in (True, False)
    ]
    return [side for side in sides if side]


def _require_precise(parameters: Mapping[str, Tensor], half: tuple[torch.dtype, ...]) -> None:
    for name, parameter in parameters.items():
        if parameter.dtype in half:
            given = str(parameter.dtype).removeprefix("torch.")
            raise UserError(
                f"{name} is {given}, in which curvature overflows or drowns in rounding: load the model in float32 (dtype='float32')."
            )
        if isinstance(parameter, DTensor) or parameter.device.type == "meta" or hasattr(parameter, "ds_id"):
            raise UserError(
                f"{name} is split between ranks: measure flatness on whole weights (one process, or DDP), not under FSDP or ZeRO-3."
            )


def _labels(inputs: Mapping[str, Tensor], causal: bool) -> Int[Tensor, "batch seq"]:
    labels = inputs.get("labels")
    if labels is None and causal:
        labels = inputs["input_ids"]
    if labels is None:
        raise UserError(
            "the batch has no labels: mask some tokens (DataCollatorForLanguageModeling) and give them."
        )
    mask = inputs.get("attention_mask")
    return labels if mask is None or mask.ndim != 2 else labels.masked_fill(mask == 0, IGNORED)


def _own_targets(model: Any, inputs: Any) -> Targets:
    """The targets of a module that gives logits where its batch has labels, unshifted."""
    labels: Any = inputs.get("labels") if isinstance(inputs, Mapping) else None
    logits: Any = None if model is None or labels is None else getattr(model(**inputs), "logits", None)
    if logits is None or logits.shape[:-1] != labels.shape:
        raise UserError(
            f"{'a loss function' if model is None else type(model).__name__} gives no logits for its labels: give a causal or masked "
            "language model, or a module whose output has logits of the shape of labels, with one more dimension."
        )
    tokens: Tensor = labels != IGNORED
    _require_targets(int(tokens.sum()))
    return Targets(logits[tokens].to(accumulation_dtype(logits.dtype)), labels[tokens])


def _require_targets(number: int) -> None:
    if number == 0:
        raise UserError("the batch has no targets: every label is -100, so that there is no loss to measure.")


def _drops(model: nn.Module) -> bool:
    """Whether the model would drop something if it ran now."""
    modules = any(
        module.training and module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout)
    )
    attention = getattr(getattr(model, "config", None), "attention_dropout", 0.0)
    return modules or bool(model.training and isinstance(attention, float) and attention > 0)


@contextmanager
def _eager_attention(model: nn.Module | None) -> Iterator[list[str]]:
    """Eager attention in place of flash or flex attention; yields what is said about the attention."""
    inner: Any = next((module for module in _modules(model) if isinstance(module, PreTrainedModel)), None)
    before = inner.config._attn_implementation if inner is not None else None
    if before in (None, "eager", "sdpa"):
        fused = before == "sdpa"
        yield ["attention ran on the math kernel: fused kernels have no second derivative"] if fused else []
        return
    inner.set_attn_implementation("eager")
    try:
        yield [f"attention ran eagerly: {before} has no second derivative"]
    finally:
        inner.set_attn_implementation(before)


def _modules(model: nn.Module | None) -> Iterator[nn.Module]:
    return iter(()) if model is None else model.modules()


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Attention on the math kernel of PyTorch, and one sentence where a kernel is used that cannot be differentiated twice."""
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        if not _NO_SECOND_DERIVATIVE.search(str(error)):
            raise
        raise UserError(
            "an attention kernel of the model has no second derivative (flash or fused attention, or a compiled model): load it with "
            "attn_implementation='eager', run it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or take fisher_trace."
        ) from error
