"""The bootstrap of F1 from counts, against calling scikit-learn on every resample.

2,000 resamples of 150 texts with 18 labels: macro, micro and weighted F1 of two classifiers and their differences. The loop draws the same
texts and calls `f1_score` for every metric and classifier; it is timed on a part of the resamples and scaled, since each takes as long.
"""

from collections.abc import Iterator

import numpy as np
from _measure import interleaved
from _report import Result, run, speedup
from sklearn.metrics import f1_score

from tokenry.core.stats import index_matrix
from tokenry.evaluation.encoders.multilabel import paired_differences

AVERAGES = ("macro", "micro", "weighted")


def measure(smoke: bool) -> Iterator[Result]:
    """The ratio in CPU time of one thread."""
    draws, texts, labels, looped, rounds = (20, 30, 3, 10, 1) if smoke else (2000, 150, 18, 100, 3)
    generator = np.random.default_rng(0)
    truth = generator.random((texts, labels)) < 0.3
    given = [truth ^ (generator.random((texts, labels)) < 0.1) for _ in "ab"]
    matrix = index_matrix(texts, draws)[:looped]

    def loop() -> dict[str, np.ndarray]:
        drawn = np.array([
            [
                np.subtract(*(f1_score(truth[rows], one[rows], average=average, zero_division=0) for one in given))
                for average in AVERAGES
            ]
            for rows in matrix
        ])  # fmt: skip
        return dict(zip(AVERAGES, drawn.std(axis=0, ddof=1), strict=True))

    def ours(resamples: int = draws) -> dict[str, float]:
        found = paired_differences(truth, *given, draws=resamples)
        return {average: found[f"{average}_f1"].standard_error for average in AVERAGES}

    for average, error in loop().items():
        np.testing.assert_allclose(ours(looped)[average], error, rtol=1e-9)
    seconds = interleaved(
        {"tokenry": lambda: ours() and None, "loop": lambda: loop() and None}, rounds, threads=1
    )
    by_loop = seconds["loop"].cpu * draws / looped
    yield speedup(
        "bootstrap of F1 differences: scikit-learn on every resample / tokenry",
        by_loop / seconds["tokenry"].cpu,
        100,
        threads=1,
        rounds=rounds,
        draws=draws,
        texts=texts,
        labels=labels,
        resamples_in_the_loop=looped,
        cpu_milliseconds={
            "tokenry": round(1000 * seconds["tokenry"].cpu, 1),
            "loop": round(1000 * by_loop, 1),
        },
    )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
