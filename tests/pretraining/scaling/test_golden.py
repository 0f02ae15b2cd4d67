"""Scaling laws against the numbers of the authors' code: every fit of the paper's runs, and fits of made-up ones."""

import numpy as np
import pytest

from tests.golden import golden, golden_json
from tokenry.pretraining import (
    ErrorLaw,
    LossLaw,
    fit_error_law,
    fit_loss_law,
    fit_power_law,
    load_testbed,
    predict_downstream,
    relative_error,
)
from tokenry.pretraining.scaling import published_fit_runs, published_runs
from tokenry.pretraining.scaling.testbed import TRAINING_SETS

FITS = golden_json("03-scaling", "dev-fits.json")
NAMES = [f"{case['train']}-{case['val']}-{case['downstream']}" for case in FITS]


@pytest.fixture(scope="module")
def laws():
    with np.load(golden("03-scaling") / "dev-laws.npz") as loaded:
        return dict(loaded)


def fitted(case):
    runs, tasks = case["loss_points"], case["error_points"]
    loss_law = fit_loss_law(runs["N"], runs["M"], loss=runs["loss"])
    return loss_law, fit_error_law(tasks["loss"], tasks["error"])


@pytest.mark.parametrize("case", FITS, ids=NAMES)
def test_a_fit_reaches_the_official_optimum_and_its_predictions(case):
    loss_law, error_law = fitted(case)
    assert loss_law.sse <= case["sse_loss"] * (1 + 1e-6)
    assert error_law.sse <= case["sse_error"] * (1 + 1e-6)
    for expected in (case["paper_form"], case["global_optimum_loss"]):
        np.testing.assert_allclose([loss_law.E, loss_law.eta], [expected["E"], expected["eta"]], rtol=1e-3)
        np.testing.assert_allclose([loss_law.a, loss_law.b], [expected["a"], expected["b"]], rtol=1e-2)
    for expected in (case["error_law"], case["global_optimum_error"]):
        np.testing.assert_allclose(
            [error_law.eps, error_law.gamma], [expected["eps"], expected["gamma"]], rtol=1e-3
        )
        assert error_law.k == pytest.approx(expected["k"], rel=1e-2)
    for run in case["predictions"]:
        loss = loss_law.predict(N=run["N"], M=run["M"])
        error = predict_downstream(loss_law, error_law, run["N"], run["M"])
        assert loss == pytest.approx(run["loss_pred"], rel=1e-5)
        assert error == pytest.approx(run["err_pred"], rel=1e-4)
        assert relative_error(loss, run["loss"]) == pytest.approx(run["loss_rel_err"], abs=2e-5)
        assert relative_error(error, run["err"]) == pytest.approx(run["err_rel_err"], abs=2e-4)


@pytest.mark.parametrize("case", FITS[:2], ids=NAMES[:2])
def test_the_official_constants_are_the_papers_in_another_form(case):
    official, paper = case["official_code_params"], case["paper_form"]
    law = LossLaw.from_official(official["alpha"], official["beta"], official["b"], official["E"])
    np.testing.assert_allclose(
        [law.E, law.a, law.b, law.eta], [paper[name] for name in ("E", "a", "b", "eta")], rtol=1e-12
    )
    back = law.to_official()
    np.testing.assert_allclose(back, [official[name] for name in ("alpha", "beta", "b", "E")], rtol=1e-12)


def test_the_curves_are_the_official_ones(laws):
    law = LossLaw.from_official(*laws["params_ours"])
    np.testing.assert_allclose(law.predict(N=laws["N"], M=laws["M"]), laws["loss_clean"], rtol=1e-12)
    np.testing.assert_allclose(law.predict(C=laws["C"], M=laws["M"]), laws["loss_clean"], rtol=1e-12)
    np.testing.assert_allclose(
        law.predict(N=laws["N"], D=laws["M"] * laws["N"]), laws["loss_clean"], rtol=1e-12
    )
    k, gamma, eps = laws["params_err"]
    np.testing.assert_allclose(ErrorLaw(eps, k, gamma).predict(laws["L"]), laws["err_clean"], rtol=1e-12)


