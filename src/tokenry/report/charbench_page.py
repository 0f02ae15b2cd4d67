"""The page of `tokenry evaluate charbench`: accuracy, what it goes with, and how sure that is.

Like the other pages it is one self-contained file, drawn from what was measured and nothing else.
"""

from collections.abc import Mapping
from typing import Any

from tokenry.evaluation.charbench import TASKS, CharBenchReport
from tokenry.evaluation.charbench.report import REGENERATED
from tokenry.report.charbench_charts import PROPERTY_NAMES, accuracy_charts, correlation_chart
from tokenry.report.rendering import render_template, setting_pairs

_TITLES = {
    "count_unique_chars": "How many unique characters?",
    "count_character_frequency": "How often does a character appear?",
    "find_first_occurrence": "Where does a character come first?",
    "find_last_occurrence": "Where does a character come last?",
}


def render_charbench(report: CharBenchReport, settings: Mapping[str, Any] | None = None) -> str:
    """Draw a report as one self-contained HTML page.

    Args:
        report: of one or more models.
        settings: shown at the head of the page.
    """
    models = list(dict.fromkeys(report.accuracy["model"]))
    asked = [task for task in TASKS if task in set(report.accuracy["task"])]
    return render_template(
        "charbench.html.j2",
        kind="charbench",
        title="Characters inside tokens",
        note=REGENERATED,
        sentences=report.sentences(),
        models=models,
        sections=[_section(report, task, models) for task in asked],
        names=PROPERTY_NAMES,
        settings=setting_pairs(settings or {}),
    )


def _section(report: CharBenchReport, task: str, models: list[str]) -> dict[str, Any]:
    tables = {
        "accuracy": report.accuracy,
        "bias": report.bias,
        "mixed": report.mixed_case,
        "regression": report.regression,
    }
    rows = {name: table[table["task"] == task].to_dict("records") for name, table in tables.items()}
    return {
        "task": task,
        "title": _TITLES[task],
        "correlations": correlation_chart(report.correlations, task, models),
        "curves": accuracy_charts(report.curves, task, models),
        "overlap": report.overlap[task].to_numpy().tolist() if len(report.overlap[task]) > 1 else [],
        "asked": list(report.overlap[task]),
        **rows,
    }
