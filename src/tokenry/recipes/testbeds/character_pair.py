"""Two character models that answer the same problems (`testbeds/character_tasks`): what a cascade or a router chooses between."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from transformers import GPT2LMHeadModel

from tokenry.core.io.progress import Progress, named, part
from tokenry.decoding import Examples, pad_logprobs, prompt_embeddings
from tokenry.decoding.cascades import array
from tokenry.recipes.testbeds.character_tasks import (
    CharacterModel,
    answers_of,
    draw_problems,
    is_right,
    train_character_model,
)


class AnsweredProblems(NamedTuple):
    """Problems that two models have answered.

    Attributes:
        examples: answers of the small model, whether each model is right, and embeddings of the prompts by both.
        tasks: the kind of each problem.
    """

    examples: Examples
    tasks: Sequence[str]


@dataclass(frozen=True)
class CharacterPair:
    """Size and training of the two models."""

    small: CharacterModel = field(default_factory=lambda: CharacterModel(layers=2, width=24, steps=350))
    large: CharacterModel = field(default_factory=lambda: CharacterModel(layers=3, width=56, steps=900))

    def trained(self, seed: int, progress: Progress) -> tuple[GPT2LMHeadModel, GPT2LMHeadModel]:
        """Train both models."""
        stages = part(progress, 0.0, 0.2), part(progress, 0.2, 1.0)
        return (
            train_character_model(self.small, seed, named(stages[0], "training the small model")),
            train_character_model(self.large, seed, named(stages[1], "training the large model")),
        )

    def answered(self, number: int, seed: int, progress: Progress) -> AnsweredProblems:
        """Train both models, and let them answer new problems."""
        small, large = self.trained(seed, part(progress, 0.0, 0.95))
        problems = draw_problems(number, torch.Generator().manual_seed(1_000_000 + seed))
        progress("answers", 0.95)
        answers = [answers_of(model, problems) for model in (small, large)]
        right = [np.array(list(map(is_right, problems, written)), dtype=float) for written in answers]
        examples = Examples(*pad_logprobs([answer.log_probs or () for answer in answers[0]]), *right)
        prompts = torch.tensor([problem.prompt_ids for problem in problems])
        embeddings = prompt_embeddings(small, large, prompts, torch.ones_like(prompts))
        return AnsweredProblems(
            replace(examples, embeddings=array(embeddings)), [problem.task for problem in problems]
        )
