"""The layout of runs with different credit rules: held-out rewards, curves, clipped tokens by entropy, and the same responses under every rule."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenry.report.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Findings,
    Heatmap,
    Section,
    Series,
    Table,
    Text,
    Token,
    Value,
)
from tokenry.report.text import label
from tokenry.report.writing import plural
from tokenry.verbs._against_control import AgainstControl, figures, sentences
from tokenry.verbs._estimates import stored_estimate
from tokenry.verbs._models import model_title

Run = Mapping[str, Any]

_CURVES = {
    "reward": ("Training reward", "mean reward of a generation"),
    "entropy": ("Entropy", "nats per token"),
    "clip_ratio/region_mean": ("Clipped tokens", "share"),
    "completions/mean_length": ("Length of the responses", "tokens"),
}
_DECILES = [f"clip_share/decile_{decile}" for decile in range(1, 11)]
_LATE = {
    Column("reward", "", ".3f"): "reward",
    Column("entropy", "nats per token", ".3f"): "entropy",
    Column("clipped", "%", ".2f"): "clip_ratio/region_mean",
    Column("length", "tokens", ".1f"): "completions/mean_length",
    Column("time per step", "seconds", ",.2f"): "seconds_per_step",
}
_ANSWERS = 12
_LAST = 4


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the runs out: what came of every rule and what it cost, how it learned, what was clipped, and how it credits tokens."""
    runs: list[Run] = data["runs"]
    generations = plural(data["generations"], "generation")
    compared = [_compared(row) for row in data["outcomes"] if row["difference"]]
    blocks: list[Block] = [
        Text(
            f"{plural(len(runs), 'run')} of the same model on the same prompts with the same seed, {generations} each, {data['created'][:10]}.",
            "lead",
        ),
        Findings(
            sentences(compared, "held-out questions"), "Held-out reward against the control; higher is better"
        ),
        *(Text(warning, "warning") for warning in _warnings(runs)),
    ]
    sections: list[tuple[str, list[Block]]] = [
        ("Comparison", list(_outcome(data))),
        ("Curves", list(_curves(runs))),
        ("Clipped tokens by entropy", list(_clipped(runs))),
        ("The same responses, credited by every rule", list(_rollouts(runs))),
        ("What the rules report", list(_reports(runs))),
        ("Held-out answers", list(_answers(data))),
    ]
    return [*blocks, *(Section(title, inside) for title, inside in sections if inside)]


def _compared(row: Mapping[str, Any]) -> AgainstControl:
    found = row["difference"]
    return AgainstControl(row["name"], found["to"], stored_estimate(found), found["verdict"], better="higher")


