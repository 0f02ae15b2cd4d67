"""`tokenry papers`: the forty papers, and which are implemented."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokenry.core.io.progress import Progress
from tokenry.papers import catalogue, outcome
from tokenry.report.blocks import Block, Table
from tokenry.report.result import Result


@dataclass(frozen=True)
class Plan:
    """List the forty papers and say which of them can be reproduced.

    Attributes:
        available: list only the papers with a recipe.
    """

    available: bool = False


def run(plan: Plan, progress: Progress) -> Result:
    """Read the catalogue."""
    papers = [asdict(paper) for paper in catalogue() if paper.available or not plan.available]
    data = {"kind": "papers", "papers": papers}
    return Result("Papers", data, lay_out(data), printed_part="papers")


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """One row per paper."""
    papers = data["papers"]
    rows = [
        (
            f"{paper['number']:02d}",
            paper["slug"],
            paper["title"],
            paper["arxiv"],
            paper["module"] or None,
            outcome(paper["verdict"], paper["shown"], paper["of"])
            or ("not run yet" if paper["available"] else "no recipe yet"),
        )
        for paper in papers
    ]
    available = sum(paper["available"] for paper in papers)
    title = f"{available} of {len(papers)} can be reproduced: tokenry reproduce SLUG"
    return [Table(title, ("no.", "slug", "title", "arXiv", "module", "stored run"), rows)]
