"""One model, one data set, one seed: every run of a comparison is made here, in the same way, and measured.

OUTPUT/untrained.json      the model before training, on held-out data
OUTPUT/reference/model     the model trained on the trusted samples alone, where a weighing compares with one
OUTPUT/NAME/checkpoint-N   while NAME trains
OUTPUT/NAME/model          the adapter (or the weights) when it has
OUTPUT/NAME/run.json       what it measured
"""

import itertools
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, set_seed
from transformers.pytorch_utils import Conv1D
from trl import SFTConfig

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.stats import Estimate
from tokenry.evaluation import HeldOut, generate_answers, held_out_nll, verifier_accuracy
from tokenry.evaluation.generation import require_answers
from tokenry.evaluation.verifiers import encode_prompts
from tokenry.finetuning import AllTokens, TokenWeighing, TokenWeighingTrainer
from tokenry.finetuning.interruption import StopAfterStep
from tokenry.finetuning.trainer import STATE_FILE, last_whole_checkpoint
from tokenry.models import (
    load_model,
    preferred_dtype,
    require_causal_lm,
    require_readable,
    require_reference,
)
from tokenry.verbs._chats import ANSWER_TOKENS, answerable
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._stages import Stages, answers_cost
from tokenry.verbs._tune.finished_run import load_held_out, load_run, save_held_out, save_run
from tokenry.verbs._tune.material import Material
from tokenry.verbs._tune.plan import default_length, training_said
from tokenry.verbs._tune.records import Run
from tokenry.verbs._tune.run_record import PeakMemory, StepClock, describe_run
from tokenry.verbs._tune.stages import TellSteps, training_cost
from tokenry.verbs._tune.training_length import (
    fitted_length,
    require_learning,
    require_ranges,
    trained_epochs,
    training_steps,
)
from tokenry.verbs.tune import Plan


class Interrupted(KeyboardInterrupt):
    """The user stopped; the message says where."""


