"""Texts written with a drafter: those of the model alone, in fewer steps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Heatmap, Table, Text, Token
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs._tokens import token_texts
from tokenry.verbs.draft._writing import load_prompted, shown_prompt

_SHOWN, _DRAWN = 20, 5


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Write with a model and its drafter: greedily, the texts that the model writes by itself.

    Attributes:
        drafter: folder that `tokenry draft train` wrote.
        prompts: text file with one prompt per line, or rows (JSONL, JSON, CSV, Parquet) with `prompt` or `messages`.
        model: the base model, by default the one that the drafter was trained on.
        mode: quadratic puts a block of masks behind every token, linear one behind the last; auto chooses by what pays.
        max_new_tokens: maximum number of tokens of a text.
        batch_size: number of prompts at once.
    """

    drafter: Path = argument()
    prompts: Path = argument()
    model: str | None = None
    mode: Literal["auto", "linear", "quadratic"] = "auto"
    max_new_tokens: int = 256
    batch_size: int = 8
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)


def run(plan: Plan, progress: Progress) -> Result:
    """Load model and drafter, and write."""
    texts: list[dict[str, Any]] = []
    progress("reading the model and its drafter", 0.0)
    writer = load_prompted(plan.drafter, plan.prompts, plan.model, plan.hardware)
    config = writer.config(plan.max_new_tokens)
    started = time.perf_counter()
    for ids, mask in writer.batches(plan.batch_size):
        written = writer.drafter.generate(ids, plan.mode, attention_mask=mask, generation_config=config)
        for row, steps in zip(written.tokens[:, ids.shape[1] :].tolist(), written.blocks, strict=True):
            prompt, tokens = writer.prompts[len(texts)], row[: sum(steps)]
            texts.append(
                {
                    "prompt": shown_prompt(prompt),
                    "text": writer.tokenizer.decode(tokens, skip_special_tokens=True),
                    "tokens": token_texts(tokens, writer.tokenizer),
                    "steps": steps,
                }
            )
        progress("writing", len(texts) / len(writer.prompts))
    seconds = time.perf_counter() - started
    data = {
        "kind": "draft generate",
        "model": writer.name,
        "texts": texts,
        "tokens": sum(sum(text["steps"]) for text in texts),
        "steps": sum(len(text["steps"]) for text in texts),
        "seconds": seconds,
        "settings": plan_settings(plan),
    }
    return Result(f"{model_title(writer.name)} with a drafter", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """The texts, what they took, and which of their tokens were drafted."""
    texts = data["texts"]
    lead = (
        f"{plural(data['tokens'], 'token')} in {plural(data['steps'], 'step')}, {data['tokens'] / max(1, data['steps']):.2f} per step, and "
        f"{data['seconds']:.1f} s; greedily, the model alone writes the same."
    )
    notes = [f"The first {_SHOWN} of {len(texts):,}; the JSON has all."] if len(texts) > _SHOWN else []
    rows = [
        (text["prompt"], text["text"], sum(text["steps"]) / max(1, len(text["steps"])))
        for text in texts[:_SHOWN]
    ]
    maps = [
        Heatmap(
            f"Drafted tokens of text {number}", [(data["settings"]["mode"], _tokens(text))], folded=number > 1
        )
        for number, text in enumerate(texts[:_DRAWN], start=1)
        if sum(text["steps"]) > 0
    ]
    return [
        Text(lead, "lead"),
        Table("texts", ("prompt", "text", Column("tokens per step", "", ".2f")), rows, notes),
        *maps,
    ]


def _tokens(text: Mapping[str, Any]) -> list[Token]:
    """The tokens of a text; those that were drafted count as kept, the last of each step is the model's own."""
    drafted = [place + 1 < count for count in text["steps"] for place in range(count)]
    return [
        Token(token, "kept" if is_drafted else "open", {"drafted": float(is_drafted)})
        for token, is_drafted in zip(text["tokens"], drafted, strict=True)
    ]
