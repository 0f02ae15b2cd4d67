"""A Markov source: text whose next symbol depends on the `order` symbols before it, and the exact quantities of such text.

State s is the last k symbols, the oldest first (index Σ s_j A^(k−1−j)); the chain goes from s to (s_2 … s_k, a) with probability T[s, a].

    stationary law    w M = w, Σ w = 1
    entropy rate      H_inf = Σ_s w_s H(T[s])                   what no model of the text can beat, nats per symbol
    symbol entropy    H(π), π_a = Σ of w over states that end in a      the best unigram model over symbols

The switching source, the paper's running example: x_n depends on x_(n−k) alone. With p = q = δ, H(π) stays ln 2 while H_inf = h(δ) → 0:
a unigram over characters is as bad as it can be.

Source: Toward a Theory of Tokenization in LLMs (arXiv 2404.08335), section 2.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.special import entr

from tokenry.core.errors import UserError, require_at_least

MOST_SYMBOLS, MOST_STATES = 256, 65_536
_DENSE = 2048
_ENOUGH, _MOST_STEPS = 1e-15, 200_000
Symbols = Sequence[int] | Int[ndarray, "_symbols"]


class MarkovSource:
    """A stationary Markov chain of any order over the symbols 0 … A−1.

    Args:
        transition: law of the next symbol, one row per state.
        order: number of symbols that the next one depends on.
        stationary: a stationary law of the states, to choose one where there are several.

    Raises:
        UserError: the table is no table of laws of that order, or the chosen law is not stationary.
    """

    def __init__(
        self,
        transition: Float[ndarray, "states symbols"] | Sequence[Sequence[float | int]],
        order: int,
        stationary: Float[ndarray, "states"] | None = None,
    ) -> None:
        self.transition = _require_transition(np.asarray(transition, dtype=float), order)
        self.order = order
        self.alphabet = self.transition.shape[1]
        if stationary is not None:
            self.stationary = _require_stationary(np.asarray(stationary, dtype=float), self._chain)

    @classmethod
    def switching(cls, k: int, p: float | int, q: float | int) -> "MarkovSource":
        """The binary source in which a symbol differs from the one k before it: 0 after 1 with probability p, 1 after 0 with q."""
        require_at_least(1, k=k)
        for name, value in (("p", p), ("q", q)):
            if not 0 < value < 1:
                raise UserError(f"{name} must be in (0, 1), got {value}: it is the probability of a switch.")
        if 2**k > MOST_STATES:
            raise UserError(f"a binary source of order {k} has 2^{k} states: give an order of at most 16.")
        oldest = np.arange(2**k) >> (k - 1)
        switch = np.where(oldest == 1, p, q)
        to_zero = np.where(oldest == 1, switch, 1 - switch)
        law = np.array([p, q]) / (p + q)
        # The k interleaved subsequences are independent chains, so the law of a state is the product of their laws.
        digits = (np.arange(2**k)[:, None] >> np.arange(k)) & 1
        return cls(np.stack([to_zero, 1 - to_zero], axis=1), k, law[digits].prod(axis=1))

    @property
    def is_reducible(self) -> bool:
        """Whether the long-run law depends on where the source starts."""
        return closed_classes(self._chain) > 1

    @cached_property
    def stationary(self) -> Float[ndarray, "states"]:
        """The stationary law of the states; where there are several, one of them, with a warning."""
        if self.is_reducible:
            warnings.warn(
                "the chain is reducible: several sets of states are never left, so its long-run law depends on where it starts; give "
                "stationary= to choose one.",
                stacklevel=3,
            )
        return stationary_law(self._chain)

    @property
    def symbol_law(self) -> Float[ndarray, "symbols"]:
        """Long-run share of each symbol."""
        return self.stationary.reshape(-1, self.alphabet).sum(axis=0)

    @property
    def delta(self) -> float:
        """The smallest transition probability; 0 where a transition is impossible."""
        return float(self.transition.min())

    def entropy_rate(self) -> float:
        """H_inf, in nats per symbol."""
        return float(self.stationary @ entr(self.transition).sum(axis=1))

    def char_entropy(self) -> float:
        """H(π), the cross-entropy of the best unigram model over symbols, in nats per symbol."""
        return float(entr(self.symbol_law).sum())

    def block_entropy(self, length: int) -> float:
        """H(X_1 … X_length), in nats: beyond `order` symbols, each adds H_inf."""
        require_at_least(0, length=length)
        known = min(length, self.order)
        of_known = float(entr(self.stationary.reshape(self.alphabet**known, -1).sum(axis=1)).sum())
        return of_known + (length - known) * self.entropy_rate()

    def sample(self, n: int, batch: int = 1, seed: int | Sequence[int] = 0) -> Int[ndarray, "batch n"]:
        """Draw independent stretches of text, each begun in the stationary law; all of them take a step at a time."""
        require_at_least(0, n=n)
        require_at_least(1, batch=batch)
        generator = np.random.default_rng(seed)
        states = generator.choice(len(self.stationary), size=batch, p=self.stationary)
        first = (states[:, None] // self.alphabet ** np.arange(self.order - 1, -1, -1)) % self.alphabet
        drawn = np.empty((batch, max(n, self.order)), dtype=np.int64)
        drawn[:, : self.order] = first
        cumulative, reach = self.transition.cumsum(axis=1)[:, :-1], self.alphabet ** (self.order - 1)
        chances = generator.random((max(n - self.order, 0), batch, 1))
        for place, chance in enumerate(chances, start=self.order):
            symbols = (chance >= cumulative[states]).sum(axis=1)
            drawn[:, place] = symbols
            states = (states % reach) * self.alphabet + symbols
        return drawn[:, :n]

    def log_prob(self, substring: Symbols) -> float:
        """Log probability, in nats, that a stretch of text of this length is `substring`; −inf where it cannot be."""
        symbols = self._require_symbols(substring)
        known = min(len(symbols), self.order)
        first = _index(symbols[:known], self.alphabet)
        probability = float(self.stationary.reshape(self.alphabet**known, -1).sum(axis=1)[first])
        steps = [
            float(self.transition[_index(symbols[place - self.order : place], self.alphabet), symbols[place]])
            for place in range(self.order, len(symbols))
        ]
        return sum(math.log(value) if value > 0 else -math.inf for value in (probability, *steps))

    @property
    def _chain(self) -> sparse.csr_matrix:
        """The transition matrix of the states."""
        states = len(self.transition)
        after = (np.arange(states)[:, None] * self.alphabet + np.arange(self.alphabet)) % states
        starts = np.arange(0, states * self.alphabet + 1, self.alphabet)
        chain = sparse.csr_matrix((self.transition.flatten(), after.ravel(), starts), shape=(states, states))
        chain.eliminate_zeros()
        return chain

    def _require_symbols(self, text: Symbols) -> Int[ndarray, "symbols"]:
        symbols = np.asarray(text, dtype=np.int64)
        outside = symbols[(symbols < 0) | (symbols >= self.alphabet)]
        if len(outside):
            raise UserError(
                f"the text has the symbol {int(outside[0])}, and the source writes 0 to {self.alphabet - 1} only: give text of this source."
            )
        return symbols


def closed_classes(chain: sparse.csr_matrix) -> int:
    """Number of sets of states that are never left: 1 where the long-run law does not depend on the start."""
    number, of_state = connected_components(chain, directed=True, connection="strong")
    rows, columns = chain.nonzero()
    left = np.unique(of_state[rows[of_state[rows] != of_state[columns]]])
    return int(number - len(left))


def stationary_law(chain: sparse.csr_matrix) -> Float[ndarray, "states"]:
    """The law w with w M = w and Σ w = 1.

    Raises:
        UserError: the chain has very many states and mixes too slowly.
    """
    states = chain.shape[0]
    if states <= _DENSE:
        return _solved(chain)
    law, transposed = np.full(states, 1 / states), chain.T.tocsr()
    for _ in range(_MOST_STEPS):
        # Half of the law stays where it is, so that a periodic chain settles too.
        after = (law + transposed @ law) / 2
        if np.abs(after - law).sum() < _ENOUGH:
            return after / after.sum()
        law = after
    raise UserError(
        f"the long-run law of {states} states was not found: they mix too slowly; give a source of a lower order, or one with "
        "larger probabilities."
    )


def _solved(chain: sparse.csr_matrix) -> Float[ndarray, "states"]:
    """By least squares over all states, which also settles a chain with several laws."""
    states = chain.shape[0]
    equations = np.vstack([(chain.T - sparse.identity(states)).toarray(), np.ones((1, states))])
    if closed_classes(chain) == 1:
        # One equation follows from the others: without it the system is square, which is ten times faster to solve.
        law = np.linalg.solve(equations[1:], np.eye(states)[-1])
    else:
        law = np.linalg.lstsq(equations, np.eye(states + 1)[-1], rcond=None)[0]
    law = np.clip(law, 0, None)
    return law / law.sum()


def _index(symbols: Int[ndarray, "symbols"], alphabet: int) -> int:
    return int(sum(int(symbol) * alphabet**place for place, symbol in enumerate(reversed(symbols))))


def _require_transition(transition: ndarray, order: int) -> Float[ndarray, "states symbols"]:
    if order < 1:
        raise UserError(f"order must be at least 1, got {order}: for independent symbols repeat one row.")
    if transition.ndim != 2 or transition.shape[1] < 2:
        raise UserError(
            f"a source needs at least 2 symbols, one column for each, got a table of shape {transition.shape}."
        )
    states, alphabet = transition.shape
    if alphabet > MOST_SYMBOLS or alphabet**order > MOST_STATES:
        raise UserError(
            f"{alphabet} symbols of order {order} make {alphabet}^{order} states: at most {MOST_SYMBOLS} symbols and "
            f"{MOST_STATES:,} states are supported."
        )
    if states != alphabet**order:
        raise UserError(
            f"a source of order {order} over {alphabet} symbols has {alphabet**order} states, got {states} rows: give one row per state."
        )
    wrong = np.flatnonzero(~(np.abs(transition.sum(axis=1) - 1) <= 1e-8) | (transition < 0).any(axis=1))
    if len(wrong):
        raise UserError(
            f"row {wrong[0]} of the transition table is no law ({transition[wrong[0]].tolist()}): its entries must be 0 or more and "
            "sum to 1."
        )
    return transition


def _require_stationary(law: ndarray, chain: sparse.csr_matrix) -> Float[ndarray, "states"]:
    if law.shape != (chain.shape[0],) or (law < 0).any() or not np.allclose(chain.T @ law, law, atol=1e-8):
        raise UserError("stationary must be a law of the states that the source keeps: w M = w.")
    return law / law.sum()
