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
from tokenry.decoding.byte_level.byte_generation import Generated, generate
from tokenry.decoding.byte_level.byte_lm import ByteLM, ByteStream
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

    def fork(self) -> "EnsembleStream":
        """A second stream that goes on from here."""
        return EnsembleStream([stream.fork() for stream in self.streams])


class ByteEnsemble:
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

    def next_byte_logprobs(
        self, text: Text | Sequence[Text], context_ids: Sequence[Sequence[int]] | None = None
    ) -> Float[np.ndarray, "*texts 257"]:
        """Log-probabilities in nats of the 256 bytes and the end of the text; for several texts, one row each.

        Args:
            text: one, or several.
            context_ids: tokens before the text, for each model its own.

        Raises:
            UserError: a model has no cover of a text.
        """
        if isinstance(text, bytes | str):
            return self.next_logprobs([self.stream(text, context_ids)])[0]
        return self.next_logprobs(self.streams(text, context_ids))

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

    def stream(
        self, prefix: Text = b"", context_ids: Sequence[Sequence[int]] | None = None
    ) -> EnsembleStream:
        """Begin a text."""
        return self.streams([prefix], context_ids)[0]

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

    def generate(
        self,
        prompt: Text | Sequence[Text],
        max_bytes: int = 100,
        temperature: float | int = 0.6,
        top_p: float | int = 1.0,
        stop: Sequence[bytes] = (),
        seed: int = 0,
        context_ids: Sequence[Sequence[int]] | None = None,
    ) -> Generated | list[Generated]:
        """Sample bytes after a prompt, or after each of several; see `tokenry.decoding.byte_level.byte_generation.generate`."""
        return generate(self, prompt, max_bytes, temperature, top_p, stop, seed, context_ids)


@contextmanager
def _named(number: int) -> Iterator[None]:
    """Say which model of an ensemble could not go on."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"model {number} of the ensemble cannot go on: {error} All models must cover the same bytes."
        ) from error
