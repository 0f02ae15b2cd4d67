"""What is known about the tokens of one batch: the numbers a weighing is given, aligned to the tokens.

Signals that a weighing can ask for by name:
    nll               −log p of the token under the model in training, in nats
    entropy           entropy of the distribution that predicted the token, in nats
    history_nll       −log p under an earlier state of the model (see `history`), in nats
    base_nll          −log p under the model before training, in nats
    reference_nll     −log p under another model, in nats
    out_of_fold_nll   −log p under a model that was briefly trained without the token's sample, in nats
    prompt_attention  attention that the token's row pays to the prompt, a probability mass in [0, 1]
    uniform           one uniform random number per token, drawn once
    dataset_weight    the weight given in the data
    response          1 for response tokens, 0 for prompt tokens
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.core.tensors.alignment import learnable_tokens

STATIC_SIGNALS = frozenset(
    {"base_nll", "reference_nll", "out_of_fold_nll", "uniform", "dataset_weight", "response"}
)
LIVE_SIGNALS = frozenset({"nll", "entropy", "history_nll", "prompt_attention"})


@dataclass(frozen=True)
class AttentionProbe:
    """Which attention is read for `prompt_attention`.

    `layers`: an index (−1 = last), several, or `deep` (the last third). `columns`: `prompt` = all prompt tokens, mean over
    heads; `content` = what the user wrote, without first token and template, renormalised per head (sink-aware).
    """

    layers: int | str | Sequence[int] = -1
    columns: Literal["prompt", "content"] = "prompt"


@dataclass(frozen=True)
class Signals:
    """The tokens of a batch and the signals about them; `signals["nll"]` reads one.

    `progress` is the fraction of all optimisation steps done, in [0, 1]; `epoch` counts epochs done, as a float. A trainer gives
    both; left out, every warm-up is over. Signals are float32 and nan where they are not defined.
    """

    labels: Int[Tensor, "batch seq"]
    segments: Int[Tensor, "batch seq"]
    values: Mapping[str, Float[Tensor, "batch seq"]] = field(default_factory=dict)
    progress: float = 1.0
    epoch: float = math.inf

    @property
    def learnable(self) -> Bool[Tensor, "batch seq"]:
        """The tokens that may be learned from."""
        return learnable_tokens(self.labels, self.segments)

    def __getitem__(self, name: str) -> Float[Tensor, "batch seq"]:
        """Read a signal; KeyError names the signals that were computed."""
        try:
            return self.values[name]
        except KeyError:
            raise KeyError(
                f"the signal {name!r} was not computed (there are: {', '.join(sorted(self.values)) or 'none'}): "
                "declare it in the weighing's `needs`."
            ) from None

    def with_values(self, **values: Float[Tensor, "batch seq"]) -> "Signals":
        """The same signals with more values."""
        return Signals(self.labels, self.segments, {**self.values, **values}, self.progress, self.epoch)

    def dropping(self, tokens: Bool[Tensor, "batch seq"]) -> "Signals":
        """The same signals with some tokens excluded from learning."""
        return Signals(
            torch.where(tokens, -100, self.labels), self.segments, self.values, self.progress, self.epoch
        )
