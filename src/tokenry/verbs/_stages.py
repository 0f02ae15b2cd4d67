"""How much of a long job is done, so that the time that went tells the time that remains.

A job is a row of stages, each as long as what it costs, counted in forward passes over one token; an answer costs five per token:
written one at a time, tokens wait for the weights to be read.
"""

from collections.abc import Sequence

from tokenry.core.io.progress import DETAILS, Progress

_ANSWERED = 5.0


def answers_cost(answers: int, tokens: int) -> float:
    """Estimate what it costs to write `answers` of at most `tokens` tokens."""
    return _ANSWERED * answers * tokens


class Stages:
    """Tells `report` what is being done, and the share of all stages that is done.

    Args:
        report: is told.
        costs: of all stages.
    """

    def __init__(self, report: Progress, costs: Sequence[float]) -> None:
        self._report, self._total = report, sum(costs)
        self._done = self._cost = self._share = 0.0
        self.what = "starting"

    def begin(self, what: str, cost: float) -> None:
        """End the stage before, and begin one."""
        self._done += self._cost
        self.what, self._cost = what, cost
        self.tell(0.0)

    @property
    def total(self) -> float:
        """The cost of all stages."""
        return self._total

    def skip(self, cost: float) -> None:
        """Count a stage as done that need not be."""
        self._done += cost

    def tell(self, share: float, details: str = "") -> None:
        """Tell that a share of the present stage is done, and perhaps more about it."""
        self._share = min(1.0, (self._done + share * self._cost) / self._total)
        self._report(f"{self.what}{DETAILS}{details}" if details else self.what, self._share)

    def say(self, words: str) -> None:
        """Add words to what is being done."""
        self._report(f"{self.what}: {words}", self._share)
