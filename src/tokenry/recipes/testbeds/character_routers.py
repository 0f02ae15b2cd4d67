"""Routers between two character models: the tokens that they learn from, labelled by an exact verifier, and thresholds for a rate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from tokenry.decoding import (
    ExactVerifier,
    Response,
    RouterTrainingConfig,
    TokenRouter,
    fit_router,
    label_responses,
)
from tokenry.decoding.r2r import LabelledTokens, RoutingRule
from tokenry.recipes.testbeds.character_tasks import Problem, answers_of, character_tokenizer, digits

TOP_K, WIDTHS = 10, (48, 48)


def labelled_answers(
    small: GPT2LMHeadModel, large: GPT2LMHeadModel, problems: Sequence[Problem]
) -> tuple[LabelledTokens, dict[str, Any]]:
    """The tokens of the large model's answers, divergent where going on from the small model's own ends with other digits."""
    responses = [
        Response(problem.prompt_ids, answer.token_ids)
        for problem, answer in zip(problems, answers_of(large, problems), strict=True)
        if digits(answer.token_ids) is not None
    ]
    labelled, _, _ = label_responses(
        small,
        large,
        character_tokenizer(),
        responses,
        ExactVerifier(lambda text, answer: digits(answer)),
        top_k=TOP_K,
        batch_size=500,
    )
    return labelled, {
        "answers": len(responses),
        "tokens": len(labelled.divergent),
        "different": float(labelled.mismatch.double().mean()),
        "divergent": float((labelled.divergent == 1).double().mean()),
    }


def trained_router(
    small: GPT2LMHeadModel, labelled: LabelledTokens, labels: torch.Tensor, epochs: int, seed: int
) -> tuple[TokenRouter, Mapping[str, Any]]:
    """A router that learns one kind of labels of the tokens, and how its training went."""
    config = RouterTrainingConfig(
        learning_rate=2e-3, batch_size=256, epochs=epochs, validation=0.2, seed=seed
    )
    torch.manual_seed(seed)
    router = TokenRouter.from_small_model(small, top_k=TOP_K, widths=WIDTHS)
    router, report = fit_router(router, labelled.features, labels, config)
    return router, asdict(report)


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
