"""The page of a comparison, drawn from its record; what the record does not hold is left out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenry.core.records import Comparison, Example, Run
from tokenry.report.charts import (
    HistogramChart,
    curve_charts,
    histogram_chart,
    interval_chart,
    signal_span,
)
from tokenry.report.heatmap import SampleView, map_view, signal_scales
from tokenry.report.rendering import render_template, setting_pairs
from tokenry.report.table import (
    class_table,
    comparison_columns,
    comparison_rows,
    findings,
)
from tokenry.report.text import label

_STATES = {
    "kept": "kept",
    "lowered": "dropped to a lower weight",
    "dropped": "dropped",
    "prompt": "prompt, not learned from",
}


def render_report(comparison: Comparison) -> str:
    """Draw a comparison as one self-contained HTML page.

    What the record does not hold is left out, and named at the foot of the page.
    """
    runs = comparison.runs
    by_title: dict[str, list[tuple[str, Example]]] = {}
    for run in runs:
        for example in run.examples:
            by_title.setdefault(example.title, []).append((run.name, example))
    charts = curve_charts(runs)
    parts: dict[str, Any] = {
        "intervals": interval_chart(runs),
        "curves": charts,
        "averaged": max((chart.averaged for chart in charts), default=1),
        "signals": _signals(runs),
        "classes": class_table(runs),
    }
    return render_template(
        "report.html.j2",
        kind=comparison.kind,
        title=f"{comparison.model} on {comparison.data}",
        record=comparison,
        findings=findings(comparison),
        notes=comparison.notes,
        rows=comparison_rows(comparison),
        columns=comparison_columns(comparison),
        first_series=1 if comparison.untrained_nll else 0,
        settings=setting_pairs(comparison.settings) + setting_pairs(comparison.environment),
        sections=_sections(comparison, parts),
        absent=_absent(runs),
        **parts,
        **_samples(by_title),
    )


def _sections(comparison: Comparison, parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parts of the page that have something to show, as anchors and names."""
    present = {
        ("comparison", "Comparison" if len(comparison.runs) > 1 else "Outcome"): comparison.runs,
        ("curves", "Curves"): parts["curves"],
        ("signals", "Signals"): parts["signals"],
        ("classes", "Token classes"): parts["classes"],
        ("examples", "Examples"): any(run.examples for run in comparison.runs),
    }
    return [section for section, content in present.items() if content]


def _absent(runs: Iterable[Run]) -> list[str]:
    fields = {
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
    runs = list(runs)
    return [words for field, words in fields.items() if not any(getattr(run, field) for run in runs)]


def _signals(runs: Sequence[Run]) -> list[HistogramChart]:
    """One histogram per signal and run, signal by signal; all runs of a signal on one axis."""
    charts = []
    for name in dict.fromkeys(name for run in runs for name in run.histograms):
        known = [(run.name, run.histograms[name]) for run in runs if name in run.histograms]
        known = [(run, histogram) for run, histogram in known if histogram.kept or histogram.dropped]
        span = signal_span([histogram for _, histogram in known]) if known else (0.0, 1.0)
        charts += [histogram_chart(label(name), histogram, span, run) for run, histogram in known]
    return charts


def _samples(by_title: Mapping[str, Sequence[tuple[str, Example]]]) -> dict[str, Any]:
    """The examples by title, each with one heat-map per run that recorded it, on scales common to the whole page."""
    scales = signal_scales(example for maps in by_title.values() for _, example in maps)
    samples = [
        SampleView(title, [map_view(example, scales, run) for run, example in maps])
        for title, maps in by_title.items()
    ]
    found = {token.state for sample in samples for view in sample.maps for token in view.tokens}
    states = [(state, words) for state, words in _STATES.items() if state in found]
    return {"samples": samples, "scales": scales, "states": states}
