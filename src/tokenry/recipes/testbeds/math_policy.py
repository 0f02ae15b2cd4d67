"""A language model that learns to solve mathematics problems by reinforcement, with `TokenCreditTrainer`; needs a GPU.

The reward is 1 where the last number of a response is that of the solution, less TRL's soft penalty for responses that reach the end of
the room. The defaults are those of HAPO's (arXiv 2509.16591) for Qwen2.5-Math.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset, load_dataset
from trl import GRPOConfig
from trl.rewards import get_soft_overlong_punishment

from tokenry.alignment import TokenCreditTrainer
from tokenry.evaluation.verifiers import is_right
from tokenry.recipes.testbeds.policy_trial import Arm, Curve, PolicyPoint


@dataclass(frozen=True)
class MathSetting:
    """What is trained how.

    Attributes:
        model: the base policy.
        data: problems, with columns `prompt` and `solution`.
        samples: responses to each.
        minibatches: optimiser steps per generation.
        rows: responses per forward pass.
        longest: most tokens of a response.
        buffer: tokens before the end at which the penalty begins.
        learning_rate: after 10 steps of warm-up.
        epochs: passes over the problems.
        options: further options of TRL's `GRPOConfig`.
    """

    model: str = "Qwen/Qwen2.5-Math-1.5B"
    data: str = "open-r1/DAPO-Math-17k-Processed"
    prompts: int = 512
    samples: int = 16
    minibatches: int = 16
    rows: int = 8
    longest: int = 10_240
    buffer: int = 4096
    learning_rate: float = 1e-6
    epochs: int = 1
    options: tuple[tuple[str, Any], ...] = (("gradient_checkpointing", True), ("bf16", True))

    def prepared(self, seed: int) -> Callable[[Arm], Curve]:
        """Load the problems; what is returned trains the model in one way."""
        problems = load_dataset(self.data, "all", split="train")
        return partial(learn, problems=problems, setting=self, seed=seed)


def learn(arm: Arm, problems: Dataset, setting: MathSetting, seed: int) -> Curve:
    """Train the model in one way; each generation is one measurement, of the responses that were sampled to learn from."""
    passes = setting.prompts * setting.samples // setting.rows
    with TemporaryDirectory() as folder:
        args = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=setting.rows,
            num_generations=setting.samples,
            steps_per_generation=passes,
            gradient_accumulation_steps=passes // setting.minibatches,
            max_completion_length=setting.longest,
            learning_rate=setting.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=10,
            weight_decay=0.1,
            max_grad_norm=1.0,
            num_train_epochs=setting.epochs,
            epsilon=arm.low,
            epsilon_high=arm.high,
            delta=arm.delta,
            entropy_coef=arm.entropy_bonus,
            loss_type="dapo",
            beta=0.0,
            seed=seed,
            logging_steps=setting.minibatches,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **dict(setting.options),
        )
        trainer = TokenCreditTrainer(
            setting.model,
            [accuracy, get_soft_overlong_punishment(setting.longest, setting.buffer)],
            args=args,
            train_dataset=problems,
            credit=arm.credit,
        )
        trainer.train()
    logged = [row for row in trainer.state.log_history if "entropy" in row]
    return [PolicyPoint(row["rewards/accuracy/mean"], row["entropy"]) for row in logged]


def accuracy(completions: list[Any], solution: list[str], **_: Any) -> list[float]:
    """1 where the last number of the response is that of the solution."""
    texts = [
        completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions
    ]
    return [
        float(is_right(text, {"kind": "number", "answer": answer}))
        for text, answer in zip(texts, solution, strict=True)
    ]
