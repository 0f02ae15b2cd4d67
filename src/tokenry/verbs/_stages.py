"""Progress of a long job, such that elapsed time predicts remaining time.

A job is a sequence of stages, each as long as its cost, counted in forward passes over one token; an answer costs five per token:
generated one at a time, tokens wait for the weights to be read.
"""

from collections.abc import Sequence

from tokenry.core.io.progress import DETAILS, Progress

_ANSWERED = 5.0


def answers_cost(answers: int, tokens: int) -> float:
    """Estimate what it costs to write `answers` of at most `tokens` tokens."""
    return _ANSWERED * answers * tokens


class Stages:
    """Reports the present stage, and the share of all stages that is done.

    Args:
        report: receives both.
    """

    def __init__(self, report: Progress, costs: Sequence[float]) -> None:
        self._report, self._total = report, sum(costs)
        self._done = self._cost = self._share = 0.0
        self.what = "starting"

    def begin(self, what: str, cost: float) -> None:
        """End the previous stage and begin one."""
        self._done += self._cost
        self.what, self._cost = what, cost
        self.tell(0.0)

    @property
    def total(self) -> float:
        """The cost of all stages."""
        return self._total

    def skip(self, cost: float) -> None:
        """Count a stage that is not needed as done."""
        self._done += cost

    def tell(self, share: float, details: str = "") -> None:
        """Report the share of the present stage that is done, with details."""
        self._share = min(1.0, (self._done + share * self._cost) / self._total)
        self._report(f"{self.what}{DETAILS}{details}" if details else self.what, self._share)

    def say(self, words: str) -> None:
        """Add words to the present stage."""
        self._report(f"{self.what}: {words}", self._share)
