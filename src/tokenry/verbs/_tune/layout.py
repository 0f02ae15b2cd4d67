"""The layout of a comparison: the results and cost of every run, its learning curve, the tokens it learned from, and those it dropped."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    Value,
)
from tokenry.report.text import label
from tokenry.report.writing import decimals_of, written_number
from tokenry.verbs._against_control import AgainstControl, figures, sentences
from tokenry.verbs._chats import NOTED
from tokenry.verbs._models import model_title
from tokenry.verbs._tokens import example_tokens
from tokenry.verbs._tune.race_layout import answer_blocks, race_blocks, race_lead, seeds_blocks

if TYPE_CHECKING:
    from tokenry.core.stats import Estimate
    from tokenry.verbs._tune.records import Comparison, Histogram, Retained, Run

    _Measured = tuple[Column, Sequence[Value | Cell]]

_POINTS = 80
_FIRST_CURVES = ("loss", "nll_kept", "nll_dropped", "share_kept")
_CURVE_TITLES = {"loss": "training loss"}
_ABSENT = {
    "held_out_nll": "held-out NLL",
    "paired": "differences to a control",
    "accuracy": "task accuracy",
    "bits_per_byte": "bits per byte",
    "peak_memory_mb": "peak memory",
    "curves": "curves",
    "histograms": "distributions of signals",
    "share_by_class": "token classes",
    "examples": "examples",
}


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay a comparison out: what came of every run and what it cost, how it learned, what from, and what was dropped."""
    from tokenry.verbs._tune.records import read_comparison

    comparison = read_comparison(data)
    runs = comparison.runs
    findings = comparison_findings(comparison)
    blocks: list[Block] = [Text(_lead(comparison), "lead")]
    if comparison.race:
        blocks = [Findings([("", race_lead(comparison))])]
    if findings:
        blocks.append(Findings(findings, "Held-out NLL against the control; lower is better"))
    if comparison.notes:
        blocks.append(Findings([("", note) for note in comparison.notes], NOTED))
    if runs:
        title = "Comparison" if len(runs) > 1 else "Outcome"
        blocks.append(Section(title, list(_outcome(comparison, compared=bool(findings)))))
    sections: list[tuple[str, list[Block]]] = [
        ("Seeds", list(seeds_blocks(comparison.seeds)) if comparison.seeds else []),
        ("The race", list(race_blocks(comparison.race)) if comparison.race else []),
        ("Answers", list(answer_blocks(runs))),
        ("Curves", list(_curves(runs))),
        ("Signals of kept and dropped tokens", list(_signals(runs))),
        ("What was learned from, by token class", list(_classes(runs))),
        ("Examples, token by token", list(_examples(runs))),
    ]
    blocks += [Section(title, inside) for title, inside in sections if inside]
    absent = [words for name, words in _ABSENT.items() if not any(getattr(run, name) for run in runs)]
    return [*blocks, Text(f"Not recorded: {', '.join(absent)}.")] if absent else blocks


def comparison_findings(comparison: "Comparison") -> list[tuple[str, str]]:
    """What the comparison shows: a run's name and its verdict, for every run that was compared."""
    return sentences(list(map(_compared, _paired(comparison))), "held-out items")


def _paired(comparison: "Comparison") -> "list[Run]":
    return [run for run in comparison.runs if run.paired]


def _compared(run: "Run") -> AgainstControl:
    paired = run.paired
    assert paired is not None
    return AgainstControl(run.name, paired.to, paired.estimate, paired.verdict, better="lower")


def _lead(comparison: "Comparison") -> str:
    number, day = len(comparison.runs), comparison.created[:10]
    if number > 1:
        return f"{number} runs of the same model on the same data with the same seed, {day}."
    if number:
        return f"One run, {day}. There is nothing to compare it with: `tokenry tune --compare full,random` trains the controls beside it."
    return f"No run is recorded, {day}."


