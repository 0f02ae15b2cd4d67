"""Properties that go with correct answers: the paper's analysis, with all values where its released code leaves some out.

    correlation   Pearson's r of a property with correctness 0/1 (point-biserial); nan where either is constant
    curve         accuracy at each value of a property, ± sqrt(p (1 − p) / n), also where nothing is wrong
    overlap       |A and B| / |A or B| of the wrong items of two models, 0 where neither has any
    bias          mean and sample standard deviation of prediction − answer over wrong answers that are integers, true count not 0
    mixed case    index tasks: the word has the character asked about in both cases; counting tasks: it has letters of both

Source: CharBench (arXiv 2508.02591), section 5; omriuz/CharBench, analysis/analyze.py.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from pandas import DataFrame

from tokenry.core.errors import require_one_of
from tokenry.evaluation.charbench.items import COUNTING_TASKS, INDEX_TASKS, TASKS
from tokenry.evaluation.charbench.segmentation import PROPERTIES


def pearson(x: Float[ndarray, "n"], y: Float[ndarray, "n"]) -> float:
    """Pearson's r over the places where both are known; nan if one is constant, or no place is known."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if not len(x) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def correlations(records: DataFrame, properties: Sequence[str] = PROPERTIES) -> DataFrame:
    """Correlate each property with correctness.

    Args:
        records: table as of `join_records`.
        properties: columns of the table.

    Returns:
        Columns task, model, property, r and n.
    """
    rows = []
    for (task, model), group in by_task_and_model(records):
        correct = group["correct"].to_numpy(dtype=float)
        for name in properties:
            values = group[name].to_numpy(dtype=float)
            rows.append((task, model, name, pearson(values, correct), int(np.isfinite(values).sum())))
    return DataFrame(rows, columns=["task", "model", "property", "r", "n"])


def mean_correlations(table: DataFrame) -> DataFrame:
    """Average correlations over the models that have one: a row per task, a column per property."""
    order = list(dict.fromkeys(table["property"]))
    return table.pivot_table(index="task", columns="property", values="r", aggfunc="mean", dropna=False)[
        order
    ]


def accuracy_table(records: DataFrame) -> DataFrame:
    """Accuracy by task and model, with its standard error, and the share of answers that are integers.

    Returns:
        Columns task, model, n, accuracy, standard_error and valid.
    """
    rows = [
        (task, model, *_accuracy(group["correct"].to_numpy()), float(group["prediction"].notna().mean()))
        for (task, model), group in by_task_and_model(records)
    ]
    return DataFrame(rows, columns=["task", "model", "n", "accuracy", "standard_error", "valid"])


def accuracy_curve(records: DataFrame, prop: str) -> DataFrame:
    """Accuracy at every value of a property.

    Args:
        records: table as of `join_records`.
        prop: one of `PROPERTIES`.

    Returns:
        Columns task, model, property, value, n, accuracy and standard_error.
    """
    require_one_of(prop, PROPERTIES, "a property")
    rows = [
        (task, model, prop, float(value), *_accuracy(group["correct"].to_numpy()))
        for (task, model), of_one in by_task_and_model(records)
        for value, group in of_one.groupby(prop)
    ]
    return DataFrame(rows, columns=["task", "model", "property", "value", "n", "accuracy", "standard_error"])


def error_overlap(records: DataFrame, task: str) -> DataFrame:
    """Compare the wrong items of any two models, over the items that both were asked.

    Returns:
        Models by models, 1 on the diagonal of a model with errors.
    """
    require_one_of(task, TASKS, "task")
    of_task = records[records["task"] == task]
    models = list(dict.fromkeys(of_task["model"]))
    right = of_task.pivot(index="item", columns="model", values="correct")
    wrong = {model: set(right.index[right[model].eq(False)]) for model in models}
    asked = {model: set(right.index[right[model].notna()]) for model in models}
    return DataFrame(
        [
            [_jaccard(wrong[one] & asked[other], wrong[other] & asked[one]) for other in models]
            for one in models
        ],
        index=models,
        columns=models,
    )


def counting_bias(records: DataFrame) -> DataFrame:
    """Bias of wrong counts, in characters: above 0, too many were counted.

    Returns:
        Columns task, model, mean, std and count, for the counting tasks.
    """
    rows = []
    for (task, model), group in by_task_and_model(records):
        if task in COUNTING_TASKS:
            off = (group["prediction"] - group["answer"]).to_numpy(dtype=float)
            off = off[~group["correct"] & (group["answer"] != 0) & np.isfinite(off)]
            mean = float(off.mean()) if len(off) else float("nan")
            std = float(off.std(ddof=1)) if len(off) > 1 else float("nan")
            rows.append((task, model, mean, std, len(off)))
    return DataFrame(rows, columns=["task", "model", "mean", "std", "count"])


def mixed_case(records: DataFrame) -> DataFrame:
    """Accuracy on words of mixed case, and on the others.

    Returns:
        Columns task, model, mixed, n, accuracy and standard_error.
    """
    flagged = records.assign(mixed=has_mixed_case(records))
    rows = [
        (task, model, bool(mixed), *_accuracy(group["correct"].to_numpy()))
        for (task, model), of_one in by_task_and_model(flagged)
        for mixed, group in of_one.groupby("mixed")
    ]
    return DataFrame(rows, columns=["task", "model", "mixed", "n", "accuracy", "standard_error"])


def has_mixed_case(records: DataFrame) -> Bool[ndarray, "rows"]:
    """For each row, whether case matters: both cases of the character, or of any letters where all are counted.

    A character without cases (a digit, most scripts) is never in both.
    """
    return np.array(
        [
            _both_cases(word, character) if task in INDEX_TASKS else _any_cases(word)
            for task, word, character in zip(
                records["task"], records["word"], records["character"], strict=True
            )
        ],
        dtype=bool,
    )


def _both_cases(word: str, character: str) -> bool:
    lower, upper = character.lower(), character.upper()
    return lower != upper and lower in word and upper in word


def _any_cases(word: str) -> bool:
    return any(map(str.isupper, word)) and any(map(str.islower, word))


def by_task_and_model(records: DataFrame) -> Iterable[tuple[tuple[str, str], DataFrame]]:
    """Records by task and model: tasks in their own order, models in order of appearance."""
    models = list(dict.fromkeys(records["model"]))
    found = dict(iter(records.groupby(["task", "model"])))
    return [
        ((task, model), found[task, model]) for task in TASKS for model in models if (task, model) in found
    ]


def _accuracy(correct: Bool[ndarray, "n"]) -> tuple[int, float, float]:
    number, share = len(correct), float(correct.mean())
    return number, share, float(np.sqrt(share * (1 - share) / number))


def _jaccard(one: set[object], other: set[object]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0
