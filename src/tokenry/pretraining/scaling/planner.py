"""How large a model and how many tokens: the cheapest run that reaches a loss, the best one a budget pays for, and what a method saves.

    cost(N, D) = 6 N D + 2 N S                                                training, and S tokens served later
    M(N, loss) = (b / ((loss − E) · 6^eta · N^(2 eta) − a))^(1 / (2 eta))     the iso-loss curve; no such M for a model that is too small
    multiplier(loss) = C_A(loss) / C_B(loss)                                  compute that method A needs, of what B needs

Served tokens make smaller models that are trained for longer the cheapest ones: over-training is what they pay for.

Source: planning after arXiv 2403.08540; served tokens as in arXiv 2401.00448.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from tokenry.core.errors import UserError
from tokenry.core.stats import Estimate, bootstrap_estimate, scan_minimum
from tokenry.pretraining.scaling.loss_law import LossLaw, positive

_MOST_LOST = 0.25
_SIZES_AROUND = 10.0
_LISTED, _SCANNED = 9, 128


@dataclass(frozen=True)
class TrainingRun:
    """A run that may be trained.

    Attributes:
        N: parameters.
        D: tokens.
        loss: as the law predicts it.
        training_flops: 6 N D.
        inference_flops: 2 N for each token served.
    """

    N: float
    D: float
    loss: float
    training_flops: float
    inference_flops: float

    @property
    def M(self) -> float:
        """Tokens per parameter."""
        return self.D / self.N

    @property
    def flops(self) -> float:
        """Training and serving together."""
        return self.training_flops + self.inference_flops


@dataclass(frozen=True)
class TrainingOptions:
    """Runs that a budget pays for, or that reach a loss.

    Attributes:
        best: least loss under the budget, or least FLOPs for the loss.
        runs: sizes around it, or those that were asked for, from small to large; those that cannot be are left out.
        n_interval: 90 % bootstrap interval of the best N; None where no residuals are left.
        d_interval: of the best D.
    """

    best: TrainingRun
    runs: tuple[TrainingRun, ...]
    n_interval: tuple[float, float] | None = None
    d_interval: tuple[float, float] | None = None


def iso_loss_multiplier(law: LossLaw, N: ndarray | float | int, loss: float | int) -> ndarray:
    """Tokens per parameter with which models reach a loss; inf where a model is too small for it."""
    size = np.asarray(N, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rest = (loss - law.E) * np.exp(law.eta * (math.log(6) + 2 * np.log(size))) - law.a
        return np.where(rest > 0, np.power(law.b / rest, 1 / (2 * np.asarray(law.eta))), np.inf)


def plan_training(
    law: LossLaw,
    budget: float | int | None = None,
    target_loss: float | int | None = None,
    served_tokens: float | int = 0,
    sizes: Sequence[float | int] | None = None,
    draws: int = 200,
    seed: int = 0,
) -> TrainingOptions:
    """List runs that a budget of FLOPs pays for, or that reach a loss, and choose the best.

    Args:
        law: fitted loss law.
        budget: FLOPs for training and serving.
        target_loss: loss to reach, instead of a budget.
        served_tokens: tokens that the model will read and write in use.
        sizes: parameters of the models to choose from; by default any.
        draws: samples of the bootstrap behind the intervals of the best size and tokens; 0 for none.
        seed: random seed of the bootstrap.

    Raises:
        UserError: not one of budget and loss, a loss below what the law can reach, a budget that serving alone uses up, or a size
            that would see fewer tokens than it has parameters.
    """
    if (budget is None) == (target_loss is None):
        raise UserError("give budget=FLOPS or target_loss=LOSS, one of them.")
    if not (served_tokens >= 0 and math.isfinite(served_tokens)):
        raise UserError(f"served_tokens must be finite and at least 0, got {served_tokens}.")
    search = _Search(budget, target_loss, float(served_tokens))
    search.require_possible(law)
    asked = None if sizes is None else np.unique(positive("sizes", sizes))
    if asked is not None and not len(asked):
        raise UserError("sizes names no model to choose from: give at least one number of parameters.")
    if asked is None:
        best_size = float(np.exp(search.best_log_size(law, 1)[0]))
        candidates = np.geomspace(best_size / _SIZES_AROUND, best_size * _SIZES_AROUND, _LISTED)
    else:
        candidates = asked
    multipliers = search.multiplier(law, candidates)
    possible = np.isfinite(multipliers) & (multipliers > 0)
    if asked is not None and (few := possible & (multipliers < 1)).any():
        raise UserError(
            f"a model of {candidates[few][-1]:.3g} parameters would see {multipliers[few][-1]:.2g} tokens per parameter, fewer than "
            "any law was fitted to: leave this size out."
        )
    if not possible.any():
        raise UserError(
            "none of the sizes reaches the loss or leaves a token to train on: give larger ones, or another budget or loss."
        )
    runs = tuple(
        search.run(law, size, multiplier)
        for size, multiplier in zip(candidates[possible], multipliers[possible], strict=True)
        if multiplier >= 1
    )
    if asked is None:
        best = search.run(law, best_size, float(search.multiplier(law, np.asarray(best_size))))
        return TrainingOptions(best, runs, *search.intervals(law, draws, seed))
    return TrainingOptions(min(runs, key=search.worth), runs)


@dataclass(frozen=True)
class _Search:
    """What is given: a budget or a loss, and the tokens served."""

    budget: float | int | None
    target_loss: float | int | None
    served: float

    def require_possible(self, law: LossLaw) -> None:
        if self.budget is not None:
            positive("budget", self.budget)
        elif self.target_loss is None or not self.target_loss > law.E:
            raise UserError(
                f"no run reaches a loss of {self.target_loss:g}: the law's floor is {law.E:.3f} nats per token; ask for more than that."
            )
        if not (law.a > 0 and law.b > 0):
            raise UserError(
                f"nothing can be planned with a = {law.a:.3g} and b = {law.b:.3g}: both must be above 0; fit to other runs."
            )

    def multiplier(self, law: LossLaw, size: ndarray) -> ndarray:
        """Tokens per parameter of a size: what is left of the budget, or what the loss takes."""
        if self.budget is None:
            assert self.target_loss is not None
            return iso_loss_multiplier(law, size, self.target_loss)
        return np.asarray((self.budget / size - 2 * self.served) / 6 / size)

    def score(self, law: LossLaw, log_size: ndarray) -> ndarray:
        """What the best size has least of: loss under a budget, the logarithm of FLOPs for a loss."""
        size = np.exp(log_size)
        multiplier = self.multiplier(law, size)
        possible = np.isfinite(multiplier) & (multiplier > 0)
        tokens = np.where(possible, multiplier, 1.0)
        if self.budget is None:
            found = np.log(6 * tokens * size**2 + 2 * size * self.served)
        else:
            log_c, log_m = math.log(6) + 2 * log_size + np.log(tokens), np.log(tokens)
            found = (
                law.E + law.a * np.exp(law.eta * (log_m - log_c)) + law.b * np.exp(-law.eta * (log_m + log_c))
            )
        return np.where(possible, found, np.inf)

    def best_log_size(self, law: LossLaw, laws: int) -> ndarray:
        """Logarithm of the best number of parameters under each of many laws."""
        lowest, highest = math.log(1e3), math.log(1e16)
        if self.budget is not None:
            # From one parameter to as many as there are tokens.
            lowest, highest = 0.0, math.log(self.budget / 6) / 2
            if self.served > 0:
                highest = min(highest, math.log(self.budget / (2 * self.served)))
        scanned = np.linspace(lowest, highest, _SCANNED)[:, None]
        return scan_minimum(lambda log_size: self.score(law, log_size), scanned, laws)

    def run(self, law: LossLaw, size: float, multiplier: float) -> TrainingRun:
        size, multiplier = float(size), float(multiplier)
        loss = float(law.predict(N=size, M=multiplier))
        return TrainingRun(size, multiplier * size, loss, 6 * multiplier * size**2, 2 * size * self.served)

    def worth(self, run: TrainingRun) -> float:
        return run.flops if self.budget is None else run.loss

    def intervals(
        self, law: LossLaw, draws: int, seed: int
    ) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        """90 % intervals of the best N and D over the draws under which there is one."""
        if law.fit is None or law.fit.spare <= 0 or draws < 2:
            return None, None
        drawn = law.bootstrap(draws, seed)
        sizes = np.exp(self.best_log_size(drawn, draws))
        multipliers = self.multiplier(drawn, sizes)
        usable = np.isfinite(multipliers) & (multipliers > 0)
        if usable.mean() < 1 - _MOST_LOST:
            return None, None
        ends = [np.percentile(values[usable], [5, 95]) for values in (sizes, multipliers * sizes)]
        return (float(ends[0][0]), float(ends[0][1])), (float(ends[1][0]), float(ends[1][1]))


def compute_multiplier(
    law_a: LossLaw,
    law_b: LossLaw,
    loss: float | int,
    M: float | int | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate the compute that method A needs to reach a loss, as a multiple of what B needs: below 1, A saves compute.

    The bootstrap draws the same runs for both, so that what they have in common (sizes, tokens, seeds) cancels: fit both laws to runs of
    the same design, in the same order.

    Args:
        law_a: of method A.
        law_b: of method B.
        loss: at which they are compared, in nats per token on the same text.
        M: tokens per parameter of both; by default, each at its best.
        draws: samples of the bootstrap.
        seed: random seed of the bootstrap.

    Returns:
        The multiple with its bootstrap error and 95 % interval; without them where a fit leaves no residuals.

    Raises:
        UserError: a method cannot reach the loss, hardly ever reaches it in the bootstrap, or the laws are of different designs.
    """
    for name, law in (("A", law_a), ("B", law_b)):
        if not loss > law.E:
            raise UserError(
                f"method {name} does not reach a loss of {loss:g}: its floor is {law.E:.3f} nats per token; ask for a higher loss."
            )
    value = law_a.compute_for(loss, M) / law_b.compute_for(loss, M)
    fits = law_a.fit, law_b.fit
    if fits[0] is None or fits[1] is None or min(fit.spare for fit in fits if fit) <= 0:
        return Estimate(value, math.nan, len(fits[0].measured) if fits[0] else 0)
    one, other = fits[0].points, fits[1].points
    if one.shape != other.shape or not np.allclose(one, other, rtol=0.02):
        raise UserError(
            "the two laws are fitted to different runs, so their draws cannot be paired: fit both to the same N and M, in the same order."
        )
    drawn = [law.bootstrap(draws, seed).compute_for(loss, M) for law in (law_a, law_b)]
    reached = np.isfinite(drawn[0]) & np.isfinite(drawn[1])
    if reached.mean() < 1 - _MOST_LOST:
        raise UserError(
            f"a loss of {loss:g} is too close to the floors for these runs: {1 - reached.mean():.0%} of the bootstrap never reaches it; "
            "ask for a higher loss, or fit to more runs."
        )
    ratios = np.where(reached, drawn[0], np.nan) / np.where(reached, drawn[1], 1.0)
    return bootstrap_estimate(value, ratios, len(one))
