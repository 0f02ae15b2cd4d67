"""Accuracy by the tasks' own verifiers: greedy answers, generated in batches, and whether each of them is correct.

An item carries its verifier as plain data, so that it survives JSON, Parquet and `datasets`:

    {"kind": "reasoning-gym", "dataset": NAME, "entry": JSON text of the entry}   its `score_answer` must give 1
    {"kind": "exact", "answer": TEXT}                                             the text after "The answer is" equals it
    {"kind": "number", "answer": TEXT}                                            the last number equals its last number
    {"kind": "math", "answer": TEXT}                                              the final answer equals it: as numbers, else by notation

accuracy = correct answers / items, ± sqrt(p (1 − p) / (N − 1)), the standard error of the mean over items.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.stats import Estimate, estimate_of_mean
from tokenry.core.tensors.generation import greedy_answers
from tokenry.core.text.answers import boxed_answer, equal_answers, final_answer, math_v2_answer

Messages = Sequence[Mapping[str, Any]]
Verifier = Mapping[str, Any]

# The answer ends with its line or with its sentence; a point inside a number ("3.5") ends neither.
_ANSWER = re.compile(r"[Tt]he answer is:?\s+(.*?)(?:\.(?=\s|$)|$)", re.MULTILINE)
_NUMBER = re.compile(r"(?:(?<![\w.])-)?\d[\d,]*(?:\.\d+)?")


def extract_answer(text: str) -> str | None:
    """Return X of the last "The answer is X." in `text`, without the point; None if there is none."""
    said = _ANSWER.findall(text)
    return said[-1].strip() if said else None


def last_number(text: str) -> float | None:
    """Return the last number in `text` ("1,250.5" is 1250.5); None if there is none."""
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def is_right(answer: str, verifier: Verifier) -> bool:
    """Whether a generated answer is correct by its item's verifier."""
    kind = verifier.get("kind")
    if kind not in _VERIFIERS:
        raise UserError(f"a verifier's kind is one of {', '.join(sorted(_VERIFIERS))}, got {kind!r}.")
    check, needed = _VERIFIERS[kind]
    missing = [name for name in needed if verifier.get(name) is None]
    if missing:
        raise UserError(f"a verifier of kind {kind!r} needs {' and '.join(missing)}.")
    return check(answer, verifier)


def verifier_accuracy(answers: Sequence[str], items: Sequence[Mapping[str, Any]]) -> Estimate:
    """Compute the share of correct answers and its standard error over the items (rows with a `verifier`)."""
    if len(answers) != len(items):
        raise UserError(f"{len(answers)} answers for {len(items)} items: give one answer per item.")
    if len(items) < 2:
        raise UserError(f"{len(items)} item has no standard error: give at least two items.")
    without = [index for index, item in enumerate(items) if not item.get("verifier")]
    if without:
        raise UserError(
            f"item {without[0]} has no verifier (columns found: {', '.join(sorted(items[without[0]]))})."
        )
    return estimate_of_mean(
        [is_right(answer, item["verifier"]) for answer, item in zip(answers, items, strict=True)]
    )


def generate_answers(
    model: PreTrainedModel | torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    max_new_tokens: int = 48,
    batch_size: int = 16,
) -> list[str]:
    """Generate one greedy answer per prompt; batches are padded on the left, which never changes an answer.

    Args:
        model: model with a method `generate` (of transformers, or wrapped by PEFT). Its mode is restored afterwards.
        tokenizer: tokenizer with a chat template.
        prompts: conversations that end with the user's turn.
        max_new_tokens: number of tokens after which an answer is cut off.
        batch_size: number of prompts per batch.
    """
    encoded = encode_prompts(tokenizer, prompts, max_new_tokens, batch_size)
    answers = greedy_answers(model, tokenizer, encoded, max_new_tokens, batch_size)
    return [answer.strip() for answer in answers]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    max_new_tokens: int = 48,
    batch_size: int = 16,
) -> list[list[int]]:
    """Encode prompts as `generate_answers` does."""
    _check_prompts(tokenizer, prompts, max_new_tokens, batch_size)
    return [
        tokenizer.apply_chat_template(
            list(prompt), add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]
        for prompt in prompts
    ]


def _check_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], max_new_tokens: int, batch_size: int
) -> None:
    if tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template, so prompts cannot be written as conversations: set tokenizer.chat_template."
        )
    require_at_least(1, max_new_tokens=max_new_tokens, batch_size=batch_size)
    for index, prompt in enumerate(prompts):
        if not prompt or prompt[-1].get("role") != "user":
            raise UserError(
                f"prompt {index} does not end with the user's turn: leave the assistant's answer out, it is to be generated."
            )


def _reasoning_gym_right(answer: str, verifier: Verifier) -> bool:
    said = extract_answer(answer)
    if said is None:
        return False
    try:
        entry = json.loads(verifier["entry"])
    except (TypeError, ValueError) as error:
        raise UserError("a reasoning-gym verifier's entry is the JSON text of the task's entry.") from error
    # A partial score is no correct answer.
    return bool(_score_answer(verifier["dataset"])(answer=said, entry=entry) >= 1.0)


@cache
def _score_answer(dataset: str) -> Callable[..., float]:
    try:
        from reasoning_gym import get_score_answer_fn
    except ImportError as error:
        raise UserError(
            "this task is verified by reasoning-gym, which is not installed: pip install 'tokenry[demo]'."
        ) from error
    try:
        score: Callable[..., float] = get_score_answer_fn(dataset)
    except ValueError as error:
        raise UserError(f"reasoning-gym has no dataset {dataset!r}.") from error
    return score


def _exactly_right(answer: str, verifier: Verifier) -> bool:
    return extract_answer(answer) == verifier["answer"].strip()


def _numerically_right(answer: str, verifier: Verifier) -> bool:
    right, given = last_number(verifier["answer"]), last_number(answer)
    if right is None:
        raise UserError(f"a verifier of kind 'number' needs a number, got {verifier['answer']!r}.")
    return given is not None and math.isclose(given, right, rel_tol=1e-9, abs_tol=1e-9)


def _mathematically_right(answer: str, verifier: Verifier) -> bool:
    right, equality = str(verifier["answer"]), verifier.get("equality", "numeric")
    found = math_v2_answer(answer) if equality == "math_v2" else final_answer(answer)
    return equal_answers(found, boxed_answer(right) or right, equality)


_VERIFIERS: dict[str, tuple[Callable[[str, Verifier], bool], tuple[str, ...]]] = {
    "reasoning-gym": (_reasoning_gym_right, ("dataset", "entry")),
    "exact": (_exactly_right, ("answer",)),
    "number": (_numerically_right, ("answer",)),
    "math": (_mathematically_right, ("answer",)),
}
