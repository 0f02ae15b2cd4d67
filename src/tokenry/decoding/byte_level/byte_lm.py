"""Exact byte-level probabilities of any tokenized language model: the probability of a byte string, the next byte, streams of bytes.

A cover of x is a valid token sequence that begins with x and whose last token holds the last byte of x:

    P(x)                 = Σ over covers t of x: Π p(t_i | t_<i)
    P(x, next byte = b)  = Σ over covers that go on with b, and over tokens that begin with b after the sequences that end with x

Prompts may end anywhere, inside a token or inside a character. What to do with the probability that a model gives to tokens which its
tokenizer never writes: `truncate` drops it, `renormalize` gives it to the valid tokens and the end of the text (then bytes are exactly
consistent), `all` counts every cut of the text.

Source: Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model Ensembles (arXiv 2410.09303), Lemma 1, section 4.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.gate import require_readable
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.decoding.byte_level.byte_generation import Generated, generate
from tokenry.decoding.byte_level.covers import (
    CoverSearch,
    Ending,
    Next,
    Node,
    Reaching,
    TokenSequence,
    require_bearable,
)
from tokenry.decoding.byte_level.segmented_tokens import CUT_ONLY, LED, SegmentedTokens
from tokenry.decoding.byte_level.token_rules import AnyTokens, Tail, ValidTokens
from tokenry.decoding.byte_level.token_tree import CalledModel, Context, NextTokenModel, TokenTree
from tokenry.decoding.byte_level.utf8 import Text, as_bytes
from tokenry.decoding.byte_level.valid_tokens import ByteRules, valid_tokens

INVALID = ("truncate", "renormalize", "all")
VALIDATE = ("pairwise", "reencode", "none")

END = 256
"""The place of the end of the text in a next-byte distribution, after the 256 bytes."""

# So many distributions over the vocabulary at once are bearable.
_ROWS = 32


@dataclass(frozen=True)
class Beginning:
    """Where texts begin: the tokens before them, and whether the tokenizer puts a space there."""

    root: Context
    vocabulary: ByteVocabulary
    prepends: bool

    def lead(self, data: bytes) -> bytes:
        """What is put before a text."""
        return self.vocabulary.lead(data, self.prepends)


@dataclass(frozen=True)
class Cover:
    """A token sequence that begins with a text and whose last token holds its last byte.

    Attributes:
        ids: its tokens, those of the context left out.
        log_prob: in nats.
    """

    ids: tuple[int, ...]
    log_prob: float


class ByteLM:
    """A tokenized causal language model as a model of bytes.

    Args:
        model: a causal language model of transformers, or a function from token sequences (tuples of ids) to log-probabilities of the next
            token. Its weights must not change while it is used.
        tokenizer: its fast tokenizer; a byte-pair one, of any kind (any kind at all with `invalid="all"`).
        invalid: what becomes of the probability of tokens that the tokenizer never writes: `truncate`, `renormalize` or `all`.
        validate: how these are found: by pairs of neighbours (`pairwise`), by encoding again (`reencode`: slow, the reference), or not at
            all (`none`: only sequences that end within the text are checked).
        context_ids: tokens before the text, of which no byte is counted; by default the bos token, or else the eos token.
        eos_token_ids: tokens that end a text; by default those of the model's generation config, or else of the tokenizer.

    Raises:
        UserError: the tokenizer changes the bytes of a text, or its valid sequences cannot be told.

    What the tokenizer puts before a text (a space) is given, not predicted: probabilities are those of texts, given that it is there.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[list[tuple[int, ...]]], Tensor],
        tokenizer: PreTrainedTokenizerBase | Tokenizer,
        invalid: str = "truncate",
        validate: str = "pairwise",
        context_ids: Sequence[int] | None = None,
        eos_token_ids: Sequence[int] | None = None,
    ) -> None:
        require_one_of(invalid, INVALID, "invalid")
        require_one_of(validate, VALIDATE, "validate")
        self.invalid, self.validate = invalid, validate
        self.vocabulary = ByteVocabulary.from_tokenizer(tokenizer)
        _require_kept_bytes(self.vocabulary)
        every = AnyTokens(self.vocabulary)
        self._tokenizer = tokenizer
        self._rules: ValidTokens = every if invalid == "all" else self._encoding
        # For tokens that reach beyond the text.
        self._reach = every if validate == "none" else self._rules
        self._search = CoverSearch(self.vocabulary, self._rules, self._reach)
        if isinstance(model, nn.Module):
            require_readable(model, [len(self.vocabulary.token_bytes) - 1], [], "the tokenizer")
        self.model: NextTokenModel = TokenTree(model) if isinstance(model, nn.Module) else CalledModel(model)
        self.eos_token_ids = list(_last_ids(model, tokenizer) if eos_token_ids is None else eos_token_ids)
        self._first = Context()
        self._context_ids = tuple(_first_ids(model, tokenizer) if context_ids is None else context_ids)
        self._root = self._first.then(*_known(self._context_ids, self.vocabulary))
        self._begins_text = [(), *_ids_before_a_text(tokenizer)]
        if context_ids is None:
            self._begins_text.append(self._context_ids)
        self._given: dict[tuple[int, ...], float] = {}
        # By id: the first byte, 256 without one.
        self._first_byte = np.array([data[0] if data else END for data in self.vocabulary.token_bytes])

    def log_prob(self, text: Text, context_ids: Sequence[int] | None = None) -> float:
        """Log-probability in nats that a text begins with these bytes.

        Raises:
            UserError: there is no cover, or the model gives all of them probability zero.
        """
        return self.stream(text, context_ids).log_prob

    def next_byte_logprobs(
        self, text: Text | Sequence[Text], context_ids: Sequence[int] | None = None
    ) -> Float[np.ndarray, "*texts 257"]:
        """Log-probabilities in nats of the 256 bytes and the end of the text, normalised; for several texts, one row each.

        Raises:
            UserError: as `log_prob`.
        """
        if isinstance(text, bytes | str):
            return self.stream(text, context_ids).next_logprobs()
        return self.next_logprobs(self.streams(text, context_ids))

    def covers(self, text: Text, context_ids: Sequence[int] | None = None) -> list[Cover]:
        """All covers of a text that have a probability, by their ids."""
        return self.stream(text, context_ids).covers()

    def stream(self, prefix: Text = b"", context_ids: Sequence[int] | None = None) -> "ByteStream":
        """Begin a text that takes one byte at a time.

        Args:
            prefix: bytes that are there already.
            context_ids: tokens before the text, such as the sentinels of a fill-in-the-middle prompt; they replace the default ones.
        """
        return self.streams([prefix], context_ids)[0]

    def streams(
        self, prefixes: Sequence[Text], context_ids: Sequence[int] | None = None
    ) -> "list[ByteStream]":
        """Begin several texts with one forward pass for all of them."""
        beginning = self._beginning(context_ids)
        started = [(beginning.lead(data), data) for data in map(self._checked, prefixes)]
        grown = [self._grown(beginning, lead, data) for lead, data in started]
        self.model.hold([node.context for ways in grown for _, nodes in ways for node in nodes])
        given = self._log_prob_given(beginning)
        streams = []
        for (lead, data), ways in zip(started, grown, strict=True):
            endings, reaching = [], []
            for text, nodes in ways:
                more = self._spread(text, nodes)
                endings += more[0]
                reaching += more[1]
            streams.append(ByteStream(self, beginning, lead + data, len(lead), endings, reaching, given))
        return streams

    def next_logprobs(self, streams: Sequence["ByteStream"]) -> Float[np.ndarray, "streams 257"]:
        """Next-byte log-probabilities of several streams with one forward pass for all of them, one row each."""
        self.advance(streams)
        return np.stack([stream.next_logprobs() for stream in streams])

    def advance(self, streams: Sequence["ByteStream"]) -> None:
        """Compute what streams need for their next byte, with one forward pass for all of them.

        The sequences that end inside the likeliest next token, and with it, come along: as long as its bytes come, there is no other pass.
        """
        waiting = [ending for stream in streams for ending in stream._endings if ending.next is None]
        if waiting:
            self.model.hold(
                [ending.context for ending in waiting],
                lambda: [context for stream in streams for context in stream._look_ahead()],
            )
            for ending, following in zip(waiting, self._following(waiting), strict=True):
                ending.next = following

    def prefix_log_probs(
        self, text: Text, context_ids: Sequence[int] | None = None
    ) -> Float[np.ndarray, "bytes_and_one"]:
        """Log-probabilities in nats of all beginnings of a text, the empty one first: all sequences in one forward pass.

        A beginning without covers, or with covers of probability zero, has -inf.
        """
        beginning, data = self._beginning(context_ids), self._checked(text)
        lead = beginning.lead(data)
        log_probs = self._prefix_log_probs(lead + data, beginning.root, self._tail(lead))[len(lead) :]
        if lead and self._cut_first:
            log_probs = np.logaddexp(log_probs, self._prefix_log_probs(data, beginning.root, CUT_ONLY))
        log_probs = log_probs - self._log_prob_given(beginning)
        log_probs[0] = 0.0
        return log_probs

    def encode(self, text: Text, context_ids: Sequence[int] | None = None) -> list[int]:
        """The tokens that the tokenizer writes for a whole text, valid UTF-8 or not.

        Raises:
            UserError: a byte that no token stands for, or a tokenizer that is no byte-pair one.
        """
        beginning, data = self._beginning(context_ids), self._checked(text)
        # An empty text stays empty.
        return self._encoding.encode(data, beginning.lead(data)) if data else []

    def next_token_logprobs(
        self, sequences: Sequence[Sequence[int]], context_ids: Sequence[int] | None = None
    ) -> Float[np.ndarray, "sequences ids_and_end"]:
        """What the model says about the next token after each sequence, invalid ones too: log-probabilities by id, then of the end."""
        root = self._beginning(context_ids).root
        contexts = [root.then(*sequence) for sequence in sequences]
        self.model.hold(contexts)
        size = len(self.vocabulary.token_bytes)
        found = np.empty((len(contexts), size + 1))
        for start in range(0, len(contexts), _ROWS):
            rows = self._rows(contexts[start : start + _ROWS])
            found[start : start + _ROWS, :size] = rows[:, :size]
            found[start : start + _ROWS, size] = np.logaddexp.reduce(rows[:, self.eos_token_ids], axis=1)
        return found

    def generate(
        self,
        prompt: Text | Sequence[Text],
        max_bytes: int = 100,
        temperature: float | int = 0.6,
        top_p: float | int = 1.0,
        stop: Sequence[bytes] = (),
        seed: int = 0,
        context_ids: Sequence[int] | None = None,
    ) -> Generated | list[Generated]:
        """Sample bytes after a prompt, or after each of several; see `tokenry.decoding.byte_level.byte_generation.generate`."""
        return generate(self, prompt, max_bytes, temperature, top_p, stop, seed, context_ids)

    def _beginning(self, context_ids: Sequence[int] | None) -> "Beginning":
        """The tokens before a text, and whether the tokenizer puts a space there."""
        ids = self._context_ids if context_ids is None else tuple(context_ids)
        root = self._root if context_ids is None else self._first.then(*_known(ids, self.vocabulary))
        if ids in self._begins_text:
            return Beginning(root, self.vocabulary, self.vocabulary.prepends_space)
        after_cut = ids[-1] in self.vocabulary.special or ids[-1] in self.vocabulary.cut_ids
        return Beginning(root, self.vocabulary, after_cut and self.vocabulary.prepends_within)

    @property
    def _cut_first(self) -> bool:
        """Whether a text can begin with a token that is cut out of it, before which no space is put."""
        return isinstance(self._rules, SegmentedTokens) and self._rules.cuts

    def _tail(self, lead: bytes) -> Tail:
        """Where a text begins, for the rules."""
        return LED if lead and isinstance(self._rules, SegmentedTokens) else ()

    def _grown(self, beginning: "Beginning", lead: bytes, data: bytes) -> list[tuple[bytes, list[Node]]]:
        """The sequences that begin a text, after the space before it and without it."""
        ways = [(lead + data, self._search.grow(lead + data, beginning.root, tail=self._tail(lead)))]
        if lead and self._cut_first:
            ways.append((data, self._search.grow(data, beginning.root, settle=False, tail=CUT_ONLY)))
        return ways

    def _log_prob_given(self, beginning: "Beginning") -> float:
        """Log-probability of what every text begins with here: the space that the tokenizer puts there, or a token that is cut out."""
        if not beginning.prepends:
            return 0.0
        ids = beginning.root.ids()
        if ids not in self._given:
            log_prob = self._prefix_log_probs(b" ", beginning.root, self._tail(b" "))[-1]
            if self._cut_first:
                log_prob = np.logaddexp(log_prob, self._prefix_log_probs(b"", beginning.root, CUT_ONLY)[0])
            self._given[ids] = float(log_prob)
        return self._given[ids]

    def _checked(self, text: Text) -> bytes:
        data = as_bytes(text)
        for character in self.vocabulary.unkept:
            if character.encode() in data:
                raise UserError(
                    f"no cover: the text holds {character!r}, which the tokenizer reads as a space: no token sequence has the bytes of "
                    "this text."
                )
        composes = "NFC" in self.vocabulary.rewrites
        if composes and not unicodedata.is_normalized("NFC", data.decode(errors="ignore")):
            raise UserError(
                "the tokenizer composes characters (NFC), and this text is not composed: give unicodedata.normalize('NFC', text)."
            )
        return data

    @cached_property
    def _encoding(self) -> ByteRules:
        return valid_tokens(self._tokenizer, self.vocabulary, self.validate == "reencode")

    def _prefix_log_probs(
        self, text: bytes, root: Context, tail: Tail = ()
    ) -> Float[np.ndarray, "bytes_and_one"]:
        grown = self._search.grow(text, root, settle=False, whole=False, tail=tail)
        nodes = [node for node in grown if node.place < len(text)]
        self.model.hold([node.context for node in nodes])
        # Of a text that begins with an added token not even the empty beginning is certain.
        start = (
            0.0 if tail != CUT_ONLY else float(np.logaddexp.reduce(next(self._following(grown[:1])).tokens))
        )
        parts: list[list[float]] = [[] for _ in range(len(text))]
        for node, following in zip(nodes, self._following(nodes), strict=True):
            node.pass_on(following)
            valid = self._rules.valid(node.tail)
            for end, ids in self._search.matching(text, node.place):
                covers = ids[valid[ids] | (self.vocabulary.lengths[ids] > end - node.place)]
                parts[end - 1].append(node.log_prob + _total(following.tokens[covers]))
        return np.array([start, *map(_total, parts)])

    def _spread(self, text: bytes, nodes: Sequence[Node]) -> tuple[list[Ending], list[Reaching]]:
        """Pass probability on from the beginning of a text to its covers."""
        reaching = []
        inner = [node for node in nodes if node.place < len(text)]
        for node, following in zip(inner, self._following(inner), strict=True):
            node.pass_on(following)
            log_probs = node.log_prob + following.tokens[node.reaching]
            reaching.append(
                Reaching(node.context, node.tail, len(text) - node.place, node.reaching, log_probs)
            )
        endings = [node for node in nodes if node.place == len(text)]
        return [Ending(node.context, node.tail, node.log_prob) for node in endings], reaching

    def _following(self, sequences: Sequence[TokenSequence]) -> Iterator[Next]:
        """What may come after each sequence."""
        for start in range(0, len(sequences), _ROWS):
            some = sequences[start : start + _ROWS]
            for each, row in zip(some, self._rows([each.context for each in some]), strict=True):
                yield self._next(row, each.tail)

    def _rows(self, contexts: Sequence[Context]) -> Float[np.ndarray, "contexts vocabulary"]:
        rows = self.model.log_probs(contexts).double().numpy()
        known = max(len(self.vocabulary.token_bytes), *(number + 1 for number in self.eos_token_ids), 0)
        if rows.shape[1] < known:
            raise UserError(
                f"the model knows {rows.shape[1]} tokens and the tokenizer {known}: they do not belong together."
            )
        return rows

    def _next(self, row: Float[np.ndarray, "vocabulary"], tail: Tail) -> Next:
        valid = self._reach.valid(tail)
        tokens = np.where(valid, row[: len(valid)], -np.inf)
        end = _total(row[self.eos_token_ids]) if self._rules.may_end(tail) else -np.inf
        if self.invalid != "renormalize":
            return Next(tokens, end)
        total = np.logaddexp(_total(tokens), end)
        return Next(tokens - total, end - total) if total > -np.inf else Next(tokens, end)

    def _no_cover(self, text: bytes, root: Context, lead: int) -> UserError:
        """Say at which byte a text lost its last cover, or its last one with a probability."""
        if isinstance(self._rules, SegmentedTokens) and (
            why := self._rules.refused(text[lead:], text[:lead])
        ):
            return UserError(f"no cover: {why}")
        reached = lead
        for node in self._search.grow(text, root, settle=False, whole=False, tail=self._tail(text[:lead])):
            reach = self._reach.valid(node.tail)
            reached = max(
                reached, *(end for end, ids in self._search.matching(text, node.place) if reach[ids].any()), 0
            )
        if reached == len(text):
            log_probs = self._prefix_log_probs(text, root, self._tail(text[:lead]))
            return UserError(
                f"the model gives probability zero to every cover of the first {int(np.argmin(log_probs)) - lead} bytes of this text."
            )
        byte = text[reached : reached + 1]
        known = any(byte in data for data in self.vocabulary.sorted_bytes)
        why = "the tokenizer never writes it after the bytes before" if known else "no token holds it"
        return UserError(
            f"no cover: byte 0x{byte.hex().upper()} at position {reached - lead} cannot be produced ({why})."
        )


