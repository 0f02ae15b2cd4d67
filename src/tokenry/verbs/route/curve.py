"""Accuracy of routed answers over the share of tokens that the large model writes, for several rules."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.progress import Progress, in_turn
from tokenry.core.plans import option, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Table
from tokenry.report.result import Result
from tokenry.verbs._chats import ANSWER_TOKENS, DEMO, verified_prompts
from tokenry.verbs._estimates import estimate_series, stored_estimate
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.route._pair import BATCH_SIZE, COST_COLUMNS, ModelPair, account_of, router_size

RATES = (0.05, 0.1, 0.15, 0.25)


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Measure how accurate answers are when the large model writes a given share of their tokens, by each of several rules.

    Attributes:
        rules: router (file or folder) or rule, as for `tokenry route generate`; can be repeated.
        rates: shares of the tokens that the large model is to write.
        data: prompts with verifiers: `demo`, or a file, folder or hub name as for `tokenry tune`.
        items: maximum number of prompts.
        max_new_tokens: maximum number of tokens of an answer.
        seed: random seed of the demo data.
    """

    pair: ModelPair
    rules: tuple[str, ...] = option(("entropy", "random"), flag="--rule", metavar="RULE")
    rates: tuple[float, ...] = option(RATES, metavar="0.05,0.1", commas=True)
    data: str = DEMO
    items: int = 100
    max_new_tokens: int = ANSWER_TOKENS
    seed: int = 0
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, items=self.items, max_new_tokens=self.max_new_tokens)
        if not self.rates:
            raise UserError("--rates names the shares to measure, such as 0.05,0.1, and there is none.")
        for rate in self.rates:
            require_fraction(rate, "a rate")


def run(plan: Plan, progress: Progress) -> Result:
    """Let the small model answer alone, the large one alone, and both by every rule at every rate."""
    from tokenry.decoding.r2r import RandomRule, RoutingRule
    from tokenry.evaluation.verifiers import encode_prompts, verifier_accuracy

    items, prompts = verified_prompts(plan.data, plan.items, plan.seed)
    progress("loading both models", 0.0)
    loaded = plan.pair.load(plan.hardware)
    rules = {name: loaded.rule(name) for name in plan.rules}
    encoded = encode_prompts(loaded.tokenizer, prompts, plan.max_new_tokens, BATCH_SIZE)
    alone = {"the small model alone": 0.0, "the large model alone": 1.0}
    runs: list[tuple[str, RoutingRule, float]] = [(name, RandomRule(), rate) for name, rate in alone.items()]
    runs += [(name, rule, rate) for name, rule in rules.items() for rate in plan.rates]
    points = []
    for (name, rule, rate), told in in_turn(runs, progress, 0.1):
        started = time.perf_counter()
        written = loaded.write(encoded, rule, plan.max_new_tokens, told, rate=rate)
        seconds = time.perf_counter() - started
        texts = [
            loaded.tokenizer.decode(list(answer.token_ids), skip_special_tokens=True).strip()
            for answer in written
        ]
        account = account_of(written, loaded.parameters, router_size(rule))
        points.append({
            "rule": name,
            "asked": rate,
            "accuracy": asdict(verifier_accuracy(texts, items)),
            "seconds_per_token": seconds / max(1, account["tokens"]),
            **account,
        })  # fmt: skip
    data = {
        "kind": "route curve",
        "small": plan.pair.small,
        "large": plan.pair.large,
        "items": len(items),
        "points": points,
        "settings": plan_settings(plan),
    }
    return Result(f"Routing between {plan.pair.small} and {plan.pair.large}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out accuracy and cost of every rule at every rate."""
    points = data["points"]
    ends, routed = points[:2], points[2:]
    rows = [
        (
            point["rule"],
            stored_estimate(point["accuracy"]),
            point["rate"],
            point["activated_code"] / 1e6,
            point["activated_full"] / 1e6,
            1000 * point["seconds_per_token"],
        )
        for point in points
    ]
    series = []
    for name in dict.fromkeys(point["rule"] for point in routed):
        line = [ends[0], *(point for point in routed if point["rule"] == name), ends[1]]
        accuracies = [stored_estimate(point["accuracy"]) for point in line]
        series.append(estimate_series(name, [point["rate"] for point in line], accuracies))
    columns = ("rule", Column("accuracy"), *COST_COLUMNS, Column("time", "ms per token", ".1f"))
    return [
        Table(f"accuracy on {data['items']:,} prompts", columns, rows),
        Figure(
            "accuracy over the share of the large model",
            "lines",
            series,
            x_label="share of the tokens that the large model writes",
            y_label="accuracy",
            summary=f"Accuracy from {series[0].y[0]:.3f} with the small model alone to {series[0].y[-1]:.3f} with the large one alone.",
        ),
    ]
