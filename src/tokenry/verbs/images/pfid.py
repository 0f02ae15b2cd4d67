"""pFID of image tokenizers on a user's own images: which one a generator should be trained on."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress, in_turn, one_stage
from tokenry.core.plans import argument, option, plan_settings
from tokenry.core.stats import Estimate
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._estimates import interval_cell
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._output import OptionalOutput

if TYPE_CHECKING:
    from tokenry.generation import PFID


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Measure how a tokenizer of images stands wrong tokens (pFID): what tells, before a generator is trained, how it will generate.

    Attributes:
        tokenizer: folder of a tokenizer: Emu3VQVAE, JanusVQVAE, or VQModel of diffusers.
        images: folder of images; folders inside it count too.
        against: folder of another tokenizer to measure beside it; can be repeated.
        features: image encoder whose features are compared, a folder or hub name; or pixels.
        size: side of the square that each image is cropped and resized to, in pixels.
        rates: shares of the tokens that are perturbed.
        strengths: numbers of neighbours that are drawn from, as shares of the codebook.
        limit: maximum number of images, taken at equal distances.
        batch_size: images per batch.
        draws: resamples of the intervals; 0 for no interval.
        seed: random seed.
    """

    tokenizer: Path = argument()
    images: Path = argument()
    against: tuple[Path, ...] = option((), metavar="TOKENIZER")
    features: str = "pixels"
    size: int = 256
    rates: tuple[float, ...] = option((0.5, 0.7, 0.9), metavar="0.5,0.9", commas=True)
    strengths: tuple[float, ...] = option((0.01, 0.03, 0.05), metavar="0.01,0.05", commas=True)
    limit: int | None = None
    batch_size: int = 16
    draws: int = 200
    seed: int = 0
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, size=self.size, batch_size=self.batch_size)
        require_at_least(2, limit=self.limit)
        require_at_least(0, draws=self.draws, seed=self.seed)
        if bad := [rate for rate in self.rates if not 0 <= rate <= 1]:
            raise UserError(f"rates must be in [0, 1], got {bad[0]}.")
        if bad := [strength for strength in self.strengths if not 0 < strength <= 1]:
            raise UserError(f"strengths must be in (0, 1], shares of the codebook, got {bad[0]}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Measure every tokenizer on the same images."""
    from tokenry.generation import PerturbationGrid, PFIDConfig, load_vq_tokenizer, pfid
    from tokenry.verbs._environment import environment
    from tokenry.verbs.images._tokenizers import PIXELS, feature_function, feature_title, read_images

    folders = (plan.tokenizer, *plan.against)
    device = plan.hardware.place()
    images = read_images(plan.images, plan.size, plan.limit)
    config = PFIDConfig(PerturbationGrid(plan.rates, plan.strengths), plan.batch_size, plan.draws, plan.seed)
    loaded = [load_vq_tokenizer(folder) for folder in folders]
    features = feature_function(plan.features, device)
    rows: list[dict[str, Any]] = []
    first = None
    for (folder, tokenizer), told in in_turn(zip(folders, loaded, strict=True), progress):
        tokenizer.module.to(device)
        found = pfid(
            tokenizer, images, features, config, str(plan.images), images.preparation,
            feature_title(plan.features), one_stage(told, str(folder)),
        )  # fmt: skip
        first = first or found
        rows.append({
            "tokenizer": str(folder), "codes": len(tokenizer.codebooks[0]), **stored(found),
            "difference": stored_distance(found.minus(first)) if rows else None,
        })  # fmt: skip
    data = {
        "kind": "images pfid",
        "images": len(images),
        "reference": str(plan.images),
        "preparation": images.preparation,
        "features": feature_title(plan.features),
        "grid": str(config.grid),
        "tokenizers": rows,
        "warnings": [*([_OF_PIXELS] if plan.features == PIXELS else []), *_too_small(rows)],
        "settings": plan_settings(plan),
        "environment": environment(device),
    }
    return Result(f"pFID on {plan.images}", data, lay_out(data))


_OF_PIXELS = "Averaged pixels see colour and blur, not what is in an image: name an image encoder (--features) before you choose by these figures."


def _too_small(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What is said where a share of the codebook is a single code, which is the token itself."""
    for row in rows:
        if all(cell["strength"] == 1 for cell in row["cells"]):
            yield (
                f"{row['tokenizer']} has {row['codes']} codes, so that no strength reaches another one and nothing was perturbed: give larger "
                "--strengths."
            )


def stored(found: "PFID") -> dict[str, Any]:
    """The figures as JSON knows them."""
    return {
        "pfid": stored_distance(found.mean.estimate),
        "rfid": stored_distance(found.rfid.estimate),
        "cells": [
            {"rate": cell.rate, "strength": cell.strength, **stored_distance(cell.distance)}
            for cell in found.cells
        ],
    }


def stored_distance(distance: Estimate) -> dict[str, float | None]:
    """A distance with its interval; null where there is none."""
    known = {"value": distance.value, "low": distance.low, "high": distance.high}
    return {name: None if math.isnan(value) else float(value) for name, value in known.items()}


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out pFID beside rFID, and the cells."""
    rows = data["tokenizers"]
    lead = (
        f"{plural(data['images'], 'image')} of {data['reference']} ({data['preparation']}), features: {data['features']}. pFID is the mean over "
        f"{data['grid']}."
    )
    blocks: list[Block] = [Text(lead, "lead"), *(Text(warning, "warning") for warning in data["warnings"])]
    columns = [Column("codes", "", ",d"), Column("pFID", "", ".2f"), Column("rFID", "", ".2f")]
    columns += [Column("pFID", "to the first", "+.2f")] if len(rows) > 1 else []
    blocks.append(
        Table(
            "Fréchet distances to the images themselves, lower is better",
            ("tokenizer", *columns),
            [_row(row)[: 1 + len(columns)] for row in rows],
            notes=(
                "A tokenizer is chosen by pFID, not by rFID: a generator feeds it wrong tokens. Distances compare only on the same images, "
                "crop, size, number and features.",
            ),
        )
    )
    for row in rows:
        rates = list(dict.fromkeys(cell["rate"] for cell in row["cells"]))
        series = [
            Series(
                f"{strength} neighbours",
                [0.0, *rates],
                [
                    row["rfid"]["value"],
                    *(cell["value"] for cell in row["cells"] if cell["strength"] == strength),
                ],
            )
            for strength in dict.fromkeys(cell["strength"] for cell in row["cells"])
        ]
        blocks.append(
            Figure(
                f"{row['tokenizer']}: distance by share of perturbed tokens", "lines", series,
                "share of the tokens", "Fréchet distance", f"pFID {row['pfid']['value']:.2f}, rFID {row['rfid']['value']:.2f}",
            )
        )  # fmt: skip
    return blocks


def _row(row: Mapping[str, Any]) -> tuple[Any, ...]:
    difference = row["difference"]
    beside = None if difference is None else distance_cell(difference, "+.2f")
    return row["tokenizer"], row["codes"], distance_cell(row["pfid"]), distance_cell(row["rfid"]), beside


def distance_cell(distance: Mapping[str, Any], style: str = ".2f") -> Any:
    """A distance with its interval under it, where it has one."""
    if distance["low"] is None:
        return distance["value"]
    return interval_cell(distance["value"], distance["low"], distance["high"], style=style)
