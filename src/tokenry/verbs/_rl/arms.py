"""One model, one set of questions, one seed: trains every credit rule in the same way, and measures it on the held-out questions.

OUTPUT/before.json         reward and answer of the model before training, for every held-out question
OUTPUT/NAME/checkpoint-N   checkpoints while NAME trains
OUTPUT/NAME/model          the adapter (or the weights) after training
OUTPUT/NAME/run.json       measurements of the run
"""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig

from tokenry.alignment import Rollouts, TokenCredit, TokenCreditTrainer
from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json, write_json
from tokenry.core.io.progress import Progress
from tokenry.core.tensors.generation import greedy_answers, require_answers
from tokenry.core.train.checkpoints import checkpoints_in, is_finished
from tokenry.evaluation.verifiers import encode_prompts
from tokenry.verbs._lora import Lora, lora_config
from tokenry.verbs._rl.questions import Questions
from tokenry.verbs._rl.rewards import Reward
from tokenry.verbs._side_by_side import folder_name
from tokenry.verbs._stages import Stages, answers_cost
from tokenry.verbs._tokens import token_texts
from tokenry.verbs._training import (
    PeakMemory,
    StepClock,
    TellSteps,
    logged_numbers,
    remove_checkpoints,
    require_device,
    save_model,
    train_or_stop,
)
from tokenry.verbs.rl import Plan

SHOWN_RESPONSES = 4
_TRAINED = 3.0  # a forward and a backward pass, in forward passes
_ANSWERED_AT_ONCE = 16


def training_arguments(plan: Plan, folder: Path) -> GRPOConfig:
    """Make the training arguments of a run; responses of one generation are split evenly over its optimisation steps."""
    accumulated = plan.arguments.get("gradient_accumulation_steps", 1)
    micro_batches = plan.updates * accumulated
    responses = plan.prompts * plan.group
    if responses % micro_batches:
        raise UserError(
            f"{plan.prompts} prompts x {plan.group} responses cannot be split evenly into {micro_batches} micro-batches: change "
            "--prompts, --group, --updates or gradient_accumulation_steps."
        )
    options = {
        "output_dir": str(folder),
        "seed": plan.seed,
        "max_steps": plan.steps,
        "learning_rate": plan.learning_rate,
        "num_generations": plan.group,
        "per_device_train_batch_size": responses // micro_batches,
        "steps_per_generation": micro_batches,
        "max_completion_length": plan.max_new_tokens,
        "temperature": plan.temperature,
        "epsilon_high": 0.28,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "bf16": False,  # the model itself runs in the dtype of the plan
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": max(1, plan.steps // 10),
        "save_total_limit": 2,  # the newest may not be whole yet
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "log_level_replica": "error",
        "use_cpu": plan.hardware.place().type == "cpu",
        "dataloader_pin_memory": plan.hardware.place().type == "cuda",
        **plan.arguments,
    }
    try:
        args = GRPOConfig(**options)
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as error:
        raise UserError(f"a training argument is not right: {' '.join(str(error).split())}") from error
    require_device(args, plan.hardware.device)
    return args


