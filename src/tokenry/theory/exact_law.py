"""The exact law of the tokens that greedy matching makes of a Markov source, without a sample.

The state of a reader is (the source's state, the trie node of the symbols read since the last token); each symbol moves both, and some
end tokens (`Trie.read`).

    Q(t) ∝ Σ w(state) T[state, c] · [t ends when c is read]     w: the stationary law of the reader
    cross-entropy = H(Q) · tokens per symbol                     to machine precision

Source: Toward a Theory of Tokenization in LLMs (arXiv 2404.08335), section 3, made exact.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import sparse
from scipy.special import entr

from tokenry.core.errors import UserError
from tokenry.theory.dictionaries import GreedyTokenizer
from tokenry.theory.markov_source import MarkovSource, stationary_law

MOST_READER_STATES = 100_000
_State = tuple[int, int]


@dataclass(frozen=True)
class TokenLaw:
    """The tokens of endless text.

    Attributes:
        probability: share of each token, by id.
        tokens_per_symbol: how many tokens a symbol needs.
    """

    probability: Float[ndarray, "tokens"]
    tokens_per_symbol: float

    @property
    def token_entropy(self) -> float:
        """H(Q), nats per token."""
        return float(entr(self.probability).sum())

    @property
    def cross_entropy(self) -> float:
        """What the best unigram model over the tokens costs, nats per symbol."""
        return self.token_entropy * self.tokens_per_symbol


def exact_token_law(source: MarkovSource, tokenizer: GreedyTokenizer) -> TokenLaw:
    """Compute the long-run law of the tokens of a greedy tokenizer on a source.

    Raises:
        UserError: alphabets differ, a symbol is no token, or there are more than 100,000 states of the reader.
    """
    if source.alphabet != tokenizer.alphabet:
        raise UserError(
            f"the source writes {source.alphabet} symbols, and the dictionary is of {tokenizer.alphabet}: give one for this source."
        )
    reader = _Reader(source, tokenizer)
    law = stationary_law(reader.chain)
    emitted = np.zeros(len(tokenizer.dictionary))
    rows, tokens, weights = reader.emissions
    np.add.at(emitted, tokens, law[rows] * weights)
    return TokenLaw(emitted / emitted.sum(), float(emitted.sum()))


class _Reader:
    """All states of the reader that can be reached from the root, and what each step emits.

    Attributes:
        chain: transition matrix of the states.
        emissions: state, token and probability of each token that ends in a step.
    """

    def __init__(self, source: MarkovSource, tokenizer: GreedyTokenizer) -> None:
        likely = int(source.stationary.argmax())
        numbers: dict[_State, int] = {(likely, 0): 0}
        rows, columns, weights = [], [], []
        emitting: list[tuple[int, int, float]] = []
        waiting: list[_State] = [(likely, 0)]
        while waiting:
            here = waiting.pop()
            state, node = here
            for symbol in np.flatnonzero(source.transition[state]).tolist():
                reached, tokens = tokenizer.trie.read(node, [symbol])
                there = ((state * source.alphabet + symbol) % len(source.transition), reached)
                if there not in numbers:
                    numbers[there] = len(numbers)
                    waiting.append(there)
                    if len(numbers) > MOST_READER_STATES:
                        raise UserError(
                            f"the exact law would need more than {MOST_READER_STATES:,} states: take a source of a lower order, or a "
                            "smaller dictionary; unigram_report measures it on a sample."
                        )
                weight = float(source.transition[state, symbol])
                rows.append(numbers[here])
                columns.append(numbers[there])
                weights.append(weight)
                emitting += [(numbers[here], token, weight) for token in tokens]
        self.chain = sparse.csr_matrix((weights, (rows, columns)), shape=(len(numbers), len(numbers)))
        froms, emitted, probabilities = zip(*emitting, strict=True)
        self.emissions = np.array(froms), np.array(emitted), np.array(probabilities)
