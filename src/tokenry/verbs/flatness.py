"""How flat the minimum of a pre-trained model is: a trace with its error, by layer, on texts or conversations."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least, require_share
from tokenry.core.io.files import is_result_file
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Section, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._environment import environment
from tokenry.verbs._estimates import estimate_row, estimate_series, stored_estimate
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from tokenry.pretraining import TraceEstimate

_DRAWN_LAYERS = 60
# They share forward and first backward of their batch.
_PROBES = 4


@dataclass(frozen=True)
class Plan:
    """Measure how flat the minimum of a causal or masked language model is: the trace of the Hessian of its loss, with a standard error.

    Attributes:
        model: `embedded`, a folder, or a hub name.
        data: a text file (.txt, .md), or texts or conversations: a file (JSONL, JSON, CSV, Parquet), a folder, or a hub name.
        fisher: take the Fisher trace with labels of the model instead, which needs no second derivative and equals the trace where the model has learned its language.
        tolerance: standard error at which it ends, as a share of the trace.
        most_draws: number of draws after which it ends anyhow: batches with four probes each, or sequences with --fisher.
        eigenvalue: find the largest eigenvalue of the Hessian too, over the first batches.
        batch_size: sequences of a draw.
        max_length: maximum tokens of a sequence.
        sequences: maximum number of sequences.
        mask_share: share of the tokens that are masked for a masked language model.
        include: only parameters with one of these words in their names, separated by commas.
        seed: random seed of sequences, masks, probes and labels.
        output: folder for result.json and report.html, or a .json or .html file; an interrupted measurement goes on there.
    """

    model: str = argument()
    data: str = argument()
    fisher: bool = False
    tolerance: float = 0.02
    most_draws: int = 2000
    eigenvalue: bool = False
    batch_size: int = 4
    max_length: int = 128
    sequences: int = 1024
    mask_share: float = 0.15
    include: tuple[str, ...] = option((), metavar="A,B", commas=True)
    seed: int = 0
    hardware: Hardware = embedded(Hardware(), only=("device",))
    output: Path | None = Path("runs/flatness")

    def __post_init__(self) -> None:
        require_at_least(1, most_draws=self.most_draws, batch_size=self.batch_size, sequences=self.sequences)
        require_at_least(2, max_length=self.max_length)
        require_at_least(0, seed=self.seed)
        require_share(self.mask_share, "mask_share")
        if not 0 < self.tolerance < 1:
            raise UserError(f"tolerance must be between 0 and 1, such as 0.02, got {self.tolerance}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Draw until the error is small enough, in float32 and without dropout."""
    device = plan.hardware.place()
    progress("reading the model and the data", 0.0)
    found = _measured(plan, progress)
    data = {
        "kind": "flatness",
        "model": plan.model,
        **found,
        "settings": plan_settings(plan),
        "environment": environment(device),
    }
    return Result(f"Flatness of {model_title(plan.model)}", data, lay_out(data))


def _measured(plan: Plan, progress: Progress) -> dict[str, Any]:
    from tokenry.core.io.workspace import fingerprint
    from tokenry.models import load_tokenizer
    from tokenry.models.masked_model import load_language_model
    from tokenry.pretraining import DrawConfig, fisher_trace, hessian_trace, top_hessian_eigenvalue

    tokenizer = load_tokenizer(plan.model)
    model, masked = load_language_model(plan.model, "float32")
    model.to(plan.hardware.place())
    sequences, notes = _sequences(plan, tokenizer)
    batches = _batches(plan, tokenizer, sequences, masked)
    folder = None
    if plan.output is not None and not is_result_file(plan.output):
        asked = plan_settings(plan, without=("output", "tolerance", "most_draws", "device"))
        folder = plan.output / f"draws-{fingerprint(asked, sequences, length=8)}"

    def tell(draws: int, found: "TraceEstimate") -> None:
        reached = (plan.tolerance * found.mean / found.stderr) ** 2 if found.stderr > 0 else 0.0
        progress(f"draw {draws}: {found}", min(0.95, max(reached, draws / plan.most_draws)))

    config = DrawConfig(plan.seed, 1 if plan.fisher else _PROBES, "targets", plan.most_draws, 8, folder, tell)
    chosen: dict[str, Any] = {
        "include": plan.include or None,
        "per_group": True,
        "config": config,
        "tol": plan.tolerance,
    }
    fewest = min(32, plan.most_draws)
    if plan.fisher:
        trace = fisher_trace(model, batches, per="sequence", sequences=fewest, **chosen)
    else:
        trace = hessian_trace(model, batches, fewest * _PROBES, **chosen)
    top = None
    if plan.eigenvalue:
        progress("the largest eigenvalue", 0.96)
        top = top_hessian_eigenvalue(model, batches[:4], tol=0.01, include=plan.include or None)
    if folder is not None:
        shutil.rmtree(folder)
    return {
        "what": "Fisher" if plan.fisher else "Hessian",
        "masked": masked,
        "trace": estimate_row(trace.estimate),
        "relative": None if trace.relative is None else estimate_row(trace.relative),
        "loss": estimate_row(trace.loss) if trace.loss is not None else None,
        "groups": [{"name": name, **estimate_row(found)} for name, found in trace.per_group.items()],
        "top_eigenvalue": top,
        "sequences": len(sequences),
        "notes": [*notes, *trace.notes],
    }


