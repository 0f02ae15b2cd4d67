"""A hidden Markov model as a language: forward and backward probabilities give every conditional exactly.

    α_t = (α_{t−1} T) ∘ e_t            β_t = T (e_{t+1} ∘ β_{t+1})            e_t[state] = p(token t | state), 1 where it is masked

    p(v at t | rest) ∝ Σ_state (α_{t−1} T)[state] · β_t[state] · p(v | state)

Source: Rabiner (1989) for the recursions; as a language beside the grammar of the paper it is our addition.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least


@dataclass(frozen=True)
class HMM:
    """A language whose hidden states are a Markov chain.

    Attributes:
        initial: p(first state).
        transition: p(next state | state), a row for each state.
        emission: p(token | state), a row for each state.
        length: tokens of a sentence that `sentences` draws.
    """

    initial: Float[ndarray, "_"]
    transition: Float[ndarray, "_ _"]
    emission: Float[ndarray, "_ _"]
    length: int = 16

    def __post_init__(self) -> None:
        require_at_least(1, length=self.length)
        states = len(self.initial)
        if self.transition.shape != (states, states) or len(self.emission) != states:
            raise UserError(
                f"{states} initial probabilities need a transition of {(states, states)} and an emission with {states} rows, got "
                f"{self.transition.shape} and {self.emission.shape}."
            )
        for name, rows in (
            ("initial", self.initial[None]),
            ("transition", self.transition),
            ("emission", self.emission),
        ):
            if (rows < 0).any() or not np.allclose(rows.sum(1), 1):
                raise UserError(
                    f"the rows of {name} must be probabilities that sum to 1, got sums {rows.sum(1).round(4).tolist()}."
                )

    @classmethod
    def random(
        cls, states: int, vocabulary: int, seed: int = 0, concentration: float = 0.3, length: int = 16
    ) -> "HMM":
        """Rows drawn from Dirichlet distributions: the smaller `concentration`, the fewer tokens and next states a state prefers."""
        drawn = np.random.default_rng(seed)
        transition = drawn.dirichlet(np.full(states, concentration), states)
        emission = drawn.dirichlet(np.full(vocabulary, concentration), states)
        return cls(np.full(states, 1 / states), transition, emission, length)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.emission.shape[1]

    def sample(
        self, n: int, length: int | None = None, seed: int = 0
    ) -> tuple[Int[ndarray, "n length"], Int[ndarray, "n length"]]:
        """Draw sentences: their tokens, and the hidden states behind them."""
        return self._drawn(n, length or self.length, np.random.default_rng(seed))

    def sentences(self, n: int, generator: np.random.Generator) -> list[list[int]]:
        """Draw sentences, as token ids."""
        tokens: list[list[int]] = self._drawn(n, self.length, generator)[0].tolist()
        return tokens

    def _drawn(
        self, n: int, length: int, generator: np.random.Generator
    ) -> tuple[Int[ndarray, "n length"], Int[ndarray, "n length"]]:
        states = np.empty((n, length), dtype=np.int64)
        states[:, 0] = _pick(np.tile(self.initial, (n, 1)), generator)
        for place in range(1, length):
            states[:, place] = _pick(self.transition[states[:, place - 1]], generator)
        tokens = _pick(self.emission[states.ravel()], generator).reshape(n, length)
        return tokens, states

    def log_probability(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch"]:
        """Log p(sentence) in nats."""
        return self._around(input_ids, torch.zeros_like(input_ids, dtype=torch.bool))[2]

    def masked_conditionals(
        self, input_ids: Int[Tensor, "batch seq"], masked: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq vocabulary"]:
        """p(token at a place | the tokens that are neither masked nor there); nan where no token is possible."""
        before, after, _ = self._around(input_ids, masked)
        joint = (before * after) @ torch.from_numpy(self.emission)
        return joint / joint.sum(-1, keepdim=True)

    def masked_conditional(self, tokens: list[int], i: int) -> Float[ndarray, "vocabulary"] | None:
        """p(token at place i | all other tokens); None where no token is possible there."""
        ids = torch.tensor([tokens])
        found = self.masked_conditionals(ids, torch.zeros_like(ids, dtype=torch.bool))[0, i].numpy()
        return None if np.isnan(found).any() else found

    def state_posteriors(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq states"]:
        """p(state at a place | the whole sentence)."""
        before, after, _ = self._around(input_ids, torch.zeros_like(input_ids, dtype=torch.bool))
        joint = before * after * torch.from_numpy(self.emission).T[input_ids]
        return joint / joint.sum(-1, keepdim=True)

    def _around(
        self, input_ids: Int[Tensor, "batch seq"], masked: Bool[Tensor, "batch seq"]
    ) -> tuple[Float[Tensor, "batch seq states"], Float[Tensor, "batch seq states"], Float[Tensor, "batch"]]:
        """p(state | tokens before), p(tokens after | state) up to a factor, and log p(all tokens)."""
        step, start = torch.from_numpy(self.transition), torch.from_numpy(self.initial)
        evidence = torch.from_numpy(self.emission).T[input_ids].masked_fill(masked[..., None], 1.0)
        before, after = torch.empty_like(evidence), torch.empty_like(evidence)
        total = torch.zeros(len(input_ids), dtype=evidence.dtype)
        state = start.expand(len(input_ids), -1)
        for place in range(input_ids.shape[1]):
            before[:, place] = state
            seen = state * evidence[:, place]
            mass = seen.sum(-1)
            total += mass.log()
            state = (seen / mass[:, None]) @ step
        later = torch.ones_like(before[:, 0])
        for place in reversed(range(input_ids.shape[1])):
            after[:, place] = later
            later = (later * evidence[:, place]) @ step.T
            later = later / later.amax(-1, keepdim=True)
        return before, after, total


def _pick(rows: Float[ndarray, "rows choices"], generator: np.random.Generator) -> Int[ndarray, "rows"]:
    """One choice for every row of probabilities."""
    edges = rows.cumsum(1)
    return (edges < generator.random((len(rows), 1)) * edges[:, -1:]).sum(1)
