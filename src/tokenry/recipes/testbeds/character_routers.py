"""Routing between two character models: problems, tokens labelled by an exact verifier, routers, and thresholds for a rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from tokenry.core.io.progress import Progress
from tokenry.core.tensors.generation import Continuation
from tokenry.core.tensors.step_loop import Decoder
from tokenry.decoding import (
    ExactVerifier,
    Response,
    RoutedDecoding,
    RouterTrainingConfig,
    TokenRouter,
    fit_router,
    label_responses,
)
from tokenry.decoding.r2r import LabelledTokens, RouterReport, RoutingRule
from tokenry.recipes.testbeds.character_pair import CharacterPair
from tokenry.recipes.testbeds.character_tasks import (
    CharacterModel,
    Problem,
    answers_of,
    character_tokenizer,
    digits,
    draw_problems,
    is_right,
)

TOP_K, WIDTHS = 10, (48, 48)
_POSITIONS = 64
"""Room for answers that go a longer way than any right one."""


@dataclass(frozen=True)
class RoutedCharacters(CharacterPair):
    """Size and training of the two models, with room for their answers."""

    small: CharacterModel = field(default_factory=lambda: CharacterModel(2, 24, 350, positions=_POSITIONS))
    large: CharacterModel = field(default_factory=lambda: CharacterModel(3, 56, 900, positions=_POSITIONS))

    def prepared(self, seed: int, progress: Progress) -> "CharacterRouting":
        """Train both models."""
        return CharacterRouting(*self.trained(seed, progress))


@dataclass(frozen=True)
class CharacterRouting:
    """Two trained models with all that a recipe of routing does with them."""

    small: GPT2LMHeadModel
    large: GPT2LMHeadModel

    def problems(self, numbers: Sequence[int], seed: int) -> list[list[Problem]]:
        """New problems: those whose answers are labelled, those that set thresholds, and those that are measured."""
        generator = torch.Generator().manual_seed(2_000_000 + seed)
        return [draw_problems(number, generator) for number in numbers]

    def labelled(self, problems: Sequence[Problem]) -> LabelledTokens:
        """The tokens of the large model's answers, divergent where going on from the small model's own ends with other digits."""
        responses = [
            Response(problem.prompt_ids, answer.token_ids)
            for problem, answer in zip(problems, self.answers(self.large, problems), strict=True)
            if digits(answer.token_ids) is not None
        ]
        verifier = ExactVerifier(lambda text, answer: digits(answer))
        options: dict[str, Any] = {"top_k": TOP_K, "batch_size": 500}
        return label_responses(self.small, self.large, character_tokenizer(), responses, verifier, **options)[
            0
        ]

    def router(
        self, tokens: LabelledTokens, labels: Tensor, epochs: int, seed: int
    ) -> tuple[TokenRouter, RouterReport]:
        """A router that learns one kind of labels of the tokens, and how its training went."""
        config = RouterTrainingConfig(
            learning_rate=2e-3, batch_size=256, epochs=epochs, validation=0.2, seed=seed
        )
        torch.manual_seed(seed)
        router = TokenRouter.from_small_model(self.small, top_k=TOP_K, widths=WIDTHS)
        return fit_router(router, tokens.features, labels, config)

    def decoding(
        self, rule: RoutingRule, threshold: float | None = None, rate: float | None = None
    ) -> RoutedDecoding:
        """Both models together, by a rule with a threshold or a rate."""
        return RoutedDecoding(self.small, self.large, rule, threshold=threshold, rate=rate)

    def answers(
        self, model: GPT2LMHeadModel, problems: Sequence[Problem], decoder: Decoder | None = None
    ) -> list[Continuation]:
        """Greedy answers."""
        return answers_of(model, problems, decoder=decoder)

    def is_right(self, problem: Problem, answer: Continuation) -> bool:
        """Whether an answer is right."""
        return is_right(problem, answer)


def threshold_at(
    rate: float, rule: RoutingRule, rate_of: Callable[[float], float], halvings: int = 10
) -> float:
    """The threshold at which the large model writes a share of the tokens: the rate falls as the threshold rises.

    Found by halving, in logits of a probability and in logs of an entropy, as scores crowd near the ends.
    """
    scale = torch.sigmoid if rule.highest == 1 else torch.exp
    low, high = -12.0, 12.0 if rule.highest == 1 else 2.0
    for _ in range(halvings):
        middle = (low + high) / 2
        above = rate_of(float(scale(torch.tensor(middle)))) > rate
        low, high = (middle, high) if above else (low, middle)
    return float(scale(torch.tensor(high)))
