"""The measurements of one run, as typed data: the unpatched model, and one `Reduced` per method and setting, timed by turns in one run.

FLOPs are multiply-adds of the layers for one image, memory is in megabytes, time in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from tokenry.core.errors import UserError
from tokenry.core.stats import Estimate


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, with their quartiles."""

    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Speed:
    """Images per second of wall time and of CPU time (medians), and the peak memory of the tensors of one forward pass."""

    images_per_second: float
    images_per_cpu_second: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Unpatched:
    """The unpatched model, with which every setting is compared."""

    tokens: int
    flops: int
    speed: Speed
    accuracy: Estimate | None = None


@dataclass(frozen=True)
class Reduced:
    """The model with one method at one setting.

    Attributes:
        name: method and setting as a person would write them.
        method: name of the method on the command line.
        options: all options of the method.
        token_counts: number of tokens that enter each layer, and that leave the last.
        flops: multiply-adds of the layers for one image.
        speed: speed of the patched model.
        speedup: unpatched over patched wall time, round by round.
        cpu_speedup: speed-up in CPU time, median.
        reduction_share: share of the patched model's time that goes into choosing, merging and dropping tokens.
        finding: the outcome in words.
        agreement: agreement with the unpatched model, see `VisionRun.agreement_of`; None for a single image.
        accuracy: share of the labelled images whose class is correct.
        accuracy_change: patched minus unpatched on the same images.
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
    finding: str
    agreement: Estimate | None = None
    accuracy: Estimate | None = None
    accuracy_change: Estimate | None = None


@dataclass(frozen=True)
class Panel:
    """The patches of one image after one layer: the place each went to, -1 for dropped ones."""

    setting: str
    layer: int
    places: list[int]


@dataclass(frozen=True)
class Picture:
    """One image as the model sees it (base64 of a JPEG), its grid of patches, and their fate in each panel."""

    title: str
    image: str
    rows: int
    columns: int
    panels: list[Panel]


@dataclass(frozen=True)
class VisionRun:
    """All measurements of a run.

    `agreement_of` names the agreement: the share of images with the same `top-1` class, or the mean cosine of the `features`.
    `findings` pairs a setting (in a sweep a method) with its outcome in words.
    """

    model: str
    images: str
    number_of_images: int
    created: str
    agreement_of: Literal["top-1", "features"]
    swept: bool
    settings: dict[str, Any]
    environment: dict[str, str]
    notes: list[str]
    unpatched: Unpatched
    results: list[Reduced]
    findings: list[tuple[str, str]]
    pictures: list[Picture]


def read_run(data: Mapping[str, Any]) -> VisionRun:
    """Read a stored run; anything else raises `UserError`."""
    try:
        return TypeAdapter(VisionRun).validate_python({"notes": [], "pictures": [], **data})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"this is not the record of `tokenry compress vision` ({where}: {first['msg']})."
        ) from error
