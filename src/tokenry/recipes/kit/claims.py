"""The result of a reproduction: its headline claim, the other claims, and the verdict on each.

The headline is the main claim of the paper's abstract, named before the run; its verdict is that of the reproduction. Every claim is
judged from a measurement against a fair control in the same run, by `core.stats`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenry.core.io.files import write_json
from tokenry.core.io.schema import SCHEMA
from tokenry.core.stats import (
    FEWEST_ITEMS,
    VERDICTS,
    Values,
    Verdict,
    all_of,
    estimate_of_mean,
    paired_difference,
    shown,
)
from tokenry.papers import outcome

MOST_CLAIMS = 6


@dataclass(frozen=True)
class Claim:
    """One sentence that a measurement can refute.

    Attributes:
        paper: the paper's own figure, with its unit; None if the paper gives none.
        measured: the figure measured here, in the same unit, with its standard error where there is one.
        control: the figure of the fair control, measured in the same run.
        verdict: what the measurement shows.
    """

    claim: str
    paper: str | float | None
    measured: str | float
    control: str | float
    verdict: Verdict

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"a verdict is one of {', '.join(VERDICTS)}, got {self.verdict!r}.")

    @classmethod
    def above(
        cls,
        claim: str,
        ours: Values,
        theirs: Values,
        against: str,
        *,
        least: float | int = 0.0,
        lower: bool = False,
        fewest: int = FEWEST_ITEMS,
        spec: str = ".1f",
        unit: str = "",
        paper: str | float | None = None,
    ) -> "Claim":
        """Claim that our values are above those of the control, unit by unit in the same order.

        Args:
            ours: one value per sampling unit.
            theirs: the control's.
            against: name of the control.
            least: margin that the claim states, in the unit of the values.
            lower: whether the claim is that our values are below.
            fewest: number of units below which the verdict is `too few`.
            spec: format of the figures.
            unit: unit written after the figures.
            paper: the paper's own figure.
        """
        difference = paired_difference(ours, theirs)
        mine, control = estimate_of_mean(ours).value, estimate_of_mean(theirs).value
        return cls(
            claim,
            paper,
            measured=f"{mine:{spec}}{unit} (difference {difference:+{spec}}, n = {difference.samples:,})",
            control=f"{control:{spec}}{unit} ({against})",
            verdict=shown(difference.scaled(-1 if lower else 1), least, fewest),
        )

    @classmethod
    def above_everywhere(
        cls,
        claim: str,
        ours: Sequence[Values],
        theirs: Sequence[Values],
        against: str,
        *,
        spec: str = ".1f",
        unit: str = " %",
        paper: str | float | None = None,
    ) -> "Claim":
        """Claim that our values are above those of the control at each of several settings; arguments as in `above`."""
        differences = [paired_difference(*pair) for pair in zip(ours, theirs, strict=True)]
        mine, controls = (
            ", ".join(f"{estimate_of_mean(values).value:{spec}}" for values in side)
            for side in (ours, theirs)
        )
        said = ", ".join(f"{difference:+{spec}}" for difference in differences)
        return cls(
            claim,
            paper,
            measured=f"{mine}{unit} (differences {said}, n = {differences[0].samples:,})",
            control=f"{controls}{unit} ({against})",
            verdict=all_of(map(shown, differences)),
        )


@dataclass(frozen=True)
class Reproduction:
    """The measurements of a recipe.

    Attributes:
        slug: the paper's slug in the catalogue.
        claims: the headline, and at most five more.
        settings: everything needed to run it again (model, data, seeds, scale, hyper-parameters).
        seconds: wall-clock time of the run.
        cpu_seconds: CPU time of the run, with that of the processes that it waited for.
        plots: the files it drew, relative to its output folder.
    """

    slug: str
    claims: tuple[Claim, ...]
    settings: Mapping[str, Any]
    seconds: float
    cpu_seconds: float
    plots: tuple[Path, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.claims:
            raise ValueError(f"the reproduction of {self.slug} makes no claim, so nothing can be shown.")

    @property
    def headline(self) -> Claim:
        """The main claim of the paper's abstract."""
        return self.claims[0]

    @property
    def verdict(self) -> Verdict:
        """Verdict of the headline."""
        return self.headline.verdict

    @property
    def shown(self) -> int:
        """Number of claims that are shown, including the headline."""
        return sum(claim.verdict == "shown" for claim in self.claims)

    @property
    def outcome(self) -> str:
        """The verdict of the headline and the number of claims shown, in words."""
        return outcome(self.verdict, self.shown, len(self.claims))

    def as_json(self) -> dict[str, Any]:
        """Return the object that `tokenry reproduce --json` prints and `result.json` holds."""
        return {
            "schema": SCHEMA,
            "kind": "reproduce",
            "slug": self.slug,
            "verdict": self.verdict,
            "headline": self.headline.claim,
            "shown": self.shown,
            "of": len(self.claims),
            "claims": [asdict(claim) for claim in self.claims],
            "settings": dict(self.settings),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "plots": [str(plot) for plot in self.plots],
        }

    def save(self, path: Path) -> None:
        """Write `as_json()` to `path`, atomically."""
        write_json(path, self.as_json())
