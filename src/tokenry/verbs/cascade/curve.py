"""Deferral curves of several rules on the same answers: what deferring by each of them gains, and what it costs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import option, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._estimates import finite_or_none, stored_estimate
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.cascade._answers import AXES, NO_SOURCE, AnswerSource, Axis

RULES = ("sum", "average", "quantile", "debiased", "post-hoc")
POINTS = 41


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Compare deferral rules on the same answers: curves, areas under them, and how far each is above deferring at random.

    Attributes:
        rules: rule to compare, as for `tokenry cascade fit`; can be repeated.
        axis: quantity that quality is drawn over: the share deferred, FLOPs or seconds, the small model's wasted work included.
        fitted: file of a fitted rule, whose budget is checked on these answers.
        first: number of tokens after which the small model is judged; by default the whole answer.
        draws: resamples behind the intervals.
        seed: random seed of the demo data, the halves and the resamples.
    """

    source: AnswerSource = NO_SOURCE
    rules: tuple[str, ...] = option(RULES, flag="--rule", metavar="RULE")
    axis: Axis = "rate"
    fitted: Path | None = option(None, metavar="FILE")
    first: int | None = None
    draws: int = 1000
    seed: int = 0
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, first=self.first)
        require_at_least(2, draws=self.draws)
        require_at_least(0, seed=self.seed)
        self.source.require()


def run(plan: Plan, progress: Progress) -> Result:
    """Fit every rule on one half of the answers, and draw its curve on the other."""
    import numpy as np

    from tokenry.core.stats import bootstrap_estimate, shown
    from tokenry.decoding.cascades import (
        area,
        array,
        auc_df,
        auc_draws,
        cost_curve,
        deferral_curve,
        oracle_score,
        rank_correlation,
    )
    from tokenry.decoding.deferral_rules import DEFERRAL_RULES
    from tokenry.decoding.fitted_rule import FittedRule, data_fingerprint, halves, meets

    made = {rule: DEFERRAL_RULES.make(rule) for rule in plan.rules}
    fitted = None if plan.fitted is None else FittedRule.load(plan.fitted)
    answers = plan.source.answers(plan.hardware, plan.seed, part(progress, 0.0, 0.6))
    learned, held = halves(len(answers.examples), plan.seed)
    examples = answers.examples.first(plan.first)
    seen = examples.rows(held)
    small, large = seen.q_small, seen.q_large
    scores = {}
    for number, (name, rule) in enumerate(made.items()):
        progress(f"fitting {name}", 0.6 + 0.2 * number / len(made))
        scores[name] = array(rule.fit(examples.rows(learned)).score(seen.logprobs, seen.mask))
    if fitted is not None:
        fitted.require_models(answers.small, answers.large)
        scores["fitted rule"] = array(fitted.score(seen.logprobs, seen.mask))
    progress("resampling", 0.8)
    # Where all scores are equal, deferral is random.
    matrix = np.stack([*scores.values(), np.zeros(len(held))], axis=1)
    drawn = auc_draws(matrix, small, large, plan.draws, plan.seed)
    lengths = answers.examples.lengths[held]
    rows, lines = [], []
    for column, (name, score) in enumerate(scores.items()):
        found = auc_df(score, small, large)
        gain = bootstrap_estimate(found.auc - found.random, drawn[:, column] - drawn[:, -1], len(held))
        rows.append({
            "rule": name,
            **asdict(bootstrap_estimate(found.auc, drawn[:, column], len(held))),
            "gain_percent": finite_or_none(found.gain_percent),
            "above_random": asdict(gain),
            "verdict": shown(gain),
            "spearman": finite_or_none(rank_correlation(lengths, score)),
        })  # fmt: skip
    for name, score in {**scores, "oracle": oracle_score(small, large)}.items():
        x, quality = deferral_curve(score, small, large)
        if plan.axis != "rate":
            x = cost_curve(score, *(cost[held] for cost in answers.costs(plan.axis, plan.first)))
        at = np.linspace(0, len(held), min(POINTS, len(held) + 1)).round().astype(int)
        lines.append(
            {"rule": name, "x": x[at].tolist(), "quality": quality[at].tolist(), "mean": area(x, quality)}
        )
    data = {
        "kind": "cascade curve",
        "answers": answers.name,
        "examples": len(held),
        "axis": plan.axis,
        "random": float(small.mean() + large.mean()) / 2,
        "rules": rows,
        "curves": lines,
        "checked": None
        if fitted is None
        else {
            **asdict(fitted.target),
            **meets(fitted, answers.examples),
            "seen": fitted.data == data_fingerprint(answers.examples),
        },
        "settings": plan_settings(plan),
    }
    return Result(f"Deferral rules, {answers.name}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the areas, the curves, and whether a fitted rule keeps its budget."""
    blocks: list[Block] = []
    if checked := data["checked"]:
        aim = "" if checked["budget"] is None else f" for a budget of {checked['budget']:.1%}"
        sentence = (
            f"The fitted rule defers {checked['deferred']:.1%} of these prompts{aim} (95 %: {checked['low']:.1%} to {checked['high']:.1%}) "
            f"and reaches a mean quality of {checked['quality']:.3f}."
        )
        if checked["seen"]:
            sentence += " It was fitted on these answers: check it on new ones."
        exceeded = checked["budget"] is not None and checked["low"] > checked["budget"]
        blocks.append(Text(sentence, "warning" if exceeded else "note"))
    blocks.append(Table(
        f"area under the deferral curve, {data['examples']:,} examples that no rule was fitted on; at random {data['random']:.3f}",
        ("rule", Column("AUC-DF"), Column("gain", "per cent", "+.1f"), Column("above random"), "verdict", Column("rank correlation with length", "", "+.2f")),
        [
            (row["rule"], stored_estimate(row), row["gain_percent"], stored_estimate(row["above_random"]), row["verdict"], row["spearman"])
            for row in data["rules"]
        ],
    ))  # fmt: skip
    if data["axis"] != "rate":
        rows = [(line["rule"], line["x"][0], line["x"][-1], line["mean"]) for line in data["curves"]]
        cost = [Column(f"{end} deferred", AXES[data["axis"]], ".3g") for end in ("none", "all")]
        note = "The mean of the curve over the cost, not over the rate; the small model's wasted work counts."
        blocks.append(
            Table("quality over cost", ("rule", *cost, Column("mean quality", "", ".3f")), rows, (note,))
        )
    blocks.append(
        Figure(
            "deferral curves",
            "lines",
            [Series(line["rule"], line["x"], line["quality"]) for line in data["curves"]],
            x_label=AXES[data["axis"]],
            y_label="mean quality",
            summary=f"Mean quality over {AXES[data['axis']]}, for {', '.join(row['rule'] for row in data['rules'])} and the oracle.",
        )
    )
    return blocks
