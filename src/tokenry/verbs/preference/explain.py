"""What a preference loss says: its formula in words, which published losses it entails, and what it does to a pair."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Findings, Section, Series, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._output import OptionalOutput

if TYPE_CHECKING:
    from tokenry.alignment import Structure
    from tokenry.alignment.preference_losses import PreferenceLoss


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Say in words what a preference loss asks for, what it entails, and how it moves the two responses of a pair.

    Attributes:
        loss: name with options such as cpo:sft_weight=0, the name of a formula such as cCPO, or a formula such as "L -> W | given W or L".
        logp: log-probability of a response under the reference, and of the rejected one under the model, in nats.
        tokens: tokens of a response.
        widest: margins log π_w − log π_l from minus this to this, in nats.
    """

    loss: str = argument()
    logp: float = -40.0
    tokens: int = 20
    widest: int = 20

    def __post_init__(self) -> None:
        require_at_least(1, tokens=self.tokens, widest=self.widest)
        if not self.logp + self.widest < 0:
            raise UserError(
                f"logp + widest must be below 0, as log-probabilities are, got {self.logp:g} and {self.widest}."
            )


def run(plan: Plan, progress: Progress) -> Result:
    """Read the loss, compare it with the published ones, and compute its multipliers; no model is needed."""
    from tokenry.alignment import describe, name_of, preference_loss
    from tokenry.alignment.preference_losses import name_of_loss

    loss = preference_loss(plan.loss)
    structure = loss.structure
    data: dict[str, Any] = {
        "kind": "preference explain",
        "loss": name_of_loss(loss),
        "about": _about(loss),
        "equation": loss.equation,
        "formula": None if structure is None else str(structure),
        "published_as": None if structure is None else name_of(structure),
        "words": None if structure is None else describe(structure),
        "relations": [] if structure is None else _relations(structure),
        "uses_reference": loss.uses_reference,
        "uses_length": loss.uses_length,
        "multipliers": _multipliers(loss, plan),
        "settings": plan_settings(plan),
    }
    return Result(f"The preference loss {data['loss']}", data, lay_out(data))


def _about(loss: "PreferenceLoss") -> str:
    return (type(loss).__doc__ or "").partition("\n")[0]


def _relations(structure: "Structure") -> list[dict[str, str]]:
    """How the structure relates to every published loss over the same variables."""
    from tokenry.alignment import NAMED_LOSSES, Structure, relation

    named = {name: Structure.parse(text) for name, text in NAMED_LOSSES.items()}
    return [
        {"loss": name, "formula": str(other), "relation": relation(structure, other)}
        for name, other in named.items()
        if set(other.variables) == set(structure.variables)
    ]


def _multipliers(loss: "PreferenceLoss", plan: Plan) -> list[dict[str, float]]:
    """Loss and multipliers over the margin, as the chosen response moves."""
    import torch

    from tokenry.alignment import Responses, multipliers

    margins = torch.linspace(-plan.widest, plan.widest, 41, dtype=torch.float64)
    level = torch.full_like(margins, plan.logp)
    length = torch.full_like(margins, plan.tokens)
    found = multipliers(loss, Responses(level + margins, level, length), Responses(level, level, length))
    rows = torch.stack([margins, *found], dim=1).tolist()
    return [dict(zip(("margin", "loss", "chosen", "rejected"), row, strict=True)) for row in rows]


# --- layout --------------------------------------------------------------------------------------------------------------------------

_RELATIONS = {
    "equivalent": "says the same",
    "entails": "is entailed: this loss asks for more, and is never the lower one",
    "entailed": "entails this loss: it asks for more, and is never the lower one",
    "incomparable": "neither entails this loss nor is entailed by it",
}
_MULTIPLIERS = (
    "A gradient step on the loss is d_w times the gradient of the chosen response's log-probability, minus d_l times that of the rejected "
    "one's. Where d_w is d_l, the loss fixes only the difference of the two, and both may rise or fall together; a larger d_w / d_l lets "
    "the chosen one rise more easily and the rejected one fall less easily."
)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """The loss in letters and words, what it entails, and its multipliers over the margin."""
    read = {"loss": data["equation"], "formula": data["formula"], "in words": data["words"]}
    needs = [name for name in ("reference", "length") if data[f"uses_{name}"]]
    read["needs"] = " and ".join(needs) or "log-probabilities alone"
    said = [(name, str(value)) for name, value in read.items() if value is not None]
    if data["formula"] is None:
        said.append(("formula", "none, as the loss is no link of one log-ratio"))
    blocks: list[Block] = [Text(data["about"], "lead"), Findings(said)]
    others = [
        (row["loss"], _RELATIONS[row["relation"]])
        for row in data["relations"]
        if row["loss"] != data["published_as"]
    ]
    if others:
        blocks.append(Section("Beside the published losses", [Findings(others)]))
    return [*blocks, Section("What it does to a pair", _does(data))]


def _does(data: Mapping[str, Any]) -> list[Block]:
    rows = data["multipliers"]
    margins = [row["margin"] for row in rows]
    figure = Figure(
        "Multipliers over the margin",
        "lines",
        [
            Series("d_w, chosen", margins, [row["chosen"] for row in rows]),
            Series("d_l, rejected", margins, [row["rejected"] for row in rows]),
        ],
        "margin log π_w − log π_l (nats)",
        "multiplier",
        f"multipliers of {data['loss']} at margins from {margins[0]:g} to {margins[-1]:g} nats",
    )
    table = Table(
        "",
        (
            Column("margin", "nats", ".1f"),
            *(Column(name, format=".4f") for name in ("loss", "d_w", "d_l", "d_w / d_l")),
        ),
        [
            (row["margin"], row["loss"], row["chosen"], row["rejected"], _ratio(row))
            for row in rows[:: len(rows) // 8]
        ],
    )
    return [Text(_MULTIPLIERS), table, figure]


def _ratio(row: Mapping[str, float | int]) -> float | None:
    return row["chosen"] / row["rejected"] if row["rejected"] else None
