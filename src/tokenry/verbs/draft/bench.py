"""What a drafter is worth on given prompts, beside plain decoding and prompt lookup."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._environment import environment
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.draft._writing import load_prompted

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from tokenry.verbs.draft._writing import PromptedDrafter

PLAIN, LOOKUP = "greedy", "prompt lookup"


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Time ways to write the same greedy texts: token by token, with transformers' prompt lookup, and with a drafter.

    Attributes:
        drafter: folder that `tokenry draft train` wrote.
        prompts: text file with one prompt per line, or rows (JSONL, JSON, CSV, Parquet) with `prompt` or `messages`.
        model: the base model, by default the one that the drafter was trained on.
        max_new_tokens: maximum number of tokens of a text.
        batch_size: number of prompts at once; prompt lookup of transformers takes one at a time.
    """

    drafter: Path = argument()
    prompts: Path = argument()
    model: str | None = None
    max_new_tokens: int = 64
    batch_size: int = 1
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)


def run(plan: Plan, progress: Progress) -> Result:
    """Write the texts in every way, and time each."""
    from tokenry.decoding.multi_token.schedule import MODES

    progress("reading the model and its drafter", 0.0)
    writer = load_prompted(plan.drafter, plan.prompts, plan.model, plan.hardware)
    config = writer.config(plan.max_new_tokens)
    ways, plain = [], None
    names = (PLAIN, LOOKUP, *MODES)
    for number, name in enumerate(names):
        progress(name, (number + 0.5) / len(names))
        size = 1 if name == LOOKUP else plan.batch_size
        _written(writer, name, config, size, only_first=True)  # warms up
        started = time.perf_counter()
        texts, per_step = _written(writer, name, config, size)
        seconds = time.perf_counter() - started
        plain = texts if plain is None else plain
        same = sum(text == other for text, other in zip(texts, plain, strict=True))
        ways.append(
            {
                "way": name,
                "batch_size": size,
                "tokens": sum(map(len, texts)),
                "tokens_per_step": per_step,
                "seconds": seconds,
                "same": same,
            }
        )
    data = {
        "kind": "draft bench",
        "model": writer.name,
        "prompts": len(writer.prompts),
        "ways": ways,
        "settings": plan_settings(plan),
        "environment": environment(plan.hardware.place()),
    }
    return Result(f"{model_title(writer.name)} with and without a drafter", data, lay_out(data))


def _written(
    writer: "PromptedDrafter",
    name: str,
    config: "GenerationConfig",
    batch_size: int,
    only_first: bool = False,
) -> tuple[list[list[int]], float | None]:
    """New tokens of every text, and tokens per step where they are known."""
    model: Any = writer.drafter.model
    ends = set(config.eos_token_id or ())
    texts: list[list[int]] = []
    steps = 0
    for ids, mask in writer.batches(batch_size):
        options: dict[str, Any] = {"attention_mask": mask, "generation_config": config}
        if name in (PLAIN, LOOKUP):
            lookup = {"prompt_lookup_num_tokens": writer.drafter.k} if name == LOOKUP else {}
            tokens = model.generate(ids, **options, **lookup)
            for row in tokens[:, ids.shape[1] :].tolist():
                last = next((place for place, token in enumerate(row) if token in ends), len(row))
                texts.append(row[: last + 1])
            steps += sum(map(len, texts[-len(ids) :]))
        else:
            written = writer.drafter.generate(ids, name, **options)
            for row, blocks in zip(written.tokens[:, ids.shape[1] :].tolist(), written.blocks, strict=True):
                texts.append(row[: sum(blocks)])
                steps += len(blocks)
        if only_first:
            break
    return texts, None if name == LOOKUP else sum(map(len, texts)) / max(1, steps)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Every way beside plain decoding, and whether the drafter pays."""
    ways = data["ways"]
    plain, best = ways[0]["seconds"], min(ways[2:], key=lambda way: way["seconds"])
    speed = plain / best["seconds"]
    lead = f"{best['way']} is {speed:.2f} times as fast as token by token, at {best['tokens_per_step']:.2f} tokens per step."
    blocks: list[Block] = [Text(lead, "lead")]
    if speed < 1:
        words = "On these prompts the drafter does not pay: too few drafted tokens are right for what their rows cost."
        blocks.append(Text(words, "warning"))
    different = [way["way"] for way in ways if way["same"] < data["prompts"]]
    if different:
        words = (
            f"Other texts than token by token: {', '.join(different)}. In half precision, logits that are nearly equal may change places with "
            "the shape of a batch; compare in float32."
        )
        blocks.append(Text(words, "warning"))
    rows = [
        (
            way["way"],
            way["batch_size"],
            way["tokens_per_step"],
            way["seconds"],
            plain / way["seconds"],
            f"{way['same']} of {data['prompts']}",
        )
        for way in ways
    ]
    columns = (
        "way",
        Column("batch"),
        Column("tokens per step", "", ".2f"),
        Column("time", "s", ".2f"),
        Column("speed", "×", ".2f"),
        "same texts",
    )
    return [*blocks, Table("ways to write the same texts", columns, rows)]
