"""What `tokenry compress vision` leaves on disk (`result.json`), parsed and written by one description of the format.

One model on one folder of images: the unpatched model, and one `Reduced` per method and setting, timed by turns in one run.
FLOPs are multiply-adds of the layers for one image, memory is in megabytes, time in seconds.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenry.core.errors import UserError
from tokenry.core.files import read_json, write_json
from tokenry.core.stats import Estimate


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Spread(_Record):
    """The median of several rounds, with their quartiles."""

    median: float
    lower: float
    upper: float


class Speed(_Record):
    """What one model takes: images per second of wall time and of CPU time (medians), and the tensors of one forward at their most."""

    images_per_second: float
    images_per_cpu_second: float
    peak_memory_mb: float


class Unpatched(_Record):
    """The model as it is: what everything is compared with."""

    tokens: int
    flops: int
    speed: Speed
    accuracy: Estimate | None = None


class Reduced(_Record):
    """The model with one method at one setting.

    Attributes:
        name: method and setting, as a person would say it.
        method: its name on the command line.
        options: everything it was made with.
        token_counts: tokens that enter each layer, and those that leave the last.
        flops: of the layers for one image.
        speed: of the patched model.
        speedup: unpatched over patched wall time, round by round.
        cpu_speedup: the same for CPU time, median.
        reduction_share: part of the patched model's time that goes into choosing, merging and dropping tokens.
        agreement: with the unpatched model, see `VisionRun.agreement_of`; None for a single image.
        accuracy: share of the labelled images whose class is right.
        accuracy_change: patched minus unpatched on the same images.
        finding: what came of it, in words.
    """

    name: str
    method: str
    options: dict[str, Any]
    token_counts: list[int]
    flops: int
    speed: Speed
    speedup: Spread
    cpu_speedup: float
    reduction_share: float
    agreement: Estimate | None = None
    accuracy: Estimate | None = None
    accuracy_change: Estimate | None = None
    finding: str


class Panel(_Record):
    """What became of the patches of one image after one layer: the place each went to, -1 for dropped ones."""

    setting: str
    layer: int
    places: list[int]


class Picture(_Record):
    """One image as the model sees it (base64 of a JPEG), its patches row by row, and what became of them."""

    title: str
    image: str
    rows: int
    columns: int
    panels: list[Panel]


class VisionRun(_Record):
    """Everything `tokenry compress vision` measured.

    `agreement_of` says what agreement is: the share of images with the same `top-1` class, or the mean cosine of the `features`.
    `findings` names a setting (in a sweep a method) and says what came of it.
    """

    kind: Literal["compress vision"] = "compress vision"
    model: str
    images: str
    number_of_images: int
    created: str
    agreement_of: Literal["top-1", "features"]
    swept: bool
    settings: dict[str, Any]
    environment: dict[str, str]
    notes: list[str] = Field(default_factory=list)
    unpatched: Unpatched
    results: list[Reduced]
    findings: list[tuple[str, str]]
    pictures: list[Picture] = Field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the record to `path` as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "VisionRun":
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
                f"{path} is not the record of `tokenry compress vision` ({where}: {first['msg']})."
            ) from error
