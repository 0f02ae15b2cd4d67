"""A token loss inside the model's own forward: backbone, signals, choice, loss, in one call that every wrapper sees.

`model(**batch, token_loss=loss)` runs the backbone and hands it to `loss`, in place of making logits. Because it happens in
`forward`, DDP, FSDP, DeepSpeed, autocast, PEFT and gradient checkpointing work as for any other forward.
"""

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.core.tensors.alignment import first_tokens, prompt_tokens
from tokenry.core.tensors.attention import attention_mass, prompt_attention, sink_aware_prompt_attention
from tokenry.core.tensors.losses import output_head, token_statistics, weighted_loss
from tokenry.core.tensors.row_losses import cross_entropy
from tokenry.core.tensors.signals import AttentionProbe, Signals
from tokenry.core.tensors.token_loss import Backbone
from tokenry.core.tensors.token_loss import TokenLoss as TokenLoss
from tokenry.core.tensors.token_loss import TokenLossOutput as TokenLossOutput
from tokenry.core.tensors.token_loss import add_token_loss as add_token_loss
from tokenry.finetuning.weighing import TokenWeighing


class ReadSignals:
    """Read signals without a graph and without a loss; `values` holds them afterwards, nan where they are not defined.

    Args:
        signals: labels and segments of the batch.
        needed: signals to read, of `nll`, `entropy` and `prompt_attention`.
        probe: layers and columns of `prompt_attention`.
        content: tokens that are content rather than template, for sink-aware attention.
    """

    def __init__(
        self,
        signals: Signals,
        needed: frozenset[str] = frozenset({"nll"}),
        probe: AttentionProbe | None = None,
        content: Bool[Tensor, "batch seq"] | None = None,
    ) -> None:
        self.signals, self.needed, self.content = signals, needed, content
        self.probe = probe or AttentionProbe()
        self.values: dict[str, Tensor] = {}

    def __call__(self, backbone: Backbone, model: PreTrainedModel) -> Float[Tensor, ""]:
        """Run the backbone and read the signals."""
        with torch.no_grad():
            hidden_states, self.values = _read(backbone, model, self)
        return hidden_states.new_zeros(())


class WeighedLoss(ReadSignals):
    """The loss of one batch under a weighing: Σ weights · nll, with gradients only through weighted tokens.

    With another `row_loss` than cross-entropy the sum is over that loss, and `weights` is what the token's own NLL weighs in it.
    Afterwards `weights` holds the choice, `signals` what it was made from, `nll` every NLL that was computed, and `entropy` and
    `accuracy` those of the weighted tokens.

    Args:
        weighing: which tokens to learn from.
        signals: signals known before the forward (labels, segments, history, static signals).
        content: tokens that are content rather than template, for sink-aware attention.
        extra: signals to read beyond those the weighing needs.
    """

    def __init__(
        self,
        weighing: TokenWeighing,
        signals: Signals,
        content: Bool[Tensor, "batch seq"] | None = None,
        extra: frozenset[str] = frozenset(),
    ) -> None:
        needed = extra | (weighing.needs if weighing.selects(signals.epoch) else frozenset())
        super().__init__(signals, needed, weighing.attention_probe, content)
        self.weighing = weighing
        self.weights: Tensor = torch.empty(0)
        self.nll: Tensor = torch.empty(0)
        self.entropy: Tensor = torch.empty(0)
        self.accuracy: Tensor = torch.empty(0)

    def __call__(self, backbone: Backbone, model: PreTrainedModel) -> Float[Tensor, ""]:
        """Run the backbone, read the needed signals, weigh the tokens, and sum their weighted NLL."""
        hidden_states, self.values = _read(backbone, model, self)
        self.signals = self.signals.with_values(**self.values)
        self.weights = self.weighing.weigh(self.signals)
        reduced = self.weighing.reduce(self.weights, self.signals)
        rule = self.weighing.row_loss if self.weighing.selects(self.signals.epoch) else cross_entropy
        loss = weighted_loss(hidden_states, self.signals.labels, reduced, output_head(model), row_loss=rule)
        if rule is not cross_entropy:
            self.weights = self.weights * loss.weight.nan_to_num(0.0)
        self.nll = self.values.get("nll", loss.nll)
        self.entropy, self.accuracy = loss.entropy, loss.accuracy
        return loss.total


def _read(backbone: Backbone, model: PreTrainedModel, asked: ReadSignals) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the backbone; return its hidden states (with their graph) and the signals asked for (without one)."""
    signals, head = asked.signals, output_head(model)
    with ExitStack() as stack:
        attention = None
        if "prompt_attention" in asked.needed:
            attention = stack.enter_context(_PromptAttention(model, asked.probe, signals, asked.content))
        hidden_states = backbone().last_hidden_state
    values: dict[str, Tensor] = {}
    if attention is not None:
        values["prompt_attention"] = attention.read()
    of_head = sorted(asked.needed & {"nll", "entropy"})
    values |= token_statistics(hidden_states, signals.labels, head, signals.learnable, of_head)
    return hidden_states, values


class _PromptAttention:
    """Reads the attention of response tokens to the prompt while the backbone runs."""

    def __init__(
        self,
        model: PreTrainedModel,
        probe: AttentionProbe,
        signals: Signals,
        content: Bool[Tensor, "batch seq"] | None,
    ) -> None:
        segments = signals.segments
        self.learnable, self.columns = signals.learnable, probe.columns
        prompt = prompt_tokens(signals.labels, segments)
        if probe.columns == "content":
            first = first_tokens(segments)
            wanted = prompt & ~first if content is None else prompt & content & ~first
            sets = torch.stack([wanted, first], dim=1)
        else:
            sets = prompt[:, None]
        self.mass = attention_mass(model, probe.layers, sets)

    def __enter__(self) -> "_PromptAttention":
        self.reading = self.mass.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.mass.__exit__(*error)

    def read(self) -> Float[Tensor, "batch seq"]:
        """Reduce what was read to one number per response token."""
        reduce = sink_aware_prompt_attention if self.columns == "content" else prompt_attention
        return reduce(self.reading.by_layer, self.learnable)
