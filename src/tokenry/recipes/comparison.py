"""Train weighings side by side on the same model, data and seed, and measure what came of each on held-out data.

Every finished run is kept in its own folder, so an interrupted comparison goes on where it stopped:

    OUTPUT/plan.json           what was asked
    OUTPUT/reference/          the model trained on the trusted set alone, where a weighing compares with one
    OUTPUT/NAME/checkpoint-N   while it trains
    OUTPUT/NAME/model          the adapter (or the weights) when it has
    OUTPUT/NAME/run.json       what it measured
    OUTPUT/result.json         everything (`tokenry.core.records.Comparison`)
"""

import datetime
import platform
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from pydantic import BaseModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.pytorch_utils import Conv1D
from trl import SFTConfig

from tokenry.core.errors import UserError
from tokenry.core.files import read_json, write_json
from tokenry.core.records import Comparison, Estimate, Run
from tokenry.evaluation import HeldOut, generate_answers, held_out_nll, paired_difference, verifier_accuracy
from tokenry.finetuning import AllTokens, TokenWeighing, TokenWeighingTrainer
from tokenry.finetuning.conversations import class_names, encode_rows
from tokenry.finetuning.interruption import StopAfterStep
from tokenry.finetuning.refusals import refuse_arguments
from tokenry.finetuning.registry import make_weighing, weighing_options
from tokenry.finetuning.rows import read_rows
from tokenry.finetuning.template import training_template
from tokenry.finetuning.trainer import STATE_FILE, last_whole_checkpoint
from tokenry.models import load_model, load_tokenizer, preferred_dtype
from tokenry.recipes.noisy_tasks import noisy_tasks
from tokenry.recipes.plan import TunePlan, make_plan, read_config
from tokenry.recipes.recipe import Progress
from tokenry.recipes.run_record import PeakMemory, describe_run


class Interrupted(UserError):  # noqa: N818 (it is told to the user as news, not as an error)
    """The user stopped a comparison; a checkpoint was left."""


def resume_or_start(output: Path, given: dict[str, Any], config: Path | None, resume: bool) -> TunePlan:
    """Make the plan of a new comparison in `output`, or read the plan of the one to go on with.

    Args:
        output: folder of the results.
        given: plan fields that the user asked for.
        config: a run file.
        resume: whether a comparison that is already there may go on.

    Raises:
        UserError: there is a comparison already and `resume` is not asked for, or it was made with other settings.
    """
    stored = output / "plan.json"
    if not stored.exists():
        return make_plan(given, config)
    if not resume:
        raise UserError(
            f"{output} already holds a run: go on with it by --resume, or choose another --output for a new one."
        )
    plan = TunePlan.model_validate(read_json(stored))
    asked = {**(read_config(config) if config else {}), **given}
    for name, value in asked.items():
        there = getattr(plan, name, None)
        there = there.model_dump() if isinstance(there, BaseModel) else there
        same = (
            value.items() <= there.items()
            if isinstance(value, dict) and isinstance(there, dict)
            else value == there
        )
        if not same:
            raise UserError(
                f"the run in {output} was made with {name}={there!r}, not {value!r}: leave it out to go on, or choose "
                "another --output for a new run."
            )
    return plan


@dataclass(frozen=True)
class Material:
    """Data of a comparison, as rows and as tokens."""

    train: Dataset
    held_out: Dataset
    trusted: Dataset | None
    held_out_rows: Sequence[dict[str, Any]]
    classes: Sequence[str] = ()


def gather(plan: TunePlan, tokenizer: PreTrainedTokenizerBase) -> Material:
    """Read and encode the data of a plan; the trusted samples are training data too.

    Raises:
        UserError: data that cannot be read or learned from.
    """
    if plan.chat_template:
        tokenizer.chat_template = training_template(tokenizer, plan.chat_template)
    if plan.data == "demo":
        tasks = noisy_tasks(samples=plan.demo_samples, seed=plan.seed)
        train, trusted, held_out = tasks.train, tasks.trusted, tasks.held_out
    else:
        train = read_rows(plan.data)
        trusted = read_rows(plan.trusted) if plan.trusted else []
        held_out = read_rows(plan.held_out) if plan.held_out else []
        if not held_out:
            train, held_out = _set_aside(train, plan.seed)

    def encode(rows: Sequence[dict[str, Any]]) -> Dataset:
        return encode_rows(
            rows,
            tokenizer,
            plan.max_length,
            too_long=plan.too_long,  # type: ignore[arg-type]
        )

    encoded = encode([*train, *trusted])
    return Material(
        train=encoded,
        held_out=encode(held_out).select_columns(["input_ids", "labels"]),
        trusted=encode(trusted).select_columns(["input_ids", "labels"]) if trusted else None,
        held_out_rows=held_out,
        classes=class_names(encoded),
    )