def _sequences(
    plan: Plan, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[dict[str, list[int]]], list[str]]:
    """Ids and labels of the sequences in random order, and notes on the data."""
    import random

    from tokenry.core.text.passages import read_texts

    notes: list[str] = []
    if Path(plan.data).suffix.lower() in (".txt", ".md"):
        encoded = tokenizer(read_texts(Path(plan.data)), verbose=False)["input_ids"]
        windows = [
            ids[start : start + plan.max_length]
            for ids in encoded
            for start in range(0, len(ids), plan.max_length)
        ]
        found = [{"input_ids": ids, "labels": ids} for ids in windows if len(ids) > 1]
    else:
        from tokenry.core.chat.conversations import encode_with_notes
        from tokenry.verbs._chats import read_checked

        encoding = encode_with_notes(read_checked(plan.data), tokenizer, plan.max_length)
        notes += [f"data: {note}" for note in encoding.notes]
        found = [{name: row[name] for name in ("input_ids", "labels")} for row in encoding.dataset]
    if not found:
        raise UserError(f"{plan.data} holds no sequence of two tokens or more: give longer texts.")
    random.Random(plan.seed).shuffle(found)
    return found[: plan.sequences], notes


def _batches(
    plan: Plan, tokenizer: "PreTrainedTokenizerBase", sequences: Sequence[dict[str, list[int]]], masked: bool
) -> "list[dict[str, Tensor]]":
    """Padded batches; for a masked language model, with masks that are drawn once."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import DataCollatorForLanguageModeling

    if masked:
        if tokenizer.mask_token is None:
            raise UserError(
                f"the tokenizer of {plan.model} has no mask token, which a masked language model needs."
            )
        mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=plan.mask_share, seed=plan.seed)
        mask.create_rng()  # an older transformers takes a seed of 0 for none
    batches = []
    for start in range(0, len(sequences), plan.batch_size):
        rows = sequences[start : start + plan.batch_size]
        if masked:
            batch = dict(mask([{"input_ids": row["input_ids"]} for row in rows]))
            if not bool((batch["labels"] != -100).any()):
                continue
        else:
            ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
            batch = {
                "input_ids": pad_sequence(ids, batch_first=True),
                "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
                "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            }
        batches.append(batch)
    return batches


# --- layout --------------------------------------------------------------------------------------------------------------------------

_MEANING = {
    "Hessian": (
        "The trace of the Hessian of the mean loss per token. Of two models with the same loss and the same architecture, the one with the "
        "smaller trace is the flatter one."
    ),
    "Fisher": (
        "The mean squared norm of the gradient of log p(y), with y drawn from the model. It equals the trace of the Hessian where the "
        "model has learned the language, and leaves out what residuals bend elsewhere."
    ),
}
# What every model with fused attention needs is no warning.
_AS_USUAL = "attention ran"
_RELATIVE = "Relative: each diagonal entry times its squared weight, which a rescaling of weights that leaves the function alone does not change."


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """The trace with its error, what else was measured, and the trace by layer."""
    trace = stored_estimate(data["trace"])
    drawn = plural(trace.samples, "sequence" if data["what"] == "Fisher" else "draw")
    blocks: list[Block] = [
        Text(f"The trace of the {data['what']} is {trace:.4g} ({drawn}).", "lead"),
        *(Text(note, "note" if note.startswith(_AS_USUAL) else "warning") for note in data["notes"]),
        Text(_MEANING[data["what"]]),
        Table(
            "What was measured", ("", Column("value"), Column("standard error", format=".3g")), _figures(data)
        ),
    ]
    if data["relative"] is not None:
        blocks.append(Text(_RELATIVE))
    return [*blocks, _by_layer(data)]


def _figures(data: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    token = "masked token" if data["masked"] else "token"
    named = (("trace", "trace"), ("relative trace", "relative"), (f"loss per {token} (nats)", "loss"))
    rows = [(title, data[name]["value"], data[name]["standard_error"]) for title, name in named if data[name]]
    if data["top_eigenvalue"] is not None:
        rows.append(("largest eigenvalue", data["top_eigenvalue"], None))
    return rows


def _by_layer(data: Mapping[str, Any]) -> Section:
    groups = [(group["name"], stored_estimate(group)) for group in data["groups"]]
    total = sum(found.value for _, found in groups)
    largest = max(groups, key=lambda group: group[1].value)
    summary = f"{largest[0]} has the largest part, {largest[1]:.3g} of {total:.4g}"
    shown = groups[:_DRAWN_LAYERS]
    series = estimate_series("trace", [name for name, _ in shown], [found for _, found in shown])
    figure = Figure("Trace by layer", "intervals", [series], "trace", "", summary, reference=0.0)
    columns = ("parameters", Column("trace"), Column("share", "%", ".0f"))
    rows = [(name, found, found.value / total if total else None) for name, found in groups]
    return Section("By layer", [figure, Table("", columns, rows)])
