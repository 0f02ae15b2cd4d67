"""Reduce the tokens of an image encoder on a user's own images, and measure what that costs and brings: `tokenry compress vision`.

The unpatched model and the model with each setting see the same images: every batch is decoded once and run through all of them, and
all are timed by turns on one batch.

    agreement   share of the images with the same top-1 class as the unpatched model; without classes, mean cosine of the features
    accuracy    share of the labelled images whose class is right, with and without reduction
"""

import datetime
import logging
import platform
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenry.compression.vision.apply import TokenReduction, apply_token_reduction
from tokenry.compression.vision.flops import encoder_flops, layer_costs
from tokenry.compression.vision.reducer import TokenReducer
from tokenry.compression.vision.tome import ToMe
from tokenry.core.errors import UserError
from tokenry.core.files import require_output_folder
from tokenry.core.progress import Progress
from tokenry.core.stats import Estimate, estimate_of_mean
from tokenry.core.vision_records import Picture, Reduced, Unpatched, VisionRun
from tokenry.models import preferred_device, preferred_dtype
from tokenry.models.image_encoders import ImageEncoder, load_image_encoder
from tokenry.runs.quiet import quiet_libraries
from tokenry.runs.stages import Stages
from tokenry.runs.vision.findings import finding, outcome, sweep_findings
from tokenry.runs.vision.images import (
    ImageFile,
    batches,
    find_images,
    match_labels,
    pick_readable,
    read_label_rows,
)
from tokenry.runs.vision.measure import (
    Patched,
    Seconds,
    peak_memory,
    reads_patches,
    reduction_share,
    speed,
    speedup,
    take_turns,
)
from tokenry.runs.vision.pictures import follow_patches
from tokenry.runs.vision.settings import (
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
    """Carry out a plan and write `result.json`; what can be seen to be wrong without the model is said before it is loaded.

    Args:
        plan: what to do.
        output: folder of the result.
        report: is told what is being done, and the share that is done.

    Raises:
        UserError: something in the plan, the images or the model cannot work.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: choose a folder for --output.")
    require_output_folder(output)
    check_methods(plan)
    mean, std = parse_colours(plan.mean, "mean"), parse_colours(plan.std, "std")
    known = find_images(plan.images)
    notes = _Notes()
    files = pick_readable(known, plan.limit, notes.add)
    if plan.sweep and len(pick_readable(files, 2, note=lambda words: None)) < 2:
        raise UserError("a sweep compares how often the model says the same: give at least two images.")
    rows = None if plan.labels is None else read_label_rows(plan.labels)
    report("reading the model", 0.0)
    device = preferred_device()
    encoder = load_image_encoder(plan.model, plan.dtype or preferred_dtype(device), mean=mean, std=std)
    encoder.model.to(device)
    labels = match_labels(rows, files, known, encoder.classes, notes.add) if rows else [None] * len(files)
    # Random reductions draw from torch's generator: a run can be repeated, and the caller's draws go on as if it had not been.
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        record = _Bench(plan, encoder, files, labels, notes, report).run()
    record.save(output / "result.json")
    report("done", 1.0)
    return record


@dataclass
class _Notes:
    """What is left out or worth knowing: told when it happens, and kept for the record."""

    kept: list[str] = field(default_factory=list)

    def add(self, words: str) -> None:
        logger.warning("%s", words)
        self.kept.append(words)


@dataclass
class _Tally:
    """What one variant of the model said of the images seen so far."""

    agreement: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    token_counts: tuple[int, ...] = ()
    flops: int = 0


@dataclass
class _Drawn:
    """The images of which pictures are drawn."""

    titles: list[str] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)


class _Bench:
    """One run: the images once through every variant, then the clock."""

    def __init__(
        self,
        plan: VisionPlan,
        encoder: ImageEncoder,
        files: Sequence[ImageFile],
        labels: Sequence[int | None],
        notes: _Notes,
        report: Progress,
    ) -> None:
        self._plan, self._encoder, self._files, self._notes = plan, encoder, files, notes
        self._labels = {file.name: label for file, label in zip(files, labels, strict=True)}
        on_cpu = encoder.model.device.type == "cpu"
        self._batch_size = plan.batch_size or (_ON_CPU if on_cpu else _ON_ACCELERATOR)
        self._first = self._prepare()
        self._seen = 0
        self._tallies = {name: _Tally() for name in (UNPATCHED, *(each.name for each in self._settings))}
        variants, batch = len(self._tallies), len(self._first)
        forwards = {
            "looking at the images": len(files),
            "timing, by turns": batch * (plan.timed_rounds + 1),
            "memory, and where the time goes": 2 * batch,
            "pictures": plan.pictures,
        }
        self._costs = {what: float(images * variants) for what, images in forwards.items()}
        self._stages = Stages(report, list(self._costs.values()))

    def _begin(self, what: str) -> None:
        self._stages.begin(what, self._costs[what])

    def run(self) -> VisionRun:
        """Measure everything."""
        self._begin("looking at the images")
        drawn = self._look()
        self._begin("timing, by turns")
        taken = self._time()
        self._begin("memory, and where the time goes")
        unpatched = self._unpatched(taken[UNPATCHED])
        results = []
        for number, setting in enumerate(self._settings):
            self._stages.tell(number / len(self._settings))
            results.append(self._reduced(setting, taken, unpatched))
        self._begin("pictures")
        return self._record(unpatched, results, self._draw(drawn))

    def _prepare(self) -> Tensor:
        """See on the first batch what the model does, and make the settings for it."""
        _, images = next(batches(self._files, self._batch_size, note=lambda words: None))
        pixels = self._encoder.pixels(images)
        if not torch.isfinite(self._encoder(pixels)).all():
            raise UserError(
                f"{self._plan.model} gives numbers that are not finite in {self._dtype}: try another dtype."
            )
        with apply_token_reduction(self._encoder.model, ToMe(r=0)) as reduction:
            self._encoder(pixels)
            self._tokens = reduction.token_counts[0]
        self._settings, left_out = settings_of(self._plan, self._encoder.encoder, self._tokens)
        for words in left_out:
            self._notes.add(words)
        reads = reads_patches(self._encoder, pixels)
        self._restore = reads if self._plan.restore_length is None else self._plan.restore_length
        if reads and not self._restore:
            self._notes.add(
                "the head of this model reads patch tokens, and gets fewer of them: --restore-length gives it all."
            )
        return pixels

    @property
    def _dtype(self) -> str:
        return str(self._encoder.model.dtype).removeprefix("torch.")

    def _patch(self, reducer: TokenReducer) -> TokenReduction:
        return apply_token_reduction(self._encoder.model, reducer, restore_length=self._restore)

    # --- the images ------------------------------------------------------------------------------------------------------------------

    def _look(self) -> _Drawn:
        """Run all images through the model with and without each setting."""
        drawn = _Drawn()
        wanted = set()
        if self._plan.pictures:
            pictured = pick_readable(self._files, self._plan.pictures, note=lambda words: None)
            wanted = {file.name for file in pictured}
        for files, images in batches(self._files, self._batch_size, self._notes.add):
            pixels = self._encoder.pixels(images)
            self._look_at(pixels, [self._labels[file.name] for file in files])
            for file, one in zip(files, pixels.split(1), strict=True):
                if file.name in wanted:
                    drawn.titles.append(file.name)
                    drawn.pixels.append(one)
            self._seen += len(files)
        return drawn

    def _look_at(self, pixels: Tensor, labels: Sequence[int | None]) -> None:
        unpatched = self._encoder(pixels).float()
        self._judge(self._tallies[UNPATCHED], unpatched, unpatched, labels)
        for number, setting in enumerate(self._settings, start=1):
            self._stages.tell((self._seen + len(pixels) * number / len(self._tallies)) / len(self._files))
            tally = self._tallies[setting.name]
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
        labelled = zip(answers.tolist(), labels, strict=True)
        tally.right += [float(answer == label) for answer, label in labelled if label is not None]

    def _draw(self, drawn: _Drawn) -> list[Picture]:
        if not drawn.titles:
            return []
        shown = {each.name: partial(self._patch, each.reducer) for each in self._settings if each.pictured}
        pixels = torch.cat(drawn.pixels)
        pictures = follow_patches(self._encoder, pixels, drawn.titles, shown, self._plan.every_layer)
        if not pictures:
            self._notes.add("no pictures are drawn: the tokens of this model are not a grid of patches.")
        return pictures

    # --- the clock -------------------------------------------------------------------------------------------------------------------

    def _forward(self) -> Tensor:
        return self._encoder(self._first)

    def _memory(self) -> float:
        return peak_memory(self._forward, self._encoder.model.device)

    def _time(self) -> Mapping[str, Sequence[Seconds]]:
        variants: dict[str, Patched] = {UNPATCHED: nullcontext}
        variants |= {each.name: partial(self._patch, each.reducer) for each in self._settings}
        return take_turns(self._forward, variants, self._plan.timed_rounds, self._stages.tell)

    def _unpatched(self, taken: Sequence[Seconds]) -> Unpatched:
        tokens = [self._tokens] * len(self._encoder.encoder.layers)
        return Unpatched(
            tokens=self._tokens,
            flops=encoder_flops(layer_costs(self._encoder.encoder), tokens, tokens),
            speed=speed(taken, len(self._first), self._memory()),
            accuracy=_estimate(self._tallies[UNPATCHED].right),
        )

    def _reduced(
        self, setting: Setting, taken: Mapping[str, Sequence[Seconds]], unpatched: Unpatched
    ) -> Reduced:
        tally, seconds = self._tallies[setting.name], taken[setting.name]
        with self._patch(setting.reducer):
            memory = self._memory()
        wall, cpu = speedup(taken[UNPATCHED], seconds)
        share = reduction_share(self._forward, self._patch, setting.reducer)
        agreement, change = _estimate(tally.agreement), _estimate(self._changes(tally))
        return Reduced(
            name=setting.name,
            method=setting.method,
            options=setting.options,
            token_counts=list(tally.token_counts),
            flops=tally.flops,
            speed=speed(seconds, len(self._first), memory),
            speedup=wall,
            cpu_speedup=cpu,
            reduction_share=share,
            agreement=agreement,
            accuracy=_estimate(tally.right),
            accuracy_change=change,
            finding=finding(
                share=tally.flops / unpatched.flops,
                speedup=wall,
                reduction_share=share,
                memory=memory / unpatched.speed.peak_memory_mb,
                batch_size=len(self._first),
                outcome=outcome(agreement, change, self._agreement_of),
            ),
        )

    def _changes(self, tally: _Tally) -> list[float]:
        before = self._tallies[UNPATCHED].right
        return [now - then for now, then in zip(tally.right, before, strict=True)]

    @property
    def _agreement_of(self) -> Literal["top-1", "features"]:
        return "top-1" if self._encoder.classes else "features"

    # --- the record ------------------------------------------------------------------------------------------------------------------

    def _record(self, unpatched: Unpatched, results: list[Reduced], pictures: list[Picture]) -> VisionRun:
        if self._plan.sweep:
            findings = sweep_findings(results, unpatched.flops, self._agreement_of)
        else:
            findings = [(each.name, each.finding) for each in results]
        decided = {
            "dtype": self._dtype,
            "batch_size": len(self._first),
            "restore_length": self._restore,
            "rounds": self._plan.timed_rounds,
        }
        return VisionRun(
            model=self._plan.model,
            images=str(self._plan.images),
            number_of_images=self._seen,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            agreement_of=self._agreement_of,
            swept=self._plan.sweep,
            settings=self._plan.as_settings() | decided,
            environment=_environment(self._encoder.model.device),
            notes=self._notes.kept,
            unpatched=unpatched,
            results=results,
            findings=findings,
            pictures=pictures,
        )


def _estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and standard error; None where there are too few to tell one."""
    if len(values) < 2:
        return None
    return estimate_of_mean(values)


def _environment(device: torch.device) -> dict[str, str]:
    packages = {name: version(name) for name in ("tokenry", "torch", "transformers")}
    on_cpu = f"CPU, {torch.get_num_threads()} threads"
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
    return {"python": platform.python_version(), "device": named, **packages}
