"""The report of models on CharBench, as tables.

Accuracy, correlations with intervals, curves over every property, overlap of errors, counting bias, mixed case, and the regression on
several properties at once.

Source: CharBench (arXiv 2508.02591), section 5, and beyond it (see `inference`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pandas import DataFrame

from tokenry.core.text.round_trip import RoundTrip
from tokenry.evaluation.charbench.analysis import (
    accuracy_curve,
    accuracy_table,
    counting_bias,
    error_overlap,
    mean_correlations,
    mixed_case,
)
from tokenry.evaluation.charbench.inference import correlation_intervals, logistic_regression
from tokenry.evaluation.charbench.items import TASKS
from tokenry.evaluation.charbench.records import Predictions, join_records
from tokenry.evaluation.charbench.segmentation import PROPERTIES

REGENERATED = "The items are a regeneration from open word lists, not the authors' file."
# Compression is word_length over number_of_tokens, and gold_over_length gold over word_length: they would stand for each other.
REGRESSED = ("word_length", "gold", "frequency", "number_of_tokens", "target_token_length")


@dataclass(frozen=True)
class CharBenchReport:
    """Tables about one or more models.

    Attributes:
        accuracy: per task and model (`accuracy_table`).
        correlations: correlations with intervals (`correlation_intervals`).
        mean_correlations: correlations averaged over models, tasks by properties.
        curves: accuracy at every value of every property (`accuracy_curve`).
        overlap: overlap of errors per task, models by models (`error_overlap`).
        bias: bias of wrong counts (`counting_bias`).
        mixed_case: accuracy on words of mixed case, and on the others.
        regression: regression on several properties at once (`logistic_regression`).
        text_back: for each model, whether its tokenizer gives the words back.
    """

    accuracy: DataFrame
    correlations: DataFrame
    mean_correlations: DataFrame
    curves: DataFrame
    overlap: Mapping[str, DataFrame]
    bias: DataFrame
    mixed_case: DataFrame
    regression: DataFrame
    text_back: Mapping[str, RoundTrip] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """A sentence for each tokenizer that does not give all words back."""
        return [
            back.sentence(f"the tokenizer of {model}", "words")
            for model, back in self.text_back.items()
            if not back.gives_back
        ]

    def as_json(self) -> dict[str, Any]:
        """The tables as JSON; undefined figures are null."""
        return {
            "note": REGENERATED,
            "accuracy": _rows(self.accuracy),
            "correlations": _rows(self.correlations),
            "mean_correlations": _rows(self.mean_correlations.reset_index()),
            "curves": _rows(self.curves),
            "overlap": {
                task: {
                    one: dict(zip(table, row, strict=True))
                    for one, row in zip(table, table.to_numpy().tolist(), strict=True)
                }
                for task, table in self.overlap.items()
            },
            "bias": _rows(self.bias),
            "mixed_case": _rows(self.mixed_case),
            "regression": _rows(self.regression),
            "text_back": {model: back.as_json() for model, back in self.text_back.items()},
        }


def charbench_report(
    items: DataFrame,
    predictions: Mapping[str, Predictions],
    features: Mapping[str, DataFrame],
    draws: int = 1000,
    seed: int = 0,
    text_back: Mapping[str, RoundTrip] | None = None,
) -> CharBenchReport:
    """Analyse the answers of one or more models.

    Args:
        items: table as of `build_charbench`.
        predictions: predictions by the name of the model, indexed by item.
        features: features by the name of the model, as of `tokenization_features`; a column `frequency` of the words takes part in the
            regression.
        draws: number of draws of the bootstrap over words.
        text_back: for each model, whether its tokenizer gives the words back.
    """
    records = join_records(items, predictions, features)
    table = correlation_intervals(records, PROPERTIES, draws, seed)
    asked = [task for task in TASKS if task in set(records["task"])]
    regressed = [name for name in REGRESSED if name in records]
    return CharBenchReport(
        accuracy=accuracy_table(records),
        correlations=table,
        mean_correlations=mean_correlations(table),
        curves=pd.concat([accuracy_curve(records, name) for name in PROPERTIES], ignore_index=True),
        overlap={task: error_overlap(records, task) for task in asked},
        bias=counting_bias(records),
        mixed_case=mixed_case(records),
        regression=logistic_regression(records, regressed),
        text_back=text_back or {},
    )


def _rows(table: DataFrame) -> list[dict[str, Any]]:
    return [
        {
            str(name): None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in table.to_dict("records")
    ]
