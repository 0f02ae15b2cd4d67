"""A deferral rule for two models, fitted to a budget or a risk and written to a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenry.core.errors import require_at_least
from tokenry.core.io.files import require_folder_name
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import plan_settings
from tokenry.core.stats import Estimate, shown
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._estimates import between
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.cascade._answers import NO_SOURCE, AnswerSource

RULE_FILE, ANSWERS_FILE = "rule.json", "answers.jsonl"
BIASED = 0.5
"""Rank correlation of score and length from which a rule is said to be biased, where the oracle's is smaller."""


@dataclass(frozen=True)
class Plan:
    """Fit the rule that decides which of two models answers, for a budget of deferred prompts or a risk of wrong answers.

    Attributes:
        rule: sum, average, quantile[:alpha=0.2], debiased[:curve=isotonic] or post-hoc[:objective=regress].
        budget: largest share of the prompts that the large model answers; 0.3 if no risk is given.
        risk: largest probability that an answer is kept and wrong, instead of a budget.
        right_from: quality from which an answer is right, where qualities are not 0 or 1.
        first: number of tokens after which the small model is judged; by default the whole answer.
        without_logprobs: what becomes of answers without log-probabilities.
        draws: resamples behind the intervals.
        seed: random seed of the demo data, the halves and the resamples.
        output: folder for rule.json, result.json and report.html, and answers.jsonl where models answered.
    """

    source: AnswerSource = NO_SOURCE
    rule: str = "post-hoc"
    budget: float | None = None
    risk: float | None = None
    right_from: float | None = None
    first: int | None = None
    without_logprobs: Literal["refuse", "defer", "keep"] = "refuse"
    draws: int = 1000
    seed: int = 0
    hardware: Hardware = Hardware()
    output: Path = Path("runs/cascade")

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the rule")
        require_at_least(1, first=self.first)
        require_at_least(2, draws=self.draws)
        require_at_least(0, seed=self.seed)
        self.source.require()


