"""A model's answers to CharBench as the recipe reads them: accuracies, correlations with their intervals, and draws over words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pandas import DataFrame

from tokenry.core.stats import Estimate, Verdict, bootstrap_estimate, shown
from tokenry.evaluation.charbench import CharBenchReport, charbench_report, join_records
from tokenry.evaluation.charbench.inference import bootstrap_correlations
from tokenry.evaluation.charbench.items import COUNTING_TASKS
from tokenry.evaluation.charbench.segmentation import PROPERTIES


@dataclass(frozen=True)
class ModelAnswers:
    """A model's answers, analysed.

    Attributes:
        report: all tables of the analysis.
        records: every item with its answer and its properties.
    """

    name: str
    report: CharBenchReport
    records: DataFrame

    @classmethod
    def of(cls, name: str, items: DataFrame, predictions: DataFrame, features: DataFrame) -> "ModelAnswers":
        """Analyse the answers to items about words with these features."""
        given = ({name: predictions}, {name: features})
        return cls(name, charbench_report(items, *given), join_records(items, *given))

    def correlation(self, task: str, prop: str) -> Estimate:
        """The correlation of a property with right answers, with its interval over words."""
        table = self.report.correlations
        found = table[(table["task"] == task) & (table["property"] == prop)].iloc[0]
        return Estimate(
            float(found["r"]), float("nan"), int(found["n"]), float(found["low"]), float(found["high"])
        )

    def accuracy_at(self, task: str, prop: str) -> dict[float, Estimate]:
        """The accuracy by the value of a property."""
        table = self.report.curves
        rows = table[(table["task"] == task) & (table["property"] == prop)]
        return {
            float(row.value): Estimate(float(row.accuracy), float(row.standard_error), int(row.n))
            for row in rows.itertuples()
        }

    def partial(self, task: str, prop: str) -> str:
        """The partial correlation given the other properties, in words."""
        table = self.report.regression
        rows = table[(table["task"] == task) & (table["property"] == prop)]
        return f"{rows['partial_r'].iloc[0]:.3f}" if len(rows) else "undefined"

    @cached_property
    def strengths(self) -> dict[str, Float[ndarray, "draws properties"]]:
        """The absolute correlations of the properties over draws of the same words, for each counting task."""
        return {
            task: np.abs(bootstrap_correlations(group, PROPERTIES, 1000, 0))
            for task, group in self.records.groupby("task")
            if task in COUNTING_TASKS
        }

    def stronger(self, task: str, one: Sequence[str], other: Sequence[str], times: float = 1.0) -> Verdict:
        """Whether the strongest of some correlations is stronger than `times` the strongest of others, over the same words."""

        def strongest(
            values: Float[ndarray, "draws properties"], names: Sequence[str]
        ) -> Float[ndarray, "draws"]:
            return np.fmax.reduce([values[:, PROPERTIES.index(name)] for name in names])

        measured = np.array([[abs(self.correlation(task, name).value) for name in PROPERTIES]])
        value, drawn = (
            strongest(values, one) - times * strongest(values, other)
            for values in (measured, self.strengths[task])
        )
        return shown(bootstrap_estimate(float(value[0]), drawn, self.correlation(task, one[0]).samples))

    @property
    def accuracies(self) -> dict[str, str]:
        """Accuracy by task."""
        return {
            row["task"]: f"{100 * row['accuracy']:.1f} ± {100 * row['standard_error']:.1f} %"
            for row in self.report.accuracy.to_dict("records")
        }

    @property
    def correlations(self) -> dict[str, dict[str, float]]:
        """Correlations by task and property, where they are defined."""
        table = self.report.correlations.dropna(subset="r")
        return {
            str(task): dict(zip(rows["property"], rows["r"].round(4), strict=True))
            for task, rows in table.groupby("task", sort=False)
        }

    @property
    def regression(self) -> dict[str, dict[str, str]]:
        """Log odds per standard deviation and partial correlation, by task and property."""

        def words(row: Mapping[Any, Any]) -> str:
            return f"{row['coefficient']:.3f} ± {row['standard_error']:.3f}, partial r {row['partial_r']:.3f}"

        return {
            str(task): {row["property"]: words(row) for row in rows.to_dict("records")}
            for task, rows in self.report.regression.groupby("task", sort=False)
        }
