"""Answers of a cascade: the small model's where its score is high enough, the large model's elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._chats import lines_or_rows
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import text_model
from tokenry.verbs._output import OptionalOutput

_SHOWN = 20


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Answer prompts with two models, the large one only where the rule of `tokenry cascade fit` defers to it.

    Attributes:
        rule: file of the fitted rule.
        prompts: text file with one prompt per line, or rows (JSONL, JSON, CSV, Parquet) with `prompt` or `messages`.
        small: small model, or an endpoint as URL#MODEL; by default the one in the rule.
        large: large model, likewise.
        threshold: score below which the large model answers; by default the one in the rule.
        max_new_tokens: maximum number of tokens of an answer.
    """

    rule: Path = argument()
    prompts: Path = argument()
    small: str | None = None
    large: str | None = None
    threshold: float | None = None
    max_new_tokens: int = 256
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, max_new_tokens=self.max_new_tokens)


def run(plan: Plan, progress: Progress) -> Result:
    """Load the rule and its models, and answer."""
    from tokenry.decoding.cascade_generation import Cascade
    from tokenry.decoding.fitted_rule import FittedRule
    from tokenry.models.text_model import Sampling

    fitted, prompts = FittedRule.load(plan.rule), read_prompts(plan.prompts)
    names = plan.small or fitted.small.name, plan.large or fitted.large.name
    progress("loading both models", 0.0)
    small, large = (text_model(name, plan.hardware) for name in names)
    cascade = Cascade(small, large, fitted, plan.threshold)
    progress("answering", 0.3)
    answers = cascade.generate(prompts, Sampling(max_new_tokens=plan.max_new_tokens))
    data = {
        "kind": "cascade run",
        "rule": fitted.rule,
        "small": names[0],
        "large": names[1],
        "fitted_deferral": fitted.deferred,
        "answers": [
            {
                "prompt": prompt if isinstance(prompt, str) else str(prompt[-1].get("content", "")),
                "text": answer.text,
                "deferred": answer.deferred,
                "score": answer.score if abs(answer.score) < float("inf") else None,
                "small_tokens": answer.small_tokens,
                "large_tokens": answer.large_tokens,
                "failure": answer.failure,
            }
            for prompt, answer in zip(prompts, answers, strict=True)
        ],
        "settings": plan_settings(plan),
    }
    return Result(f"Cascade of {names[0]} and {names[1]}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out who answered what, and what both models wrote."""
    answers = data["answers"]
    deferred = [answer for answer in answers if answer["deferred"]]
    failures = [answer["failure"] for answer in answers if answer["failure"]]
    notes = [f"The first {_SHOWN} of {len(answers):,}; the JSON has all."] if len(answers) > _SHOWN else []
    blocks: list[Block] = []
    if failures:
        blocks.append(
            Text(
                f"{len(failures)} of {len(answers)} answers had a failure; the first: {failures[0]}",
                "warning",
            )
        )
    blocks.append(Table(
        "who answered",
        ("prompt", "answer", "by", Column("score", "", ".3f")),
        [
            (answer["prompt"], answer["text"], "large" if answer["deferred"] else "small", answer["score"])
            for answer in answers[:_SHOWN]
        ],
        notes,
    ))  # fmt: skip
    wasted = sum(answer["small_tokens"] for answer in deferred)
    rows = [
        (
            "small",
            data["small"],
            len(answers) - len(deferred),
            sum(answer["small_tokens"] for answer in answers),
            wasted,
        ),
        ("large", data["large"], len(deferred), sum(answer["large_tokens"] for answer in answers), 0),
    ]
    share = len(deferred) / len(answers)
    blocks.append(Table(
        "cost",
        ("by", "model", "answers", Column("tokens written"), Column("of these wasted")),
        rows,
        (f"{share:.1%} deferred; {data['fitted_deferral']:.1%} where the rule was fitted.",),
    ))  # fmt: skip
    return blocks


def read_prompts(path: Path) -> list[Any]:
    """Read prompts: texts, or conversations that end with the user's turn."""
    prompts = [_prompt(row, where) for where, row in lines_or_rows(path, "prompt")]
    if not prompts:
        raise UserError(f"{path} holds no prompts: give one per line.")
    return prompts


def _prompt(row: Mapping[str, Any], where: str) -> Any:
    if isinstance(row.get("prompt"), str):
        return row["prompt"]
    messages = row.get("messages")
    if isinstance(messages, list) and messages:
        users = [place for place, message in enumerate(messages) if message.get("role") == "user"]
        if users:
            return messages[: users[-1] + 1]
    raise UserError(f"{where} has neither a text under prompt nor messages with a user's turn.")