class ByteStream:
    """A text that takes one byte at a time, with all its covers.

    Each byte costs at most one forward pass, for the one or few sequences that end with it.

    Raises:
        UserError: the text has no cover, or only such of probability zero.
    """

    def __init__(
        self,
        lm: ByteLM,
        beginning: "Beginning",
        text: bytes,
        lead: int,
        endings: list[Ending],
        reaching: list[Reaching],
        given: float,
    ) -> None:
        self._lm, self._beginning, self._text, self._lead, self._given = lm, beginning, text, lead, given
        self._endings = [each for each in endings if each.log_prob > -np.inf]
        self._reaching = [each for some in reaching if len((each := some.possible()).ids)]
        self._ahead: list[Context] = []
        if not self._endings and not self._reaching:
            raise lm._no_cover(text, beginning.root, lead)
        require_bearable(len(self._endings), len(text))

    @property
    def text(self) -> bytes:
        """The bytes so far."""
        return self._text[self._lead :]

    @property
    def log_prob(self) -> float:
        """Log-probability in nats that a text begins with these bytes."""
        endings = np.array([each.log_prob for each in self._endings])
        total = _total(np.concatenate([endings, *(each.log_probs for each in self._reaching)]))
        return total - self._given

    @property
    def leak(self) -> float:
        """Log (Σ P(text, next byte) + P(text, end)) − log P(text) in nats: what invalid tokens take; 0 where nothing is lost."""
        return _total(self._next_masses()) - self._given - self.log_prob

    def next_logprobs(self) -> Float[np.ndarray, "257"]:
        """Log-probabilities in nats of the 256 bytes and the end of the text, normalised.

        Raises:
            UserError: nothing can follow.
        """
        masses = self._next_masses()
        total = _total(masses)
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
        self._lm.advance([self])
        endings, reaching = [], []
        for each in self._going_on_with(byte):
            ends = self._lm.vocabulary.lengths[each.ids] == each.inside
            valid = self._lm._rules.valid(each.tail)
            for token, log_prob in zip(each.ids[ends].tolist(), each.log_probs[ends].tolist(), strict=True):
                if valid[token]:
                    tail = self._lm._rules.after(each.tail, token)
                    endings.append(Ending(each.context.then(token), tail, log_prob))
            reaching.append(replace(each, ids=each.ids[~ends], log_probs=each.log_probs[~ends]))
        text = self._text + bytes([byte])
        moved = ByteStream(self._lm, self._beginning, text, self._lead, endings, reaching, self._given)
        self._text, self._endings, self._reaching = text, moved._endings, moved._reaching

    def fork(self) -> "ByteStream":
        """A second stream that goes on from here; what was computed serves both."""
        return copy(self)

    def covers(self) -> list[Cover]:
        """All covers that have a probability, by their ids; their probabilities add up to that of the text."""

        def cover(context: Context, log_prob: float, *more: int) -> Cover:
            return Cover((*context.ids()[self._beginning.root.depth :], *more), log_prob - self._given)

        found = [cover(each.context, each.log_prob) for each in self._endings]
        for each in self._reaching:
            pairs = zip(each.ids.tolist(), each.log_probs.tolist(), strict=True)
            found += [cover(each.context, log_prob, token) for token, log_prob in pairs]
        return sorted(found, key=lambda each: each.ids)

    def _look_ahead(self) -> list[Context]:
        """The sequences that end inside the likeliest token that is being spelled, and with it; the stream keeps them alive."""
        groups = [each for each in self._reaching if len(each.ids)]
        if groups:
            likely = max(groups, key=lambda each: each.log_probs.max())
            token = self._lm.vocabulary.token_bytes[int(likely.ids[likely.log_probs.argmax()])] or b""
            nodes = self._lm._search.grow(token, likely.context, settle=False, whole=False, tail=likely.tail)
            self._ahead = [node.context for node in nodes if node.place > likely.inside]
        return self._ahead

    def _going_on_with(self, byte: int) -> Iterator[Reaching]:
        vocabulary = self._lm.vocabulary
        first = vocabulary.with_prefix(bytes([byte]))
        for ending in self._endings:
            if ending.next is not None:
                yield Reaching(
                    ending.context, ending.tail, 1, first, ending.log_prob + ending.next.tokens[first]
                )
        for each in self._reaching:
            same = vocabulary.bytes_at(each.ids, each.inside) == byte
            yield replace(each, inside=each.inside + 1, ids=each.ids[same], log_probs=each.log_probs[same])

    def _next_masses(self) -> Float[np.ndarray, "257"]:
        """Log-probabilities of the text with each next byte, and with its end."""
        self._lm.advance([self])
        nexts, log_probs = [np.array([END])], [np.array([-np.inf])]
        for each in self._reaching:
            nexts.append(self._lm.vocabulary.bytes_at(each.ids, each.inside))
            log_probs.append(each.log_probs)
        for ending in self._endings:
            if ending.next is not None:
                nexts += [self._lm._first_byte, np.array([END])]
                log_probs += [
                    ending.log_prob + ending.next.tokens,
                    np.array([ending.log_prob + ending.next.end]),
                ]
        return _log_bincount(np.concatenate(nexts), np.concatenate(log_probs))


