"""The uncertainty of a correlation, and the part of it that other properties do not explain: beyond the paper.

    interval    percentiles of r over draws of whole words, since errors on one word (in any case) are correlated
    p           2 (1 − Φ(|r| / standard deviation of r over the draws)), two-sided
    shown       p, adjusted for the number of correlations (Benjamini-Hochberg), is below 0.05
    partial r   r of the residuals of the property and of correctness after linear regressions on the other properties
    logistic    log odds of a correct answer = intercept + Σ coefficient · standardised property, by maximum likelihood;
                standard errors are clustered by word (sandwich)

The paper's correlations are univariate: longer words have more tokens, so that length and tokenization stand for each other in them.

Sources: Benjamini and Hochberg 1995; Liang and Zeger 1986 (clustered standard errors).
"""

from collections.abc import Sequence
from warnings import catch_warnings, simplefilter

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from pandas import DataFrame, factorize
from scipy.stats import false_discovery_control, norm
from statsmodels.discrete.discrete_model import Logit
from statsmodels.regression.linear_model import OLS
from statsmodels.tools.sm_exceptions import ModelWarning, PerfectSeparationError

from tokenry.core.errors import require_at_least, require_one_of
from tokenry.core.stats import bootstrap_estimate, resampled_totals
from tokenry.evaluation.charbench.analysis import by_task_and_model, correlations, pearson
from tokenry.evaluation.charbench.segmentation import PROPERTIES

LEVEL = 0.05


def correlation_intervals(
    records: DataFrame, properties: Sequence[str] = PROPERTIES, draws: int = 1000, seed: int = 0
) -> DataFrame:
    """Correlate each property with correctness, with intervals over words and a flag that holds for all of them together.

    Args:
        records: table as of `join_records`.
        properties: columns of the table.
        draws: number of draws of the bootstrap.

    Returns:
        Columns task, model, property, r, n, low and high (95 %), p, adjusted_p and shown.
    """
    require_at_least(2, draws=draws)
    table = correlations(records, properties)
    drawn = {
        (task, model, name): of_one
        for (task, model), group in by_task_and_model(records)
        for name, of_one in zip(
            properties, bootstrap_correlations(group, properties, draws, seed).T, strict=True
        )
    }
    keys = zip(table["task"], table["model"], table["property"], strict=True)
    bounds = [_interval(drawn[key], r) for key, r in zip(keys, table["r"], strict=True)]
    table[["low", "high", "p"]] = np.array(bounds).reshape(-1, 3)
    known = table["p"].notna()
    table["adjusted_p"] = np.nan
    if known.any():
        table.loc[known, "adjusted_p"] = false_discovery_control(table.loc[known, "p"])
    return table.assign(shown=table["adjusted_p"] < LEVEL)


def bootstrap_correlations(
    group: DataFrame, properties: Sequence[str], draws: int, seed: int
) -> Float[ndarray, "draws properties"]:
    """Correlations over words drawn with replacement, for one model and task; nan where a draw leaves a constant."""
    words = word_clusters(group)
    correct = group["correct"].to_numpy(dtype=float)
    moments = [
        _moments(group[name].to_numpy(dtype=float), correct, words) for name in properties
    ]  # words × 6 each
    sums = np.stack(moments, axis=1).reshape(len(moments[0]), -1)
    return _correlation_of_moments(resampled_totals(sums, draws, seed).reshape(draws, len(moments), 6))


def word_clusters(records: DataFrame) -> Int[ndarray, "rows"]:
    """Number the words, in any case."""
    return factorize(records["word"].str.lower())[0].astype(np.int64)


