"""The files that `tokenry tune` leaves on disk (`result.json`, `run.json`), parsed and written by one description of the format.

A comparison holds one run per weighing on the same model, data and seed; tables and charts are made from it alone.
NLL is in nats per token, memory in megabytes, time in seconds.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenry.core.errors import UserError
from tokenry.core.stats import Estimate, Paired


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassShare(_Record):
    """How many response tokens of one token class there were, and the weight they were learned with, summed."""

    tokens: int
    kept: float


class Histogram(_Record):
    """Counts of one signal between `edges` (one more edge than counts), for kept and dropped tokens."""

    edges: list[float]
    kept: list[int]
    dropped: list[int]


class ReportToken(_Record):
    """One token of an example: its text, whether it may be learned from, its weight and every signal known about it."""

    text: str
    learnable: bool
    weight: float | None = None
    token_class: str | None = None
    signals: dict[str, float] = Field(default_factory=dict)


class Example(_Record):
    """One training sample, token by token."""

    title: str
    tokens: list[ReportToken]


class Retained(_Record):
    """NLL on data that were not trained on: before training, after it, and their paired difference (above 0: forgotten)."""

    name: str
    before: Estimate
    after: Estimate
    paired: Paired


class Answer(_Record):
    """The answer to a held-out question, and whether its verifier calls it right."""

    question: str
    answer: str
    right: bool


class Run(_Record):
    """One weighing: what it cost, what it learned from, and what came of it on held-out data."""

    name: str
    weighing: str
    tokens_learned: float
    share_kept: float
    steps: int
    seconds_per_step: float
    peak_memory_mb: float | None = None
    held_out_nll: Estimate | None = None
    bits_per_byte: float | None = None
    accuracy: Estimate | None = None
    paired: Paired | None = None
    retained: list[Retained] = Field(default_factory=list)
    answers: list[Answer] = Field(default_factory=list)
    curves: list[dict[str, float]] = Field(default_factory=list)
    share_by_class: dict[str, ClassShare] = Field(default_factory=dict)
    histograms: dict[str, Histogram] = Field(default_factory=dict)
    examples: list[Example] = Field(default_factory=list)


class Judgement(_Record):
    """An entry of a race at a rung: its NLL on the validation part, and its difference to the leader there.

    `trimmed` leaves out the fifth of the items that differ most either way; `out` says why it goes, if it goes.
    """

    name: str
    nll: Estimate
    mean: Estimate
    trimmed: Estimate
    out: Literal["", "worse", "no seat"] = ""


class Heat(_Record):
    """One rung of a race: every entry was judged after `decay` steps of its own behind `step`."""

    step: int
    decay: int
    leader: str
    disagreeing: str = ""
    judged: list[Judgement]


class Race(_Record):
    """How the weighing was found. `price` is in plain runs, `spent` what it came to by the same count, `ahead` the part of passes.

    `reasons` say why entries were `left_out`. `trusted` counts the trusted samples by their use, where they were split. `robust` says that the validation items are as noisy as the training data, so that the trimmed mean decides.
    """

    entries: dict[str, str]
    left_out: list[str]
    begins: int
    validation: int
    robust: bool
    price: float
    spent: float
    heats: list[Heat]
    winner: str
    control: str
    final: Judgement | None = None
    ahead: float = 0.0
    trusted: dict[str, int] = Field(default_factory=dict)
    reasons: dict[str, str] = Field(default_factory=dict)


class Seeds(_Record):
    """Differences of held-out NLL between a weighing and the control under several seeds and orders.

    `estimate` holds the variance over seeds and over items together.
    """

    name: str
    to: str
    seeds: list[int]
    paired: list[Paired]
    estimate: Estimate


class Comparison(_Record):
    """Everything `tokenry tune` measured: the settings, the machine's software, and one `Run` per weighing.

    `notes` say what of the data was cut, skipped or not read.
    """

    model_config = ConfigDict(extra="ignore")  # what is saved also has a title

    kind: Literal["tune"] = "tune"
    model: str
    data: str
    created: str
    untrained_nll: Estimate | None = None
    notes: list[str] = Field(default_factory=list)
    settings: dict[str, Any]
    environment: dict[str, str]
    runs: list[Run]
    race: Race | None = None
    seeds: Seeds | None = None

    @property
    def chosen(self) -> str:
        """Name of the run whose model is the result: the winner of the race, else the weighing asked for, or plain fine-tuning."""
        if self.race:
            return self.race.winner
        asked_for = self.settings["weighing"].replace(":", " ")
        return asked_for if any(run.name == asked_for for run in self.runs) else self.runs[0].name


def read_comparison(data: Mapping[str, Any], where: str = "it") -> Comparison:
    """Understand a record.

    Args:
        data: content of `result.json`.
        where: its name, for the error message.
    """
    try:
        return Comparison.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{where} is not the record of a run ({place}: {first['msg']}): give the folder that `tokenry tune` wrote."
        ) from error
