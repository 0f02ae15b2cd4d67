"""Tokenizers over a finite alphabet whose every token can be listed: blocks, LZW and BPE.

    blocks    all strings of length r; text is cut every r symbols
    LZW       parse: the longest known phrase w, then the next symbol c; w + c becomes a token. Text is cut greedily, longest match first
    BPE       merge the most frequent pair everywhere, smallest ids first where pairs tie; text is cut by the merges in their order

Greedy matching reads every symbol once, by an automaton made of the tokens that takes several symbols a step where the alphabet is small;
BPE counts and merges whole arrays. A run `aaa` holds the pair (a, a) once.

Source: Toward a Theory of Tokenization in LLMs (arXiv 2404.08335), section 4; Welch 1984 (LZW).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from tokenry.core.errors import UserError, require_at_least
from tokenry.theory.markov_source import MOST_SYMBOLS, Symbols

Token = tuple[int, ...]
_FEW_TOKENS = 512  # of which all pairs can be counted in a table
_MOST_BLOCKS = 16  # of symbols, that an automaton may take in one step


@runtime_checkable
class SymbolTokenizer(Protocol):
    """Cuts text of the symbols 0 … A−1 into tokens.

    Attributes:
        alphabet: number of symbols.
    """

    alphabet: int

    @property
    def dictionary(self) -> list[Token]:
        """The symbols of each token, by id."""
        ...

    def encode(self, text: Symbols) -> Int[ndarray, "tokens"]:
        """Cut a text into token ids."""
        ...

    def decode(self, ids: Symbols) -> Int[ndarray, "symbols"]:
        """Put the symbols of tokens back together."""
        ...


class Trie:
    """The prefixes of all tokens as an automaton that reads one symbol after another; node 0 is the empty prefix.

    A symbol that goes on in the trie moves the node. One that does not ends the longest token on the way, and what was read beyond it is
    read again from the root; a node from which nothing goes on ends its token at once.

    Attributes:
        child: node after each symbol, −1 where no token goes on.
        stride: symbols of a block, which is read in one step.
        blocks: all blocks of so many symbols, in their order.
        linked: for each node a row: the rows of the nodes after each block, None where a token ends in that step; for each block of these
            the row after it and the tokens that end, None until it was met; and last the node's number.
        token: token that ends in each node, −1 where none does.
        spelled: the symbols from the root to each node.
    """

    def __init__(self, dictionary: Sequence[Token], alphabet: int) -> None:
        self.child, self.token = [[-1] * alphabet], [-1]
        self.spelled: list[Token] = [()]
        self._lengths = [len(token) for token in dictionary]
        self._after: dict[int, tuple[int, list[int]]] = {}
        for number, token in enumerate(dictionary):
            node = 0
            for place, symbol in enumerate(token, start=1):
                if self.child[node][symbol] < 0:
                    self.child[node][symbol] = len(self.child)
                    self.child.append([-1] * alphabet)
                    self.token.append(-1)
                    self.spelled.append(token[:place])
                node = self.child[node][symbol]
            self.token[node] = number
        self.stride = max(1, int(math.log(_MOST_BLOCKS + 0.5, max(2, alphabet))))
        self.blocks = list(product(range(alphabet), repeat=self.stride))
        self._leaves = {node for node, after in enumerate(self.child) if max(after) < 0}
        goes_on, number = np.array([*self.child, [-1] * alphabet]), len(self.child)
        goes_on[np.isin(goes_on, [*self._leaves])] = -1
        after = np.arange(number)[:, None]
        for _ in range(self.stride):
            after = goes_on[after].reshape(number, -1)
        self.linked: list[list[Any]] = [[None] * 2 * len(self.blocks) + [node] for node in range(number)]
        for here, nodes in zip(self.linked, after.tolist(), strict=True):
            here[: len(nodes)] = [None if node < 0 else self.linked[node] for node in nodes]

    def read(self, node: int, symbols: Iterable[int]) -> tuple[int, list[int]]:
        """The node after further symbols, and the tokens that end on the way."""
        ended: list[int] = []
        for symbol in symbols:
            while (going := self.child[node][symbol]) < 0:
                if not node:
                    raise UserError(_unknown(symbol))
                node, tokens = self._given_up(node)
                ended += tokens
            node = going
            if node in self._leaves:
                ended.append(self.token[node])
                node = 0
        return node, ended

    def cut(self, symbols: Int[ndarray, "symbols"]) -> list[int]:
        """The tokens of a text."""
        here, ids, number = self.linked[0], [], len(self.blocks)
        whole = len(symbols) - len(symbols) % self.stride
        digits = len(self.child[0]) ** np.arange(self.stride)[::-1]
        for block in (symbols[:whole].reshape(-1, self.stride) @ digits).tolist():
            going = here[block]
            if going is not None:
                here = going
                continue
            step = here[number + block]
            if step is None:
                node, ended = self.read(here[-1], self.blocks[block])
                step = here[number + block] = self.linked[node], ended
            here, ended = step
            ids += ended
        node, ended = self.read(here[-1], symbols[whole:].tolist())
        ids += ended
        while node:
            node, ended = self._given_up(node)
            ids += ended
        return ids

    def _given_up(self, node: int) -> tuple[int, list[int]]:
        """Where nothing goes on, the longest token on the way ends; the node after the rest was read again, and the tokens that end."""
        if self.token[node] >= 0:
            return 0, [self.token[node]]
        if node not in self._after:
            spelled, way, longest = self.spelled[node], 0, -1
            for symbol in spelled:
                way = self.child[way][symbol]
                longest = self.token[way] if self.token[way] >= 0 else longest
            if longest < 0:
                raise UserError(_unknown(spelled[0]))
            reached, further = self.read(0, spelled[self._lengths[longest] :])
            self._after[node] = reached, [longest, *further]
        return self._after[node]


class GreedyTokenizer:
    """Cuts text into the longest tokens of a dictionary, from left to right.

    Args:
        dictionary: the symbols of each token.
        alphabet: number of symbols; by default up to the largest one of the dictionary.

    Raises:
        UserError: a token is empty or listed twice, or has a symbol outside the alphabet.
    """

    def __init__(self, dictionary: Sequence[Sequence[int]], alphabet: int | None = None) -> None:
        self.dictionary: list[Token] = [tuple(int(symbol) for symbol in token) for token in dictionary]
        if not all(self.dictionary) or len(set(self.dictionary)) < len(self.dictionary):
            raise UserError("a dictionary lists each token once, and none that is empty.")
        largest = max((max(token) for token in self.dictionary), default=-1)
        self.alphabet = require_alphabet(alphabet, largest, "dictionary")
        self.trie = Trie(self.dictionary, self.alphabet)

    def encode(self, text: Symbols) -> Int[ndarray, "tokens"]:
        """Cut a text into token ids.

        Raises:
            UserError: no token begins at some place of the text.
        """
        return np.array(self.trie.cut(require_symbols(text, self.alphabet)), dtype=np.int64)

    def decode(self, ids: Symbols) -> Int[ndarray, "symbols"]:
        """Put the symbols of tokens back together."""
        return decoded(self.dictionary, ids)


class LZWTokenizer(GreedyTokenizer):
    """The phrases that an LZW parse of a text meets, matched greedily."""

    @classmethod
    def train(cls, text: Symbols, vocab_size: int, alphabet: int | None = None) -> "LZWTokenizer":
        """Collect up to `vocab_size` tokens: the symbols, then one more phrase at every step of the parse; fewer if the text is short."""
        symbols, alphabet = require_training(text, vocab_size, alphabet)
        dictionary: list[Token] = [(symbol,) for symbol in range(alphabet)]
        phrases: dict[tuple[int, int], int] = {}
        phrase = -1
        for symbol in symbols.tolist():
            if phrase < 0:
                phrase = symbol
            elif (phrase, symbol) in phrases:
                phrase = phrases[phrase, symbol]
            elif len(dictionary) == vocab_size:
                break
            else:
                phrases[phrase, symbol] = len(dictionary)
                dictionary.append((*dictionary[phrase], symbol))
                phrase = symbol
        return cls(dictionary, alphabet)


class BlockTokenizer(GreedyTokenizer):
    """All strings of length r: the paper's toy tokenizer.

    Raises:
        UserError: there are more such strings than a dictionary may hold.
    """

    def __init__(self, r: int, alphabet: int = 2) -> None:
        require_at_least(1, r=r)
        if alphabet**r > 2**16:
            raise UserError(f"{alphabet} symbols have {alphabet}^{r} blocks of {r}: give shorter blocks.")
        super().__init__(list(product(range(alphabet), repeat=r)), alphabet)
        self.r = r

    def encode(self, text: Symbols) -> Int[ndarray, "tokens"]:
        """Cut a text into blocks.

        Raises:
            UserError: the last block is not whole, or a symbol is unknown.
        """
        if len(text) % self.r:
            whole = len(text) - len(text) % self.r
            raise UserError(
                f"a text of {len(text)} symbols is not made of blocks of {self.r}: cut it to {whole} symbols."
            )
        return super().encode(text)


class BPETokenizer:
    """Byte-pair encoding over the symbols.

    Args:
        merges: pairs of ids in the order in which they are merged; the first makes the id `alphabet`.
        alphabet: number of symbols.
    """

    def __init__(self, merges: Sequence[tuple[int, int]], alphabet: int) -> None:
        self.merges = [(int(left), int(right)) for left, right in merges]
        self.alphabet = alphabet
        self.dictionary: list[Token] = [(symbol,) for symbol in range(alphabet)]
        for left, right in self.merges:
            self.dictionary.append(self.dictionary[left] + self.dictionary[right])

    @classmethod
    def train(cls, text: Symbols, vocab_size: int, alphabet: int | None = None) -> "BPETokenizer":
        """Merge until there are `vocab_size` tokens, or no pair occurs twice."""
        ids, alphabet = require_training(text, vocab_size, alphabet)
        merges: list[tuple[int, int]] = []
        for new in range(alphabet, vocab_size):
            pair, count = _most_frequent(ids, new)
            if count < 2:
                break
            merges.append(pair)
            ids = _merge(ids, pair, new)
        return cls(merges, alphabet)

    def encode(self, text: Symbols) -> Int[ndarray, "tokens"]:
        """Cut a text into token ids: the merges one after another.

        Raises:
            UserError: a symbol is unknown.
        """
        ids = require_symbols(text, self.alphabet)
        for new, pair in enumerate(self.merges, start=self.alphabet):
            ids = _merge(ids, pair, new)
        return ids

    def decode(self, ids: Symbols) -> Int[ndarray, "symbols"]:
        """Put the symbols of tokens back together."""
        return decoded(self.dictionary, ids)


def _most_frequent(ids: Int[ndarray, "tokens"], size: int) -> tuple[tuple[int, int], int]:
    """The pair that occurs most often, the smallest of those that tie, and how often."""
    if len(ids) < 2:
        return (0, 0), 0
    pairs, counted = ids[:-1] * size + ids[1:], _counted(ids)
    if not counted.all():
        pairs = pairs[counted]
    if size <= _FEW_TOKENS:
        counts = np.bincount(pairs)
        best = int(counts.argmax())
        return divmod(best, size), int(counts[best])
    found, counts = np.unique(pairs, return_counts=True)
    return divmod(int(found[counts.argmax()]), size), int(counts.max())


def _counted(ids: Int[ndarray, "tokens"]) -> Bool[ndarray, "pairs"]:
    """Which neighbours count as a pair: of overlapping ones in a run of one id every second, from the left."""
    same = ids[:-1] == ids[1:]
    overlapping = same[1:] & same[:-1]
    if not overlapping.any():
        return np.ones(len(same), dtype=bool)
    # The run that each place is in begins at the last place that does not overlap the one before it.
    places = np.arange(len(same))
    begins = np.maximum.accumulate(np.where(np.concatenate([[False], overlapping]), 0, places))
    return (places - begins) % 2 == 0


def _merge(ids: Int[ndarray, "tokens"], pair: tuple[int, int], new: int) -> Int[ndarray, "merged"]:
    """Replace a pair everywhere, from the left."""
    if len(ids) < 2:
        return ids
    merged = (ids[:-1] == pair[0]) & (ids[1:] == pair[1])
    if pair[0] == pair[1]:
        merged &= _counted(ids)
    starts = np.flatnonzero(merged)
    made = ids.copy()
    made[starts] = new
    return np.delete(made, starts + 1)


def decoded(dictionary: Sequence[Token], ids: Symbols) -> Int[ndarray, "symbols"]:
    """Put the symbols of tokens back together."""
    if wrong := [int(number) for number in ids if not 0 <= number < len(dictionary)]:
        raise UserError(f"there is no token {wrong[0]}: the dictionary has {len(dictionary)}.")
    return np.array([symbol for number in ids for symbol in dictionary[int(number)]], dtype=np.int64)


def require_symbols(text: Symbols, alphabet: int) -> Int[ndarray, "symbols"]:
    """Read a text whose symbols are those of an alphabet."""
    symbols = np.asarray(text, dtype=np.int64)
    outside = symbols[(symbols < 0) | (symbols >= alphabet)]
    if len(outside):
        raise UserError(_unknown(int(outside[0])))
    return symbols


def _unknown(symbol: int) -> str:
    return f"no token begins where the text has the symbol {symbol}: the dictionary was made for other text."


def require_alphabet(alphabet: int | None, largest: int, what: str) -> int:
    """The number of symbols: the one given, which must hold those there are, or as many as there are."""
    alphabet = largest + 1 if alphabet is None else alphabet
    if not largest < alphabet <= MOST_SYMBOLS:
        raise UserError(
            f"the {what} has the symbol {largest}, and the alphabet has {alphabet} of at most {MOST_SYMBOLS} symbols: give a larger "
            "alphabet, or bytes."
        )
    return alphabet


def require_training(
    text: Symbols, vocab_size: int, alphabet: int | None
) -> tuple[Int[ndarray, "symbols"], int]:
    """Read what a dictionary is trained on."""
    symbols = np.asarray(text, dtype=np.int64)
    if len(symbols) and symbols.min() < 0:
        raise UserError(f"symbols are numbers from 0, got {int(symbols.min())}.")
    alphabet = require_alphabet(alphabet, int(symbols.max()) if len(symbols) else 0, "text")
    if vocab_size < alphabet:
        raise UserError(
            f"a dictionary of {vocab_size} tokens cannot hold the {alphabet} symbols: give vocab_size={alphabet} or more."
        )
    return symbols, alphabet
