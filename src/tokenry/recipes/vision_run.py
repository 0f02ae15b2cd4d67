"""Reduce the tokens of an image encoder on a user's own images, and measure what that costs and brings: `tokenry compress vision`.

The unpatched model and the model with each setting see the same images: every batch is decoded once and run through all of them, and
all are timed by turns on one batch.

    agreement   share of the images with the same top-1 class as the unpatched model; without classes, mean cosine of the features
    accuracy    share of the labelled images whose class is right, with and without reduction
"""

import datetime
import logging
import math
import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenry.compression.vision.apply import TokenReduction, apply_token_reduction
from tokenry.compression.vision.flops import encoder_flops, layer_costs
from tokenry.compression.vision.reducer import TokenReducer
from tokenry.core.errors import UserError
from tokenry.core.records import Estimate
from tokenry.core.vision_records import Reduced, Unpatched, VisionRun
from tokenry.models import preferred_device, preferred_dtype
from tokenry.models.image_encoders import ImageEncoder, load_image_encoder
from tokenry.recipes.quiet import quiet_libraries
from tokenry.recipes.recipe import Progress
from tokenry.recipes.stages import Stages
from tokenry.recipes.vision_findings import finding, sweep_findings
from tokenry.recipes.vision_images import (
    ImageFile,
    batches,
    find_images,
    match_labels,
    pick,
    read_label_rows,
)
from tokenry.recipes.vision_measure import (
    Patched,
    Seconds,
    TimedReducer,
    peak_memory,
    reads_patches,
    speed,
    speedup,
    take_turns,
)
from tokenry.recipes.vision_pictures import draw_pictures, patch_grid
from tokenry.recipes.vision_settings import (
    Setting,
    VisionPlan,
    check_methods,
    parse_colours,
    settings_of,
)

logger = logging.getLogger(__name__)

UNPATCHED = "unpatched"
_ON_CPU, _ON_ACCELERATOR = 8, 64


