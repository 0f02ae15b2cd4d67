"""Scaling laws (arXiv 2403.08540): loss and error of runs of up to 300 times the compute, from five small ones.

The paper's 104 models ship with the library, so the experiment is the paper's, at its own size:

    law        E + (a · M^eta + b · M^-eta) · C^-eta, fitted to five runs of each training set
    control    a power law of compute alone, fitted to the four of them with 20 tokens per parameter: it cannot see M

Headline: the two targets of RedPajama, whose errors the paper prints. Beyond the paper: how often 90 % intervals hold the models that were
left out, and whether a robust fit in the logarithm extrapolates better. Models of one training set share their law, so they are not
independent draws; the errors of the other claims do not know that.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tokenry.core.stats import Estimate, clopper_pearson, exactly, shown
from tokenry.pretraining.scaling import (
    ErrorLaw,
    LossLaw,
    PowerCurve,
    ScalingRuns,
    fit_error_law,
    fit_loss_law,
    fit_power_law,
    predict_downstream,
    published_fit_runs,
    published_runs,
    relative_error,
)
from tokenry.pretraining.scaling.testbed import TASKS_OF_SUBSET, TRAINING_SETS
from tokenry.recipes.kit import Claim, RecipeRun, recipe

TARGETS = ((1_439_795_200, 640), (6_889_410_560, 20))
LARGEST = 6_889_410_560
OVER_TRAINED = 40
CONFIDENCE, LEAST_HELD = 0.9, 0.8


@dataclass(frozen=True)
class LawSizes:
    """Samples of the bootstrap behind the intervals that stand beside the profiles."""

    draws: int = 1000


@dataclass(frozen=True)
class OfTrainingSet:
    """The runs of one training set and what is fitted to the paper's choice of them."""

    runs: ScalingRuns
    draws: int

    @cached_property
    def fitted(self) -> ScalingRuns:
        """The paper's five."""
        return self.runs.where(published_fit_runs(self.runs))

    @cached_property
    def left_out(self) -> ScalingRuns:
        """All others."""
        return self.runs.where(~published_fit_runs(self.runs))

    @cached_property
    def law(self) -> LossLaw:
        """The paper's law."""
        return fit_loss_law(self.fitted.N, self.fitted.M, loss=self.fitted.loss)

    @cached_property
    def huber(self) -> LossLaw:
        """The same law by Huber's loss of the logarithm."""
        return fit_loss_law(self.fitted.N, self.fitted.M, loss=self.fitted.loss, objective="huber")

    @cached_property
    def compute_only(self) -> PowerCurve:
        """The control: the four runs with M = 20, over their compute."""
        at_20 = self.fitted.where(self.fitted.M == 20)
        return fit_power_law(at_20.compute, at_20.loss)

    def missed(self, law: LossLaw | PowerCurve) -> np.ndarray:
        """Relative errors of the loss of the models left out, in per cent."""
        runs = self.left_out
        given = {"x": runs.compute} if isinstance(law, PowerCurve) else {"N": runs.N, "M": runs.M}
        return 100 * relative_error(law.predict(**given), runs.loss)

    def intervals(self, by: str) -> tuple[np.ndarray, np.ndarray]:
        """90 % intervals of the models left out."""
        runs = self.left_out
        found = self.law.interval(N=runs.N, M=runs.M, confidence=CONFIDENCE, by=by, draws=self.draws)
        assert found is not None
        return found

    def held(self, by: str) -> np.ndarray:
        """Which models left out lie in their intervals."""
        low, high = self.intervals(by)
        return (low <= self.left_out.loss) & (self.left_out.loss <= high)


def error_law_of(runs: ScalingRuns) -> ErrorLaw:
    """The error law of the paper's choice of runs."""
    chosen = runs.where(published_fit_runs(runs, errors=True))
    assert chosen.error is not None
    return fit_error_law(chosen.loss, chosen.error)


Sets = Mapping[str, OfTrainingSet]


