"""Texts that a small and a large model write together, with who wrote which token."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Heatmap, Table
from tokenry.report.result import Result
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.cascade.run import read_prompts
from tokenry.verbs.route._pair import (
    BATCH_SIZE,
    LoadedPair,
    ModelPair,
    account_of,
    account_table,
    router_size,
    trace,
)

_SHOWN = 5


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Answer prompts with two models: the small one writes, the large one takes over for single tokens where the rule says so.

    Attributes:
        rule: router of `tokenry route train` (file or folder), or a rule: entropy[:threshold=0.45], log-u, momentum, rolling, random.
        prompts: text file with one prompt per line, or rows (JSONL, JSON, CSV, Parquet) with `prompt` or `messages`.
        threshold: score from which the large model writes; by default the rule's.
        rate: share of the tokens that the large model is to write, in the place of a threshold.
        max_new_tokens: maximum number of tokens of an answer.
    """

    pair: ModelPair
    rule: str = argument()
    prompts: Path = argument()
    threshold: float | None = None
    rate: float | None = None
    max_new_tokens: int = 256
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, max_new_tokens=self.max_new_tokens)
        if self.threshold is not None and self.rate is not None:
            raise UserError("--threshold and --rate decide the same thing: give one of them.")


def run(plan: Plan, progress: Progress) -> Result:
    """Load both models and the rule, and write."""
    prompts = read_prompts(plan.prompts)
    progress("loading both models", 0.0)
    loaded = plan.pair.load(plan.hardware)
    rule = loaded.rule(plan.rule)
    encoded = [_encoded(loaded, prompt, plan.max_new_tokens) for prompt in prompts]
    written = loaded.write(
        encoded, rule, plan.max_new_tokens, part(progress, 0.3, 0.98), plan.threshold, plan.rate
    )
    decode = loaded.tokenizer.decode
    data = {
        "kind": "route generate",
        "small": plan.pair.small,
        "large": plan.pair.large,
        "rule": plan.rule,
        "parameters": list(loaded.parameters),
        "account": account_of(written, loaded.parameters, router_size(rule)),
        "answers": [
            {
                "prompt": prompt if isinstance(prompt, str) else str(prompt[-1].get("content", "")),
                "text": decode(list(answer.token_ids), skip_special_tokens=True),
                "tokens": [decode([token]) for token in answer.token_ids],
                "sources": list(answer.sources or ()),
            }
            for prompt, answer in zip(prompts, written, strict=True)
        ],
        "settings": plan_settings(plan),
    }
    return Result(f"{plan.pair.small} and {plan.pair.large} together", data, lay_out(data))


def _encoded(loaded: LoadedPair, prompt: Any, max_new_tokens: int) -> list[int]:
    from tokenry.evaluation.verifiers import encode_prompts

    if isinstance(prompt, str):
        return list(loaded.tokenizer(prompt)["input_ids"])
    return encode_prompts(loaded.tokenizer, [prompt], max_new_tokens, BATCH_SIZE)[0]


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the answers, who wrote which token, and what it cost."""
    answers = data["answers"]
    notes = [f"The first {_SHOWN} of {len(answers):,}; the JSON has all."] if len(answers) > _SHOWN else []
    rows = [
        (answer["prompt"], answer["text"], len(answer["sources"]), sum(answer["sources"]))
        for answer in answers[:_SHOWN]
    ]
    columns = ("prompt", "answer", Column("tokens"), Column("by the large model"))
    return [
        Table("answers", columns, rows, notes),
        *(
            Heatmap(answer["prompt"], [("", trace(answer["tokens"], answer["sources"]))], folded=number > 0)
            for number, answer in enumerate(answers[:_SHOWN])
        ),
        account_table(data["account"], data["parameters"]),
    ]