def _set_aside(rows: list[dict[str, Any]], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Keep a tenth of the rows, at least two and at most 500, for evaluation."""
    count = min(500, max(2, len(rows) // 10))
    if len(rows) < 4:
        raise UserError(
            f"{len(rows)} samples are too few to train on and to set some aside: give more, or --held-out a file."
        )
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    kept = [row for number, row in enumerate(rows) if number not in chosen]
    return kept, [row for number, row in enumerate(rows) if number in chosen]


def weighings_of(plan: TunePlan) -> dict[str, TokenWeighing]:
    """Make the weighings of a plan by name, the control first and the one asked for second.

    Raises:
        UserError: an unknown weighing or option, or the same weighing twice.
    """
    descriptions = [*plan.compare[:1], plan.weighing, *plan.compare[1:]]
    made: dict[str, TokenWeighing] = {}
    for description in dict.fromkeys(descriptions):
        name = description.partition(":")[0]
        options = weighing_options(name)
        given: dict[str, Any] = {}
        if plan.share is not None and made_for_selection(name):
            given["share"] = plan.share
        if plan.balance is not None and "balance" in options:
            given["balance"] = plan.balance
        made[description.replace(":", " ")] = make_weighing(description, **given)
    return made


def made_for_selection(name: str) -> bool:
    """Tell whether a weighing selects a share by default."""
    return make_weighing(name).share < 1.0


def compare(plan: TunePlan, output: Path, report: Progress) -> Comparison:
    """Carry out a plan in `output`, or go on with it there.

    Args:
        plan: what to do.
        output: folder of the results.
        report: is told what is being done, and the share that is done.

    Raises:
        UserError: something in the plan, the data or the model cannot work; said before training begins.
        Interrupted: the user stopped it; a checkpoint was left.
    """
    weighings = weighings_of(plan)
    report("reading the model and the data", 0.0)
    tokenizer = load_tokenizer(plan.model)
    material = gather(plan, tokenizer)
    needs_reference = any("reference_nll" in weighing.needs for weighing in weighings.values())
    if needs_reference and material.trusted is None and plan.reference is None:
        raise UserError(
            "a weighing compares with a reference model: give --trusted a file of clean samples, or --reference a model."
        )
    for weighing in weighings.values():
        refuse_arguments(weighing, {"args": _sft_config(plan, output)})
    write_json(output / "plan.json", plan.model_dump())
    bench = _Bench(plan, output, tokenizer, material, report, rounds=len(weighings) + 0.3 * needs_reference)
    if needs_reference and plan.reference is None:
        bench.train_reference()
    runs, controls = [], None
    untrained = bench.untrained()
    for name, weighing in weighings.items():
        run, held_out = bench.run(name, weighing)
        controls = controls or (name, held_out)
        if name != controls[0]:
            run = run.model_copy(update={"paired": paired_difference(held_out, controls[1], to=controls[0])})
        runs.append(run)
    comparison = Comparison(
        model=plan.model,
        data=plan.data,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        untrained_nll=untrained.nll_per_token,
        settings=plan.model_dump(),
        environment=_environment(),
        runs=runs,
    )
    comparison.save(output / "result.json")
    report("done", 1.0)
    return comparison


@dataclass
class _Bench:
    """One model, one data set, one seed: every run is made here in the same way."""

    plan: TunePlan
    output: Path
    tokenizer: PreTrainedTokenizerBase
    material: Material
    report: Progress
    rounds: float
    done: float = field(default=0.0)

    def untrained(self) -> HeldOut:
        """Measure the model before training."""
        path = self.output / "untrained.json"
        if not path.exists():
            self.say("measuring the untrained model")
            _save_held_out(path, self.measure(self.load()))
        return _load_held_out(path)

    def train_reference(self) -> None:
        """Train a model on the trusted samples alone."""
        folder = self.output / "reference"
        if not (folder / "model").exists():
            self.train("reference", AllTokens(), self.material.trusted, folder, rounds=0.3)
        self.done += 0.3

    def run(self, name: str, weighing: TokenWeighing) -> tuple[Run, HeldOut]:
        """Train with one weighing and measure it, or read what was measured."""
        folder = self.output / _folder_name(name)
        if (folder / "run.json").exists():
            self.done += 1
            return Run.model_validate(read_json(folder / "run.json")), _load_held_out(
                folder / "held_out.json"
            )
        with PeakMemory() as memory:
            trainer = self.train(name, weighing, self.material.train, folder, rounds=0.8)
        self.say(f"{name}: held-out loss", 0.85)
        held_out = self.measure(trainer.model)
        self.say(f"{name}: answers", 0.9)
        run = describe_run(
            name,
            trainer,
            held_out,
            accuracy=self.accuracy(trainer.model),
            classes=self.material.classes,
            peak_memory_mb=memory.peak_mb,
        )
        _save_held_out(folder / "held_out.json", held_out)
        write_json(folder / "run.json", run.model_dump(mode="json"))
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
        self.done += 1
        return run, held_out

    def train(
        self, name: str, weighing: TokenWeighing, data: Dataset | None, folder: Path, rounds: float
    ) -> TokenWeighingTrainer:
        """Train, from the last checkpoint where there is one; the result is saved in `folder`/model."""
        self.say(name)
        stop, model = StopAfterStep(), self.load()
        trainer = TokenWeighingTrainer(
            model,
            args=_sft_config(self.plan, folder),
            train_dataset=data,
            processing_class=self.tokenizer,
            peft_config=_lora(self.plan, model),
            weighing=weighing,
            reference_model=self.reference() if "reference_nll" in weighing.needs else None,
            record_signals=True,
            callbacks=[stop, _TellProgress(lambda share: self.say(name, share * rounds))],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=_checkpoint(folder))
        if stop.stopped and trainer.state.global_step < trainer.state.max_steps:
            raise Interrupted(
                f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps} of {name}; nothing is lost: "
                f"go on with `tokenry tune --resume --output {self.output}`."
            )
        trainer.save_model(str(folder / "model"))
        return trainer

    def load(self) -> PreTrainedModel:
        """Load the model of the plan."""
        return load_model(self.plan.model, dtype=self.plan.dtype or preferred_dtype())

    def reference(self) -> PreTrainedModel:
        """Load the reference model."""
        place = self.plan.reference or self.output / "reference" / "model"
        return load_model(place, dtype=self.plan.dtype or preferred_dtype())

    def measure(self, model: torch.nn.Module) -> HeldOut:
        """Measure a model on the held-out data."""
        return held_out_nll(model, self.material.held_out, tokenizer=self.tokenizer)

    def accuracy(self, model: torch.nn.Module) -> Estimate | None:
        """Let a model answer the items that carry a verifier."""
        items = [row for row in self.material.held_out_rows if row.get("verifier") and row.get("messages")]
        items = items[: self.plan.answers]
        if len(items) < 2:
            return None
        prompts = [item["messages"][:-1] for item in items]
        return verifier_accuracy(generate_answers(model, self.tokenizer, prompts), items)

    def say(self, what: str, share: float = 0.0) -> None:
        """Tell what is being done."""
        self.report(what, min(1.0, (self.done + share) / self.rounds))


@dataclass
class _TellProgress(TrainerCallback):
    tell: Callable[[float], None]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tell(state.global_step / max(1, state.max_steps))


def _sft_config(plan: TunePlan, folder: Path) -> SFTConfig:
    options = {
        "output_dir": str(folder),
        "max_length": plan.max_length,
        "seed": plan.seed,
        "bf16": False,  # the model itself runs in the dtype of the plan
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 0.2,
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "dataloader_pin_memory": torch.cuda.is_available(),
        **plan.training,
    }
    try:
        return SFTConfig(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"a training argument is not right: {str(error).splitlines()[0]}") from error


def _lora(plan: TunePlan, model: PreTrainedModel) -> LoraConfig | None:
    """Adapt every linear map but the output head, from the first layer asked for."""
    if plan.lora is None:
        return None
    layers = model.config.get_text_config().num_hidden_layers
    if plan.lora.first_layer >= layers:
        raise UserError(
            f"lora.first_layer must be below the model's {layers} layers, got {plan.lora.first_layer}."
        )
    head = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    return LoraConfig(
        r=plan.lora.rank,
        lora_alpha=plan.lora.alpha,
        lora_dropout=plan.lora.dropout,
        target_modules=sorted(linear),
        layers_to_transform=list(range(plan.lora.first_layer, layers)) if plan.lora.first_layer else None,
        task_type="CAUSAL_LM",
    )


def _checkpoint(folder: Path) -> str | None:
    return str(last_whole_checkpoint(folder)) if any(folder.glob(f"checkpoint-*/{STATE_FILE}")) else None


def _folder_name(name: str) -> str:
    return re.sub(r"[^a-z0-9.=-]+", "-", name.lower())


def _save_held_out(path: Path, held_out: HeldOut) -> None:
    write_json(
        path,
        {
            "nll": held_out.nll.tolist(),
            "tokens": held_out.tokens.tolist(),
            "text_bytes": None if held_out.text_bytes is None else held_out.text_bytes.tolist(),
            "items": list(held_out.items),
        },
    )


def _load_held_out(path: Path) -> HeldOut:
    stored = read_json(path)
    return HeldOut(
        nll=np.array(stored["nll"]),
        tokens=np.array(stored["tokens"]),
        text_bytes=None if stored["text_bytes"] is None else np.array(stored["text_bytes"]),
        items=tuple(stored["items"]),
    )


def _environment() -> dict[str, str]:
    packages = {
        name: version(name) for name in ("tokenry", "torch", "transformers", "trl", "peft", "datasets")
    }
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return {"python": platform.python_version(), "device": device, **packages}
