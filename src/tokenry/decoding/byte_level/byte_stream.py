"""A text that takes one byte at a time, with all its covers, and what it says about the next byte.

    P(x, next byte = b) = Σ over covers that go on with b, and over tokens that begin with b after the sequences that end with x

Source: Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model Ensembles (arXiv 2410.09303), section 4.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from tokenry.core.errors import UserError
from tokenry.core.text.byte_models import END
from tokenry.decoding.byte_level.beginnings import Beginning
from tokenry.decoding.byte_level.cover_model import CoverModel
from tokenry.decoding.byte_level.covers import Ending, Next, Reaching, log_total, require_few_sequences
from tokenry.decoding.byte_level.token_tree import Context

_SHOWN_BYTES = 40


@dataclass(frozen=True)
class Cover:
    """A token sequence that begins with a text and whose last token holds its last byte.

    Attributes:
        ids: its tokens, those of the context left out.
        log_prob: in nats.
    """

    ids: tuple[int, ...]
    log_prob: float


class ByteStream:
    """A text that takes one byte at a time, with all its covers.

    Each byte costs at most one forward pass, for the one or few sequences that end with it.

    Raises:
        UserError: the text has no cover, or only such of probability zero.
    """

    def __init__(
        self,
        model: CoverModel,
        beginning: Beginning,
        lead: bytes,
        data: bytes,
        endings: list[Ending],
        reaching: list[Reaching],
    ) -> None:
        self._model, self._beginning, self._lead, self._data = model, beginning, lead, data
        self._given = model.log_prob_given(beginning)
        self._endings = [ending for ending in endings if ending.log_prob > -np.inf]
        self._reaching = [some for tokens in reaching if len((some := tokens.possible()).ids)]
        self._ahead: list[Context] = []
        if not self._endings and not self._reaching:
            raise model.no_cover(beginning, lead, data)
        require_few_sequences(len(self._endings), len(lead + data))

    def __repr__(self) -> str:
        """Its text, the last bytes of a long one, and the number of its covers."""
        shown = self._data if len(self._data) <= _SHOWN_BYTES else b"..." + self._data[-_SHOWN_BYTES:]
        covers = len(self._endings) + sum(len(tokens.ids) for tokens in self._reaching)
        return f"ByteStream({shown!r}, {covers} cover{'s' * (covers != 1)}, {self._model.title})"

    @property
    def text(self) -> bytes:
        """The bytes so far."""
        return self._data

    @property
    def log_prob(self) -> float:
        """Log-probability in nats that a text begins with these bytes."""
        endings = np.array([ending.log_prob for ending in self._endings])
        total = log_total(np.concatenate([endings, *(tokens.log_probs for tokens in self._reaching)]))
        return total - self._given

    @property
    def leak(self) -> float:
        """Log (Σ P(text, next byte) + P(text, end)) − log P(text) in nats: what invalid tokens take; 0 where nothing is lost."""
        return log_total(self._next_masses()) - self._given - self.log_prob

    def next_logprobs(self) -> Float[np.ndarray, "257"]:
        """Log-probabilities in nats of the 256 bytes and the end of the text, normalised.

        Raises:
            UserError: nothing can follow.
        """
        masses = self._next_masses()
        total = log_total(masses)
        if total == -np.inf:
            raise UserError(
                f"the model gives probability zero to every byte at position {len(self.text)}, and to the end of the text."
            )
        return masses - total

    def push(self, byte: int) -> None:
        """Take the next byte.

        Raises:
            UserError: no cover goes on with it, or only such of probability zero; the stream stays as it was.
        """
        if not 0 <= byte < END:
            raise UserError(f"a byte is a number from 0 to 255, got {byte}.")
        advance([self])
        vocabulary, rules = self._model.vocabulary, self._model.rules
        endings, reaching = [], []
        for tokens in self._going_on_with(byte):
            ends = vocabulary.lengths[tokens.ids] == tokens.inside
            valid = rules.valid(tokens.tail)
            for token, log_prob in zip(
                tokens.ids[ends].tolist(), tokens.log_probs[ends].tolist(), strict=True
            ):
                if valid[token]:
                    tail = rules.after(tokens.tail, token)
                    endings.append(Ending(tokens.context.then(token), tail, log_prob))
            reaching.append(replace(tokens, ids=tokens.ids[~ends], log_probs=tokens.log_probs[~ends]))
        data = self._data + bytes([byte])
        moved = ByteStream(self._model, self._beginning, self._lead, data, endings, reaching)
        self._data, self._endings, self._reaching = data, moved._endings, moved._reaching

    def fork(self) -> "ByteStream":
        """A second stream that goes on from here; what was computed serves both."""
        return copy(self)

    def covers(self) -> list[Cover]:
        """All covers that have a probability, by their ids; their probabilities add up to that of the text."""

        def cover(context: Context, log_prob: float, *more: int) -> Cover:
            return Cover((*context.ids()[self._beginning.root.depth :], *more), log_prob - self._given)

        found = [cover(ending.context, ending.log_prob) for ending in self._endings]
        for tokens in self._reaching:
            pairs = zip(tokens.ids.tolist(), tokens.log_probs.tolist(), strict=True)
            found += [cover(tokens.context, log_prob, token) for token, log_prob in pairs]
        return sorted(found, key=lambda cover: cover.ids)

    def _look_ahead(self) -> list[Context]:
        """The sequences that end inside the likeliest token that is being spelled, and with it; the stream keeps them alive."""
        if self._reaching:
            likely = max(self._reaching, key=lambda tokens: tokens.log_probs.max())
            token = self._model.vocabulary.token_bytes[int(likely.ids[likely.log_probs.argmax()])] or b""
            nodes = self._model.search.grow(
                token, likely.context, settle=False, whole=False, tail=likely.tail
            )
            self._ahead = [node.context for node in nodes if node.place > likely.inside]
        return self._ahead

    def _going_on_with(self, byte: int) -> Iterator[Reaching]:
        vocabulary = self._model.vocabulary
        first = vocabulary.with_prefix(bytes([byte]))
        for ending, following in self._followed():
            yield Reaching(ending.context, ending.tail, 1, first, ending.log_prob + following.tokens[first])
        for tokens in self._reaching:
            same = vocabulary.bytes_at(tokens.ids, tokens.inside) == byte
            yield replace(
                tokens, inside=tokens.inside + 1, ids=tokens.ids[same], log_probs=tokens.log_probs[same]
            )

    def _next_masses(self) -> Float[np.ndarray, "257"]:
        """Log-probabilities of the text with each next byte, and with its end."""
        advance([self])
        vocabulary, end = self._model.vocabulary, np.array([END])
        outcomes, log_probs = [end], [np.array([-np.inf])]
        for tokens in self._reaching:
            outcomes.append(vocabulary.bytes_at(tokens.ids, tokens.inside))
            log_probs.append(tokens.log_probs)
        for ending, following in self._followed():
            outcomes += [vocabulary.first_bytes, end]
            log_probs += [ending.log_prob + following.tokens, np.array([ending.log_prob + following.end])]
        return _log_bincount(np.concatenate(outcomes), np.concatenate(log_probs))

    def _followed(self) -> Iterator[tuple[Ending, Next]]:
        """The sequences that end with the text, and what may come after each."""
        return ((ending, ending.next) for ending in self._endings if ending.next is not None)


def advance(streams: Sequence[ByteStream]) -> None:
    """Compute what streams of one model need for their next byte, with one forward pass for all of them.

    The sequences that end inside the likeliest next token, and with it, come along: as long as its bytes come, there is no other pass.
    """
    if streams:
        streams[0]._model.advance(
            [ending for stream in streams for ending in stream._endings],
            lambda: [context for stream in streams for context in stream._look_ahead()],
        )


def _log_bincount(
    outcomes: Int[np.ndarray, "tokens"], log_probs: Float[np.ndarray, "tokens"]
) -> Float[np.ndarray, "257"]:
    """Log of the summed probability of each outcome."""
    highest = log_probs.max()
    if highest == -np.inf:
        return np.full(END + 1, -np.inf)
    with np.errstate(divide="ignore"):
        return np.log(np.bincount(outcomes, np.exp(log_probs - highest), END + 1)) + highest
