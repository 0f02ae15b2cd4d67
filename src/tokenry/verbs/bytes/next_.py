"""The most probable next bytes after a text that may end anywhere."""

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
    """Show the most probable next bytes after a text that may end anywhere, beside the naive and the healed answer.

    Attributes:
        models: `embedded`, a folder, or a hub name; repeat it for an ensemble.
        most: number of bytes to show.
    """

    prompt: BytePrompt = PROMPT
    models: tuple[str, ...] = option(("embedded",), flag="--model", metavar="NAME")
    most: int = 10
    reading: ByteReading = READING
    hardware: StoredHardware = AS_STORED

    def __post_init__(self) -> None:
        require_at_least(1, most=self.most)


def run(plan: Plan, progress: Progress) -> Result:
    """Ask for the next byte: exactly, and for one model also naively and healed."""
    import numpy as np

    from tokenry.decoding.byte_level.byte_baselines import healed_next_byte, naive_next_byte

    prompt = plan.prompt.read()
    progress("reading the model", 0.0)
    lms = [plan.reading.load(name, plan.hardware) for name in plan.models]
    progress("asking for the next byte", 0.5)
    logprobs = together(lms).next_byte_logprobs(prompt)
    columns = {"probability": np.exp(logprobs)}
    if len(lms) == 1 and plan.reading.invalid != "all":
        columns["healed"] = np.exp(healed_next_byte(lms[0], prompt))
        columns["naive"] = np.exp(naive_next_byte(lms[0], prompt))
    streams = [lm.stream(prompt) for lm in lms]
    best = np.argsort(-logprobs, kind="stable")[: plan.most].tolist()
    data = {
        "kind": "next bytes",
        "models": list(plan.models),
        "prompt": written(prompt),
        "prompt_hex": prompt.hex(),
        "log_prob": [stream.log_prob for stream in streams],
        "covers": [len(stream.covers()) for stream in streams],
        "leak": [stream.leak for stream in streams],
        "next": [
            {
                "byte": outcome_name(outcome),
                **{name: float(column[outcome]) for name, column in columns.items()},
            }
            for outcome in best
        ],
        "settings": plan_settings(plan),
    }
    return Result(f"Next byte by {' and '.join(map(model_title, plan.models))}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the probabilities out, the most probable byte first."""
    names = list(data["next"][0])[1:]
    title = f"next byte after {data['prompt']!r} ({', '.join(map(str, data['covers']))} covers)"
    rows = [(row["byte"], *(row[name] for name in names)) for row in data["next"]]
    return [Table(title, ("byte", *(Column(name, format=".4f") for name in names)), rows)]


def outcome_name(outcome: int) -> str:
    """One of the 256 bytes, or the end of the text, as it is shown."""
    if outcome > 0xFF:
        return "end"
    return f"0x{outcome:02X}" + (f" {chr(outcome)!r}" if outcome < 0x80 else "")
