"""What a training run leaves on disk (`result.json`), parsed and written by one description of the format.

A comparison holds one run per weighing on the same model, data and seed; a report is drawn from it and from nothing else.
NLL is in nats per token, memory in megabytes, time in seconds.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenry.core.errors import UserError
from tokenry.core.files import read_json, write_json
from tokenry.core.stats import Estimate, Verdict, shown


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Paired(_Record):
    """Mean difference to another run on the same held-out items (negative = lower NLL than `to`)."""

    to: str
    difference: float
    standard_error: float
    samples: int

    @property
    def estimate(self) -> Estimate:
        """The difference with its 95 % interval."""
        return Estimate(self.difference, self.standard_error, self.samples)

    @property
    def verdict(self) -> Verdict:
        """Whether the NLL is shown to be lower, the other way round (`opposite`), or neither."""
        return shown(self.estimate.scaled(-1))


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

    kind: Literal["tune"] = "tune"
    model: str
    data: str
    created: str
    untrained_nll: Estimate | None = None
    notes: list[str] = Field(default_factory=list)
    settings: dict[str, Any]
    environment: dict[str, str]
    runs: list[Run]

    def save(self, path: Path) -> None:
        """Write the record to `path` as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "Comparison":
        """Read a record.

        Raises:
            UserError: the file is missing, is not JSON, or is not such a record.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{path} is not the record of a run ({where}: {first['msg']}): give the folder that `tokenry tune` wrote."
            ) from error
