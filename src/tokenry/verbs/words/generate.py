"""Texts that a word-pooled model goes on with, word by word."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Table
from tokenry.report.result import Result
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.words._models import load_word_model


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Let a word-pooled model go on from a text.

    Attributes:
        model: folder that `tokenry words train` made.
        prompt: the text; without it, a text is begun.
        samples: number of texts, all written at once.
        max_new_words: most words of each.
        temperature: temperature of the units; 0 takes the most probable one.
        seed: random seed of the samples.
    """

    model: Path = argument()
    prompt: str = argument("")
    samples: int = 1
    max_new_words: int = 50
    temperature: float = 0.8
    seed: int = 0
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, samples=self.samples, max_new_words=self.max_new_words)
        require_at_least(0, temperature=self.temperature, seed=self.seed)


def run(plan: Plan, progress: Progress) -> Result:
    """Write the texts."""
    from tokenry.architectures import WordSampling, generate_words

    progress("reading the model", 0.0)
    stored = load_word_model(str(plan.model), plan.hardware)
    if not stored.is_pooled:
        raise UserError(
            f"{plan.model} is a flat baseline, which writes units and not words: name a word-pooled model, or use `generate` of transformers."
        )
    coder = stored.coder
    prompt = [coder.begin, *(coder.words(plan.prompt) if plan.prompt.strip() else ())]
    sampling = WordSampling(plan.max_new_words, plan.temperature, plan.seed, stop=coder.begin)
    progress("writing", 0.3)
    found: Any = generate_words(stored.model, [prompt] * plan.samples, sampling)
    data = {
        "kind": "words generate",
        "model": str(plan.model),
        "prompt": plan.prompt,
        "samples": [
            {
                "text": coder.text(words),
                "words": len(words),
                "why": "the end of the text" if len(words) < plan.max_new_words else "the number of words",
            }
            for words in found
        ],
        "settings": plan_settings(plan),
    }
    return Result(f"Texts by {plan.model.name}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the texts out."""
    rows = [(sample["text"], sample["words"], sample["why"]) for sample in data["samples"]]
    title = f"after {data['prompt']!r}" if data["prompt"] else "texts"
    return [Table(title, ("text", Column("words", "", "d"), "ended by"), rows)]
