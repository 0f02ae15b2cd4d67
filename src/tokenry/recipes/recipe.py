"""What a recipe is: the smallest honest experiment that can show, or fail to show, what a paper claims.

A claim is judged from its measurement against a fair control; a reproduction is shown only if every claim is.
verdict(reproduction) = all(verdict(claim) for claim in claims)
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from tokenry.core.files import write_json
from tokenry.core.progress import Progress

Scale = Literal["laptop", "paper"]
Verdict = Literal["shown", "not shown"]


def verdict(shown: bool) -> Verdict:
    """Put the outcome of a comparison in the words of a reproduction."""
    return "shown" if shown else "not shown"


@dataclass(frozen=True)
class Claim:
    """One sentence that a measurement can refute.

    Attributes:
        claim: the sentence.
        paper: the paper's own figure, with its unit; marked when it could not be checked against the paper.
        measured: the figure measured here, in the same unit, with its standard error where there is one.
        control: the figure of the fair control, measured in the same run.
        verdict: `verdict(measured beats control)`, computed by the recipe.
    """

    claim: str
    paper: str | float
    measured: str | float
    control: str | float
    verdict: Verdict

    def __post_init__(self) -> None:
        if self.verdict not in ("shown", "not shown"):
            raise ValueError(f"a verdict is 'shown' or 'not shown', got {self.verdict!r}.")


@dataclass(frozen=True)
class Reproduction:
    """What a recipe measured.

    Attributes:
        slug: the paper's slug in the catalogue.
        claims: at least one.
        settings: everything needed to run it again (model, data, seeds, scale, hyper-parameters).
        seconds: wall-clock time of the run.
        plots: the files it drew, relative to its output folder.
    """

    slug: str
    claims: tuple[Claim, ...]
    settings: Mapping[str, Any]
    seconds: float
    plots: tuple[Path, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.claims:
            raise ValueError(f"the reproduction of {self.slug} makes no claim, so nothing can be shown.")

    @property
    def verdict(self) -> Verdict:
        """Shown only if every claim is."""
        return verdict(all(claim.verdict == "shown" for claim in self.claims))

    def as_json(self) -> dict[str, Any]:
        """Return the object that `tokenry reproduce --json` prints and `result.json` holds."""
        return {
            "slug": self.slug,
            "verdict": self.verdict,
            "claims": [asdict(claim) for claim in self.claims],
            "settings": dict(self.settings),
            "seconds": self.seconds,
            "plots": [str(plot) for plot in self.plots],
        }

    def save(self, path: Path) -> None:
        """Write `as_json()` to `path`, atomically."""
        write_json(path, self.as_json())


@runtime_checkable
class Recipe(Protocol):
    """The experiment for one paper; a module of `tokenry.recipes` offers one as `RECIPE`."""

    slug: str
    title: str

    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Run the experiment, write its plots into `output`, and judge each claim from what was measured.

        Args:
            scale: `laptop` (minutes on two CPU cores) or `paper` (the paper's models and data, on GPUs).
            output: an existing folder.
            progress: told what is being done; see `Progress`.
        """
        ...