class Bench:
    """Trains and measures the weighings of a plan, and keeps what is finished in the output folder.

    Args:
        plan: model and training.
        output: folder of the results.
        tokenizer: of the model.
        material: the data.
        weighings: by name, in the order in which they will be run.
        report: is told what is being done.
    """

    def __init__(
        self,
        plan: Plan,
        output: Path,
        tokenizer: PreTrainedTokenizerBase,
        material: Material,
        weighings: Mapping[str, TokenWeighing],
        report: Progress,
    ) -> None:
        self.plan, self.output, self.tokenizer, self.material = plan, output, tokenizer, material
        self.weighings = weighings
        self.args = self.training_of(material.train, output)
        self.items, self.prompts = answerable(material.held_out_rows, plan.answers)
        self.makes_reference = plan.reference is None and any(map(needs_reference, weighings.values()))
        self.costs = self._costs()
        self.stages = Stages(report, list(self.costs.values()))

    @property
    def steps(self) -> int:
        """The optimisation steps of a run."""
        return training_steps(self.args, self._rows(self.material.train))

    @property
    def length(self) -> dict[str, Any]:
        """All that is said of training, with a length that follows from the training data."""
        return self._fitted(self.material.train)

    def training_of(self, data: Dataset, folder: Path) -> SFTConfig:
        """The training arguments for some data."""
        args = sft_config(self.plan, folder, self._fitted(data))
        require_ranges(args)
        require_learning(args, self._rows(data))
        return args

    def _fitted(self, data: Dataset) -> dict[str, Any]:
        return fitted_length(self.plan.training, default_length(self.plan), self._rows(data))

    def _rows(self, data: Dataset) -> int:
        """The rows that a step is made of: samples, or where they are packed about as many as their tokens fill."""
        if not self.plan.training.get("packing"):
            return len(data)
        return math.ceil(_tokens(data) / self.plan.max_length)

    def rehearse(self) -> None:
        """Build the trainer of every weighing on two samples: what will not work is refused before the first step."""
        self.stages.begin("checking what was asked for", 0.0)
        model = self.load()
        lora = lora_config(self.plan, model)
        few = self.material.few
        # So few samples are gone through as often as all of them will be.
        epochs = trained_epochs(self.args, self._rows(self.material.train))
        as_often = {**self.length, "max_steps": -1, "num_train_epochs": epochs}
        args = sft_config(self.plan, self.output, as_often)
        self._require_readable(model)
        for weighing in self.weighings.values():
            # Where the reference is still to be made, the model itself stands in for it.
            named = self.plan.reference if needs_reference(weighing) else None
            reference = self.load(named) if named else model
            if named:
                require_reference(reference, self.tokenizer, f"the reference {named}")
                _require_rows(reference, self.material.train, "the training data", named)
            with self._refusals_of_trl():
                trainer = self._trainer(weighing, model, few, args, lora, reference)
                trainer.get_train_dataloader()
                trainer.create_optimizer_and_scheduler(self.steps)
            model, lora = trainer.model, None

    @contextmanager
    def _refusals_of_trl(self) -> Iterator[None]:
        """What TRL refuses before the first step, or lacks a package or a file for, is the user's to put right."""
        try:
            yield
        except UserError:
            raise
        except (ValueError, TypeError, AttributeError, ImportError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "install" not in str(error):
                raise
            said = training_said(self.plan)
            told = f" (with {', '.join(f'{name}={value}' for name, value in said.items())})" if said else ""
            raise UserError(f"this cannot be trained: {' '.join(str(error).split())}{told}") from error

    def _require_readable(self, model: PreTrainedModel) -> None:
        """Refuse what this model cannot read, in all the data and in the questions that it will be asked."""
        require_causal_lm(model, self.plan.model)
        material = self.material
        parts = {
            "training data": material.train,
            "held-out data": material.held_out,
            "trusted data": material.trusted,
        }
        for what, rows in parts.items():
            if rows is not None:
                _require_rows(model, rows, f"the {what}", self.plan.model)
        if self.items:
            require_answers(model, encode_prompts(self.tokenizer, self.prompts), ANSWER_TOKENS)

    def untrained(self) -> HeldOut:
        """Measure the model before training."""
        path = self.output / "untrained.json"
        self.stages.begin("the untrained model", self.costs["untrained"])
        if not path.exists():
            save_held_out(path, self.measure(self.load()))
        return load_held_out(path)

    def train_reference(self) -> None:
        """Train the reference model on the trusted samples alone, where a weighing needs one.

        Raises:
            Interrupted: the user stopped it.
        """
        folder, trusted = self.output / "reference", self.material.trusted
        if not self.makes_reference or trusted is None:
            return
        self.stages.begin("the reference model", self.costs["reference"])
        if not (folder / "model").exists():
            self._train(AllTokens(), trusted, folder)
            _remove_checkpoints(folder)

    def run(self, name: str) -> tuple[Run, HeldOut]:
        """Train with one weighing and measure it, or read what was measured.

        Raises:
            Interrupted: the user stopped it.
        """
        folder = self.output / folder_name(name)
        parts = (name, f"{name}: held-out loss", f"{name}: answers")
        if finished := load_run(folder):
            self.stages.skip(sum(self.costs[part] for part in parts))
            return finished
        training, measuring, answering = parts
        clock = StepClock()
        self.stages.begin(training, self.costs[training])
        with PeakMemory() as memory:
            trainer = self._train(self.weighings[name], self.material.train, folder, clock)
        self.stages.begin(measuring, self.costs[measuring])
        held_out = self.measure(trainer.model)
        self.stages.begin(answering, self.costs[answering])
        run = describe_run(
            name,
            trainer,
            held_out,
            accuracy=self._accuracy(trainer.model),
            classes=self.material.classes,
            peak_memory_mb=memory.peak_mb if clock.steps else None,
        )
        save_run(folder, run, held_out)
        _remove_checkpoints(folder)
        return run, held_out

    def load(self, name: str | Path | None = None) -> PreTrainedModel:
        """Load the model of the plan, or another one, for the device of training."""
        device = self.args.device
        model = load_model(name or self.plan.model, dtype=self.plan.dtype or preferred_dtype(device))
        return model.to(device)

    def measure(self, model: torch.nn.Module) -> HeldOut:
        """Measure a model on the held-out data."""
        return held_out_nll(model, self.material.held_out, tokenizer=self.tokenizer)

    def _accuracy(self, model: torch.nn.Module) -> Estimate | None:
        """Let a model answer the items that carry a verifier."""
        if not self.items:
            return None
        answers = generate_answers(model, self.tokenizer, self.prompts, max_new_tokens=ANSWER_TOKENS)
        return verifier_accuracy(answers, self.items)

    def _train(
        self, weighing: TokenWeighing, data: Dataset, folder: Path, *callbacks: TrainerCallback
    ) -> TokenWeighingTrainer:
        """Train, from the last checkpoint where there is one; the result is saved in `folder`/model."""
        stop = StopAfterStep(told=lambda: self.stages.say("stopping after this step (Ctrl-C: at once)"))
        model = self.load()
        reference = None
        if needs_reference(weighing):
            reference = self.load(self.plan.reference or self.output / "reference" / "model")
        trainer = self._trainer(
            weighing,
            model,
            data,
            self.training_of(data, folder),
            lora_config(self.plan, model),
            reference,
            [stop, TellSteps(self.stages), *callbacks],
        )
        with stop:
            trainer.train(resume_from_checkpoint=_checkpoint(folder))
        if stop.stopped:
            step, steps = trainer.state.global_step, trainer.state.max_steps
            raise Interrupted(f"stopped after step {step} of {steps} of {self.stages.what}")
        _save_model(trainer, folder / "model")
        return trainer

    def _trainer(
        self,
        weighing: TokenWeighing,
        model: PreTrainedModel | torch.nn.Module,
        data: Dataset,
        args: SFTConfig,
        lora: LoraConfig | None,
        reference: torch.nn.Module | None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> TokenWeighingTrainer:
        set_seed(self.plan.seed)  # older TRL draws the adapter before it sets the seed
        evaluates = args.eval_strategy != "no"
        trainer = TokenWeighingTrainer(
            model,
            args=args,
            train_dataset=data,
            eval_dataset=self.material.held_out if evaluates else None,
            processing_class=self.tokenizer,
            peft_config=lora,
            weighing=weighing,
            reference_model=reference if needs_reference(weighing) else None,
            record_signals=True,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _costs(self) -> dict[str, float]:
        material = self.material
        held_out = float(_tokens(material.held_out))
        size, samples = _tokens(material.train), len(material.train)
        costs = {"untrained": held_out}
        if self.makes_reference and material.trusted is not None:
            trusted = material.trusted
            args = self.training_of(trusted, self.output)
            costs["reference"] = training_cost(AllTokens(), args, _tokens(trusted), len(trusted))
        for name, weighing in self.weighings.items():
            costs[name] = training_cost(weighing, self.args, size, samples)
            costs[f"{name}: held-out loss"] = held_out
            costs[f"{name}: answers"] = answers_cost(len(self.items), ANSWER_TOKENS)
        return costs


def needs_reference(weighing: TokenWeighing) -> bool:
    """Tell whether a weighing compares with a reference model that it does not name itself."""
    return "reference_nll" in weighing.needs and weighing.share < 1 and weighing.reference_model is None


def folder_name(name: str) -> str:
    """Write the name of a run as that of a folder."""
    return re.sub(r"[^a-z0-9.=-]+", "-", name.lower())


def sft_config(plan: Plan, folder: Path, training: Mapping[str, Any]) -> SFTConfig:
    """Make the training arguments of a run.

    Args:
        plan: of the run.
        folder: of its checkpoints.
        training: what the plan says of training, completed by how long.
    """
    options = {
        "output_dir": str(folder),
        "max_length": plan.max_length if training.get("packing") else None,  # the data fits already
        "seed": plan.seed,
        "bf16": False,  # the model itself runs in the dtype of the plan
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 0.1,
        "save_total_limit": 2,  # the newest may not be whole yet
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "dataloader_pin_memory": torch.cuda.is_available(),
        **training,
    }
    if plan.device == "cpu":
        options = {"use_cpu": True, **options}
    try:
        args = SFTConfig(**options)
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as error:
        raise UserError(f"a training argument is not right: {' '.join(str(error).split())}") from error
    _require_device(args, plan.device)
    return args


def _require_device(args: SFTConfig, device: str | None) -> None:
    """Refuse a device that is not there, or not the one that the training arguments lead to."""
    asked = Hardware(device).place()
    if device and (asked.type != args.device.type or (asked.index or 0) != (args.device.index or 0)):
        raise UserError(
            f"training would run on {args.device}, not on {device}: leave use_cpu out, and choose among GPUs by CUDA_VISIBLE_DEVICES."
        )


def lora_config(plan: Plan, model: PreTrainedModel) -> LoraConfig | None:
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


def _require_rows(model: PreTrainedModel, rows: Dataset, what: str, name: str) -> None:
    ids = rows["input_ids"]
    require_readable(model, list(itertools.chain.from_iterable(ids)), list(map(len, ids)), what, name)


def _tokens(dataset: Dataset) -> int:
    return sum(map(len, dataset["input_ids"]))


def _checkpoint(folder: Path) -> str | None:
    return str(last_whole_checkpoint(folder)) if any(folder.glob(f"checkpoint-*/{STATE_FILE}")) else None


def _save_model(trainer: TokenWeighingTrainer, folder: Path) -> None:
    """Save model and tokenizer; the folder is whole or absent."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    trainer.model.save_pretrained(partial)
    trainer.processing_class.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _remove_checkpoints(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
