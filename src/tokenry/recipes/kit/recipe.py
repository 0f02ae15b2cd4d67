"""A recipe: the smallest honest experiment that can show, or fail to show, what a paper claims.

    @recipe("pitome", laptop=..., paper=...)
    def reproduce(run):
        ...                                   measure run.sizes, report run.progress, fill run.settings, draw with run.figure
        yield Claim.above(...)                the headline first, then at most five more

The file's name registers it; title and number come from the catalogue; the kit measures time and writes the result.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.io.quiet import quiet_libraries
from tokenry.papers import Scale, paper
from tokenry.recipes.kit.claims import MOST_CLAIMS, Claim, Reproduction


@dataclass
class RecipeRun:
    """One run of a recipe.

    Attributes:
        scale: `laptop` (minutes on two CPU cores) or `paper` (the paper's models and data, on GPUs).
        sizes: sizes of the experiment at this scale.
        output: an existing folder.
        progress: receives the present stage and the share done; see `Progress`.
        settings: filled by the experiment: everything needed to repeat it, and the figures behind the claims.
        plots: files drawn, relative to `output`.
        data: folder of data for a recipe that takes some; by default those that it makes or that libraries bring.
    """

    slug: str
    scale: Scale
    sizes: Any
    output: Path
    progress: Progress
    settings: dict[str, Any] = field(default_factory=dict)
    plots: list[Path] = field(default_factory=list)
    data: Path | None = None

    @contextmanager
    def figure(self, width: float | int, height: float | int) -> Iterator[Figure]:
        """Yield an empty figure, in inches, and save what was drawn as SLUG.png."""
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        path = Path(f"{self.slug}.png")
        figure.savefig(self.output / path, dpi=150)
        self.plots.append(path)


Experiment = Callable[[RecipeRun], Iterable[Claim]]


@dataclass(frozen=True)
class Recipe:
    """The experiment for one paper.

    Attributes:
        slug: slug of the paper in the catalogue.
        experiment: function that yields the claims, the headline first.
        scales: sizes of the experiment at each scale.
        takes: name of the data that a folder may hold for it; empty where it takes none.
    """

    slug: str
    experiment: Experiment
    scales: Mapping[Scale, Any]
    takes: str = ""

    @property
    def title(self) -> str:
        """Title of the paper."""
        return paper(self.slug).title

    def run(self, scale: Scale, output: Path, progress: Progress, data: Path | None = None) -> Reproduction:
        """Run the experiment; its plots go into `output`, an existing folder.

        Raises:
            UserError: data for a recipe that takes none.
        """
        if data is not None and not self.takes:
            raise UserError(f"the recipe of {self.slug} takes no data: leave --data out.")
        started, used = time.perf_counter(), _cpu_seconds()
        run = RecipeRun(self.slug, scale, self.scales[scale], output, progress, data=data)
        with quiet_libraries():
            claims = tuple(self.experiment(run))
        if len(claims) > MOST_CLAIMS:
            raise ValueError(
                f"{self.slug} makes {len(claims)} claims: a headline and at most {MOST_CLAIMS - 1} more."
            )
        told = {} if data is None else {"data": f"{self.takes}, {data}"}
        settings = {"scale": scale, **told, **run.settings}
        seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - used
        return Reproduction(self.slug, claims, settings, seconds, cpu_seconds, tuple(run.plots))


def _cpu_seconds() -> float:
    """CPU seconds of this process and of the ended ones that it waited for."""
    return sum(os.times()[:4])


def recipe(slug: str, *, laptop: Any, paper: Any, takes: str = "") -> Callable[[Experiment], Recipe]:
    """Turn a function that yields the claims of a run into the recipe of a paper.

    Args:
        slug: slug of the paper in the catalogue.
        laptop: sizes that take minutes on two CPU cores.
        paper: sizes of the paper's models and data.
        takes: name of the data that the experiment reads from `run.data` where it is given.
    """
    return lambda experiment: Recipe(slug, experiment, {"laptop": laptop, "paper": paper}, takes)