def run(plan: Plan, progress: Progress) -> Result:
    """Fit the rule on one half of the answers, and measure it on the other."""
    from tokenry.decoding.deferral_rules import DEFERRAL_RULES
    from tokenry.decoding.fitted_rule import Target, fit_rule

    DEFERRAL_RULES.make(plan.rule)  # refused before any model answers
    budget = 0.3 if plan.budget is None and plan.risk is None else plan.budget
    target = Target(budget, plan.risk, plan.right_from)
    answers = plan.source.answers(plan.hardware, plan.seed, part(progress, 0.0, 0.7))
    progress("fitting the rule", 0.7)
    fitted = fit_rule(
        plan.rule,
        answers.examples,
        target,
        answers.small,
        answers.large,
        first=plan.first,
        without_logprobs=plan.without_logprobs,
        draws=plan.draws,
        seed=plan.seed,
    )
    data = {
        "kind": "cascade fit",
        "answers": answers.name,
        "missing": answers.missing,
        "fitted": fitted.as_json(),
        "settings": plan_settings(plan),
    }
    files = {RULE_FILE: fitted.text()}
    if plan.source.logged is None:
        files[ANSWERS_FILE] = answers.lines
    return Result(f"Deferral rule {plan.rule}, {answers.name}", data, lay_out(data), files=files)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the rule, its curve with the interval, and what its score owes to length."""
    fitted = data["fitted"]
    curve = fitted["curve"]
    rates, quality, low, high = (
        [point[name] for point in curve] for name in ("rate", "quality", "low", "high")
    )
    return [
        *(Text(warning, "warning") for warning in warnings(fitted, data["missing"])),
        Table("the rule", ("what", "value"), facts(fitted)),
        Figure(
            "deferral curve on the examples that it was not fitted on",
            "lines",
            [
                Series(fitted["rule"], rates, quality, low, high),
                Series("random", [0, 1], [curve[0]["quality"], curve[-1]["quality"]]),
            ],
            x_label="share of the prompts deferred",
            y_label="mean quality",
            summary=f"Mean quality rises from {curve[0]['quality']:.3f} without the large model to {curve[-1]['quality']:.3f} "
            f"with it alone; the area under the curve is {fitted['auc']['value']:.3f}, at random {fitted['random']:.3f}.",
        ),
        Table(
            "quality at each rate",
            (Column("deferred", "%", ".0f"), Column("quality", "", ".3f"), "95 % interval"),
            [(point["rate"], point["quality"], between(point["low"], point["high"], ".3f")) for point in curve[::2]],
        ),
        lengths(fitted),
    ]  # fmt: skip


def warnings(fitted: Mapping[str, Any], missing: int) -> list[str]:
    """What must not be missed of a fitted rule."""
    found, measured = [], fitted["lengths"]
    if missing:
        found.append(f"{missing} prompts are left out, which a model failed to answer.")
    if (verdict := shown(Estimate(**fitted["above_random"]))) != "shown":
        found.append(f"That this rule is better than deferring at random: {verdict}.")
    spearman, oracle = measured["spearman"], measured["oracle_spearman"]
    if spearman is not None and abs(spearman) > max(BIASED, abs(oracle or 0.0) + 0.2):
        found.append(
            f"The score follows the length of the answer (rank correlation {spearman:.2f}) more than the oracle's does "
            f"({oracle or 0.0:.2f}): try the rules debiased or post-hoc."
        )
    if fitted["calibrated_on"] < 100:
        found.append(
            f"The threshold was chosen on {fitted['calibrated_on']} examples: expect the rate on new prompts to differ."
        )
    return found


def facts(fitted: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rule in rows of a table."""
    auc, threshold = fitted["auc"], fitted["threshold"]
    aim = (
        f"a budget of {fitted['target']['budget']:.0%}"
        if fitted["target"]["risk"] is None
        else f"a risk of {fitted['target']['risk']:.0%}"
    )
    interval = "" if auc["low"] is None else f" (95 %: {auc['low']:.3f} to {auc['high']:.3f})"
    rows = [
        ("rule", fitted["rule"]),
        ("small model", fitted["small"]["name"]),
        ("large model", fitted["large"]["name"]),
        ("threshold", threshold if isinstance(threshold, str) else f"{threshold:.4g}"),
        ("chosen for", aim),
        (
            "deferred",
            f"{fitted['deferred']:.1%} of {fitted['calibrated_on']:,} examples, {fitted['fitted_on']:,} others to learn from",
        ),
        (
            "AUC-DF",
            f"{auc['value']:.3f}{interval}; random {fitted['random']:.3f}, oracle {fitted['oracle']:.3f}",
        ),
    ]
    if wrong := fitted["kept_wrong"]:
        rows.append(
            (
                "kept and wrong",
                f"{wrong['share']:.1%}; conformal bound {wrong['conformal']:.1%}, exact bound {wrong['exact']:.1%}",
            )
        )
    if fitted["first"]:
        rows.append(("decides after", f"{fitted['first']} tokens"))
    return rows


def lengths(fitted: Mapping[str, Any]) -> Table:
    """Mean length of the answers by the tenths of the score and of the oracle's."""
    measured = fitted["lengths"]
    count = len(measured["lengths"])
    correlations = (
        "not defined" if value is None else f"{value:.2f}"
        for value in (measured["spearman"], measured["oracle_spearman"])
    )
    return Table(
        "length of the answers, from the first deferred to the last",
        ("scores", Column("by the rule", "tokens", ".1f"), Column("by the oracle", "tokens", ".1f")),
        [
            (f"{number}/{count}", *pair)
            for number, pair in enumerate(
                zip(measured["lengths"], measured["oracle_lengths"], strict=True), start=1
            )
        ],
        notes=("Rank correlation of score and length: {}; of the oracle's: {}.".format(*correlations),),
    )
