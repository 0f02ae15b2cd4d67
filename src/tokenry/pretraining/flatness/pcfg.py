"""A probabilistic context-free grammar as a language: the inside algorithm gives every conditional and label exactly.

    inside(A, i, i + 1) = p(A → token i)            inside(A, i, k) = Σ_j Σ_{A → B C} p · inside(B, i, j) · inside(C, j, k)

The probability of a sentence is linear in what is emitted at each place, so that its derivative by the emission is the conditional:

    p(v at i | rest) ∝ ∂ inside(S, 0, n) / ∂ emitted[i, v]           masked places emit every token with weight 1

Source: Lari and Young (1990) for the inside algorithm; grammar and labels as in Same Pre-training Loss, Better Downstream (arXiv 2210.14199).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from tokenry.core.errors import UserError

Rule = Sequence[Any]
"""The right side of a rule, as a sequence of symbols, and its probability."""


class PCFG:
    """A grammar whose rules have two non-terminals, one non-terminal, or one terminal on the right.

    Args:
        rules: rules by the symbol on the left; equal ones are added up.
        start: the symbol of sentences.
        terminals: the tokens in their order; by default as they appear.
        nonterminals: the symbols in their order, which decides between equally probable labels; by default as they appear.
        longest: number of tokens beyond which `sentences` draws again.

    Raises:
        UserError: no rule for the start, a right side that is none of the three, a negative probability, ones that do not sum to 1, or
            non-terminals that never end in a word.
    """

    def __init__(
        self,
        rules: Mapping[str, Iterable[Rule]],
        start: str = "S",
        terminals: Sequence[str] | None = None,
        nonterminals: Sequence[str] | None = None,
        longest: int = 31,
    ) -> None:
        self.start, self.longest = start, longest
        self.rules: dict[str, dict[tuple[str, ...], float]] = {left: defaultdict(float) for left in rules}
        for left, written in rules.items():
            for right, probability in written:
                self.rules[left][tuple(right)] += probability
        self.nonterminals = list(nonterminals or self.rules)
        single = [right[0] for of_left in self.rules.values() for right in of_left if len(right) == 1]
        self.terminals = list(terminals or dict.fromkeys(word for word in single if word not in self.rules))
        self._require_grammar()
        self._tokens = {word: number for number, word in enumerate(self.terminals)}
        self._symbols = {symbol: number for number, symbol in enumerate(self.nonterminals)}
        self._lay_out()

    @classmethod
    def from_text(cls, text: str, start: str = "S", **options: Any) -> "PCFG":
        """Read lines `LEFT RIGHT1 [RIGHT2] probability`, as the paper's repository writes them.

        Raises:
            UserError: a line that is none, or as of the grammar.
        """
        rules: dict[str, list[Rule]] = defaultdict(list)
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            try:
                left, *right, probability = words
                rules[left].append((right, float(probability)))
            except ValueError as error:
                raise UserError(
                    f"line {number} is no rule LEFT RIGHT1 [RIGHT2] probability: {line.strip()!r}."
                ) from error
        return cls(rules, start, **options)

    @property
    def vocabulary(self) -> int:
        """Number of terminals."""
        return len(self.terminals)

    def sample(self, n: int, seed: int = 0) -> list[list[str]]:
        """Draw sentences of at most `longest` words."""
        drawn = self.sentences(n, np.random.default_rng(seed))
        return [[self.terminals[token] for token in sentence] for sentence in drawn]

    def sentences(self, n: int, generator: np.random.Generator) -> list[list[int]]:
        """Draw sentences, as ids of terminals; longer ones are drawn again.

        Raises:
            UserError: hardly any sentence is short enough.
        """
        found: list[list[int]] = []
        for _ in range(1000 * n):
            sentence = self._sentence(generator)
            if sentence is not None:
                found.append(sentence)
            if len(found) == n:
                return found
        raise UserError(
            f"hardly any sentence of the grammar has at most {self.longest} words: allow longer ones (longest=)."
        )

    def inside(self, tokens: Sequence[str]) -> dict[str, float]:
        """p(tokens | symbol) of every symbol that is no terminal, over all tokens."""
        return dict(zip(self.nonterminals, self._chart(self._emitted(tokens))[0].tolist(), strict=True))

    def probability(self, tokens: Sequence[str]) -> float:
        """p(sentence)."""
        return self.inside(tokens)[self.start]

    def label(
        self, tokens: Sequence[str], span: tuple[int, int] | None = None, among: Sequence[str] | None = None
    ) -> str | None:
        """The symbol with the largest inside probability over a span: what a downstream task asks for.

        Args:
            tokens: the sentence.
            span: from which place to before which; by default all.
            among: symbols that are asked about; by default all.

        Returns:
            The first of the most probable symbols; None where none is possible.
        """
        found = self.inside(tokens[slice(*span)] if span else tokens)
        best = max(among or self.nonterminals, key=found.__getitem__)
        return best if found[best] > 0 else None

    def masked_conditional(self, tokens: Sequence[str], i: int) -> Float[ndarray, "vocabulary"] | None:
        """p(terminal at place i | all other tokens); None where no terminal is possible there."""
        ids = torch.tensor([self._ids(tokens)])
        if not 0 <= i < len(tokens):
            raise UserError(f"a place of the sentence is from 0 to {len(tokens) - 1}, got {i}.")
        found = self.masked_conditionals(ids, torch.zeros_like(ids, dtype=torch.bool))[0, i].numpy()
        return None if np.isnan(found).any() else found

    def masked_conditionals(
        self, input_ids: Int[Tensor, "batch seq"], masked: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq vocabulary"]:
        """p(token at a place | the tokens that are neither masked nor there); nan where no token is possible."""
        emitted = torch.nn.functional.one_hot(input_ids, self.vocabulary).double()
        emitted = emitted.masked_fill(masked[..., None], 1.0).requires_grad_()
        with torch.enable_grad():
            sentence = self._chart(emitted)[:, self._symbols[self.start]]
            (slope,) = torch.autograd.grad(sentence.sum(), emitted)
        return slope / slope.sum(-1, keepdim=True)

    def _emitted(self, tokens: Sequence[str]) -> Float[Tensor, "1 seq vocabulary"]:
        return torch.eye(self.vocabulary, dtype=torch.float64)[self._ids(tokens)][None]

    def _ids(self, tokens: Sequence[str]) -> list[int]:
        unknown = [token for token in tokens if token not in self._tokens]
        if unknown or not len(tokens):
            raise UserError(
                f"a sentence is one or more of the terminals of the grammar, got {unknown or 'none'}."
            )
        return [self._tokens[token] for token in tokens]

    def _chart(self, emitted: Float[Tensor, "batch seq vocabulary"]) -> Float[Tensor, "batch symbols"]:
        """Inside probabilities of all symbols over the whole sentences; spans of one length are made at once."""
        length = emitted.shape[1]
        words = emitted @ self._lexical.T @ self._closure.T
        chart = {1: words}
        for width in range(2, length + 1):
            places = length - width + 1
            left = torch.stack([chart[size][:, :places] for size in range(1, width)], dim=2)
            right = torch.stack(
                [chart[width - size][:, size : size + places] for size in range(1, width)], dim=2
            )
            both = torch.einsum("bpsl,bpsr->bplr", left, right).flatten(2)[..., self._pairs]
            chart[width] = both @ self._binary.T @ self._closure.T
        return chart[length][:, 0]

    def _lay_out(self) -> None:
        """Rules as matrices: of terminals, of pairs that some rule has, and the closure of chains of single non-terminals."""
        size = len(self.nonterminals)
        self._lexical = torch.zeros(size, self.vocabulary, dtype=torch.float64)
        pairs: dict[int, int] = {}
        binary, chains = [], torch.zeros(size, size, dtype=torch.float64)
        for left, of_left in self.rules.items():
            row = self._symbols[left]
            for right, probability in of_left.items():
                if len(right) == 2:
                    pair = self._symbols[right[0]] * size + self._symbols[right[1]]
                    binary.append((row, pairs.setdefault(pair, len(pairs)), probability))
                elif right[0] in self._symbols:
                    chains[row, self._symbols[right[0]]] += probability
                else:
                    self._lexical[row, self._tokens[right[0]]] += probability
        self._pairs = torch.tensor([*pairs], dtype=torch.long)
        self._binary = torch.zeros(size, len(pairs), dtype=torch.float64)
        for row, column, probability in binary:
            self._binary[row, column] += probability
        try:
            self._closure = torch.linalg.inv(torch.eye(size, dtype=torch.float64) - chains)
        except torch.linalg.LinAlgError as error:
            raise UserError(
                "single non-terminals lead to each other with probability 1, so that no word ever follows: give them other rules too."
            ) from error
        self._choices = {
            left: ([*of_left], np.cumsum([*of_left.values()])) for left, of_left in self.rules.items()
        }

    def _sentence(self, generator: np.random.Generator) -> list[int] | None:
        """One sentence; None where it becomes too long."""
        stack, words = [self.start], list[int]()
        while stack:
            if len(stack) + len(words) > self.longest:
                return None
            symbol = stack.pop()
            if symbol not in self._choices:
                words.append(self._tokens[symbol])
                continue
            sides, edges = self._choices[symbol]
            drawn = int(np.searchsorted(edges, generator.random() * edges[-1], side="right"))
            stack.extend(reversed(sides[min(drawn, len(sides) - 1)]))
        return words

    def _require_grammar(self) -> None:
        if self.start not in self.rules:
            raise UserError(
                f"the grammar has no rule for its start {self.start!r}: symbols are {', '.join(self.rules)}."
            )
        known = {*self.nonterminals, *self.terminals}
        for left, of_left in self.rules.items():
            for right, probability in of_left.items():
                is_pair = len(right) == 2 and all(symbol in self.rules for symbol in right)
                if not (is_pair or (len(right) == 1 and right[0] in known)):
                    raise UserError(
                        f"{left} → {' '.join(right)} has neither two non-terminals nor one symbol on the right: bring the grammar into "
                        "Chomsky normal form."
                    )
                if probability < 0:
                    raise UserError(
                        f"{left} → {' '.join(right)} has the probability {probability}: it must be at least 0."
                    )
            total = sum(of_left.values())
            if abs(total - 1) > 1e-6:
                raise UserError(
                    f"the rules of {left} sum to {total:.6g}: the probabilities of a symbol must sum to 1."
                )