class Arms:
    """Trains and measures the credit rules of a plan, and keeps what is finished in the output folder.

    Args:
        plan: plan with the model and the training.
        credits: credit rules by name, the control first.
        questions: what is trained on, and what is measured on.
        reward: the reward of a response.
        report: called with the current step.
    """

    def __init__(
        self,
        plan: Plan,
        credits: Mapping[str, TokenCredit],
        questions: Questions,
        reward: Reward,
        tokenizer: PreTrainedTokenizerBase,
        report: Progress,
    ) -> None:
        self.plan, self.credits, self.questions, self.reward = plan, credits, questions, reward
        self.tokenizer = tokenizer
        self.args = training_arguments(plan, plan.output)
        self._prompts = encode_prompts(tokenizer, [question["prompt"] for question in questions.held_out])
        self._measured = answers_cost(len(self._prompts), plan.max_new_tokens) + sum(map(len, self._prompts))
        self._trained = self.generations * self.generation_cost
        of_runs = [self._trained + self._measured] * len(credits)
        self.stages = Stages(report, [self.generation_cost, self._measured, *of_runs])

    @property
    def generations(self) -> int:
        """The generations of a run."""
        return math.ceil(self.plan.steps / self.plan.updates)

    @property
    def responses(self) -> int:
        """The responses of a generation."""
        return self.plan.prompts * self.plan.group

    @cached_property
    def generation_cost(self) -> float:
        """The cost of one generation with its updates, in forward passes over a token."""
        longest = max(
            map(len, encode_prompts(self.tokenizer, [row["prompt"] for row in self.questions.train]))
        )
        read = self.responses * (longest + self.plan.max_new_tokens)
        passes = 1 + (self.plan.updates > 1) + _TRAINED  # of the prompts, by the old policy, and to learn
        return answers_cost(self.responses, self.plan.max_new_tokens) + passes * read

    def load(self) -> PreTrainedModel:
        """Load the model for the device of training."""
        return self.plan.hardware.load(self.plan.model)

    def rehearse(self) -> dict[str, Any]:
        """Build every trainer, and carry out one generation of the control with its updates: what will not work is refused.

        Returns:
            What that generation took: `seconds`, `memory_mb` and its mean `reward`.
        """
        self.stages.begin("a trial generation", self.generation_cost)
        encoded = encode_prompts(self.tokenizer, [question["prompt"] for question in self.questions.train])
        trial: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            plan = replace(self.plan, steps=min(self.plan.steps, self.plan.updates))
            args = training_arguments(replace(plan, set_=(*plan.set_, "save_strategy=no")), Path(folder))
            for credit in self.credits.values():
                model = self.load()
                require_answers(model, [*encoded, *self._prompts], self.plan.max_new_tokens)
                trainer = self._trainer(credit, model, args)
                if not trial:
                    with PeakMemory() as memory:
                        begun = time.perf_counter()
                        trainer.train()
                        seconds = time.perf_counter() - begun
                    assert trainer.generation is not None
                    reward = float(trainer.generation.rewards.mean())
                    trial = {"seconds": seconds, "memory_mb": memory.peak_mb, "reward": reward}
        return trial

    def before(self) -> dict[str, Any]:
        """Measure the model before training."""
        path = self.plan.output / "before.json"
        self.stages.begin("held-out questions before training", self._measured)
        if not path.exists():
            write_json(path, self._measure(self.load()))
        return read_json(path)

    def run(self, name: str) -> dict[str, Any]:
        """Train with one credit rule and measure it, or read what was measured.

        Raises:
            Interrupted: the user stopped it.
        """
        folder = self.plan.output / folder_name(name)
        done = folder / "run.json"
        if done.exists():
            self.stages.skip(self._trained + self._measured)
            return self._read_run(done)
        self.stages.begin(name, self._trained)
        clock = StepClock()
        with PeakMemory() as memory:
            trainer = self._train(self.credits[name], folder, clock)
        self.stages.begin(f"{name}: held-out questions", self._measured)
        run = {
            "name": name,
            "credit": self.credits[name].describe(),
            "steps": trainer.state.global_step,
            "peak_memory_mb": memory.peak_mb if clock.steps else None,
            "curves": logged_numbers(trainer),
            "held_out": self._measure(trainer.model),
            "rollouts": self._rollouts(trainer),
        }
        write_json(done, run)
        remove_checkpoints(folder)
        return run

    def _read_run(self, path: Path) -> dict[str, Any]:
        try:
            run = read_json(path)
            if not isinstance(run, dict) or not {"name", "curves", "held_out", "rollouts"} <= run.keys():
                raise UserError("it is no record of a run")
        except UserError as error:
            raise UserError(
                f"the record of a run in {path.parent} is damaged: delete that folder, and the run is made again."
            ) from error
        return run

    def _train(self, credit: TokenCredit, folder: Path, *callbacks: TrainerCallback) -> TokenCreditTrainer:
        """Train, from the last whole checkpoint where there is one, with fresh rollouts."""
        args = training_arguments(self.plan, folder)
        trainer = self._trainer(credit, self.load(), args, [TellSteps(self.stages), *callbacks])
        whole = [str(checkpoint) for checkpoint in checkpoints_in(folder) if is_finished(checkpoint)]
        train_or_stop(trainer, self.stages, whole[-1] if whole else None)
        save_model(trainer, folder / "model")
        return trainer

    def _trainer(
        self,
        credit: TokenCredit,
        model: PreTrainedModel,
        args: GRPOConfig,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> TokenCreditTrainer:
        set_seed(self.plan.seed)  # older TRL draws the adapter before it sets the seed
        rank = self.plan.lora_rank
        lora = Lora(rank=rank, alpha=2 * rank, dropout=0.0) if rank else None
        names = dict.fromkeys(name for question in self.questions.train for name in question)
        rows = [{name: question.get(name) for name in names} for question in self.questions.train]
        try:
            trainer = TokenCreditTrainer(
                model,
                reward_funcs=self.reward,
                args=args,
                train_dataset=Dataset.from_list(rows),
                processing_class=self.tokenizer,
                peft_config=lora_config(lora, model),
                credit=credit,
                callbacks=list(callbacks),
            )
        except UserError:
            raise
        except (ValueError, TypeError) as error:
            raise UserError(f"this cannot be trained: {' '.join(str(error).split())}") from error
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _measure(self, model: Any) -> dict[str, Any]:
        """Answer the held-out questions greedily: the same answers whenever they are asked."""
        answers = greedy_answers(
            model,
            self.tokenizer,
            self._prompts,
            self.plan.max_new_tokens,
            _ANSWERED_AT_ONCE,
            self.stages.tell,
        )
        texts = [answer.strip() for answer in answers]
        return {"rewards": self.reward.of_texts(self.questions.held_out, texts), "answers": texts}

    def _rollouts(self, trainer: TokenCreditTrainer) -> dict[str, Any] | None:
        """The best and the worst responses of the last generation to one prompt, with the advantages that every rule gives their tokens.

        The prompt is that on whose responses the rewards differ most.
        """
        generation = trainer.generation
        if generation is None:  # gone on with from the last step
            return None
        groups = generation.rewards.reshape(-1, self.plan.group)
        chosen = int(groups.std(dim=1).argmax())
        rows = slice(chosen * self.plan.group, (chosen + 1) * self.plan.group)
        ids, learned, rewards = (
            values[rows].cpu() for values in (generation.ids, generation.learned, generation.rewards)
        )
        rollouts = Rollouts(ids, learned, rewards, rewards.new_zeros(len(rewards)).long())
        advantages = {name: credit.advantages(rollouts) for name, credit in self.credits.items()}
        texts = {row: token_texts(ids[row][learned[row]].tolist(), self.tokenizer) for row in range(len(ids))}
        order = rewards.argsort(descending=True, stable=True).tolist()
        # A text that was sampled twice is shown once.
        different = list({tuple(texts[row]): row for row in reversed(order)}.values())[::-1]
        half = SHOWN_RESPONSES // 2
        return {
            "prompt": str(self.reward.prompts[rows.start][-1]["content"]),
            "responses": [
                {
                    "reward": float(rewards[row]),
                    "tokens": texts[row],
                    "advantages": [
                        {"name": name, "values": values[row][learned[row]].tolist()}
                        for name, values in advantages.items()
                    ],
                }
                for row in dict.fromkeys([*different[:half], *different[-half:]])
            ],
        }
