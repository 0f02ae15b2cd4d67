"""A model of bytes, one language model or an ensemble of several: what can be asked of either, and texts that either writes.

Several prompts take their bytes together, one forward pass for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from tokenry.decoding.byte_level.byte_generation import (
    GeneratedBytes,
    Why,
    draw,
    require_temperature,
    require_top_p,
)
from tokenry.decoding.byte_level.byte_stream import END
from tokenry.decoding.byte_level.utf8 import Text


@runtime_checkable
class Stream(Protocol):
    """A text that takes one byte at a time."""

    def push(self, byte: int) -> None:
        """Take the next byte."""
        ...


_Stream = TypeVar("_Stream", bound=Stream)
_ContextIds = TypeVar("_ContextIds")


class ByteModel(ABC, Generic[_Stream, _ContextIds]):
    """A model of bytes. Wherever `context_ids` are taken they are the tokens before the text, for an ensemble those of each model."""

    @abstractmethod
    def streams(self, prefixes: Sequence[Text], context_ids: _ContextIds | None = None) -> list[_Stream]:
        """Begin several texts with one forward pass for all of them."""

    @abstractmethod
    def next_logprobs(self, streams: Sequence[_Stream]) -> Float[np.ndarray, "streams 257"]:
        """Next-byte log-probabilities of several streams with one forward pass for all of them, one row each."""

    def stream(self, prefix: Text = b"", context_ids: _ContextIds | None = None) -> _Stream:
        """Begin a text that takes one byte at a time.

        Args:
            prefix: bytes that are there already.
            context_ids: tokens before the text, such as the sentinels of a fill-in-the-middle prompt; they replace the default ones.
        """
        return self.streams([prefix], context_ids)[0]

    def next_byte_logprobs(
        self, text: Text | Sequence[Text], context_ids: _ContextIds | None = None
    ) -> Float[np.ndarray, "*texts 257"]:
        """Log-probabilities in nats of the 256 bytes and the end of the text, normalised; for several texts, one row each.

        Raises:
            UserError: a text has no cover, or none that a model gives a probability.
        """
        if isinstance(text, bytes | str):
            return self.next_logprobs([self.stream(text, context_ids)])[0]
        return self.next_logprobs(self.streams(text, context_ids))

    def generate(
        self,
        prompt: Text | Sequence[Text],
        max_bytes: int = 100,
        temperature: float | int = 0.6,
        top_p: float | int = 1.0,
        stop: Sequence[bytes] = (),
        seed: int = 0,
        context_ids: _ContextIds | None = None,
    ) -> GeneratedBytes | list[GeneratedBytes]:
        """Sample bytes after a prompt, which may end anywhere; for several prompts, each as it would be alone.

        Args:
            prompt: one, or several.
            max_bytes: maximum number of bytes after it.
            temperature: 0 for the most probable byte.
            top_p: share of the probability to sample from, in (0, 1].
            stop: byte strings at which a text ends.
            context_ids: tokens before the prompt (see `fill_in_middle`).

        Raises:
            UserError: a value is out of range, or a prompt has no cover.
        """
        require_top_p(top_p)
        require_temperature(temperature)
        prompts = [prompt] if isinstance(prompt, bytes | str) else prompt
        streams = self.streams(prompts, context_ids)
        draws = [np.random.default_rng([seed, row]) for row in range(len(streams))]
        texts, log_probs = [bytearray() for _ in streams], [0.0] * len(streams)
        why: list[Why] = ["length"] * len(streams)
        unfinished = list(range(len(streams)))
        for _ in range(max_bytes):
            if not unfinished:
                break
            logprobs = self.next_logprobs([streams[row] for row in unfinished])
            for row, of_bytes in zip(tuple(unfinished), logprobs, strict=True):
                byte = draw(of_bytes, temperature, top_p, draws[row])
                log_probs[row] += float(of_bytes[byte])
                ended = _ended(texts[row], byte, stop)
                if ended:
                    why[row] = ended
                    unfinished.remove(row)
                else:
                    streams[row].push(byte)
        generated = [
            GeneratedBytes(bytes(text), log_prob, reason)
            for text, log_prob, reason in zip(texts, log_probs, why, strict=True)
        ]
        return generated[0] if isinstance(prompt, bytes | str) else generated


def _ended(text: bytearray, byte: int, stop: Sequence[bytes]) -> Why | None:
    """Add a byte to a text, and return why it ends, if it does."""
    if byte == END:
        return "end"
    text.append(byte)
    for string in stop:
        if string and text.endswith(string):
            del text[-len(string) :]
            return "stop"
    return None
