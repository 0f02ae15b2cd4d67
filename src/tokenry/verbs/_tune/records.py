"""What `tokenry tune` leaves on disk (`result.json`, `run.json`), parsed and written by one description of the format.

A comparison holds one run per weighing on the same model, data and seed; everything that is drawn is drawn from it.
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
    curves: list[dict[str, float]] = Field(default_factory=list)
    share_by_class: dict[str, ClassShare] = Field(default_factory=dict)
    histograms: dict[str, Histogram] = Field(default_factory=dict)
    examples: list[Example] = Field(default_factory=list)


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


def read_comparison(data: Mapping[str, Any], where: str = "it") -> Comparison:
    """Understand a record.

    Args:
        data: what `result.json` holds.
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
