"""A difference of two measurements on the same items, with the name of what it is a difference to."""

from dataclasses import dataclass

from tokenry.core.stats.estimate import Estimate
from tokenry.core.stats.verdicts import Verdict, shown


@dataclass(frozen=True)
class Paired:
    """Mean difference to another run on the same held-out items (negative = lower NLL than `to`)."""

    to: str
    difference: float
    standard_error: float
    samples: int

    @property
    def estimate(self) -> Estimate:
        """The difference with its 95 % interval."""
        return Estimate(self.difference, self.standard_error, self.samples)

    @property
    def verdict(self) -> Verdict:
        """Whether the NLL is shown to be lower, the other way round (`opposite`), or neither."""
        return shown(self.estimate.scaled(-1))
