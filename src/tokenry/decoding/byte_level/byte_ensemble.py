"""An ensemble of language models with different tokenizers: they agree on bytes.

    mean:      p(b) = Σ weight · p_model(b)
    geometric: log p(b) = Σ weight · log p_model(b), normalised

Each model runs its own stream over the same bytes; every byte is given to all of them.

Source: Exact Byte-Level Probabilities from Tokenized Language Models (arXiv 2410.09303), section 4.3; the paper takes the uniform mean.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy

import numpy as np
from jaxtyping import Float

from tokenry.core.errors import UserError, require_one_of
from tokenry.decoding.byte_level.byte_lm import ByteLM
from tokenry.decoding.byte_level.byte_model import ByteModel
from tokenry.decoding.byte_level.byte_stream import ByteStream
from tokenry.decoding.byte_level.utf8 import Text

HOW = ("mean", "geometric")


class EnsembleStream:
    """A text that takes one byte at a time, in all models."""

    def __init__(self, streams: list[ByteStream]) -> None:
        self.streams = streams

    @property
    def text(self) -> bytes:
        """The bytes so far."""
        return self.streams[0].text

    def push(self, byte: int) -> None:
        """Take the next byte in all models, or in none.

        Raises:
            UserError: a model cannot go on with it.
        """
        moved = [copy(stream) for stream in self.streams]
        for number, stream in enumerate(moved):
            with _named(number):
                stream.push(byte)
        self.streams = moved

    def __repr__(self) -> str:
        """The stream of each model."""
        return f"EnsembleStream({', '.join(map(repr, self.streams))})"

    def fork(self) -> "EnsembleStream":
        """A second stream that goes on from here."""
        return EnsembleStream([stream.fork() for stream in self.streams])


class ByteEnsemble(ByteModel[EnsembleStream, Sequence[Sequence[int]]]):
    """Several byte models as one.

    Args:
        models: with any tokenizers.
        weights: one positive number per model, normalised to one; equal by default.
        how: `mean`, or `geometric`.

    Raises:
        UserError: no model, or weights that do not fit.
    """

    def __init__(
        self, models: Sequence[ByteLM], weights: Sequence[float | int] | None = None, how: str = "mean"
    ) -> None:
        require_one_of(how, HOW, "how")
        given = [1.0] * len(models) if weights is None else list(weights)
        if not models or len(given) != len(models) or not all(0 < weight < np.inf for weight in given):
            raise UserError(
                f"an ensemble needs at least one model and one positive weight for each, got {len(models)} models and weights {given}."
            )
        self.models, self.how = tuple(models), how
        self.weights = np.array(given) / sum(given)

    def __repr__(self) -> str:
        """How the models are combined, and each with its weight."""
        parts = (f"{weight:.3g} × {model!r}" for weight, model in zip(self.weights, self.models, strict=True))
        return f"ByteEnsemble({self.how} of {', '.join(parts)})"

    def streams(
        self, prefixes: Sequence[Text], context_ids: Sequence[Sequence[int]] | None = None
    ) -> list[EnsembleStream]:
        """Begin several texts in all models."""
        contexts = [None] * len(self.models) if context_ids is None else context_ids
        of_models = []
        for number, (model, context) in enumerate(zip(self.models, contexts, strict=True)):
            with _named(number):
                of_models.append(model.streams(prefixes, context))
        return [EnsembleStream(list(streams)) for streams in zip(*of_models, strict=True)]

    def next_logprobs(self, streams: Sequence[EnsembleStream]) -> Float[np.ndarray, "streams 257"]:
        """Next-byte log-probabilities, with one forward pass per model for all streams."""
        of_models = np.stack(
            [
                model.next_logprobs([stream.streams[number] for stream in streams])
                for number, model in enumerate(self.models)
            ]
        )
        weights = self.weights[:, None, None]
        if self.how == "mean":
            with np.errstate(divide="ignore"):
                return np.log((weights * np.exp(of_models)).sum(0))
        together = (weights * of_models).sum(0)
        totals = np.logaddexp.reduce(together, axis=1, keepdims=True)
        if not np.isfinite(totals).all():
            raise UserError("no next byte is possible for all models of the ensemble: use how='mean'.")
        return together - totals


@contextmanager
def _named(number: int) -> Iterator[None]:
    """Say which model of an ensemble could not go on."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"model {number} of the ensemble cannot go on: {error} All models must cover the same bytes."
        ) from error
