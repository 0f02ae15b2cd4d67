"""Continued pretraining of a model on new text: its schedule, and the losses on new and old text through it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.files import require_new, without_nan
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, plan_settings, values_for
from tokenry.report.blocks import Block, Column, Figure, Findings, Section, Series, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._chats import NOTED, read_checked, say
from tokenry.verbs._environment import environment
from tokenry.verbs._estimates import stored_estimate
from tokenry.verbs._models import model_title
from tokenry.verbs._step_training import CheckpointedTraining

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tokenry.pretraining import ContinualReport, RateSchedule, TokenBlocks

MOST_HELD_OUT = 0.1
_DRAWN = 401
_WHOLE = 10**9
_SIDES = {"downstream": "new text", "upstream": "old text"}


@dataclass(frozen=True, kw_only=True)
class Plan(CheckpointedTraining):
    """Continue the pretraining of a model on new text, and measure what it learns and forgets; a stopped run can be resumed.

    Attributes:
        model: `embedded`, a folder, or a hub name.
        new: text to go on with: a .txt file, or rows in a file, folder or hub name as for `tokenry tune`.
        old: text of the kind that the model was pretrained on: forgetting is measured on it, and it is replayed.
        schedule: learning rate: `rewarm` warms up and decays along a cosine, `infinite` cools down to a constant rate.
        max_lr: highest learning rate.
        min_lr: learning rate at the end; by default a tenth of the highest.
        start_lr: learning rate that the warm-up of `rewarm` begins at, such as the last one of the earlier training.
        warmup: share of the steps that is warm-up.
        decay_end: step at which the cosine of `rewarm` ends; by default the last.
        anneal: steps of annealing at the end of `infinite`; by default 15 % of them, 0 for none.
        replay: share of every batch that is old text, in the place of new text.
        grid: train at half and at twice the highest rate too, and at the constant minimum, and compare.
        block: tokens per block; texts are laid end to end.
        held_out: most blocks of each side to evaluate on.
        batch_size: blocks per forward pass.
        batches_per_step: batches per step, whose gradients are accumulated.
        steps: steps of the optimiser; by default one pass over the new text.
        evaluate_every: steps between evaluations; by default a twentieth of all.
        bfloat16: compute in mixed precision; the weights are trained in float32.
        seed: random seed of what is held out and of the order of the text.
        output: folder for the model, the checkpoints, result.json and report.html.
    """

    model: str = argument()
    new: str = argument()
    old: str | None = None
    schedule: Literal["rewarm", "infinite"] = "rewarm"
    max_lr: float = 3e-4
    min_lr: float | None = None
    start_lr: float = 0.0
    warmup: float = 0.01
    decay_end: int | None = None
    anneal: int | None = None
    replay: float = 0.0
    grid: bool = False
    block: int = 512
    held_out: int = 64
    batch_size: int = 8
    batches_per_step: int = 1
    steps: int | None = None
    evaluate_every: int | None = None
    bfloat16: bool = False
    output: Path = Path("runs/pretrain-continue")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction(self.replay, "replay")
        require_fraction(self.warmup, "warmup")
        if self.replay > 0 and self.old is None:
            raise UserError(
                f"replay {self.replay:g} needs text to replay: name it (--old), or leave replay at 0."
            )
        if not self.max_lr > 0:
            raise UserError(f"max_lr must be above 0, got {self.max_lr}.")
        require_at_least(0, min_lr=self.min_lr, start_lr=self.start_lr, anneal=self.anneal)
        for name, lower in (("min_lr", self.min_lr), ("start_lr", self.start_lr)):
            if (lower or 0.0) > self.max_lr:
                raise UserError(f"{name} must be at most max_lr, got {lower} and {self.max_lr}.")
        require_at_least(2, block=self.block)
        require_at_least(1, held_out=self.held_out, batch_size=self.batch_size, steps=self.steps)
        require_at_least(1, decay_end=self.decay_end, batches_per_step=self.batches_per_step)
        require_at_least(1, evaluate_every=self.evaluate_every)


def run(plan: Plan, progress: Progress) -> Result:
    """Read both texts, train by every schedule, save the model.

    Raises:
        UserError: text that is too short, a schedule that ends beyond the data, or a checkpoint of another run.
    """
    from tokenry.models import load_tokenizer
    from tokenry.pretraining import ContinualConfig, compare_schedules
    from tokenry.verbs._training import remove_checkpoints, save_parts

    require_new(plan.output / "model")
    hardware = replace(plan.hardware, dtype="float32")
    progress("reading the texts", 0.0)
    tokenizer = load_tokenizer(plan.model)
    notes: list[str] = []
    new = _blocks(plan, plan.new, tokenizer, notes)
    old = None if plan.old is None else _blocks(plan, plan.old, tokenizer, notes)
    say(notes)
    config = ContinualConfig(**values_for(ContinualConfig, plan))
    steps = config.steps_on(new)
    schedules, checkpoints = _schedules(plan, steps), plan.output / "checkpoints"
    kept: list[PreTrainedModel] = []

    def load() -> "PreTrainedModel":
        model = hardware.load(plan.model)
        if not kept:  # the schedule that was asked for comes first
            kept.append(model)
        return model

    reports = compare_schedules(
        load, old, new, schedules, config, checkpoints, plan.resume, part(progress, 0.05, 0.95)
    )
    progress("saving", 0.95)
    save_parts(plan.output / "model", kept[0], tokenizer)
    for name in reports:
        remove_checkpoints(checkpoints / name)
    data = {
        "kind": "pretrain continue",
        "model": plan.model,
        "steps": steps,
        "tokens": steps * config.step_blocks * plan.block,
        "blocks": {
            side: None if blocks is None else {"train": len(blocks.train), "held_out": len(blocks.held_out)}
            for side, blocks in (("new", new), ("old", old))
        },
        "runs": [_record(name, schedules[name], report) for name, report in reports.items()],
        "notes": notes,
        "settings": plan_settings(plan),
        "environment": environment(hardware.place()),
    }
    data = without_nan(data)
    return Result(f"Continued pretraining of {model_title(plan.model)}", data, lay_out(data))


def _schedules(plan: Plan, steps: int) -> "dict[str, RateSchedule]":
    """The schedule that was asked for, and those it is compared with."""
    from tokenry.pretraining import RewarmSchedule

    factors = {plan.schedule: 1.0} | ({"half the rate": 0.5, "twice the rate": 2.0} if plan.grid else {})
    found = {name: _schedule(plan, steps, factor) for name, factor in factors.items()}
    if plan.grid:
        low = 0.1 * plan.max_lr if plan.min_lr is None else plan.min_lr
        found["constant minimum"] = RewarmSchedule(steps, 0, low, low)
    return found


def _schedule(plan: Plan, steps: int, factor: float) -> "RateSchedule":
    from tokenry.pretraining import InfiniteSchedule, RewarmSchedule

    warmup, highest = int(plan.warmup * steps), factor * plan.max_lr
    lowest = 0.1 * highest if plan.min_lr is None else min(plan.min_lr, highest)
    if (plan.decay_end or 0) > steps:
        raise UserError(
            f"decay_end {plan.decay_end} lies beyond the data, which last for {steps} steps: end the cosine earlier, or give more text."
        )
    if plan.schedule == "rewarm":
        start = min(plan.start_lr, highest)
        return RewarmSchedule(steps, warmup, highest, lowest, plan.decay_end, start)
    annealed = int(0.15 * steps) if plan.anneal is None else plan.anneal
    tail = (
        {"constant_end": steps - annealed, "end": steps} if annealed else {"constant_end": None, "end": None}
    )
    return InfiniteSchedule.over(
        steps, warmup, highest, min_lr=lowest, const_lr=max(lowest, 0.55 * highest), **tail
    )


def _blocks(plan: Plan, source: str, tokenizer: Any, notes: list[str]) -> "TokenBlocks":
    """The text as blocks; whole texts are held out, a tenth of all tokens at most."""
    import torch

    from tokenry.core.chat.conversations import encode_with_notes
    from tokenry.core.text.passages import read_texts
    from tokenry.pretraining import TokenBlocks, packed_blocks

    is_text = source.endswith(".txt")
    rows = [{"text": text} for text in read_texts(Path(source))] if is_text else read_checked(source)
    encoding = encode_with_notes(rows, tokenizer, _WHOLE)
    notes += [f"{source}: {note}" for note in encoding.notes]
    texts = list(encoding.dataset["input_ids"])
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(plan.seed)).tolist()
    wanted = min(plan.held_out * plan.block, MOST_HELD_OUT * sum(map(len, texts)))
    aside, counted = 0, 0
    while counted < wanted:
        counted += len(texts[order[aside]])
        aside += 1
    if aside == len(texts):
        raise UserError(
            f"{source} holds {plural(len(texts), 'text')}, none of which can be held out: give more, shorter ones."
        )
    held_out, train = (
        [texts[number] for number in numbers] for numbers in (order[:aside], sorted(order[aside:]))
    )
    try:
        blocks = [packed_blocks(part, plan.block, tokenizer) for part in (train, held_out)]
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return TokenBlocks(blocks[0], blocks[1][: plan.held_out])


def _record(name: str, schedule: "RateSchedule", report: "ContinualReport") -> dict[str, Any]:
    import numpy as np

    steps = [0, *report.steps]
    drawn = np.unique(np.linspace(0, steps[-1], _DRAWN).astype(int))
    curves = {
        side: [float(np.mean(report.before[side])), *report.curve(side).tolist()]
        for side in _SIDES
        if side in report.curves
    }
    changes = {side: report.change(side) for side in _SIDES}
    return {
        "name": name,
        "max_lr": float(np.max(schedule(np.arange(steps[-1] + 1)))),
        "last_lr": float(schedule(steps[-1])),
        "new_loss": report.downstream_final,
        "old_loss": report.upstream_final,
        "adaptation": _estimated(changes["downstream"].scaled(-1)),
        "forgetting": _estimated(changes["upstream"]),
        "max_forgetting": report.max_forgetting,
        "schedule": {"steps": drawn.tolist(), "lr": np.asarray(schedule(drawn)).tolist()},
        "points": [
            {"step": step, **{side: curves[side][place] if side in curves else None for side in _SIDES}}
            for place, step in enumerate(steps)
        ],
    }


def _estimated(change: Any) -> dict[str, Any]:
    return {"value": change.value, "standard_error": change.standard_error, "blocks": change.samples}


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """What was learned and forgotten, the schedule and both losses, and the other schedules beside it."""
    runs = data["runs"]
    main = runs[0]
    blocks: list[Block] = [Text(_lead(data), "lead")]
    if data["blocks"]["old"] is None:
        blocks.append(
            Text("Forgetting was not measured: name text of the earlier training by --old.", "warning")
        )
    blocks += [_table(runs), _schedule_figure(runs), _loss_figure(main)]
    findings = [("schedules", _choice(runs))] if len(runs) > 1 else []
    if main["last_lr"] > 0.5 * main["max_lr"]:
        findings.append(
            ("rate", "it has not been lowered: the model can go on at it, and is better once it is annealed.")
        )
    if findings:
        blocks.append(Findings(findings))
    if data["notes"]:
        blocks.append(Section(NOTED, [Findings([("", note) for note in data["notes"]])]))
    return blocks


def _lead(data: Mapping[str, Any]) -> str:
    main = data["runs"][0]
    before = main["points"][0]
    said = (
        f"{plural(data['steps'], 'step')}, {data['tokens']:,} tokens: the loss on the new text went from {before['downstream']:.3f} to "
        f"{main['new_loss']:.3f} nats per token"
    )
    if data["blocks"]["old"] is None:
        return f"{said}."
    highest = (
        f", at most {main['max_forgetting']:.3f} above the beginning" if main["max_forgetting"] > 0 else ""
    )
    return f"{said}, that on the old text from {before['upstream']:.3f} to {main['old_loss']:.3f}{highest}."


def _table(runs: list[Mapping[str, Any]]) -> Table:
    columns = (
        "schedule",
        Column("highest rate", format=".3g"),
        Column("new text", "nats", ".3f"),
        Column("learned", "nats"),
        Column("old text", "nats", ".3f"),
        Column("forgotten", "nats"),
    )

    def change(row: Mapping[str, Any]) -> Any:
        return None if row["value"] is None else stored_estimate(row, samples="blocks")

    rows = [
        (
            run["name"],
            run["max_lr"],
            run["new_loss"],
            change(run["adaptation"]),
            run["old_loss"],
            change(run["forgetting"]),
        )
        for run in runs
    ]
    return Table(
        "loss at the end",
        columns,
        rows,
        ["± standard error over the held-out blocks, paired with themselves before."],
    )


def _schedule_figure(runs: list[Mapping[str, Any]]) -> Figure:
    series = [Series(run["name"], run["schedule"]["steps"], run["schedule"]["lr"]) for run in runs]
    return Figure("Learning rate", "lines", series, "step", "rate", "learning rate by step")


def _loss_figure(main: Mapping[str, Any]) -> Figure:
    steps = [point["step"] for point in main["points"]]
    series = [
        Series(words, steps, [point[side] for point in main["points"]])
        for side, words in _SIDES.items()
        if main["points"][0][side] is not None
    ]
    return Figure(
        "Loss on held-out text", "lines", series, "step", "nats per token", "loss on new and old text by step"
    )


def _choice(runs: list[Mapping[str, Any]]) -> str:
    """Which schedule is best on which text."""
    new = min(runs, key=lambda run: run["new_loss"])
    if runs[0]["old_loss"] is None:
        return f"best on the new text is {new['name']}."
    old = min(runs, key=lambda run: run["old_loss"])
    both = min(runs, key=lambda run: run["new_loss"] + run["old_loss"])
    return f"best on the new text is {new['name']}; on the old: {old['name']}; on the mean of both: {both['name']}."
