"""Quantiles of padded outputs and deferral curves of many rules, against loops over the examples.

101 quantiles of 20,000 outputs of 1 to 64 tokens: the loop calls `numpy.quantile` once per output; ours sorts the padded batch and
gathers the ranks of all outputs of one length at once. Deferral curves with expected ties of 101 rules on 10,000 examples: the loop
sorts and adds up example by example, as one writes it down.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from _measure import interleaved
from _report import Result, run, speedup

from tokenry.decoding import deferral_curve, quantile_features

ALPHAS = np.linspace(0, 1, 101)


def measure(smoke: bool) -> Iterator[Result]:
    """All ratios, in CPU time of one thread."""
    yield quantiles(*((50, 8, 1) if smoke else (20_000, 64, 3)))
    yield from curves(*((30, 3, 1) if smoke else (10_000, 101, 3)))


def quantiles(outputs: int, longest: int, rounds: int) -> Result:
    """101 quantiles of every output."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, longest + 1, outputs)
    mask = np.arange(longest) < lengths[:, None]
    logprobs = np.where(mask, -generator.exponential(size=mask.shape), np.nan)

    def loop() -> np.ndarray:
        return np.stack(
            [np.quantile(row[:length], ALPHAS) for row, length in zip(logprobs, lengths, strict=True)]
        )

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


def curves(examples: int, rules: int, rounds: int) -> Iterator[Result]:
    """The expected deferral curve of every rule: quantiles of outputs, and the same with many equal scores."""
    generator = np.random.default_rng(1)
    small, large = (generator.random((2, examples)) < [[0.5], [0.8]]).astype(float)
    logprobs = -generator.exponential(size=(examples, 64))
    mask = np.arange(64) < generator.integers(1, 65, (examples, 1))
    scores = quantile_features(logprobs, mask, np.linspace(0, 1, rules).tolist()).numpy()
    for what, rounded in (("", scores), (", scores rounded to 0.001", scores.round(3))):
        columns = rounded.T.tolist()
        steps: dict[str, Callable[[], np.ndarray]] = {
            "tokenry": partial(lambda matrix: deferral_curve(matrix, small, large)[1], rounded),
            "loop": partial(
                lambda rows: np.array([by_hand(row, small.tolist(), large.tolist()) for row in rows]).T,
                columns,
            ),
        }
        np.testing.assert_allclose(steps["tokenry"](), steps["loop"](), rtol=1e-9)
        yield compared(
            f"deferral curves of {rules} rules{what}: a loop over the examples / tokenry",
            steps,
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


def compared(
    name: str, steps: Mapping[str, Callable[[], object]], target: float, rounds: int, **settings: int
) -> Result:
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
