"""Texts that go on from a text that may end anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import option, plan_settings
from tokenry.report.blocks import Block, Column, Table
from tokenry.report.result import Result
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.bytes._prompt import PROMPT, READING, BytePrompt, ByteReading, together, written


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Let a model, or an ensemble of models with different tokenizers, go on from a text that may end anywhere.

    Attributes:
        models: `embedded`, a folder, or a hub name; repeat it for an ensemble.
        samples: number of texts.
        max_bytes: maximum number of bytes per text.
        temperature: temperature of the bytes; 0 takes the most probable byte.
        top_p: share of the probability to sample from, in (0, 1].
        stop: string that ends a text; can be repeated.
        seed: random seed of the samples.
    """

    prompt: BytePrompt = PROMPT
    models: tuple[str, ...] = option(("embedded",), flag="--model", metavar="NAME")
    samples: int = 1
    max_bytes: int = 100
    temperature: float = 0.6
    top_p: float = 1.0
    stop: tuple[str, ...] = option((), metavar="STRING")
    seed: int = 0
    reading: ByteReading = READING
    hardware: StoredHardware = AS_STORED

    def __post_init__(self) -> None:
        require_at_least(1, samples=self.samples, max_bytes=self.max_bytes)
        require_at_least(0, seed=self.seed)


def run(plan: Plan, progress: Progress) -> Result:
    """Sample the texts."""
    from tokenry.decoding.byte_level.byte_generation import GeneratedBytes, require_temperature, require_top_p

    require_temperature(plan.temperature)
    require_top_p(plan.top_p)
    prompt = plan.prompt.read()
    progress("reading the model", 0.0)
    lms = [plan.reading.load(name, plan.hardware) for name in plan.models]
    progress("writing", 0.5)
    found = together(lms).generate(
        [prompt] * plan.samples,
        plan.max_bytes,
        plan.temperature,
        plan.top_p,
        [string.encode() for string in plan.stop],
        plan.seed,
    )
    samples = [found] if isinstance(found, GeneratedBytes) else found
    data = {
        "kind": "generated",
        "models": list(plan.models),
        "prompt": written(prompt),
        "prompt_hex": prompt.hex(),
        "samples": [
            {
                "text": written(sample.text),
                "hex": sample.text.hex(),
                "log_prob": sample.log_prob,
                "why": sample.why,
            }
            for sample in samples
        ],
        "settings": plan_settings(plan),
    }
    return Result(f"Texts by {' and '.join(map(model_title, plan.models))}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the texts out."""
    columns = ("text", Column("log-probability", "nats", ".2f"), "ended by")
    rows = [(sample["text"], sample["log_prob"], sample["why"]) for sample in data["samples"]]
    return [Table(f"after {data['prompt']!r}", columns, rows)]
