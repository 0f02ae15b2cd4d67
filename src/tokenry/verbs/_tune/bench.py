"""One model, one data set, one seed: makes and measures every run of a comparison in the same way.

OUTPUT/untrained.json      measurements of the model before training, on held-out data
OUTPUT/reference/model     the model trained on the trusted samples alone, if a weighing compares with one
OUTPUT/NAME/checkpoint-N   checkpoints while NAME trains
OUTPUT/NAME/model          the adapter (or the weights) after training
OUTPUT/NAME/run.json       measurements of the run
OUTPUT/NAME/rung-N.json    measurements on the validation part at a rung of a race, before the run was finished
"""

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from trl import SFTConfig

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.io.ranks import processes
from tokenry.core.tensors.generation import require_answers
from tokenry.core.tensors.modes import gathered
from tokenry.evaluation import HeldOut, generate_answers, held_out_nll, paired_difference, verifier_accuracy
from tokenry.evaluation.verifiers import encode_prompts, is_right
from tokenry.finetuning import AllTokens, TokenWeighing, TokenWeighingTrainer
from tokenry.models import (
    load_model,
    preferred_dtype,
    require_causal_lm,
    require_readable,
    require_reference,
)
from tokenry.verbs._chats import ANSWER_TOKENS, answerable
from tokenry.verbs._lora import lora_config
from tokenry.verbs._side_by_side import folder_name
from tokenry.verbs._stages import Stages, answers_cost
from tokenry.verbs._training import (
    PeakMemory,
    StepClock,
    TellSteps,
    remove_checkpoints,
    save_model,
    train_or_stop,
)
from tokenry.verbs._tune.arguments import sft_config
from tokenry.verbs._tune.candidates import needs_reference
from tokenry.verbs._tune.finished_run import is_there, load_held_out, load_run, save_held_out, save_run
from tokenry.verbs._tune.legs import EndOfLeg, Leg, branching_schedule
from tokenry.verbs._tune.material import Material
from tokenry.verbs._tune.plan import default_length, training_said
from tokenry.verbs._tune.quantization import loaded_in_4bit
from tokenry.verbs._tune.records import Answer, Retained, Run
from tokenry.verbs._tune.run_folder import (
    checkpoint_in,
    copy_checkpoint,
    has_checkpoint,
    has_reached,
    steps_in,
)
from tokenry.verbs._tune.run_record import describe_run
from tokenry.verbs._tune.stages import TRAINED, training_cost
from tokenry.verbs._tune.training_length import (
    fitted_length,
    require_learning,
    require_ranges,
    trained_epochs,
    training_steps,
)
from tokenry.verbs.tune import Plan


