"""All preference losses over the model's two propositions, and which asks for more than which."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.plans import option, plan_settings
from tokenry.report.blocks import Block, Section, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._output import OptionalOutput

CORE: Mapping[str, Any] = {"10": "v", "01": "x"}
_HEIGHTS = {"x": 0, "-": 1, "b": 1, "v": 2}


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """List the losses over W and L from the strictest to the weakest, with their formulas and those directly above them.

    Attributes:
        every: all 256 losses, not only the 16 that want the chosen response and not the rejected one.
        above: only this loss and those that it entails; a name such as CPO, or a formula.
    """

    every: bool = option(False, flag="--all")
    above: str | None = option(None, metavar="LOSS")


def run(plan: Plan, progress: Progress) -> Result:
    """Enumerate the losses and the entailments between them; no model is needed."""
    from tokenry.alignment import NAMED_LOSSES, Structure, lattice, name_of

    found = lattice(fixed_rows=None if plan.every else CORE)
    kept = set(range(len(found.marks)))
    if plan.above is not None:
        structure = Structure.parse(NAMED_LOSSES.get(plan.above, plan.above))
        if structure.variables != found.variables or structure.marks() not in found.marks:
            raise UserError(
                f"{plan.above} is not among the {len(kept)} losses of W and L listed here"
                + (": it names the reference." if plan.every else ": give --all, if it has no reference.")
            )
        lowest = found.marks.index(structure.marks())
        kept = {higher for lower, higher in found.entailments() if lower == lowest}
    names = [name_of(structure) for structure in found.structures]
    data = {
        "kind": "preference lattice",
        "losses": [
            {
                "marks": found.marks[index],
                "name": names[index],
                "formula": str(found.structures[index]),
                "height": sum(_HEIGHTS[mark] for mark in found.marks[index]),
                "above": [found.marks[cover] for cover in found.covers[index] if cover in kept],
            }
            for index in sorted(kept)
        ],
        "entailments": sum(lower in kept and higher in kept for lower, higher in found.entailments()),
        "settings": plan_settings(plan),
    }
    return Result("The lattice of preference losses", data, lay_out(data))


# --- layout --------------------------------------------------------------------------------------------------------------------------

_ROWS = (
    "The four marks are of the cases in which the model accepts none of the responses, the rejected one, the chosen one, and both. "
    "v counts for the loss, x against it, b for both sides, - for none. A loss that entails another asks for more: it is never the lower one."
)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """One table per height, the strictest losses first."""
    losses = data["losses"]
    title = {row["marks"]: row["name"] or row["marks"] for row in losses}
    heights = sorted({row["height"] for row in losses})
    lead = f"{plural(len(losses), 'loss', 'losses')}, {plural(data['entailments'], 'entailment')}, each loss with itself included."
    tables = [
        Table(
            "",
            ("loss", "marks", "formula", "directly above"),
            [
                (
                    title[row["marks"]],
                    row["marks"],
                    row["formula"],
                    ", ".join(title[marks] for marks in row["above"]),
                )
                for row in losses
                if row["height"] == height
            ],
        )
        for height in heights
    ]
    sections = [
        Section(f"Step {number} of {len(tables)}" + (": the strictest" if number == 1 else ""), [table])
        for number, table in enumerate(tables, start=1)
    ]
    return [Text(lead, "lead"), Text(_ROWS), *sections]