def _log_bincount(
    outcomes: Int[np.ndarray, "tokens"], log_probs: Float[np.ndarray, "tokens"]
) -> Float[np.ndarray, "257"]:
    """Log of the summed probability of each outcome."""
    highest = log_probs.max()
    if highest == -np.inf:
        return np.full(END + 1, -np.inf)
    with np.errstate(divide="ignore"):
        return np.log(np.bincount(outcomes, np.exp(log_probs - highest), END + 1)) + highest


def _total(log_probs: Float[np.ndarray, "some"] | list[float]) -> float:
    """The log-probability of one of several events that exclude each other; -inf of none."""
    return float(np.logaddexp.reduce(log_probs, initial=-np.inf))


def _require_kept_bytes(vocabulary: ByteVocabulary) -> None:
    if vocabulary.changing:
        raise UserError(
            f"the tokenizer rewrites a text before it cuts it ({', '.join(vocabulary.changing)}), which cannot be undone, so that no token "
            "sequence has the bytes of the text: give a tokenizer that keeps bytes."
        )


def _known(context_ids: Sequence[int], vocabulary: ByteVocabulary) -> Sequence[int]:
    size = len(vocabulary.token_bytes)
    unknown = [number for number in context_ids if not 0 <= number < size]
    if unknown:
        raise UserError(f"context_ids holds {unknown[0]}, which is no token: ids go from 0 to {size - 1}.")
    return context_ids


def _first_ids(model: object, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> list[int]:
    """The token that begins a text; nothing for a function, which knows how a text begins."""
    names = ("bos_token_id", "eos_token_id") if isinstance(model, nn.Module) else ()
    known = (getattr(tokenizer, name, None) for name in names)
    return [token for token in known if token is not None][:1]


def _ids_before_a_text(tokenizer: PreTrainedTokenizerBase | Tokenizer) -> list[tuple[int, ...]]:
    """What stands before a text without being part of it: what the tokenizer puts there, the token that begins a text."""
    named = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    begun = tuple(backend_tokenizer(tokenizer).encode("").ids)
    return [begun, *((token,) for token in named if token is not None)]


def _last_ids(model: object, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> list[int]:
    """The tokens that end a text."""
    of_model = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = of_model if of_model is not None else getattr(tokenizer, "eos_token_id", None)
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
