"""The recipe of scaling laws: it runs, and its verdicts follow the measurements."""

from dataclasses import replace

import numpy as np
import pytest

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.pretraining.scaling import published_fit_runs, published_runs
from tokenry.pretraining.scaling.testbed import TRAINING_SETS
from tokenry.recipes.scaling import (
    LARGEST,
    LawSizes,
    OfTrainingSet,
    error_law_of,
    model_claims,
    single_tasks,
    target_claims,
)


@pytest.fixture(scope="module")
def published():
    return {name: OfTrainingSet(published_runs(name), 40) for name in TRAINING_SETS}


def test_the_recipe_runs_and_finds_the_papers_figures(tmp_path):
    result = check_recipe("scaling", LawSizes(draws=20), tmp_path)
    assert result.headline.measured == "0.71 / 0.73 %"
    assert result.claims[1].measured == "3.64 / 0.05 %"
    assert result.settings["fit_flops"] == pytest.approx(2.4e19, rel=0.02)


def test_verdicts_follow_the_measurements(published):
    def judged(losses=lambda of, runs: runs.loss, errors=lambda of, runs: runs.error):
        sets = {}
        for name, of in published.items():
            fitted = published_fit_runs(of.runs)
            runs = replace(
                of.runs, loss=np.where(fitted, of.runs.loss, losses(of, of.runs)), error=errors(of, of.runs)
            )
            sets[name] = OfTrainingSet(runs, 40)
        claims = [*target_claims(sets["redpajama"]), *model_claims(sets), single_tasks(sets)]
        return [claim.verdict for claim in claims]

    def by_the_law(of, runs):
        return of.law.predict(N=runs.N, M=runs.M)

    def by_compute(of, runs):
        return of.compute_only.predict(runs.compute)

    def by_huber(of, runs):
        return of.huber.predict(N=runs.N, M=runs.M)

    def as_the_law_has_it(of, runs):
        law = error_law_of(of.runs)
        return np.where(published_fit_runs(runs, errors=True), runs.error, law.predict(by_the_law(of, runs)))

    def far_off(of, runs):
        return np.where((runs.N == LARGEST) & (runs.M == 20), 0.05, runs.error)

    check_verdicts(judged, [
        ({}, {1, 3}),
        ({"losses": by_the_law, "errors": as_the_law_has_it}, {4}),
        ({"losses": by_compute}, {0, 1, 2, 3, 4}),
        ({"losses": by_huber, "errors": far_off}, {1, 5}),
    ])  # fmt: skip