class Bench:
    """Trains and measures the weighings of a plan, and keeps what is finished in the output folder.

    Args:
        plan: plan with the model and the training.
        output: folder of the results.
        weighings: weighings by name, in the order in which they will be run.
        report: called with the current step.
        final_decay: in a race, the share of a full run over which the rate, else constant, falls to zero; 0 for the plan's schedule.
    """

    def __init__(
        self,
        plan: Plan,
        output: Path,
        tokenizer: PreTrainedTokenizerBase,
        material: Material,
        weighings: Mapping[str, TokenWeighing],
        report: Progress,
        final_decay: float = 0.0,
    ) -> None:
        self.final_decay, self.weighings = final_decay, weighings
        self.plan, self.output, self.tokenizer, self.material = plan, output, tokenizer, material
        self.args = self.training_of(material.train, output)
        self.items, self.prompts = answerable(material.held_out_rows, plan.answers)
        self.makes_reference = plan.reference is None and any(map(needs_reference, weighings.values()))
        self.costs = self._costs()
        self.stages = Stages(report, list(self.costs.values()))
        self._finished: dict[str, tuple[Run, HeldOut]] = {}

    @property
    def whole(self) -> Leg | None:
        """A full run in a race."""
        decay = max(1, round(self.final_decay * self.steps))
        return Leg(self.steps - decay, decay) if self.final_decay else None

    def rows(self, data: Dataset) -> int:
        """The rows that a step is made of: samples, or where they are packed about as many as their tokens fill."""
        if not self.plan.training.get("packing"):
            return len(data)
        return math.ceil(_tokens(data) / self.plan.max_length)

    @property
    def steps(self) -> int:
        """The optimisation steps of a run."""
        return training_steps(self.args, self.rows(self.material.train))

    @property
    def epochs(self) -> float:
        """The epochs of a run."""
        return trained_epochs(self.args, self.rows(self.material.train))

    @property
    def length(self) -> dict[str, Any]:
        """All that is said of training, with a length that follows from the training data."""
        return self._fitted(self.material.train)

    def training_of(self, data: Dataset, folder: Path) -> SFTConfig:
        """The training arguments for some data."""
        args = sft_config(self.plan, folder, self._fitted(data))
        require_ranges(args)
        require_learning(args, self.rows(data))
        return args

    def _fitted(self, data: Dataset) -> dict[str, Any]:
        return fitted_length(self.plan.training, default_length(self.plan), self.rows(data), processes())

    def rehearse(self) -> None:
        """Build the trainer of every weighing on two samples: what will not work is refused before the first step."""
        self.stages.begin("checking what was asked for", 0.0)
        model = self.load()
        lora = lora_config(self.plan.lora, model)
        few = self.material.few
        # So few samples are gone through as often as all of them will be.
        as_often = {**self.length, "max_steps": -1, "num_train_epochs": self.epochs}
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
        data = self.material
        parts = {"training": data.train, "held-out": data.held_out, "trusted": data.trusted}
        for what, rows in parts.items():
            if rows is not None:
                _require_rows(model, rows, f"the {what} data", self.plan.model)
        if self.items:
            require_answers(model, encode_prompts(self.tokenizer, self.prompts), ANSWER_TOKENS)

    def untrained(self) -> HeldOut:
        """Measure the model before training."""
        path = self.output / "untrained.json"
        self.stages.begin("the untrained model", self.costs["untrained"])
        missing = [name for name in self.material.retained if not is_there(self._untrained_on(name))]
        if missing or not is_there(path):
            model = self.load()
            for name in missing:
                save_held_out(self._untrained_on(name), held_out_nll(model, self.material.retained[name]))
            save_held_out(path, self.measure(model))
        return load_held_out(path)

    def _of_leg(self, folder: Path, leg: Leg) -> SFTConfig:
        """The training arguments of a leg: those of the whole run, but for the schedule."""
        schedule = branching_schedule(leg, self.args.get_warmup_steps(self.steps))
        return sft_config(self.plan, folder, {**self.length, "max_steps": self.steps, **schedule})

    def advance(self, name: str, leg: Leg) -> HeldOut:
        """Train a weighing to the end of a leg, and measure it on the validation part, or read what was measured."""
        folder = self.output / folder_name(name)
        done = folder / f"rung-{leg.step}.json"
        if not is_there(done):
            trainer = self._train(self.weighings[name], self.material.train, folder, StepClock(), leg=leg)
            with gathered(trainer.model):
                validation = self._validate(trainer.model)
            remove_checkpoints(folder, but=leg.step)
            save_held_out(done, validation)
        return load_held_out(done)

    def branch(self, name: str, trunk: str, step: int) -> None:
        """Let a weighing go on from the state of another at a step at which both have learned the same."""
        folder, source = self.output / folder_name(name), self.output / folder_name(trunk)
        if has_reached(folder, step):
            return
        if not has_checkpoint(source, step):
            self._train(self.weighings[trunk], self.material.train, source, StepClock(), leg=Leg(step, 0))
        copy_checkpoint(
            source, folder, step, of_last_epoch=self.weighings[name].history_source.from_last_epoch
        )

    def forget(self, name: str) -> None:
        """Remove what a weighing that has lost would go on from."""
        remove_checkpoints(self.output / folder_name(name))

    def _validate(self, model: torch.nn.Module) -> HeldOut:
        assert self.material.validation is not None
        return held_out_nll(model, self.material.validation)

    def train_reference(self) -> None:
        """Train the reference model on the trusted samples alone, where a weighing needs one.

        Raises:
            Interrupted: the user stopped it.
        """
        folder, trusted = self.output / "reference", self.material.trusted
        if not self.makes_reference or trusted is None:
            return
        self.stages.begin("the reference model", self.costs["reference"])
        if not is_there(folder / "model"):
            self._train(AllTokens(), trusted, folder)
            remove_checkpoints(folder)

    def run(self, name: str) -> tuple[Run, HeldOut]:
        """Train with one weighing and measure it, or read what was measured.

        Raises:
            Interrupted: the user stopped it.
        """
        if name not in self._finished:
            self._finished[name] = self._run(name)
        return self._finished[name]

    def _run(self, name: str) -> tuple[Run, HeldOut]:
        folder = self.output / folder_name(name)
        parts = (name, f"{name}: held-out loss", f"{name}: answers")
        if finished := load_run(folder):
            self.stages.skip(sum(self.costs[part] for part in parts))
            return finished
        training, measuring, answering = parts
        clock = StepClock()
        done = steps_in(folder) if self.final_decay else 0
        cost = self.costs[training]
        if done:  # whoever took a step has passed over the data before
            cost = self.training_cost(self.material.train) * (1 - done / self.steps)
        self.stages.begin(training, cost)
        with PeakMemory() as memory:
            trainer = self._train(self.weighings[name], self.material.train, folder, clock, leg=self.whole)
        self.stages.begin(measuring, self.costs[measuring])
        with gathered(trainer.model):
            if self.material.validation is not None:
                save_held_out(folder / "validation.json", self._validate(trainer.model))
            held_out = self.measure(trainer.model)
            retained = self._retained(trainer.model)
            self.stages.begin(answering, self.costs[answering])
            answers = self._answers(trainer.model)
        run = describe_run(
            name,
            trainer,
            held_out,
            accuracy=verifier_accuracy([answer.answer for answer in answers], self.items)
            if answers
            else None,
            classes=self.material.classes,
            peak_memory_mb=memory.peak_mb if clock.steps else None,
        ).model_copy(update={"retained": retained, "answers": answers})
        save_run(folder, run, held_out)
        remove_checkpoints(folder)
        return run, held_out

    def load(self, name: str | Path | None = None) -> PreTrainedModel:
        """Load the model of the plan, in 4 bits where it says so, or another one, for the device of training."""
        device = self.args.device
        dtype = self.plan.dtype or preferred_dtype(device)
        if self.plan.quantize and name is None:
            return load_model(self.plan.model, dtype=dtype, **loaded_in_4bit(device, dtype))
        return load_model(name or self.plan.model, dtype=dtype).to(device)

    def measure(self, model: torch.nn.Module) -> HeldOut:
        """Measure a model on the held-out data."""
        return held_out_nll(model, self.material.held_out, tokenizer=self.tokenizer)

    def validation_of(self, name: str) -> HeldOut:
        """What a finished run measured on the validation part."""
        return load_held_out(self.output / folder_name(name) / "validation.json")

    def _retained(self, model: torch.nn.Module) -> list[Retained]:
        """What is left on data that were not trained on, beside what there was before training."""
        found = []
        for name, rows in self.material.retained.items():
            before, after = load_held_out(self._untrained_on(name)), held_out_nll(model, rows)
            paired = paired_difference(after, before, to="before training")
            lost = Retained(name=name, before=before.nll_per_token, after=after.nll_per_token, paired=paired)
            found.append(lost)
        return found

    def _untrained_on(self, name: str) -> Path:
        return self.output / "untrained" / f"{folder_name(name)}.json"

    def _answers(self, model: torch.nn.Module) -> list[Answer]:
        """Let a model answer the items that carry a verifier."""
        if not self.items:
            return []
        answers = generate_answers(model, self.tokenizer, self.prompts, max_new_tokens=ANSWER_TOKENS)
        return [
            Answer(
                question=str(prompt[-1]["content"]), answer=answer, right=is_right(answer, item["verifier"])
            )
            for prompt, answer, item in zip(self.prompts, answers, self.items, strict=True)
        ]

    def _train(
        self,
        weighing: TokenWeighing,
        data: Dataset,
        folder: Path,
        *callbacks: TrainerCallback,
        leg: Leg | None = None,
    ) -> TokenWeighingTrainer:
        """Train, from the last checkpoint where there is one; the result of a full run is saved in `folder`/model."""
        last = leg is None or leg == self.whole
        model = self.load()
        reference = None
        if needs_reference(weighing):
            reference = self.load(self.plan.reference or self.output / "reference" / "model")
        trainer = self._trainer(
            weighing,
            model,
            data,
            self.training_of(data, folder) if leg is None else self._of_leg(folder, leg),
            lora_config(self.plan.lora, model),
            reference,
            [TellSteps(self.stages, leg.end if leg else None), *([EndOfLeg(leg)] if leg else []), *callbacks],
        )
        checkpoint = checkpoint_in(folder, None if leg is None or last else leg.step)
        train_or_stop(trainer, self.stages, checkpoint)
        if last:
            save_model(trainer, folder / "model")
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
        return TokenWeighingTrainer(
            model,
            args=args,
            train_dataset=data,
            eval_dataset=None if args.eval_strategy == "no" else self.material.held_out,
            processing_class=self.tokenizer,
            peft_config=lora,
            weighing=weighing,
            reference_model=reference if needs_reference(weighing) else None,
            record_signals=True,
            callbacks=list(callbacks),
        )

    def training_cost(self, data: Dataset) -> float:
        """What plain fine-tuning on some data costs."""
        return training_cost(AllTokens(), self.training_of(data, self.output), _tokens(data), len(data))

    def timed_step(self) -> tuple[float, float | None]:
        """Seconds per unit of cost, and the peak memory in megabytes, of one plain step on the longest samples."""
        train = self.material.train
        longest = sorted(range(len(train)), key=lambda row: -len(train[row]["input_ids"]))
        rows = train.select(sorted(longest[: self.args.per_device_train_batch_size]))
        model = self.load()
        args = sft_config(self.plan, self.output, {**self.length, "gradient_accumulation_steps": 1})
        trainer = self._trainer(AllTokens(), model, rows, args, lora_config(self.plan.lora, model), None)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        # Older transformers set it only where the training loop begins.
        trainer.current_gradient_accumulation_steps = 1
        with PeakMemory() as memory:
            begun = time.perf_counter()
            trainer.training_step(trainer.model, batch)
            seconds = time.perf_counter() - begun
        return seconds / (TRAINED * _tokens(rows)), memory.peak_mb

    def _costs(self) -> dict[str, float]:
        material = self.material
        held_out = float(_tokens(material.held_out))
        size, samples = _tokens(material.train), len(material.train)
        costs = {"untrained": held_out}
        if self.makes_reference and material.trusted is not None:
            trusted = material.trusted
            costs["reference"] = self.training_cost(trusted)
        for name, weighing in self.weighings.items():
            costs[name] = training_cost(weighing, self.args, size, samples)
            costs[f"{name}: held-out loss"] = held_out
            costs[f"{name}: answers"] = answers_cost(len(self.items), ANSWER_TOKENS)
        return costs


def _require_rows(model: PreTrainedModel, rows: Dataset, what: str, name: str) -> None:
    ids = rows["input_ids"]
    require_readable(model, list(itertools.chain.from_iterable(ids)), list(map(len, ids)), what, name)


def _tokens(dataset: Dataset) -> int:
    return sum(map(len, dataset["input_ids"]))