@quiet_libraries()
def compress_vision(plan: VisionPlan, output: Path, report: Progress) -> VisionRun:
    """Carry out a plan.

    Args:
        plan: what to do.
        output: the folder where the caller will write; only looked at here.
        report: is told what is being done, and the share that is done.

    Raises:
        UserError: something in the plan, the images or the model cannot work; what can be seen without the model is said before it is
            loaded.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: choose a folder for --output.")
    check_methods(plan)
    colours = parse_colours(plan.mean, "mean"), parse_colours(plan.std, "std")
    known = find_images(plan.images)
    files = pick(known, plan.limit)
    label_rows = read_label_rows(plan.labels) if plan.labels else None
    report("reading the model", 0.0)
    device = preferred_device()
    encoder = load_image_encoder(plan.model, plan.dtype or preferred_dtype(device), mean=colours[0], std=colours[1])
    encoder.model.to(device)
    labels = match_labels(label_rows, files, known, encoder.classes) if label_rows else [None] * len(files)
    # Random reductions draw from torch's generator: a run can be repeated, and the caller's draws go on as if it had not been.
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        record = _Bench(plan, encoder, files, labels, report).run()
    report("done", 1.0)
    return record


@dataclass
class _Tally:
    """What one setting did on the images seen so far."""

    agreement: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    token_counts: tuple[int, ...] = ()
    flops: int = 0


class _Bench:
    """One run: the images once through everything, then the clock."""

    def __init__(
        self,
        plan: VisionPlan,
        encoder: ImageEncoder,
        files: Sequence[ImageFile],
        labels: Sequence[int | None],
        report: Progress,
    ) -> None:
        self._plan, self._encoder, self._files = plan, encoder, files
        self._labels = {file.name: label for file, label in zip(files, labels, strict=True)}
        on_cpu = encoder.model.device.type == "cpu"
        self._batch_size = plan.batch_size or (_ON_CPU if on_cpu else _ON_ACCELERATOR)
        self._pictured = {file.name for file in pick(files, plan.pictures)} if plan.pictures else set()
        self._report = report
        self._settings: list[Setting] = []
        self._notes: list[str] = []
        self._restore = False
        self._seen = 0

    def run(self) -> VisionRun:
        """Measure everything."""
        first, titles, drawn, tallies = self._look()
        stages = self._stages
        taken = self._time(first, stages)
        unpatched = self._unpatched(first, tallies[UNPATCHED], taken[UNPATCHED])
        stages.begin("memory, and where the time goes", 2.0 * len(self._settings) * len(first))
        results = []
        for number, setting in enumerate(self._settings):
            stages.tell(number / len(self._settings))
            results.append(self._reduced(setting, first, tallies, taken, unpatched))
        stages.begin("pictures", float(len(self._settings) * len(titles)))
        pictures = []
        if titles:
            shown = {each.name: partial(self._patch, each.reducer) for each in self._settings if each.pictured}
            pictures = draw_pictures(self._encoder, torch.cat(drawn), titles, shown, self._plan.every_layer)
        return self._record(unpatched, results, pictures, len(first))

    # --- the images ---

    def _look(self) -> tuple[Tensor, list[str], list[Tensor], dict[str, _Tally]]:
        """Run all images through the model with and without each setting; keeps the first batch, and those to be drawn."""
        first: Tensor | None = None
        titles: list[str] = []
        drawn: list[Tensor] = []
        tallies: dict[str, _Tally] = {}
        for files, images in batches(self._files, self._batch_size):
            pixels = self._encoder.pixels(images)
            if first is None:
                first = pixels
                self._prepare(pixels)
                tallies = {name: _Tally() for name in (UNPATCHED, *(each.name for each in self._settings))}
            self._look_at(pixels, files, tallies)
            for file, one in zip(files, pixels.split(1), strict=True):
                if file.name in self._pictured:
                    titles.append(file.name)
                    drawn.append(one)
            self._seen += len(files)
            self._stages.tell(self._seen / len(self._files))
        assert first is not None
        return first, titles, drawn, tallies

    def _prepare(self, pixels: Tensor) -> None:
        """See on the first batch what the model does, and make the settings for it."""
        if not torch.isfinite(self._encoder(pixels)).all():
            raise UserError(
                f"{self._plan.model} gives numbers that are not finite in {_name(pixels.dtype)}: try another dtype."
            )
        with self._patch(_Nothing()) as reduction:
            self._encoder(pixels)
            self._tokens = reduction.token_counts[0]
        self._settings, left_out = settings_of(self._plan, self._encoder.encoder, self._tokens)
        for words in left_out:
            self._note(words)
        reads = reads_patches(self._encoder, pixels)
        self._restore = reads if self._plan.restore_length is None else self._plan.restore_length
        if reads and not self._restore:
            self._note(
                "the head of this model reads the patch tokens, of which it gets fewer: --restore-length gives it all of them."
            )
        if len(self._files) < 2 and self._plan.sweep:
            raise UserError("a sweep compares how often the model says the same: give at least two images.")
        variants, looks = len(self._settings) + 1, float(len(self._files))
        batch, rounds = float(len(pixels)), self._plan.rounds + 1
        costs = [looks * variants, batch * rounds * variants, 2 * batch * variants, float(len(self._pictured) * variants)]
        self._stages = Stages(self._report, costs)
        self._stages.begin("looking at the images", costs[0])

    def _look_at(self, pixels: Tensor, files: Sequence[ImageFile], tallies: dict[str, _Tally]) -> None:
        labels = [self._labels[file.name] for file in files]
        unpatched = self._encoder(pixels).float()
        self._judge(tallies[UNPATCHED], unpatched, unpatched, labels)
        for setting in self._settings:
            tally = tallies[setting.name]
            with self._patch(setting.reducer) as reduction:
                said = self._encoder(pixels).float()
                tally.token_counts, tally.flops = reduction.token_counts, reduction.flops
            self._judge(tally, said, unpatched, labels)

    def _judge(
        self,
        tally: _Tally,
        said: Float[Tensor, "batch outputs"],
        unpatched: Float[Tensor, "batch outputs"],
        labels: Sequence[int | None],
    ) -> None:
        if not self._encoder.classes:
            tally.agreement += cosine_similarity(said, unpatched, dim=-1).nan_to_num(0.0).tolist()
            return
        answers = said.argmax(dim=-1)
        tally.agreement += (answers == unpatched.argmax(dim=-1)).float().tolist()
        tally.right += [
            float(answer == label)
            for answer, label in zip(answers.tolist(), labels, strict=True)
            if label is not None
        ]

    # --- the clock ---

    def _time(self, pixels: Tensor, stages: Stages) -> dict[str, list[Seconds]]:
        variants: dict[str, Patched] = {UNPATCHED: nullcontext}
        variants |= {each.name: partial(self._patch, each.reducer) for each in self._settings}
        rounds = self._plan.rounds
        stages.begin("timing, by turns", float(len(pixels) * (rounds + 1) * len(variants)))
        return take_turns(lambda: self._encoder(pixels), variants, rounds, stages.tell)

    def _unpatched(self, pixels: Tensor, tally: _Tally, taken: Sequence[Seconds]) -> Unpatched:
        dense = [self._tokens] * len(self._encoder.encoder.layers)
        return Unpatched(
            tokens=self._tokens,
            flops=encoder_flops(layer_costs(self._encoder.encoder), dense, dense),
            speed=speed(taken, len(pixels), peak_memory(lambda: self._encoder(pixels))),
            accuracy=_estimate(tally.right),
        )

    def _reduced(
        self,
        setting: Setting,
        pixels: Tensor,
        tallies: dict[str, _Tally],
        taken: dict[str, list[Seconds]],
        unpatched: Unpatched,
    ) -> Reduced:
        tally = tallies[setting.name]
        with self._patch(setting.reducer):
            memory = peak_memory(lambda: self._encoder(pixels))
        timed = TimedReducer(setting.reducer)
        whole = take_turns(lambda: self._encoder(pixels), {"": partial(self._patch, timed)}, 1, lambda share: None)
        spread, cpu = speedup(taken[UNPATCHED], taken[setting.name])
        # The clock ran in the round that warms up too.
        share = min(1.0, timed.seconds / 2 / whole[""][0].wall)
        dense_memory = unpatched.speed.peak_memory_mb
        return Reduced(
            name=setting.name,
            method=setting.method,
            options=setting.options,
            token_counts=list(tally.token_counts),
            flops=tally.flops,
            speed=speed(taken[setting.name], len(pixels), memory),
            speedup=spread,
            cpu_speedup=cpu,
            reduction_share=share,
            agreement=_estimate(tally.agreement),
            accuracy=_estimate(tally.right),
            accuracy_change=_estimate(np.subtract(tally.right, tallies[UNPATCHED].right).tolist()),
            finding=finding(
                share=tally.flops / unpatched.flops,
                speedup=spread,
                reduction_share=share,
                memory=memory / dense_memory if memory and dense_memory else None,
                batch_size=len(pixels),
            ),
        )

    def _patch(self, reducer: TokenReducer) -> TokenReduction:
        return apply_token_reduction(
            self._encoder.encoder.model, reducer, restore_length=self._restore
        )

    # --- the record ---

    def _record(self, unpatched: Unpatched, results: list[Reduced], pictures: list, batch: int) -> VisionRun:
        agreement_of = "top-1" if self._encoder.classes else "features"
        ...


class _Nothing:
    """Reduces nothing; a `TokenReducer` with which the tokens are counted."""

    proportional_attention = False

    def layer_reducers(self, encoder):
        return [None] * len(encoder.layers)
