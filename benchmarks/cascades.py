"""Quantiles of padded outputs and deferral curves of many rules, against loops over the examples.

101 quantiles of 20,000 outputs of 1 to 64 tokens: the loop calls `numpy.quantile` once per output; ours sorts the padded batch and
gathers the ranks of all outputs of one length at once. Deferral curves with expected ties of 101 rules on 10,000 examples: the loop
sorts and adds up example by example, as one writes it down.
"""

from collections.abc import Iterator

import numpy as np
from _measure import Step, interleaved
from _report import Result, run, speedup

from tokenry.decoding import deferral_curve, quantile_features

ALPHAS = np.linspace(0, 1, 101)


def measure(smoke: bool) -> Iterator[Result]:
    """Both ratios, in CPU time of one thread."""
    yield quantiles(*((50, 8, 1) if smoke else (20_000, 64, 3)))
    yield curves(*((30, 3, 1) if smoke else (10_000, 101, 3)))


def quantiles(outputs: int, longest: int, rounds: int) -> Result:
    """101 quantiles of every output."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, longest + 1, outputs)
    mask = np.arange(longest) < lengths[:, None]
    logprobs = np.where(mask, -generator.exponential(size=mask.shape), np.nan)

    def loop() -> np.ndarray:
        return np.stack([np.quantile(row[:length], ALPHAS) for row, length in zip(logprobs, lengths, strict=True)])

    def ours() -> np.ndarray:
        return quantile_features(logprobs, mask, ALPHAS.tolist()).numpy()

    np.testing.assert_allclose(ours(), loop(), rtol=1e-12, atol=1e-12)
    return compared(
        "101 quantiles of padded outputs: numpy.quantile in a loop / tokenry",
        {"tokenry": ours, "loop": loop},
        target=30,
        rounds=rounds,
        outputs=outputs,
        longest=longest,
    )


def curves(examples: int, rules: int, rounds: int) -> Result:
    """The expected deferral curve of every rule."""
    generator = np.random.default_rng(1)
    scores = generator.normal(size=(examples, rules)).round(3)  # some are equal
    small, large = generator.random((2, examples)) < [[0.5], [0.8]]
    columns, qualities = scores.T.tolist(), (small.astype(float).tolist(), large.astype(float).tolist())

    def loop() -> np.ndarray:
        return np.array([by_hand(column, *qualities) for column in columns]).T

    def ours() -> np.ndarray:
        return deferral_curve(scores, small, large)[1]

    np.testing.assert_allclose(ours(), loop(), rtol=1e-9)
    return compared(
        f"deferral curves of {rules} rules: a loop over the examples / tokenry",
        {"tokenry": ours, "loop": loop},
        target=20,
        rounds=rounds,
        examples=examples,
        rules=rules,
    )


def by_hand(score: list[float], small: list[float], large: list[float]) -> list[float]:
    """Quality at each number of deferred examples; a straight line across equal scores."""
    order = sorted(range(len(score)), key=score.__getitem__)
    quality, total, begin = [sum(small) / len(small)], sum(small), 0
    while begin < len(order):
        end, gain = begin, 0.0
        while end < len(order) and score[order[end]] == score[order[begin]]:
            gain += large[order[end]] - small[order[end]]
            end += 1
        for place in range(1, end - begin + 1):
            quality.append((total + gain * place / (end - begin)) / len(order))
        total += gain
        begin = end
    return quality


def compared(name: str, steps: dict[str, Step], target: float, rounds: int, **settings: int) -> Result:
    seconds = interleaved(steps, rounds, threads=1)
    return speedup(
        name,
        seconds["loop"].cpu / seconds["tokenry"].cpu,
        target,
        threads=1,
        rounds=rounds,
        cpu_milliseconds={step: round(1000 * taken.cpu, 1) for step, taken in seconds.items()},
        **settings,
    )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