def _outcome(comparison: "Comparison", compared: bool) -> Iterator[Block]:
    paired = (
        " A difference is paired item by item and called shown when its 95 % interval leaves out zero; with fewer than 8 items nothing is"
        " said. The intervals hold for this seed and this held-out set: what another seed would change is not in them."
    )
    note = "A value ± its standard error over n held-out items; lower NLL is better."
    yield Text(note + paired * compared)
    yield _comparison_table(comparison)
    yield from figures(
        list(map(_compared, _paired(comparison))),
        "Difference in held-out NLL to the control, with the 95 % interval",
        "nats per token; left of zero is better",
        "+.4f",
    )


def _comparison_table(comparison: "Comparison") -> Table:
    runs = comparison.runs
    before: list[Value | Cell] = [None] if comparison.untrained_nll else []
    nll = [comparison.untrained_nll] if comparison.untrained_nll else []
    controls = {run.paired.to for run in runs if run.paired}
    decimals = decimals_of(run.paired.standard_error for run in runs if run.paired)
    columns: list[_Measured] = [
        (
            Column("held-out NLL", "nats per token"),
            [_counted(found) for found in (*nll, *(run.held_out_nll for run in runs))],
        ),
        (
            Column("difference to the control", "nats per token", f"+,.{decimals}f"),
            [*before, *(_difference(run, controls) for run in runs)],
        ),
        (Column("accuracy", "%"), [*before, *(_counted(run.accuracy) for run in runs)]),
        (Column("bits per byte", "", ".3f"), [*before, *(run.bits_per_byte for run in runs)]),
        *_forgetting(runs, before),
        (Column("learned from", "tokens", ",.0f"), [*before, *(run.tokens_learned for run in runs)]),
        (Column("share kept", "%"), [*before, *(run.share_kept for run in runs)]),
        (Column("steps"), [*before, *(run.steps for run in runs)]),
        (Column("time per step", "seconds", ",.3f"), [*before, *(run.seconds_per_step for run in runs)]),
        (Column("peak memory", "MB", ",.0f"), [*before, *(run.peak_memory_mb for run in runs)]),
    ]
    measured = [(column, cells) for column, cells in columns if any(cell is not None for cell in cells)]
    names: list[str | Cell] = ["before training"] if comparison.untrained_nll else []
    names += [Cell(run.name, run.weighing if run.weighing != run.name else "") for run in runs]
    rows = zip(names, *(cells for _, cells in measured), strict=True)
    title = f"{model_title(comparison.model)} on {comparison.data}"
    return Table(title, ("run", *(column for column, _ in measured)), list(rows))


def _forgetting(runs: "Sequence[Run]", before: list[Value | Cell]) -> "Iterator[_Measured]":
    """By how much the NLL rose on data that were not trained on."""
    for name in dict.fromkeys(found.name for run in runs for found in run.retained):
        of_runs = [{found.name: found for found in run.retained}.get(name) for run in runs]
        cells: list[Value | Cell] = [_forgotten(found) if found else None for found in of_runs]
        yield Column(f"forgetting: {name}", "nats per token", "+,.3f"), [*before, *cells]


def _forgotten(found: "Retained") -> Cell:
    return Cell(found.paired.estimate, f"to {found.after.value:.3f}, n = {found.after.samples:,}")


def _counted(found: "Estimate | None") -> Cell | None:
    return None if found is None else Cell(found, f"n = {found.samples:,}")


def _difference(run: "Run", controls: set[str]) -> Cell | None:
    if run.paired is None:
        return Cell(None, "the control") if run.name in controls else None
    return _compared(run).cell()


def _curves(runs: "Sequence[Run]") -> Iterator[Block]:
    names = dict.fromkeys(name for run in runs for point in run.curves for name in point)
    quantities = [name for name in names if name not in ("step", "epoch")]

    def place(name: str) -> int:
        short = name.rpartition("/")[2]
        return _FIRST_CURVES.index(short) if short in _FIRST_CURVES else len(_FIRST_CURVES)

    drawn = [(name, series) for name in sorted(quantities, key=place) if (series := _series(runs, name))]
    if drawn:
        yield Text(
            f"Over the optimisation steps; of more than {_POINTS} values, means of neighbours are drawn."
        )
    for number, (name, series) in enumerate(drawn):
        title = _CURVE_TITLES.get(name, ": ".join(map(label, name.split("/"))))
        ends = "; ".join(f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in series)
        summary = f"{title} over steps: {ends}"
        yield Figure(title, "lines", series, "step", "", summary, folded=number >= len(_FIRST_CURVES))


