"""Runs against their control: the paired difference of each in a sentence, in a cell, and in one figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenry.core.stats import Estimate, Verdict
from tokenry.report.blocks import Cell, Figure
from tokenry.report.writing import decimals_of, written_number
from tokenry.verbs._estimates import estimate_series


@dataclass(frozen=True)
class AgainstControl:
    """The difference of a run to its control, on the same items.

    Attributes:
        run: name of the run.
        to: name of the control.
        difference: the run's mean minus the control's.
        verdict: whether the run is shown to be better.
        better: what better is.
    """

    run: str
    to: str
    difference: Estimate
    verdict: Verdict
    better: Literal["lower", "higher"]

    @property
    def _way(self) -> str | None:
        worse = "higher" if self.better == "lower" else "lower"
        return {"shown": self.better, "opposite": worse}.get(self.verdict)

    def sentence(self, items: str, decimals: int = 3) -> str:
        """What the difference shows, in words; `items` names what was paired."""
        found = self.difference
        sign = "+" if found.value > 0 else ""
        signed = written_number(found.value, f"{sign},.{decimals}f")
        error = written_number(found.standard_error, f",.{decimals}f")
        if self._way:
            size = written_number(abs(found.value), f",.{decimals}f")
            return f"{self._way} than {self.to} by {size} ± {error}: shown"
        if self.verdict == "too few":
            return f"too few {items} to say whether it differs from {self.to} ({signed} ± {error}, n = {found.samples})"
        return f"no difference to {self.to} can be told ({signed} ± {error})"

    def cell(self) -> Cell:
        """The difference with its verdict."""
        judged = {"too few": "too few to say", "not shown": "cannot be told"}
        words = judged.get(self.verdict, f"{self._way}: shown")
        return Cell(self.difference, f"{words}, n = {self.difference.samples:,}")


def sentences(differences: Sequence[AgainstControl], items: str) -> list[tuple[str, str]]:
    """The name of every run and what its difference shows, with as many decimals as the smallest error needs."""
    decimals = decimals_of(found.difference.standard_error for found in differences)
    return [(found.run, found.sentence(items, decimals)) for found in differences]


def figures(differences: Sequence[AgainstControl], title: str, x_label: str, style: str) -> list[Figure]:
    """The differences with their intervals; none where no interval is known."""
    drawn = {found.run: found.difference for found in differences if math.isfinite(found.difference.low)}
    if not drawn:
        return []
    said = "; ".join(f"{name}: {found.with_interval(style)}" for name, found in drawn.items())
    series = estimate_series("difference", list(drawn), list(drawn.values()))
    summary = f"Paired differences to the control: {said}"
    return [Figure(title, "intervals", [series], x_label=x_label, summary=summary, reference=0)]
