"""One run: the images once through the model with and without each setting, then the clock.

Every batch is decoded once and run through all variants, and all are timed by turns on one batch.

    agreement   share of the images with the same top-1 class as the unpatched model; without classes, mean cosine of the features
    accuracy    share of the labelled images whose class is correct, with and without reduction
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenry.compression.apply import TokenReduction, apply_token_reduction
from tokenry.compression.flops import encoder_flops, layer_costs
from tokenry.compression.reducer import TokenReducer
from tokenry.compression.vision.tome import ToMe
from tokenry.core.errors import UserError
from tokenry.core.io.images import ImageFile, Note, batches, pick_readable
from tokenry.core.io.progress import Progress
from tokenry.core.stats import Estimate, estimate_of_mean, paired_difference
from tokenry.models.image_encoders import ImageEncoder
from tokenry.verbs._stages import Stages
from tokenry.verbs.compress._vision.findings import finding
from tokenry.verbs.compress._vision.measure import (
    Seconds,
    peak_memory,
    reads_patches,
    reduction_share,
    speed,
    speedup,
    take_turns,
)
from tokenry.verbs.compress._vision.pictures import follow_patches
from tokenry.verbs.compress._vision.records import Picture, Reduced, Speed, Unpatched
from tokenry.verbs.compress._vision.settings import Setting, settings_of
from tokenry.verbs.compress.vision import UNPATCHED, Plan

_ON_CPU, _ON_ACCELERATOR = 8, 64


@dataclass
class _Variant:
    """The model with one setting, or without any: how it is patched, and what it said of the images seen so far."""

    name: str
    patch: Callable[[], AbstractContextManager[TokenReduction | None]]
    agreement: list[float] = field(default_factory=list)
    correct: list[float] = field(default_factory=list)
    token_counts: tuple[int, ...] = ()
    flops: int = 0


class VisionBench:
    """A model, images, and the settings of a plan.

    Args:
        plan: what to do.
        labels: class of each image; None for those without a label.
        note: called with what is left out or worth knowing.
        progress: called with what is being done.
    """

    def __init__(
        self,
        plan: Plan,
        encoder: ImageEncoder,
        files: Sequence[ImageFile],
        labels: Sequence[int | None],
        note: Note,
        progress: Progress,
    ) -> None:
        self._plan, self._encoder, self._files, self._note = plan, encoder, files, note
        self._labels = {file.name: label for file, label in zip(files, labels, strict=True)}
        on_cpu = encoder.model.device.type == "cpu"
        self._batch_size = plan.batch_size or (_ON_CPU if on_cpu else _ON_ACCELERATOR)
        self._first, self._tokens, self.restore_length = self._look_at_first()
        settings, left_out = settings_of(plan, encoder.encoder, self._tokens)
        for words in left_out:
            note(words)
        self._unpatched = _Variant(UNPATCHED, nullcontext)
        self._settings = [
            (setting, _Variant(setting.name, partial(self._patch, setting.reducer))) for setting in settings
        ]
        self._variants = [self._unpatched, *(variant for _, variant in self._settings)]
        self.images_seen, self.batch_size = 0, len(self._first)
        forwards = {
            "looking at the images": len(files),
            "timing, by turns": self.batch_size * (plan.timed_rounds + 1),
            "memory, and where the time goes": 2 * self.batch_size,
            "pictures": plan.pictures,
        }
        self._costs = {what: float(images * len(self._variants)) for what, images in forwards.items()}
        self._stages = Stages(progress, list(self._costs.values()))

    @property
    def agreement_of(self) -> Literal["top-1", "features"]:
        """What agreement is the share or the mean of."""
        return "top-1" if self._encoder.classes else "features"

    def measure(self) -> tuple[Unpatched, list[Reduced], list[Picture]]:
        """Measure the unpatched model and every setting, and follow the patches of the images to be drawn."""
        self._begin("looking at the images")
        drawn = self._look()
        self._begin("timing, by turns")
        patches = {variant.name: variant.patch for variant in self._variants}
        taken = take_turns(self._forward, patches, self._plan.timed_rounds, self._stages.tell)
        self._begin("memory, and where the time goes")
        unpatched = self._measured_unpatched(taken[UNPATCHED])
        results = []
        for number, (setting, variant) in enumerate(self._settings):
            self._stages.tell(number / len(self._settings))
            results.append(self._measured(setting, variant, unpatched, taken))
        self._begin("pictures")
        return unpatched, results, self._draw(drawn)

    def _begin(self, what: str) -> None:
        self._stages.begin(what, self._costs[what])

    def _look_at_first(self) -> tuple[Tensor, int, bool]:
        """The first batch, the number of tokens the model makes of an image, and whether its head needs them all."""
        _, images = next(batches(self._files, self._batch_size, note=lambda words: None))
        pixels = self._encoder.pixels(images)
        if not torch.isfinite(self._encoder(pixels)).all():
            dtype = str(self._encoder.model.dtype).removeprefix("torch.")
            raise UserError(
                f"{self._plan.model} gives numbers that are not finite in {dtype}: try another dtype."
            )
        with apply_token_reduction(self._encoder.model, ToMe(r=0)) as reduction:
            self._encoder(pixels)
            tokens = reduction.token_counts[0]
        reads = reads_patches(self._encoder, pixels)
        restore = reads if self._plan.restore_length is None else self._plan.restore_length
        if reads and not restore:
            self._note(
                "the head of this model reads patch tokens, and gets fewer of them: --restore-length gives it all."
            )
        return pixels, tokens, restore

    def _patch(self, reducer: TokenReducer) -> TokenReduction:
        return apply_token_reduction(self._encoder.model, reducer, restore_length=self.restore_length)

    # --- the images ------------------------------------------------------------------------------------------------------------------

    def _look(self) -> dict[str, Tensor]:
        """Run all images through every variant; returns the pixels of those to be drawn, by name."""
        drawn: dict[str, Tensor] = {}
        pictured = (
            pick_readable(self._files, self._plan.pictures, lambda _: None) if self._plan.pictures else ()
        )
        names = {file.name for file in pictured}
        for files, images in batches(self._files, self._batch_size, self._note):
            pixels = self._encoder.pixels(images)
            self._look_at(pixels, [self._labels[file.name] for file in files])
            rows = zip(files, pixels.split(1), strict=True)
            drawn |= {file.name: row for file, row in rows if file.name in names}
            self.images_seen += len(files)
        return drawn

    def _look_at(self, pixels: Tensor, labels: Sequence[int | None]) -> None:
        unpatched = self._encoder(pixels).float()
        self._judge(self._unpatched, unpatched, unpatched, labels)
        for number, (_, variant) in enumerate(self._settings, start=1):
            seen = self.images_seen + len(pixels) * number / len(self._variants)
            self._stages.tell(seen / len(self._files))
            with variant.patch() as reduction:
                answered = self._encoder(pixels).float()
                assert reduction is not None
                variant.token_counts, variant.flops = reduction.token_counts, reduction.flops
            self._judge(variant, answered, unpatched, labels)

    def _judge(
        self,
        variant: _Variant,
        answered: Float[Tensor, "batch outputs"],
        unpatched: Float[Tensor, "batch outputs"],
        labels: Sequence[int | None],
    ) -> None:
        if not self._encoder.classes:
            variant.agreement += cosine_similarity(answered, unpatched, dim=-1).nan_to_num(0.0).tolist()
            return
        answers = answered.argmax(dim=-1)
        variant.agreement += (answers == unpatched.argmax(dim=-1)).float().tolist()
        labelled = zip(answers.tolist(), labels, strict=True)
        variant.correct += [float(answer == label) for answer, label in labelled if label is not None]

    def _draw(self, drawn: dict[str, Tensor]) -> list[Picture]:
        if not drawn:
            return []
        shown = {
            setting.name: partial(self._patch, setting.reducer)
            for setting, _ in self._settings
            if setting.pictured
        }
        pixels = torch.cat(list(drawn.values()))
        pictures = follow_patches(self._encoder, pixels, list(drawn), shown, self._plan.every_layer)
        if not pictures:
            self._note("no pictures are drawn: the tokens of this model are not a grid of patches.")
        return pictures

    # --- the clock -------------------------------------------------------------------------------------------------------------------

    def _forward(self) -> Tensor:
        return self._encoder(self._first)

    def _speed(self, variant: _Variant, taken: Sequence[Seconds]) -> Speed:
        with variant.patch():
            memory = peak_memory(self._forward, self._encoder.model.device)
        return speed(taken, self.batch_size, memory)

    def _measured_unpatched(self, taken: Sequence[Seconds]) -> Unpatched:
        tokens = [self._tokens] * len(self._encoder.encoder.layers)
        return Unpatched(
            tokens=self._tokens,
            flops=encoder_flops(layer_costs(self._encoder.encoder), tokens, tokens),
            speed=self._speed(self._unpatched, taken),
            accuracy=_estimate(self._unpatched.correct),
        )

    def _measured(
        self,
        setting: Setting,
        variant: _Variant,
        unpatched: Unpatched,
        taken: Mapping[str, Sequence[Seconds]],
    ) -> Reduced:
        wall, cpu = speedup(taken[UNPATCHED], taken[setting.name])
        labelled = len(variant.correct) > 1
        measured = Reduced(
            name=setting.name,
            method=setting.method,
            options=setting.options,
            token_counts=list(variant.token_counts),
            flops=variant.flops,
            speed=self._speed(variant, taken[setting.name]),
            speedup=wall,
            cpu_speedup=cpu,
            reduction_share=reduction_share(self._forward, self._patch, setting.reducer),
            finding="",
            agreement=_estimate(variant.agreement),
            accuracy=_estimate(variant.correct),
            accuracy_change=paired_difference(variant.correct, self._unpatched.correct) if labelled else None,
        )
        words = finding(measured, unpatched, self.batch_size, self.agreement_of)
        return replace(measured, finding=words)


def _estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and standard error; None where there are too few values for one."""
    return estimate_of_mean(values) if len(values) > 1 else None