def _series(runs: "Sequence[Run]", name: str) -> list[Series]:
    series = []
    for number, run in enumerate(runs):
        logged = [
            (point.get("step", float(i)), point[name]) for i, point in enumerate(run.curves) if name in point
        ]
        points = [point for point in logged if all(map(math.isfinite, point))]
        if points:
            size = math.ceil(len(points) / _POINTS)
            means = [_mean(points[start : start + size]) for start in range(0, len(points), size)]
            steps, values = zip(*means, strict=True)
            series.append(Series(run.name, steps, values, look=number))
    return series


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(step for step, _ in points) / len(points), sum(value for _, value in points) / len(points)


def _signals(runs: "Sequence[Run]") -> Iterator[Block]:
    """A histogram per signal and run, signal by signal."""
    charts = [
        _distribution(label(name), run.name, run.histograms[name])
        for name in dict.fromkeys(name for run in runs for name in run.histograms)
        for run in runs
        if name in run.histograms and any((*run.histograms[name].kept, *run.histograms[name].dropped))
    ]
    if charts:
        yield Text(
            "Kept tokens rise above the axis, dropped tokens hang below it; where the two shapes differ, the choice went with the signal."
        )
        yield from charts


def _distribution(signal: str, run: str, histogram: "Histogram") -> Figure:
    kept, dropped = sum(histogram.kept), sum(histogram.dropped)
    series = [
        Series(f"kept, {kept:,}", histogram.edges, histogram.kept),
        Series(f"dropped, {dropped:,}", histogram.edges, histogram.dropped),
    ]
    summary = f"Distribution of {signal}, {run}: {kept:,} kept, {dropped:,} dropped"
    return Figure(f"{signal}, {run}", "histogram", series, signal, "tokens", summary)


def _classes(runs: "Sequence[Run]") -> Iterator[Block]:
    """The share kept of every class, and the part of every class in all that was learned from, the largest class first."""
    known = [run for run in runs if run.share_by_class]
    sizes: dict[str, int] = {}
    for run in known:
        for name, share in run.share_by_class.items():
            sizes[name] = max(sizes.get(name, 0), share.tokens)
    classes = sorted(sizes, key=lambda name: (-sizes[name], name))
    if not classes:
        return
    columns = [Column("class"), *(Column(run.name, "%") for run in known)]
    for title, cell in (("Share kept of every class", _share), ("Part in all that was learned from", _part)):
        rows = [(name, *(cell(run, name) for run in known)) for name in classes]
        yield Table(title, columns, rows)


def _share(run: "Run", name: str) -> Cell | None:
    share = run.share_by_class.get(name)
    if share is None or share.tokens == 0:
        return None
    kept = written_number(share.kept, ",.1f").removesuffix(".0")
    return Cell(share.kept / share.tokens, f"{kept} of {share.tokens:,}")


def _part(run: "Run", name: str) -> Cell | None:
    share, shares = run.share_by_class.get(name), run.share_by_class.values()
    if share is None or share.tokens == 0:
        return None
    kept = sum(one.kept for one in shares)
    plain = share.tokens / sum(one.tokens for one in shares)
    return Cell(share.kept / kept if kept else 0.0, f"plain SFT {plain:.1%}")


def _examples(runs: "Sequence[Run]") -> Iterator[Block]:
    """Every example once, as all runs saw it."""
    maps: dict[str, list[tuple[str, Any]]] = {}
    for run in runs:
        for example in run.examples:
            maps.setdefault(example.title, []).append((run.name, example_tokens(example.model_dump())))
    yield from (Heatmap(title, seen, folded=True) for title, seen in maps.items())
