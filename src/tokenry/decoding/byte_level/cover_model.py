"""A language model read through the covers of texts: how probability passes from token sequences to the bytes that they spell.

    P(sequence + [token]) = P(sequence) · p(token | sequence)        for the tokens that may follow, renormalised or not

Beneath `ByteLM` and its streams: search, rules and model in one place.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.decoding.byte_level.beginnings import Beginning
from tokenry.decoding.byte_level.covers import (
    CoverSearch,
    Ending,
    Next,
    Node,
    Reaching,
    TokenSequence,
    log_total,
)
from tokenry.decoding.byte_level.segmented_tokens import CUT_ONLY, LED, SegmentedTokens
from tokenry.decoding.byte_level.token_rules import Tail, ValidTokens
from tokenry.decoding.byte_level.token_tree import Context, NextTokenModel
from tokenry.decoding.byte_level.utf8 import Text, as_bytes

# Maximum number of distributions over the vocabulary in memory at once.
_ROWS = 32


class CoverModel:
    """A language model, its tokenizer's rules, and the search for covers.

    Args:
        model: what the next token is.
        rules: which tokens may follow others within a text.
        reach: which may follow and reach beyond the text.
        renormalizes: whether valid tokens get the probability of the others.
        eos_token_ids: tokens that end a text.
        title: what it is called: the model, the kind of the tokenizer, and the size of the vocabulary.
    """

    def __init__(
        self,
        model: NextTokenModel,
        vocabulary: ByteVocabulary,
        rules: ValidTokens,
        reach: ValidTokens,
        renormalizes: bool,
        eos_token_ids: Sequence[int],
        title: str,
    ) -> None:
        self.model, self.vocabulary, self.rules, self._reach = model, vocabulary, rules, reach
        self.search = CoverSearch(vocabulary, rules, reach)
        self.eos_token_ids, self._renormalizes, self.title = list(eos_token_ids), renormalizes, title
        self._given: WeakKeyDictionary[Context, float] = WeakKeyDictionary()

    def rows(self, contexts: Sequence[Context]) -> Iterator[Float[np.ndarray, "vocabulary"]]:
        """Log-probabilities of the next token after each context.

        Raises:
            UserError: the model knows fewer tokens than the tokenizer.
        """
        known = max(len(self.vocabulary.token_bytes), *(token + 1 for token in self.eos_token_ids), 0)
        for start in range(0, len(contexts), _ROWS):
            rows = self.model.log_probs(contexts[start : start + _ROWS]).double().numpy()
            if rows.shape[1] < known:
                raise UserError(
                    f"the model knows {rows.shape[1]} tokens and the tokenizer {known}: they do not belong together."
                )
            yield from rows

    def following(self, sequences: Sequence[TokenSequence]) -> Iterator[Next]:
        """What may come after each sequence."""
        rows = self.rows([sequence.context for sequence in sequences])
        for sequence, row in zip(sequences, rows, strict=True):
            yield self._next(row, sequence.tail)

    def _next(self, row: Float[np.ndarray, "vocabulary"], tail: Tail) -> Next:
        valid = self._reach.valid(tail)
        tokens = np.where(valid, row[: len(valid)], -np.inf)
        end = log_total(row[self.eos_token_ids]) if self.rules.may_end(tail) else -np.inf
        if not self._renormalizes:
            return Next(tokens, end)
        total = np.logaddexp(log_total(tokens), end)
        return Next(tokens - total, end - total) if total > -np.inf else Next(tokens, end)

    def grow(self, beginning: Beginning, lead: bytes, data: bytes) -> list[tuple[bytes, list[Node]]]:
        """The sequences that begin a text, after the space before it and, where a token is cut out of its beginning, without it."""
        ways = [(lead + data, self.search.grow(lead + data, beginning.root, tail=self._tail(lead)))]
        if lead and self._cuts_first:
            ways.append((data, self.search.grow(data, beginning.root, settle=False, tail=CUT_ONLY)))
        return ways

    def spread(self, text: bytes, nodes: Sequence[Node]) -> tuple[list[Ending], list[Reaching]]:
        """Pass probability on from the beginning of a text to its covers."""
        reaching = []
        inner = [node for node in nodes if node.place < len(text)]
        for node, following in zip(inner, self.following(inner), strict=True):
            node.pass_on(following)
            log_probs = node.log_prob + following.tokens[node.reaching]
            reaching.append(
                Reaching(node.context, node.tail, len(text) - node.place, node.reaching, log_probs)
            )
        endings = [node for node in nodes if node.place == len(text)]
        return [Ending(node.context, node.tail, node.log_prob) for node in endings], reaching

    def advance(self, endings: Sequence[Ending], ahead: Callable[[], Sequence[Context]]) -> None:
        """Compute what comes after endings of which it is not known yet, with one forward pass for all of them.

        Args:
            ahead: contexts that may be needed soon; they come along in the same pass.
        """
        waiting = [ending for ending in endings if ending.next is None]
        if waiting:
            self.model.hold([ending.context for ending in waiting], ahead)
            for ending, following in zip(waiting, self.following(waiting), strict=True):
                ending.next = following

    def prefix_log_probs(self, beginning: Beginning, data: bytes) -> Float[np.ndarray, "bytes_and_one"]:
        """Log-probabilities of all beginnings of a text, the empty one first; what is given before it is not taken off."""
        lead = beginning.lead(data)
        log_probs = self._prefix_log_probs(lead + data, beginning.root, self._tail(lead))[len(lead) :]
        if lead and self._cuts_first:
            log_probs = np.logaddexp(log_probs, self._prefix_log_probs(data, beginning.root, CUT_ONLY))
        return log_probs

    def log_prob_given(self, beginning: Beginning) -> float:
        """Log-probability of what every text begins with here: the space that the tokenizer puts there, or a token that is cut out."""
        if not beginning.prepends:
            return 0.0
        root = beginning.root
        if root not in self._given:
            log_prob = self._prefix_log_probs(b" ", root, self._tail(b" "))[-1]
            if self._cuts_first:
                log_prob = np.logaddexp(log_prob, self._prefix_log_probs(b"", root, CUT_ONLY)[0])
            self._given[root] = float(log_prob)
        return self._given[root]

    def _prefix_log_probs(self, text: bytes, root: Context, tail: Tail) -> Float[np.ndarray, "bytes_and_one"]:
        grown = self.search.grow(text, root, settle=False, whole=False, tail=tail)
        nodes = [node for node in grown if node.place < len(text)]
        self.model.hold([node.context for node in nodes])
        # Of a text that begins with an added token not even the empty beginning is certain.
        start = log_total(next(self.following(grown[:1])).tokens) if tail == CUT_ONLY else 0.0
        parts: list[list[float]] = [[] for _ in range(len(text))]
        for node, following in zip(nodes, self.following(nodes), strict=True):
            node.pass_on(following)
            valid = self.rules.valid(node.tail)
            for end, ids in self.search.matching(text, node.place):
                covers = ids[valid[ids] | (self.vocabulary.lengths[ids] > end - node.place)]
                parts[end - 1].append(node.log_prob + log_total(following.tokens[covers]))
        return np.array([start, *map(log_total, parts)])

    @property
    def _cuts_first(self) -> bool:
        """Whether a text can begin with a token that is cut out of it, before which no space is put."""
        return isinstance(self.rules, SegmentedTokens) and self.rules.cuts

    def _tail(self, lead: bytes) -> Tail:
        """Where a text begins, for the rules."""
        return LED if lead and isinstance(self.rules, SegmentedTokens) else ()

    def checked(self, text: Text) -> bytes:
        """The bytes of a text.

        Raises:
            UserError: the tokenizer reads some of them as others, so that the text has no cover.
        """
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

    def no_cover(self, beginning: Beginning, lead: bytes, data: bytes) -> UserError:
        """Say at which byte a text lost its last cover, or its last one with a probability."""
        if isinstance(self.rules, SegmentedTokens) and (why := self.rules.refused(data, lead)):
            return UserError(f"no cover: {why}")
        text, tail, reached = lead + data, self._tail(lead), len(lead)
        for node in self.search.grow(text, beginning.root, settle=False, whole=False, tail=tail):
            reach = self._reach.valid(node.tail)
            ends = (end for end, ids in self.search.matching(text, node.place) if reach[ids].any())
            reached = max(reached, *ends, 0)
        if reached == len(text):
            log_probs = self._prefix_log_probs(text, beginning.root, tail)
            return UserError(
                f"the model gives probability zero to every cover of the first {int(np.argmin(log_probs)) - len(lead)} bytes of this text."
            )
        byte = text[reached : reached + 1]
        known = any(byte in token for token in self.vocabulary.sorted_bytes)
        why = "the tokenizer never writes it after the bytes before" if known else "no token holds it"
        return UserError(
            f"no cover: byte 0x{byte.hex().upper()} at position {reached - len(lead)} cannot be produced ({why})."
        )
