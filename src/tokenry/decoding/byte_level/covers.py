"""The search for covers: all valid token sequences that begin a text, and the tokens after them that reach beyond it.

    sequences(place) = those whose bytes are text[:place]: from each one on, by every valid token that the text goes on with
    covers(text)     = sequences(len(text)), and sequences(place) + [t] for all t that hold text[place:] and more

What no later text changes is taken as the tokenizer writes it, and sequences that lead to no cover are left out, so that few remain.

Source: cover encodings, arXiv 2410.09303, section 3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.decoding.byte_level.token_rules import Tail, ValidTokens
from tokenry.decoding.byte_level.token_tree import Context

# Maximum number of token sequences of one text.
_MOST_SEQUENCES = 20_000


@dataclass(frozen=True, eq=False)
class Next:
    """What may come after a sequence: log-probabilities of tokens by id (-inf where invalid), and of the end of the text."""

    tokens: Float[np.ndarray, "ids"]
    end: float


@dataclass(eq=False)
class TokenSequence:
    """A valid token sequence."""

    context: Context
    tail: Tail
    log_prob: float = 0.0


@dataclass(eq=False)
class Ending(TokenSequence):
    """A sequence that ends where the text ends."""

    next: Next | None = None


@dataclass(frozen=True, eq=False)
class Reaching:
    """Tokens after one sequence that reach beyond the text, of which `inside` bytes are text already."""

    context: Context
    tail: Tail
    inside: int
    ids: Int[np.ndarray, "tokens"]
    log_probs: Float[np.ndarray, "tokens"]

    def possible(self) -> "Reaching":
        """Without those of probability zero."""
        some = self.log_probs > -np.inf
        return self if some.all() else replace(self, ids=self.ids[some], log_probs=self.log_probs[some])


@dataclass(eq=False)
class Node(TokenSequence):
    """A sequence whose bytes are the beginning of a text, up to `place`; `children` are longer by a token."""

    place: int = 0
    children: "list[Node]" = field(default_factory=list)
    reaching: Int[np.ndarray, "tokens"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def pass_on(self, following: Next) -> None:
        """Give the sequences that are longer by a token their probability."""
        for child in self.children:
            child.log_prob = self.log_prob + float(following.tokens[child.context.token])


class CoverSearch:
    """Looks for the covers of texts.

    Args:
        rules: which tokens may follow others within a text.
        reach: which may follow and reach beyond the text.
    """

    def __init__(self, vocabulary: ByteVocabulary, rules: ValidTokens, reach: ValidTokens) -> None:
        self._vocabulary, self._rules, self._reach = vocabulary, rules, reach

    def grow(
        self, text: bytes, root: Context, settle: bool = True, whole: bool = True, tail: Tail = ()
    ) -> list[Node]:
        """All valid sequences whose bytes begin a text, parents before children.

        Args:
            text: with the space that the tokenizer puts before it.
            root: the context before it.
            settle: whether to take the part that no later text changes as the tokenizer writes it.
            whole: whether to leave out sequences that no cover of the whole text goes on from.
            tail: of the root, where the text begins within another.
        """
        nodes = [Node(root, tail)]
        for token in self._rules.settled(text, tail) if settle else ():
            nodes.append(self._child(nodes[-1], token))
        at = {nodes[-1].place: [nodes[-1]]}
        for place in range(nodes[-1].place, len(text)):
            for node in at.pop(place, ()):
                valid, reach = self._rules.valid(node.tail), self._reach.valid(node.tail)
                for end, ids in self.matching(text, place):
                    lengths = self._vocabulary.lengths[ids]
                    for token in ids[(lengths == end - place) & valid[ids]].tolist():
                        nodes.append(self._child(node, token))
                        at.setdefault(end, []).append(nodes[-1])
                    if end == len(text):
                        node.reaching = ids[(lengths > end - place) & reach[ids]]
            require_few_sequences(len(nodes), place)
        return _leading_to_the_end(nodes, len(text)) if whole else nodes

    def _child(self, node: Node, token: int) -> Node:
        place = node.place + int(self._vocabulary.lengths[token])
        child = Node(node.context.then(token), self._rules.after(node.tail, token), place=place)
        node.children.append(child)
        return child

    def matching(self, text: bytes, place: int) -> Iterator[tuple[int, Int[np.ndarray, "tokens"]]]:
        """For each end: the tokens that begin with the bytes of the text from `place` to there, while there are any."""
        for end in range(place + 1, min(len(text), place + self._vocabulary.longest) + 1):
            ids = self._vocabulary.with_prefix(text[place:end])
            if not len(ids):
                return
            yield end, ids


def log_total(log_probs: Float[np.ndarray, "some"] | list[float]) -> float:
    """The log-probability of one of several events that exclude each other; -inf of none."""
    return float(np.logaddexp.reduce(log_probs, initial=-np.inf))


def _leading_to_the_end(nodes: Sequence[Node], end: int) -> list[Node]:
    """Leave out sequences that no cover of the whole text goes on from."""
    kept: set[Node] = set()
    for node in reversed(nodes):
        node.children = [child for child in node.children if child in kept]
        if node.children or len(node.reaching) or node.place == end:
            kept.add(node)
    return [node for node in nodes if node in kept]


def require_few_sequences(sequences: int, place: int) -> None:
    """Refuse a text that has too many token sequences."""
    if sequences > _MOST_SEQUENCES:
        raise UserError(
            f"the first {place} bytes have more than {_MOST_SEQUENCES} token sequences: all cuts of a long text are too many, use "
            "invalid='truncate' or 'renormalize'."
        )