@recipe("scaling", laptop=LawSizes(), paper=LawSizes(draws=10_000))
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Fit the laws of the three training sets and judge each claim."""
    run.progress("fitting the laws", 0.0)
    sets = {name: OfTrainingSet(published_runs(name), run.sizes.draws) for name in TRAINING_SETS}
    run.settings |= {
        "validation": "c4_val",
        "downstream": "avg_subset",
        "draws": run.sizes.draws,
        "fit_flops": float(sets["redpajama"].fitted.compute.sum()),
        "laws": {name: _constants(of) for name, of in sets.items()},
        "half_width_percent": {by: half_width(sets, by) for by in ("profile", "bootstrap")},
    }
    run.progress("drawing", 0.6)
    with run.figure(14, 4.4) as figure:
        draw(figure, sets)
    run.progress("single tasks", 0.9)
    yield from target_claims(sets["redpajama"])
    yield from model_claims(sets)
    yield single_tasks(sets)


def target_claims(of: OfTrainingSet) -> Iterator[Claim]:
    """The two targets of RedPajama: loss, and error through the predicted loss."""
    losses, errors, blind_losses, blind_errors = [], [], [], []
    error_law = error_law_of(of.runs)
    for size, multiplier in TARGETS:
        target = of.runs.where(np.equal(of.runs.N, size) & np.equal(of.runs.M, multiplier))
        assert target.error is not None
        blind = of.compute_only.predict(target.compute)
        losses.append(relative_error(of.law.predict(N=size, M=multiplier), float(target.loss[0])))
        predicted = predict_downstream(of.law, error_law, size, multiplier)
        errors.append(relative_error(predicted, float(target.error[0])))
        blind_losses.append(float(relative_error(blind, target.loss)[0]))
        blind_errors.append(float(relative_error(error_law.predict(blind), target.error)[0]))
    yield Claim(
        "RedPajama: five runs of 2.4e19 FLOPs predict the loss of 1.4B at M = 640 and of 6.9B at M = 20 to within 1 %, that of the "
        "over-trained one better than the control",
        "0.71 / 0.73 %",
        measured=_percent(losses),
        control=f"{_percent(blind_losses)} (power law of compute alone)",
        verdict=exactly(max(losses) < 0.01 and losses[0] < blind_losses[0]),
    )
    yield Claim(
        "RedPajama: their average error on 17 tasks is predicted to within 4 %, that of the over-trained one better than by the control",
        "3.64 / 0.05 %",
        measured=_percent(errors),
        control=f"{_percent(blind_errors)} (through the loss of the control)",
        verdict=exactly(max(errors) < 0.04 and errors[0] < blind_errors[0]),
    )


def model_claims(sets: Sets) -> Iterator[Claim]:
    """Over the models that were not fitted, of all training sets."""
    over = {name: of.left_out.M >= OVER_TRAINED for name, of in sets.items()}
    yield Claim.above(
        f"models left out with M of at least {OVER_TRAINED}: the law misses the loss by less than a power law of compute alone",
        np.concatenate([of.missed(of.law)[over[name]] for name, of in sets.items()]),
        np.concatenate([of.missed(of.compute_only)[over[name]] for name, of in sets.items()]),
        "power law of compute alone", lower=True, spec=".2f", unit=" %",
    )  # fmt: skip
    held = {by: np.concatenate([of.held(by) for of in sets.values()]) for by in ("profile", "bootstrap")}
    count, models = int(held["profile"].sum()), len(held["profile"])
    share = Estimate(count / models, float("nan"), models, *clopper_pearson(count, models))
    widths = {by: half_width(sets, by) for by in held}
    yield Claim(
        f"our 90 % intervals, from five runs, hold the loss of at least {LEAST_HELD:.0%} of the models left out",
        None,
        measured=f"{count} of {models} = {share.value:.0%} (95 %: {share.low:.0%} to {share.high:.0%}), "
        f"half-width {widths['profile']:.1f} % of the loss",
        control=f"{held['bootstrap'].mean():.0%} (residual bootstrap), half-width {widths['bootstrap']:.1f} %",
        verdict=shown(share, least=LEAST_HELD),
    )
    yield Claim.above(
        "models left out: Huber's loss of the logarithm, as in Chinchilla, extrapolates better than squared errors",
        np.concatenate([of.missed(of.huber) for of in sets.values()]),
        np.concatenate([of.missed(of.law) for of in sets.values()]),
        "squared errors", lower=True, spec=".2f", unit=" %",
    )  # fmt: skip


def single_tasks(sets: Sets) -> Claim:
    """The error of 6.9B on each task and on the average of those tasks."""
    single, average = [], []
    for name, of in sets.items():
        of_average = _missed_error(of, of.runs)
        for task in TASKS_OF_SUBSET:
            single.append(_missed_error(of, published_runs(name, downstream=task)))
            average.append(of_average)
    return Claim.above(
        "6.9B at M = 20: the error of a single task is missed by more than the average of the 17",
        np.array(single),
        np.array(average),
        "their average",
        unit=" %",
        paper="5 to 80 % (single tasks), 0.05 to 2.94 % (average)",
    )


def half_width(sets: Sets, by: str) -> float:
    """Median half-width of the intervals of the models left out, in per cent of their loss."""
    halves = [50 * np.ptp(of.intervals(by), axis=0) / of.left_out.loss for of in sets.values()]
    return float(np.median(np.concatenate(halves)))


def _missed_error(of: OfTrainingSet, runs: ScalingRuns) -> float:
    target = runs.where((runs.N == LARGEST) & (runs.M == 20))
    assert target.error is not None
    predicted = predict_downstream(of.law, error_law_of(runs), LARGEST, 20)
    return 100 * relative_error(predicted, float(target.error[0]))


def _percent(errors: list[float]) -> str:
    return " / ".join(f"{100 * error:.2f}" for error in errors) + " %"


def _constants(of: OfTrainingSet) -> dict[str, Any]:
    law, error_law = of.law, error_law_of(of.runs)
    constants = {name: getattr(law, name) for name in ("E", "a", "b", "eta")}
    return {**constants, **{name: getattr(error_law, name) for name in ("eps", "k", "gamma")}}


def draw(figure: Figure, sets: Sets) -> None:
    """The fan of RedPajama, the errors of the over-trained models, and where all models lie in their intervals."""
    axes = figure.subplots(1, 3)
    _draw_fan(axes[0], sets["redpajama"])
    for marker, (name, of) in zip("osD", sets.items(), strict=True):
        over = of.left_out.M >= OVER_TRAINED
        for law, fill, label in ((of.law, "full", "law"), (of.compute_only, "none", "compute alone")):
            axes[1].plot(
                of.left_out.M[over], of.missed(law)[over], marker, color="black", fillstyle=fill, markersize=4,
                label=f"{name}, {label}",
            )  # fmt: skip
        low, high = of.intervals("profile")
        place = (of.left_out.loss - (low + high) / 2) / ((high - low) / 2)
        axes[2].plot(of.left_out.compute, place, marker, color="black", markersize=4, label=name)
    axes[1].set(
        xscale="log", xlabel="tokens per parameter M", ylabel="loss missed by, %", title="Over-trained models left out"
    )  # fmt: skip
    axes[1].set_xticks([40, 80, 160, 320, 640], [40, 80, 160, 320, 640])
    axes[1].minorticks_off()
    axes[1].legend(fontsize=7, frameon=False)
    axes[2].axhspan(-1, 1, color="0.9")
    axes[2].set(
        xscale="log", xlabel="training FLOPs", ylabel="place in the 90 % interval (±1: its ends)", title="All models left out",
    )  # fmt: skip
    axes[2].legend(fontsize=7, frameon=False)


def _draw_fan(axis: Any, of: OfTrainingSet) -> None:
    for multiplier, colour in ((20, "black"), (640, "tab:blue")):
        near, most = of.runs.where(np.equal(of.runs.M, multiplier)), 6.0 * multiplier * LARGEST**2
        compute = np.geomspace(near.compute.min(), most, 60)
        sizes = np.sqrt(compute / 6 / multiplier)
        for by, strength in (("profile", 0.12), ("bootstrap", 0.25)):
            ends = of.law.interval(N=sizes, M=multiplier, confidence=CONFIDENCE, by=by, draws=of.draws)
            assert ends is not None
            axis.fill_between(compute, *ends, color=colour, alpha=strength, linewidth=0)
        law = of.law.predict(N=sizes, M=multiplier)
        axis.plot(compute, law, color=colour, linewidth=1, label=f"M = {multiplier}")
        for runs, fill in ((of.fitted, "full"), (of.left_out, "none")):
            here = runs.where(np.equal(runs.M, multiplier))
            axis.plot(here.compute, here.loss, "o", color=colour, fillstyle=fill, markersize=5)
    axis.set(
        xscale="log", ylim=(1.2, 5.5), xlabel="training FLOPs", ylabel="loss on C4, nats per token",
        title="RedPajama: five runs (full) and the rest",
    )  # fmt: skip
    axis.legend(fontsize=8, frameon=False, title="light: 90 % by profile, dark: bootstrap", title_fontsize=8)
