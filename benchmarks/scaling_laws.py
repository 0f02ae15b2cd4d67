"""Scaling laws: a thousand bootstrap fits by variable projection against the released code's search from 128 starts.

RedPajama's five runs, loss on C4. The released fit calls `scipy.optimize.curve_fit` (Levenberg-Marquardt, at most 10,000 evaluations)
from 4 × 4 × 2 × 4 starts and keeps the best; it is written here after its description, and timed on bootstrap samples, as ours are: one
sample after the other, from fewer samples. Both must reach the same sum of squared errors.

A fit by Huber's loss of the logarithm is timed beside approach 3 of Chinchilla (arXiv 2203.15556) for the same curve: L-BFGS from a grid of
starts, of which some are timed. Both must reach the same objective.
"""

import warnings
from collections.abc import Iterator
from itertools import product

import numpy as np
from _measure import interleaved
from _report import Result, run, speedup
from scipy.optimize import OptimizeWarning, curve_fit, minimize

from tokenry.core.stats import residual_draws
from tokenry.pretraining import fit_loss_law
from tokenry.pretraining.scaling import published_fit_runs, published_runs
from tokenry.pretraining.scaling.loss_law import HUBER_DELTA

BOOTSTRAP_TARGET, FIT_TARGET = 300.0, 1.0
SAMPLES = 1000
STARTS = (100.0, 300.0, 1000.0, 3000.0)


def measure(smoke: bool) -> Iterator[Result]:
    """Ours on all samples, theirs on some of them; then one fit of each to the measured losses."""
    runs = published_runs("redpajama")
    runs = runs.where(published_fit_runs(runs))
    law = fit_loss_law(runs.N, runs.M, loss=runs.loss)
    assert law.fit is not None
    samples, theirs, rounds, repeated = (8, 1, 1, 1) if smoke else (SAMPLES, 3, 5, 20)
    drawn = residual_draws(law.fit.fitted, runs.loss, 4, samples)
    reached = law.bootstrap(samples).predict(N=runs.N, M=runs.M)
    for sample in range(theirs):
        ours = np.square(reached[sample] - drawn[sample]).sum()
        assert ours <= official(runs.N, runs.M, drawn[sample])[1] * (1 + 1e-6), "the optimum is not the same"
    seconds = interleaved(
        {
            "bootstrap": lambda: law.bootstrap(samples),
            "official, bootstrap": lambda: [official(runs.N, runs.M, loss) for loss in drawn[:theirs]],
            "fits": lambda: [fit_loss_law(runs.N, runs.M, loss=runs.loss) for _ in range(repeated)],
            "official": lambda: official(runs.N, runs.M, runs.loss),
        },
        rounds,
        threads=1,
    )
    per_fit = {
        "tokenry, bootstrap": seconds["bootstrap"].cpu / samples,
        "official, bootstrap": seconds["official, bootstrap"].cpu / theirs,
        "tokenry": seconds["fits"].cpu / repeated,
        "official": seconds["official"].cpu,
    }
    settings = {
        "runs": len(runs.N),
        "official_starts": 4 * 4 * 2 * 4,
        "bootstrap": samples,
        "official_bootstrap": theirs,
        "threads": 1,
        "rounds": rounds,
        "cpu_seconds_of_all_bootstrap_fits": round(seconds["bootstrap"].cpu, 4),
    }
    for name, target, ours, peer in (
        ("a fit of 1000 bootstrap fits: official 128 starts / tokenry", BOOTSTRAP_TARGET, "tokenry, bootstrap", "official, bootstrap"),
        ("one fit alone, with its warnings: official 128 starts / tokenry", FIT_TARGET, "tokenry", "official"),
    ):  # fmt: skip
        milliseconds = {side: round(1000 * per_fit[side], 4) for side in (ours, peer)}
        yield speedup(name, per_fit[peer] / per_fit[ours], target, **settings, cpu_milliseconds=milliseconds)
    yield huber_row(smoke)


def huber_row(smoke: bool) -> Result:
    """One fit by Huber's loss of the logarithm, beside Chinchilla's approach 3 for the same curve: L-BFGS from a grid of starts."""
    runs = published_runs("redpajama")
    starts = [*product(range(0, 30, 5), range(0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5))]
    timed = starts[:: 450 if smoke else 30]
    log_size, log_tokens, log_loss = np.log(runs.N), np.log(runs.M * runs.N), np.log(runs.loss)

    def objective(constants: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, exponent = constants
        parts = np.stack([a - exponent * log_size, b - exponent * log_tokens, np.full_like(log_loss, e)])
        whole = np.logaddexp.reduce(parts)
        missed, shares = whole - log_loss, np.exp(parts - whole)
        pull = np.clip(missed, -HUBER_DELTA, HUBER_DELTA)
        value = np.where(
            np.abs(missed) <= HUBER_DELTA, missed**2 / 2, HUBER_DELTA * (np.abs(missed) - HUBER_DELTA / 2)
        )
        down = -(shares[0] * log_size + shares[1] * log_tokens)
        return float(value.sum()), np.array([*(shares @ pull), down @ pull])

    found: dict[str, float] = {}

    def peer() -> None:
        found["peer"] = min(minimize(objective, start, jac=True, method="L-BFGS-B").fun for start in timed)

    def ours() -> None:
        law = fit_loss_law(runs.N, runs.M, loss=runs.loss, objective="huber")
        alpha, beta, power, floor = (float(constant) for constant in law.to_official())
        constants = np.log([alpha, beta * 6 ** (power / 2), floor])
        found["tokenry"] = objective(np.array([*constants, -power]))[0]

    seconds = interleaved({"peer": peer, "tokenry": ours}, 1 if smoke else 3, threads=1)
    assert found["tokenry"] <= found["peer"] * (1 + 1e-6), "the optimum is not the same"
    per_fit = {"peer": seconds["peer"].cpu * len(starts) / len(timed), "tokenry": seconds["tokenry"].cpu}
    return speedup(
        "a fit by Huber's loss of the logarithm: Chinchilla's L-BFGS from 900 starts / tokenry",
        per_fit["peer"] / per_fit["tokenry"],
        FIT_TARGET,
        runs=len(runs.N),
        starts=len(starts),
        starts_timed=len(timed),
        objective=found,
        cpu_seconds={side: round(value, 4) for side, value in per_fit.items()},
        threads=1,
    )


def official(size: np.ndarray, multiplier: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray | None, float]:
    """The best constants and their sum of squared errors, after the description of the released code."""

    def curve(_: np.ndarray, alpha: float, beta: float, power: float, floor: float) -> np.ndarray:
        return alpha * size**power + beta * 6 ** (power / 2) * (multiplier * size) ** power + floor

    best, least = None, float("inf")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", OptimizeWarning)
        for start in product(STARTS, STARTS, (-0.1, -0.3), (0.0, 1.0, 2.0, 10.0)):
            try:
                found, _ = curve_fit(curve, size, loss, p0=start, maxfev=10_000)
            except RuntimeError:
                continue
            error = float(np.square(curve(size, *found) - loss).sum())
            if error < least:
                best, least = found, error
    return best, least


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
