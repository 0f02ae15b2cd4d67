"""Verdicts on texts, each below the measured rate of false positives."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Heatmap, Section, Table, Text, Token
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._environment import environment
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.detect._detectors import calibrated, described, preamble, read_documents


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Judge texts by a calibrated detector: human, machine or undecidable, with the passages behind it.

    Attributes:
        calibration: file that `tokenry detect calibrate` wrote.
        texts: one text file, a folder of them, or rows (JSONL, JSON, CSV, Parquet) with `text`.
        scorer: scoring model or classifier, where it has moved; by default the one in the calibration.
        reference: second model, likewise.
        maps: number of texts that are drawn passage by passage.
        batch_size: texts that are read at once.
    """

    calibration: Path = argument()
    texts: Path = argument()
    scorer: str | None = option(None, metavar="MODEL")
    reference: str | None = option(None, metavar="MODEL")
    maps: int = 5
    batch_size: int = 8
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(0, maps=self.maps)
        require_at_least(1, batch_size=self.batch_size)


def run(plan: Plan, progress: Progress) -> Result:
    """Load the models of the calibration and judge the texts."""
    rows = read_documents(plan.texts)
    progress("loading the models", 0.0)
    detector = calibrated(plan.calibration, plan.scorer, plan.reference, plan.hardware, plan.batch_size)
    progress(f"scoring {plural(len(rows), 'text')}", 0.3)
    decisions = detector.judge([row["text"] for row in rows])
    maps = [detector.detector.spans(row["text"]) for row in rows[: plan.maps]]
    data = {
        "kind": "detect score",
        "calibration": described(detector.calibration),
        "texts": [
            {"name": row["name"], **{name: _number(value) for name, value in asdict(decision).items()}}
            for row, decision in zip(rows, decisions, strict=True)
        ],
        "spans": [[{"text": piece, "score": _number(score)} for piece, score in pieces] for pieces in maps],
        "settings": plan_settings(plan),
        "environment": environment(plan.hardware.place()),
    }
    return Result(f"Verdicts on {plural(len(rows), 'text')}", data, lay_out(data), only_saved=("spans",))


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the measured rate, the verdicts below it, and the first texts passage by passage."""
    calibration, texts = data["calibration"], data["texts"]
    name = calibration["score"]
    counts = ", ".join(
        f"{sum(text['outcome'] == outcome for text in texts)} {outcome}"
        for outcome in ("machine", "human", "undecidable")
    )
    blocks: list[Block] = [
        *preamble(calibration),
        Table(
            f"verdicts: {counts}",
            ("text", "verdict", Column("p value", "", ".4f"), Column("probability", "", ".2f"), Column("score", "", ".3f"), "tokens"),
            [
                (text["name"], text["outcome"], text["p_value"], text["probability"], text["score"], text["tokens"])
                for text in texts
            ],
            notes=(
                "The p value is the share of the human texts that score at least as high. The probability holds where human and machine texts "
                "are as frequent as in the calibration.",
            ),
        ),
    ]  # fmt: skip
    maps = [
        Heatmap(
            f"{text['name']}: {text['outcome']}",
            [("", [_token(piece, name) for piece in pieces])],
        )
        for text, pieces in zip(texts, data["spans"], strict=False)
        if pieces
    ]
    if maps:
        note = Text(
            "Coloured by the score of the passage around each place. A passage is short: single colours say less than the text."
        )
        blocks.append(Section("Passage by passage", [note, *maps]))
    return blocks


def _token(piece: Mapping[str, Any], name: str) -> Token:
    return Token(piece["text"], signals={} if piece["score"] is None else {name: piece["score"]})
