"""How many tokens a step yields: the two ways of placing masks, and which of them pays at present.

    linear       one block behind the last drafted token: 1 + 2k rows; a wrong token leaves no draft for the next step
    quadratic    a block behind every token: (1 + k)² rows; there is a draft in every step

A step yields the leading drafted tokens that are right, and the model's own token after them. If the j-th is right with probability
q_j, given that those before it are, a draft of k tokens yields on average E = Σ_j Π_{i≤j} q_i tokens, all of them with P = Π q_j:

    quadratic: 1 + E tokens per step              linear: (1 + E + 1 − P) / (2 − P), as after a failure one step goes without a draft

Source: Your LLM Knows the Future (arXiv 2507.11851), section 3.4; the choice of k and mode is ours.
"""

from itertools import accumulate
from operator import mul
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from tokenry.core.errors import UserError, require_one_of

MODES = ("auto", "linear", "quadratic")


class Pace(NamedTuple):
    """How a step is laid out: number of masks in a block, and whether a block stands behind every token. 0 masks: one token a step."""

    masks: int
    quadratic: bool


def simulate_schedule(correct: Bool[Tensor, "tokens k"], mode: str, tokens: int | None = None) -> list[int]:
    """Number of tokens that each step yields, if `correct[i, j]` says whether the j-th draft made at token i is right.

    Args:
        correct: of each token that a step may end with, and each place of a draft.
        mode: linear or quadratic.
        tokens: number of tokens after which it ends; by default all that `correct` has rows for.
    """
    require_one_of(mode, MODES[1:], "mode")
    rows = correct.tolist()
    wanted, k = len(rows) if tokens is None else tokens, correct.shape[1]
    if wanted - 1 > len(rows):
        raise UserError(
            f"{wanted} tokens are asked for, and correct has {len(rows)} rows: give one for each token."
        )
    steps, written, drafted = [1], 1, True
    while written < wanted:
        right = sum(accumulate(rows[written - 1], mul)) if drafted else 0
        steps.append(right + 1)
        written += right + 1
        drafted = mode == "quadratic" or not drafted or right == k
    return steps


def prompt_lookup_draft(tokens: Int[Tensor, "length"], ngram: int, k: int) -> Int[Tensor, "drafted"]:
    """Draft the up to k tokens that followed the last tokens of a text where they stood last before; the longest n-gram first."""
    text = tokens.numpy(force=True)
    ends = np.arange(len(text) - 1)
    start = 0
    for size in range(1, ngram + 1):
        # Ends of the windows that equal the last `size` tokens are among those of the shorter windows.
        ends = ends[ends >= size - 1]
        ends = ends[text[ends - size + 1] == text[-size]] if len(ends) else ends
        if not len(ends):
            break
        start = int(ends[-1]) + 1
    return tokens[start : start + k if start else 0]


class RunningPace:
    """Chooses k, mode and the source of drafts from what was accepted and what steps took.

    Each place of a draft begins with a good record, so that drafts are tried. The seconds of a step are taken as a line in its rows,
    fitted to the steps so far with weights that halve every 32 steps; before there are enough, rows cost nothing.

    Args:
        k: most tokens in a draft.
    """

    def __init__(self, k: int) -> None:
        # By source, masks and prompt lookup, and by place in the draft.
        self._right, self._tried = ([[record] * k for _ in range(2)] for record in (4.0, 5.0))
        # Texts with a draft by prompt lookup, among those that were looked at.
        self._found, self._looked = 1.0, 2.0
        # Weighted sums over the steps: 1, rows, rows², seconds, rows · seconds.
        self._sums = [0.0] * 5
        kinds = ((masks, quadratic) for masks in range(1, k + 1) for quadratic in (False, True))
        self._k, self._paces = k, [Pace(0, False), *(Pace(*kind) for kind in kinds)]
        self._plain = 0

    def observe(
        self, right: Int[Tensor, "batch"], drafted: Int[Tensor, "batch"], by_masks: Bool[Tensor, "batch"]
    ) -> None:
        """Record how many drafted tokens of each text were right, how many there were, and who drafted them."""
        for count, most, masks in zip(right.tolist(), drafted.tolist(), by_masks.tolist(), strict=True):
            for place in range(min(most, count + 1)):
                self._right[1 - masks][place] += place < count
                self._tried[1 - masks][place] += 1

    def looked_up(self, found: int, texts: int) -> None:
        """Record in how many texts prompt lookup found a draft."""
        self._found, self._looked = self._found + found, self._looked + texts

    def timed(self, rows: int, seconds: float) -> None:
        """Record what a step of so many rows in each text took, at most twice what was expected: more was spent on something else."""
        if self._sums[0] > 1:
            step, row = self._seconds()
            seconds = min(seconds, 2 * (step + row * rows))
        new, decay = (1.0, rows, rows * rows, seconds, rows * seconds), 0.5 ** (1 / 32)
        self._sums = [decay * before + value for before, value in zip(self._sums, new, strict=True)]

    def choose(self) -> Pace:
        """The pace with the most tokens per second; if that is without masks, they are tried again every 32 steps."""
        step, row = self._seconds()
        together = self._together(0, self._k)
        best = max(
            self._paces, key=lambda pace: self._tokens(pace, together) / (step + row * self._rows(pace))
        )
        self._plain = 0 if best.masks else self._plain + 1
        return self._paces[1] if self._plain % 32 == 31 else best

    def expected(self, source: int, drafted: int) -> float:
        """Number of right tokens to be expected in a draft by masks (source 0) or by prompt lookup (1)."""
        return sum(self._together(source, drafted), 0.0)

    def _together(self, source: int, drafted: int) -> list[float]:
        """Probability that a draft is right up to each place."""
        places = zip(self._right[source][:drafted], self._tried[source][:drafted], strict=True)
        return [*accumulate((right / tried for right, tried in places), mul)]

    def _tokens(self, pace: Pace, together: list[float]) -> float:
        """Expected tokens per step, from the probabilities that a draft by masks is right up to each place."""
        if not pace.masks:
            return 1 + self._found / self._looked * self.expected(1, self._k)
        drafted, whole = 1 + sum(together[: pace.masks]), together[pace.masks - 1]
        return drafted if pace.quadratic else (drafted + 1 - whole) / (2 - whole)

    def _rows(self, pace: Pace) -> float:
        """Expected rows per step."""
        if not pace.masks:
            return 1 + self._found / self._looked * self._k
        return float((pace.masks + 1) ** 2 if pace.quadratic else 1 + 2 * pace.masks)

    def _seconds(self) -> tuple[float, float]:
        """Seconds of a step and of each row in it."""
        count, rows, squares, seconds, products = self._sums
        spread = count * squares - rows * rows
        if spread <= 1e-9 * squares * count or not count:
            return seconds / count if count else 1.0, 0.0
        row = max(0.0, (count * products - rows * seconds) / spread)
        return max((seconds - row * rows) / count, 1e-9), row
