"""Training on preferences with any loss, and what it did to held-out pairs."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_above_zero, require_at_least
from tokenry.core.io.files import require_folder_name, require_new
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.core.stats import paired_difference
from tokenry.report.blocks import Block, Column, Findings, Section, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._course_of_training import course_figures, course_table
from tokenry.verbs._environment import environment
from tokenry.verbs._estimates import estimate_row, stored_estimate
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._lora import Lora, lora_config
from tokenry.verbs._models import model_title
from tokenry.verbs.preference._pairs import case_table, encoded, read_pairs

if TYPE_CHECKING:
    from torch import Tensor, nn
    from trl import DPOConfig

    from tokenry.alignment import PreferencePair
    from tokenry.alignment.preference_losses import PreferenceLoss

_CURVE = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy",
          "logps/chosen": "logp_chosen", "logps/rejected": "logp_rejected"}  # fmt: skip
_RECORDS = 8


@dataclass(frozen=True)
class Plan:
    """Train a model on preference pairs with any preference loss, and say where the log-probabilities of held-out pairs went.

    Attributes:
        model: `embedded`, a folder, or a hub name.
        data: pairs with `chosen`, `rejected` and perhaps `prompt`: a file (JSONL, JSON, CSV, Parquet), a folder, or a hub name.
        loss: the loss, as of `preference explain`.
        update: plain; or other multipliers for each pair by the gradients of the output head: repaired moves both responses as wanted with the smallest change, normalised always does.
        shared_above: leave out tokens whose gradient has a higher cosine than this with a token of the other response.
        held_out: pairs for evaluation; by default a tenth of the data.
        full_weights: train all weights, without LoRA.
        rank: rank of LoRA.
        epochs: passes over the data.
        max_steps: optimisation steps instead of epochs.
        batch_size: pairs per optimisation step.
        learning_rate: highest learning rate; by default 5e-5 with LoRA and 1e-6 without.
        max_length: maximum tokens of prompt and response.
        seed: random seed.
        output: new folder for result.json, report.html and the trained model.
    """

    model: str = argument()
    data: str = argument()
    loss: str = "dpo"
    update: Literal["plain", "normalised", "repaired"] = "plain"
    shared_above: float | None = option(None, metavar="COSINE")
    held_out: str | None = None
    full_weights: bool = False
    rank: int = 16
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    learning_rate: float | None = None
    max_length: int = 1024
    seed: int = 42
    hardware: Hardware = Hardware()
    output: Path = Path("runs/preference-train")

    def __post_init__(self) -> None:
        require_at_least(1, rank=self.rank, max_steps=self.max_steps, batch_size=self.batch_size)
        require_at_least(2, max_length=self.max_length)
        require_above_zero(epochs=self.epochs, learning_rate=self.learning_rate)
        require_folder_name(self.output, "the trained model")


def run(plan: Plan, progress: Progress) -> Result:
    """Train, and measure held-out pairs before and after."""
    from tokenry.alignment import preference_loss

    loss = preference_loss(plan.loss)
    require_new(plan.output / "model")
    rows, held_out = _split(plan)
    device = plan.hardware.place()
    progress("reading the model", 0.0)
    found = _trained(plan, loss, rows, held_out, progress)
    data = {
        "kind": "preference train",
        "model": plan.model,
        "loss": plan.loss,
        "equation": loss.equation,
        "pairs": len(rows),
        "held_out_pairs": len(held_out),
        **found,
        "settings": plan_settings(plan),
        "environment": environment(device, "trl", "peft"),
    }
    title = f"{model_title(plan.model)} trained on {Path(plan.data).name} with {plan.loss}"
    return Result(title, data, lay_out(data))


def _split(plan: Plan) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The pairs for training and for evaluation."""
    from random import Random

    rows = read_pairs(plan.data)
    if plan.held_out is not None:
        return rows, read_pairs(plan.held_out)
    if len(rows) < 2:
        raise UserError(f"{plan.data} has one pair: give more, or pairs for evaluation with held_out=FILE.")
    order = Random(plan.seed).sample(range(len(rows)), len(rows))
    aside = max(1, len(rows) // 10)
    return [rows[number] for number in order[aside:]], [rows[number] for number in order[:aside]]


def _trained(
    plan: Plan,
    loss: "PreferenceLoss",
    rows: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import PrinterCallback

    from tokenry.alignment import EntanglementCallback, PreferenceTrainer
    from tokenry.models import load_tokenizer, require_causal_lm
    from tokenry.verbs._stages import Stages
    from tokenry.verbs._training import TellSteps, logged_curve

    tokenizer, model = load_tokenizer(plan.model), plan.hardware.load(plan.model)
    require_causal_lm(model, plan.model)
    pairs = encoded(held_out, tokenizer, plan.max_length)
    lora = None if plan.full_weights else Lora(rank=plan.rank, alpha=2 * plan.rank, dropout=0.0)
    needs_copy = plan.full_weights and loss.uses_reference
    steps = plan.max_steps or max(1, round(plan.epochs * len(rows) / plan.batch_size))
    watch = EntanglementCallback(max(1, steps // _RECORDS), pairs, loss, scope="head")
    stages = Stages(progress, [1.0])
    trainer = PreferenceTrainer(
        model,
        ref_model=plan.hardware.load(plan.model) if needs_copy else None,
        args=_arguments(plan),
        train_dataset=Dataset.from_list([_columns(row) for row in rows]),
        processing_class=tokenizer,
        peft_config=lora_config(lora, model),
        callbacks=[watch, TellSteps(stages)],
        loss=loss,
        update=plan.update,
        shared_above=plan.shared_above,
    )
    before = _logps(trainer.model, pairs)
    stages.begin("training", 1.0)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    after = _logps(trainer.model, pairs)
    trainer.save_model(str(plan.output / "model"))
    return {
        "steps": trainer.state.global_step,
        "held_out": _movement(before, after),
        "curve": logged_curve(trainer, _CURVE),
        "records": [dataclasses.asdict(record) for record in watch.records],
    }


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("prompt", "chosen", "rejected") if name in row}


def _arguments(plan: Plan) -> "DPOConfig":
    from trl import DPOConfig

    from tokenry.verbs._training import own_training

    rate = plan.learning_rate or (1e-6 if plan.full_weights else 5e-5)
    return DPOConfig(**own_training(plan), learning_rate=rate, save_strategy="no")


def _logps(model: "nn.Module", pairs: "Sequence[PreferencePair]") -> "Tensor":
    """Log-probabilities of both responses of every pair."""
    import torch

    from tokenry.alignment.entanglement import response_logp
    from tokenry.core.tensors.modes import evaluation_mode

    with torch.no_grad(), evaluation_mode(model):
        rows = [
            [response_logp(model, pair.prompt, response) for response in (pair.chosen, pair.rejected)]
            for pair in pairs
        ]
    return torch.tensor(rows, dtype=torch.float64).T


def _movement(before: "Tensor", after: "Tensor") -> dict[str, Any]:
    """Changes of the held-out log-probabilities with their errors, and the share of pairs in each case."""
    from tokenry.alignment.entanglement import CASES, cases

    moved = after - before
    codes = cases(moved[0], moved[1])
    changes = {
        "chosen": (after[0], before[0]),
        "rejected": (after[1], before[1]),
        "margin": (after[0] - after[1], before[0] - before[1]),
    }
    estimates = {
        name: paired_difference(ours.numpy(), theirs.numpy()) for name, (ours, theirs) in changes.items()
    }
    return {
        "changes": {name: estimate_row(found) for name, found in estimates.items()},
        "margin_grew": float((moved[0] > moved[1]).double().mean()),
        "cases": {case: float((codes == code).double().mean()) for code, case in enumerate(CASES)},
    }


# --- layout --------------------------------------------------------------------------------------------------------------------------

_LABELS = {"chosen": "log π of chosen", "rejected": "log π of rejected", "margin": "their difference"}


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Where held-out pairs went, the course of training, and what entangles."""
    held_out = data["held_out"]
    lead = (
        f"{plural(data['steps'], 'step')} on {plural(data['pairs'], 'pair')}: the margin grew on {held_out['margin_grew']:.0%} of "
        f"{plural(data['held_out_pairs'], 'held-out pair')}."
    )
    changes = Table(
        "",
        ("held-out pairs", Column("change", "nats", ".2f")),
        [(_LABELS[name], stored_estimate(row)) for name, row in held_out["changes"].items()],
    )
    shares = {"moved": held_out["cases"]}
    if data["records"]:
        shares = {"predicted before training": data["records"][0]["predicted"], **shares}
    return [
        Text(lead, "lead"),
        Section("What it did to held-out pairs", [changes, case_table(shares)]),
        Section("Training", _course(data["curve"])),
        Section("Tokens that entangle", [Findings(_tokens(data["records"]))]),
    ]


def _course(curve: Sequence[Mapping[str, float | int]]) -> list[Block]:
    columns = {
        "loss": Column("loss", format=".3f"),
        "margin": Column("margin", format=".3f"),
        "accuracy": Column("accuracy", "%", ".0f"),
    }
    responses = {f"logp_{name}": name for name in ("chosen", "rejected")}
    return [
        course_table(curve, columns),
        *course_figures("Loss", curve, {"loss": "loss"}, "loss"),
        *course_figures("Log-probabilities of the training pairs", curve, responses, "nats"),
    ]


def _tokens(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The tokens named in the first record and in the last."""
    ends = [records[0], records[-1]] if len(records) > 1 else records
    return [
        (
            f"step {record['step']}",
            ", ".join(f"{chosen!r} with {rejected!r}" for _, chosen, rejected, _ in record["tokens"])
            or "none",
        )
        for record in ends
    ]