def _warnings(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        rewards = [point["reward"] for point in run["curves"] if "reward" in point]
        if rewards and not any(rewards):
            yield (
                f"{run['name']}: no response had a reward in any generation, so nothing was learned: ask for something that the model "
                "gets right sometimes."
            )


def _outcome(data: Mapping[str, Any]) -> Iterator[Block]:
    runs: list[Run] = data["runs"]
    yield Text(
        "A value ± its standard error over n held-out questions, each answered greedily once. A difference is paired question by question "
        "and called shown when its 95 % interval leaves out zero; what another seed would change is not in it."
    )
    outcomes = {row["name"]: row for row in data["outcomes"]}
    before = stored_estimate(data["before_training"])
    rows: list[tuple[Value | Cell, ...]] = [("before training", _counted(before), None, None)]
    rows += [
        (
            Cell(run["name"], run["credit"]),
            _counted(stored_estimate(outcomes[run["name"]]["reward"])),
            stored_estimate(outcomes[run["name"]]["change"]),
            _difference(outcomes[run["name"]]),
        )
        for run in runs
    ]
    columns = (
        Column("held-out reward", "", ".3f"),
        Column("change by training", "", "+.3f"),
        Column("difference to the control", "", "+.3f"),
    )
    yield Table(f"{model_title(data['model'])} on {data['data']}", ("run", *columns), rows)
    yield from figures(
        [_compared(row) for row in data["outcomes"] if row["difference"]],
        "Difference in held-out reward to the control, with the 95 % interval",
        "reward; right of zero is better",
        "+.3f",
    )
    columns_of_runs = [(column, [_late(run, curve) for run in runs]) for column, curve in _LATE.items()]
    columns_of_runs.append((Column("peak memory", "MB", ",.0f"), [run["peak_memory_mb"] for run in runs]))
    measured = [
        (column, cells) for column, cells in columns_of_runs if any(cell is not None for cell in cells)
    ]
    yield Table(
        "Training",
        ("run", *(column for column, _ in measured)),
        list(zip((run["name"] for run in runs), *(cells for _, cells in measured), strict=True)),
        notes=["Means over the last quarter of the steps."],
    )


def _counted(estimate: Any) -> Cell:
    return Cell(estimate, f"n = {estimate.samples:,}")


def _difference(outcome: Mapping[str, Any]) -> Cell:
    return _compared(outcome).cell() if outcome["difference"] else Cell(None, "the control")


def _late(run: Run, curve: str) -> float | None:
    """The mean of a curve over the last quarter of its points."""
    values = [point[curve] for point in run["curves"] if curve in point]
    last = values[-math.ceil(len(values) / _LAST) :]
    return sum(last) / len(last) if last else None


def _curves(runs: Sequence[Run]) -> Iterator[Block]:
    for name, (title, unit) in _CURVES.items():
        series = [
            Series(
                run["name"],
                [point["step"] for point in points],
                [point[name] for point in points],
                look=number,
            )
            for number, run in enumerate(runs)
            if (points := [point for point in run["curves"] if name in point])
        ]
        if series:
            ends = "; ".join(f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in series)
            yield Figure(
                title,
                "lines",
                series,
                "step",
                unit,
                f"{title} over the optimisation steps: {ends}",
                limits=_limits(unit, series),
            )


def _limits(unit: str, series: Sequence[Series]) -> tuple[float, float] | None:
    """Shares begin at 0, and none at all is drawn at the bottom."""
    most = max(value for line in series for value in line.y if value is not None)
    return (0.0, max(0.01, 1.1 * most)) if unit == "share" else None


def _clipped(runs: Sequence[Run]) -> Iterator[Block]:
    """How many tokens of each tenth by entropy are clipped, over all steps."""
    shares = {run["name"]: [_mean(run, decile) for decile in _DECILES] for run in runs}
    known = {name: values for name, values in shares.items() if any(value is not None for value in values)}
    if not known:
        return
    yield Text(
        "The tokens of each optimisation step in tenths by the entropy of the distribution that they were drawn from, the most certain "
        "first; means over all steps."
    )
    series = [
        Series(run["name"], list(range(1, 11)), known[run["name"]], look=number)
        for number, run in enumerate(runs)
        if run["name"] in known
    ]
    ends = "; ".join(f"{line.name} {line.y[0] or 0:.2%} to {line.y[-1] or 0:.2%}" for line in series)
    yield Figure(
        "Clipped tokens by entropy",
        "lines",
        series,
        "tenth by entropy",
        "share clipped",
        f"Share of clipped tokens from the lowest to the highest tenth by entropy: {ends}",
        limits=_limits("share", series),
    )
    rows = [(str(place + 1), *(values[place] for values in known.values())) for place in range(10)]
    columns = [Column("tenth by entropy"), *(Column(name, "%", ".2f") for name in known)]
    yield Table("Clipped tokens by entropy", columns, rows, folded=True)


def _mean(run: Run, curve: str) -> float | None:
    values = [point[curve] for point in run["curves"] if curve in point]
    return sum(values) / len(values) if values else None


def _rollouts(runs: Sequence[Run]) -> Iterator[Block]:
    """The responses of the control's last generation, coloured by the advantages that every rule gives their tokens."""
    rollouts = next((run["rollouts"] for run in runs if run["rollouts"]), None)
    if rollouts is None:
        return
    yield Text(
        f"Responses to “{' '.join(rollouts['prompt'].split())}”, from the last generation of {runs[0]['name']}, the prompt on which rewards "
        "differ most. The colour is the advantage of a token: above 0 it becomes more likely, below 0 less. What a rule changes by the "
        "ratio of two policies is not in it."
    )
    for number, response in enumerate(rollouts["responses"], start=1):
        maps = [
            (credited["name"], _tokens(response["tokens"], credited["values"]))
            for credited in response["advantages"]
        ]
        yield Heatmap(f"response {number}, reward {response['reward']:.3g}", maps, folded=number > 1)


def _tokens(texts: Sequence[str], advantages: Sequence[float]) -> list[Token]:
    return [Token(text, signals={"advantage": value}) for text, value in zip(texts, advantages, strict=True)]


def _reports(runs: Sequence[Run]) -> Iterator[Block]:
    names = dict.fromkeys(
        name for run in runs for point in run["curves"] for name in point if name.startswith("credit/")
    )
    if names:
        rows = [(label(name.partition("/")[2]), *(_mean(run, name) for run in runs)) for name in names]
        columns: list[Column | str] = ["measure", *(Column(run["name"], "", ".4g") for run in runs)]
        yield Table("Means over all generations", columns, rows)


def _answers(data: Mapping[str, Any]) -> Iterator[Block]:
    columns = ["question", "before training", *(run["name"] for run in data["runs"])]
    measured = [data["before"], *(run["held_out"] for run in data["runs"])]
    rows = [
        (
            question,
            *(
                Cell(found["answers"][place] or "–", f"reward {found['rewards'][place]:.3g}")
                for found in measured
            ),
        )
        for place, question in enumerate(data["questions"][:_ANSWERS])
    ]
    yield Table("Questions and answers", columns, rows, folded=True)
