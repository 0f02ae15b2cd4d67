"""How a calibrated detector does on labelled texts: by kind of text, by length, and under attack."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import require_at_least, require_fraction, require_one_of
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Cell, Column, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._environment import environment
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.detect._detectors import calibrated, described, preamble, read_documents

COLUMNS = ("domain", "generator", "native", "length")


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Measure a calibrated detector on labelled texts: false positives and texts found, by column, by length, and under attack.

    Attributes:
        calibration: file that `tokenry detect calibrate` wrote.
        data: rows (JSONL, JSON, CSV, Parquet) with `text`, `label` (0 human, 1 machine) and any columns.
        by: column by which to report; can be repeated. `length` is made from the number of tokens.
        attacks: attack to try, such as homoglyph; can be repeated.
        rate: share of the places that an attack changes; by default that of the RAID benchmark.
        scorer: scoring model or classifier, where it has moved; by default the one in the calibration.
        reference: second model, likewise.
        seed: random seed of the attacks and of the intervals.
        batch_size: texts that are read at once.
    """

    calibration: Path = argument()
    data: Path = argument()
    by: tuple[str, ...] = option(COLUMNS, flag="--by", metavar="COLUMN")
    attacks: tuple[str, ...] = option((), flag="--attack", metavar="ATTACK")
    rate: float | None = None
    scorer: str | None = option(None, metavar="MODEL")
    reference: str | None = option(None, metavar="MODEL")
    seed: int = 0
    batch_size: int = 8
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(0, seed=self.seed)
        require_at_least(1, batch_size=self.batch_size)
        if self.rate is not None:
            require_fraction(self.rate, "rate")


def run(plan: Plan, progress: Progress) -> Result:
    """Judge the texts, as they are and attacked."""
    from tokenry.data import ATTACKS, detection_report
    from tokenry.data.detection_report import require_labelled

    for kind in plan.attacks:
        require_one_of(kind, tuple(ATTACKS), "an attack")
    rows = read_documents(plan.data)
    require_labelled(rows)  # refused before any model is loaded
    progress("loading the models", 0.0)
    detector = calibrated(plan.calibration, plan.scorer, plan.reference, plan.hardware, plan.batch_size)
    progress(f"scoring {plural(len(rows), 'text')}", 0.2)
    found = detection_report(detector, rows, plan.attacks, plan.by, rate=plan.rate, seed=plan.seed)
    measured = asdict(found)
    measured.pop("decisions")
    measured["tpr_at"] = [{"fpr": fpr, "tpr": tpr} for fpr, tpr in found.tpr_at.items()]
    data = {
        "kind": "detect report",
        "calibration": described(detector.calibration),
        **measured,
        "settings": plan_settings(plan),
        "environment": environment(plan.hardware.place()),
    }
    return Result(f"Detector on {plural(len(rows), 'labelled text')}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the rates by group and under attack, and how well the scores tell both kinds apart."""
    overall, calibration = data["overall"], data["calibration"]
    wrong = overall["false_positives"]
    blocks = preamble(calibration)
    if wrong["low"] > calibration["fpr"]:
        blocks.append(
            Text(
                f"On these texts the false-positive rate is {wrong['share']:.1%} (95 %: {wrong['low']:.1%} to {wrong['high']:.1%}), above the "
                f"{calibration['fpr']:.1%} of the calibration: they are other texts. Calibrate on human texts like these.",
                "warning",
            )
        )
    blocks.append(
        _rates("rates by group", "group", [("", overall), *((row["by"], row) for row in data["groups"])])
    )
    if data["attacks"]:
        blocks.append(
            _rates("under attack, at the same threshold", "attack", (("", row) for row in data["attacks"]))
        )
    auroc = data["auroc"]
    rows: list[tuple[str, str]] = [
        ("AUROC", f"{auroc['value']:.3f} (95 %: {auroc['low']:.3f} to {auroc['high']:.3f})"),
        *(
            (f"found at {row['fpr']:.1%} false positives of these texts", f"{row['tpr']:.1%}")
            for row in data["tpr_at"]
        ),
    ]
    if data["ece"] is not None:
        rows += [("calibration error (ECE)", f"{data['ece']:.3f}"), ("Brier score", f"{data['brier']:.3f}")]
    note = "AUROC says little about low rates of false positives, at which a detector is used."
    return [*blocks, Table("scores", ("what", "value"), rows, (note,))]


def _rates(title: str, first: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Table:
    return Table(
        title,
        (first, Column("false positives", "%", ".1f"), Column("found", "%", ".1f"), Column("undecidable", "%", ".1f")),
        [
            (
                f"{by}: {row['name']}" if by else row["name"],
                *(_cell(row[name]) for name in ("false_positives", "found", "undecidable")),
            )
            for by, row in rows
        ],
        ("Below each rate: the number of texts, and the exact 95 % interval.",),
    )  # fmt: skip


def _cell(counted: Mapping[str, Any]) -> Cell:
    note = f"{counted['events']} of {counted['texts']}"
    if counted["texts"]:
        note += f", {counted['low']:.0%} to {counted['high']:.0%}"
    return Cell(counted["share"], note)