def test_exact_and_noisy_runs_are_fitted_as_officially(laws):
    clean = fit_loss_law(laws["N"], laws["M"], loss=laws["loss_clean"])
    np.testing.assert_allclose(clean.to_official(), laws["fit_clean"], rtol=1e-4)
    noisy = fit_loss_law(laws["N"], laws["M"], loss=laws["loss_noisy"])
    theirs = LossLaw.from_official(*laws["fit_noisy"]).predict(N=laws["N"], M=laws["M"])
    assert noisy.sse <= np.square(theirs - laws["loss_noisy"]).sum() * (1 + 1e-6)
    np.testing.assert_allclose(noisy.predict(N=laws["N"], M=laws["M"]), theirs, rtol=1e-5)
    *constants, sse = laws["fit_noisy_global_eta_E_a_b_sse"]
    np.testing.assert_allclose([noisy.eta, noisy.E, noisy.a, noisy.b], constants, rtol=1e-4)
    assert noisy.sse == pytest.approx(sse, rel=1e-6)


def test_errors_and_power_laws_are_fitted_as_officially(laws):
    for errors, expected, tolerance in (
        ("err_clean", "fit_err_clean", 1e-6),
        ("err_noisy", "fit_err_noisy", 1e-3),
    ):
        law = fit_error_law(laws["L"], laws[errors])
        np.testing.assert_allclose([law.k, law.gamma, law.eps], laws[expected], rtol=tolerance)
    x, y = laws["x"], laws["y_irr_noisy"]
    np.testing.assert_allclose(300 * x**-0.1 + 1.5, laws["y_irr"], rtol=1e-12)
    a, b, c = laws["fit_irr_noisy"]
    assert fit_power_law(x, y).sse <= np.square(a * x**b + c - y).sum() * (1 + 1e-5)
    straight = fit_power_law(x, laws["y_pow_noisy"], floor=False)
    np.testing.assert_allclose([straight.a, straight.b], laws["fit_pow_noisy"], rtol=1e-6)


def test_the_shipped_models_are_those_of_the_fits():
    columns = load_testbed()
    assert {len(column) for column in columns.values()} == {104}
    assert [int((columns["dataset_name"] == name).sum()) for name in TRAINING_SETS.values()] == [34, 35, 35]
    names = {name: ours for ours, name in TRAINING_SETS.items()}
    for case in FITS:
        runs = published_runs(names[case["train"]], case["val"], case["downstream"])
        chosen = runs.where(published_fit_runs(runs)), runs.where(published_fit_runs(runs, errors=True))
        np.testing.assert_allclose(np.sort(chosen[0].loss), np.sort(case["loss_points"]["loss"]), rtol=1e-9)
        np.testing.assert_allclose(
            np.sort(chosen[1].error), np.sort(case["error_points"]["error"]), rtol=1e-9
        )


def test_the_papers_table_comes_out():
    """Relative errors of RedPajama's two targets, as the paper prints them."""
    runs = published_runs("redpajama")
    chosen = runs.where(published_fit_runs(runs))
    law = fit_loss_law(chosen.N, chosen.M, loss=chosen.loss)
    tasks = runs.where(published_fit_runs(runs, errors=True))
    error_law = fit_error_law(tasks.loss, tasks.error)
    found = []
    for size, multiplier in ((1_439_795_200, 640), (6_889_410_560, 20)):
        target = runs.where((size == runs.N) & (multiplier == runs.M))
        found.append(100 * relative_error(law.predict(N=size, M=multiplier), target.loss[0]))
        found.append(
            100 * relative_error(predict_downstream(law, error_law, size, multiplier), target.error[0])
        )
    assert [round(value, 2) for value in found] == [0.71, 3.64, 0.73, 0.05]