def partial_correlation(group: DataFrame, prop: str, given: Sequence[str]) -> float:
    """Correlate a property with correctness, both without the part that other properties explain.

    Args:
        group: records of one model and task.
        given: the other properties.

    Returns:
        r; nan where no variation is left.
    """
    for name in (prop, *given):
        require_one_of(name, [*group.select_dtypes("number")], "a property")
    table = group[[prop, *given]].to_numpy(dtype=float)
    known = np.isfinite(table).all(axis=1)
    table, correct = table[known], group["correct"].to_numpy(dtype=float)[known]
    if len(table) <= len(given) + 2:
        return float("nan")
    explaining = np.column_stack([np.ones(len(table)), table[:, 1:]])
    left = [OLS(values, explaining).fit().resid for values in (table[:, 0], correct)]
    # The residual of a property that is explained entirely is rounding error.
    scales = [np.abs(values - values.mean()).max(initial=0.0) for values in (table[:, 0], correct)]
    if any(np.abs(rest).max(initial=0.0) <= 1e-9 * scale for rest, scale in zip(left, scales, strict=True)):
        return float("nan")
    return pearson(*left)


def logistic_regression(records: DataFrame, properties: Sequence[str]) -> DataFrame:
    """Fit the log odds of a correct answer to several properties at once, per task and model.

    Args:
        records: table as of `join_records`.
        properties: columns of the table; those that are constant or unknown for a task are left out there.

    Returns:
        Columns task, model, property, coefficient (log odds per standard deviation), standard_error, p, partial_r and n.
        No rows where all answers are correct or all are wrong, where there are no more items than coefficients or a single word, where
        the properties determine each other, or where they separate correct answers from wrong ones.
    """
    rows = []
    for (task, model), group in by_task_and_model(records):
        used = [name for name in properties if group[name].notna().all() and group[name].nunique() > 1]
        if used and group["correct"].nunique() == 2:
            rows += [(task, model, *row, len(group)) for row in _fitted(group, used)]
    return DataFrame(
        rows, columns=["task", "model", "property", "coefficient", "standard_error", "p", "partial_r", "n"]
    )


def _fitted(group: DataFrame, used: Sequence[str]) -> list[tuple[str, float, float, float, float]]:
    values = group[[*used]].to_numpy(dtype=float)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    design = np.column_stack([np.ones(len(values)), values])
    words, coefficients = word_clusters(group), design.shape[1]
    if len(design) <= coefficients or not words.any() or np.linalg.matrix_rank(design) < coefficients:
        return []
    correct = group["correct"].to_numpy(dtype=float)
    with catch_warnings():
        simplefilter("ignore", ModelWarning)
        try:
            fit = Logit(correct, design).fit(
                disp=False, maxiter=100, cov_type="cluster", cov_kwds={"groups": words}
            )
        except (np.linalg.LinAlgError, PerfectSeparationError):
            return []
    if not fit.mle_retvals["converged"]:
        return []
    return [
        (
            name,
            float(fit.params[place]),
            float(fit.bse[place]),
            float(fit.pvalues[place]),
            partial_correlation(group, name, [other for other in used if other != name]),
        )
        for place, name in enumerate(used, start=1)
    ]


def _interval(drawn: Float[ndarray, "draws"], r: float) -> tuple[float, float, float]:
    found = bootstrap_estimate(r, drawn if np.isfinite(r) else np.full_like(drawn, np.nan), len(drawn))
    error = found.standard_error
    return found.low, found.high, float(2 * norm.sf(abs(r) / error)) if error else float("nan")


def _moments(
    values: Float[ndarray, "rows"], correct: Float[ndarray, "rows"], words: Int[ndarray, "rows"]
) -> Float[ndarray, "words 6"]:
    """The sums of 1, x, y, x², y² and xy per word, from which r over any set of words follows."""
    known = np.isfinite(values)
    # Centred, so that the differences of sums below lose no digits; r does not change.
    x = np.where(known, values - (values[known].mean() if known.any() else 0.0), 0.0)
    y = np.where(known, correct, 0.0)
    columns = (known.astype(float), x, y, x * x, y * y, x * y)
    number = int(words.max()) + 1
    return np.stack([np.bincount(words, weights=column, minlength=number) for column in columns], axis=1)


def _correlation_of_moments(sums: Float[ndarray, "draws properties 6"]) -> Float[ndarray, "draws properties"]:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (xx - x * x / n) * (yy - y * y / n)
        r = (xy - x * y / n) / np.sqrt(spread)
    return np.where(spread > 1e-12 * np.abs(n), r, np.nan)
