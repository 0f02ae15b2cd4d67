"""A detector of machine text, calibrated on human texts of yours and written to a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import require_folder_name
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Series, Table
from tokenry.report.result import Result
from tokenry.report.text import label
from tokenry.report.writing import plural
from tokenry.verbs._environment import environment
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.detect._detectors import described, load_detector, preamble, read_texts

CALIBRATION_FILE = "calibration.json"
_BINS = 24


@dataclass(frozen=True)
class Plan:
    """Calibrate a detector of machine text on human texts like those that it will judge, for a rate of false positives.

    Attributes:
        human: human texts: a folder of text files, or rows (JSONL, JSON, CSV, Parquet) with `text`.
        machine: machine texts, likewise: for the share that is found and for probabilities.
        scorer: language model that scores: `embedded`, a folder, or a hub name.
        reference: second language model with the same tokenizer.
        classifier: encoder fine-tuned on human (0) and machine (1) texts, in the place of language models.
        score: deciding score; by default binoculars with two models, else fast_detectgpt.
        fpr: largest probability that a human text is called a machine's.
        shortest: length in tokens below which nothing is said.
        method: curve of the probabilities.
        max_tokens: length of the windows in which longer texts are read.
        normalise: undo look-alike letters and invisible characters before scoring.
        forced: calibrate on fewer texts than the rate can be measured on.
        batch_size: texts that are read at once.
        output: folder for calibration.json, result.json and report.html.
    """

    human: Path = argument()
    machine: Path | None = option(None, metavar="FILE")
    scorer: str = option("embedded", metavar="MODEL")
    reference: str | None = option(None, metavar="MODEL")
    classifier: str | None = option(None, metavar="MODEL")
    score: str | None = None
    fpr: float = 0.01
    shortest: int = 50
    method: Literal["platt", "temperature", "isotonic"] = "platt"
    max_tokens: int = 512
    normalise: bool = True
    forced: bool = False
    batch_size: int = 8
    hardware: Hardware = Hardware()
    output: Path = Path("runs/detector")

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the calibration")
        require_at_least(1, shortest=self.shortest, batch_size=self.batch_size)
        require_at_least(2, max_tokens=self.max_tokens)
        if not 0 < self.fpr < 1:
            raise UserError(f"fpr must be between 0 and 1, both left out, got {self.fpr}.")
        if self.classifier is not None and (self.reference is not None or self.score is not None):
            raise UserError("a classifier has one score and no reference: leave out --reference and --score.")


def run(plan: Plan, progress: Progress) -> Result:
    """Score the human and the machine texts, and choose the thresholds."""
    human = read_texts(plan.human)
    machine = [] if plan.machine is None else read_texts(plan.machine)
    models = [name for name in (plan.scorer, plan.reference) if name is not None]
    settings: dict[str, Any] = {"max_tokens": plan.max_tokens, "normalise": plan.normalise}
    if plan.classifier is not None:
        models, settings = [plan.classifier], settings | {"paper_pipeline": False}
    progress("loading the models", 0.0)
    detector = load_detector(
        models,
        plan.classifier is not None,
        settings,
        plan.hardware,
        plan.batch_size,
        (plan.score,) if plan.score else (),
    )
    progress(f"scoring {plural(len(human) + len(machine), 'text')}", 0.2)
    made = detector.calibrate(
        human,
        plan.fpr,
        machine_texts=machine,
        method=plan.method,
        shortest=plan.shortest,
        forced=plan.forced,
    ).calibration
    data = {
        "kind": "detect calibrate",
        "calibration": described(made),
        "scores": {"human": list(made.human_scores), "machine": list(made.machine_scores)},
        "settings": plan_settings(plan),
        "environment": environment(plan.hardware.place()),
    }
    title = f"Detector by {label(made.score)}, calibrated on {plural(made.texts, 'human text')}"
    return Result(title, data, lay_out(data), files={CALIBRATION_FILE: made.text()}, only_saved=("scores",))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the measured rate, the thresholds, and the scores of both kinds of text."""
    calibration, scores = data["calibration"], data["scores"]
    human_up_to = calibration["human_up_to"]
    return [
        *preamble(calibration),
        Table(
            "what is called what",
            ("verdict", Column("score", "", ".4g"), "meaning"),
            [
                ("machine", calibration["machine_above"], f"above this: at most {calibration['fpr']:.2%} of human texts"),
                ("human", human_up_to, "up to this: ordinary among the human texts"),
                ("undecidable", None, f"between, and below {calibration['shortest']} tokens"),
            ],
            notes=(f"{plural(calibration['left_out'], 'human text')} left out as too short or without a score.",)
            if calibration["left_out"]
            else (),
        ),
        distribution(calibration["score"], scores["human"], scores["machine"], calibration["machine_above"]),
    ]  # fmt: skip


def distribution(name: str, human: Sequence[float], machine: Sequence[float], threshold: float) -> Figure:
    """Human scores upwards, machine scores downwards."""
    edges = np.histogram_bin_edges(np.array([*human, *machine]), _BINS)
    series = [Series("human", edges.tolist(), np.histogram(human, edges)[0].tolist())]
    if machine:
        series.append(Series("machine", edges.tolist(), np.histogram(machine, edges)[0].tolist()))
    return Figure(
        f"{label(name)} of the calibration texts",
        "histogram",
        series,
        label(name),
        "texts",
        f"{label(name)} of {plural(len(human), 'human text')} and {plural(len(machine), 'machine text')}; machine above {threshold:.4g}.",
    )
