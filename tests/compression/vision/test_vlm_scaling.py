"""The VLM scaling law: the golden figures, what a fit must do on any table, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.compression.vision.published_scaling import (
    PUBLISHED_SIZES,
    PUBLISHED_TOKENS,
    grid_search,
    published_scores,
)
from tokenry.compression.vision.vlm_scaling import (
    Optimum,
    ScalingFit,
    TaskMixture,
    compute_optimal,
    fit_vlm_scaling,
    inference_flops,
    optimal_tokens_closed_form,
)
from tokenry.core.errors import UserError

GOLDEN = golden_json("20-one-visual-token", "dev-scaling.json")
SIZES = [0.5, 1.8, 4, 7, 14]
TOKENS = [1, 4, 16, 36, 64, 144, 576]


@pytest.fixture(scope="module")
def reasoning():
    return fit_vlm_scaling(*published_scores("reasoning"))


@pytest.fixture(scope="module")
def ocr():
    return fit_vlm_scaling(*published_scores("ocr"), bootstrap=0)


def golden_points(scores):
    sizes, tokens = np.meshgrid([float(size) for size in scores], GOLDEN["all_t"], indexing="ij")
    return sizes.ravel(), tokens.ravel(), 1 - np.array(list(scores.values())).ravel()


def test_the_shipped_tables_are_the_golden_ones():
    for table, scores in (("reasoning", GOLDEN["scores"]), ("ocr", GOLDEN["ocr_scores"])):
        for ours, theirs in zip(published_scores(table), golden_points(scores), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert list(PUBLISHED_SIZES) == GOLDEN["all_n"]
    assert list(PUBLISHED_TOKENS) == GOLDEN["all_t"]


def test_predictions_are_the_golden_ones():
    for case in GOLDEN["predict"]:
        error = ScalingFit(*case["params"]).predict(case["n"], case["t"])
        np.testing.assert_allclose(error, case["error"], rtol=1e-12)


def test_costs_are_the_golden_ones():
    for case in GOLDEN["cost"]:
        assert inference_flops(case["n_billion"] * 1e9, case["v"], case["q"]) == case["flops"]


def test_the_best_choices_are_the_golden_ones():
    for case in GOLDEN["optimal"]:
        best = compute_optimal(
            ScalingFit(*case["params"]), case["sizes"], case["tokens"], case["budget_flops"], case["q"]
        )
        if case["best"] is None:
            assert best is None
        else:
            expected = case["best"]
            assert (best.n_billion, best.visual_tokens) == (expected["n"], expected["v"])
            assert best.error == pytest.approx(expected["error"], rel=1e-12)
            assert best.flops == expected["flops"]


@pytest.mark.parametrize("case", GOLDEN["fits"], ids=str)
def test_refits_are_the_golden_ones(case):
    scores = {size: row for size, row in GOLDEN["scores"].items() if float(size) != case["drop_n"]}
    fit = fit_vlm_scaling(*golden_points(scores), fix_d=case["fix_d"], bootstrap=0)
    np.testing.assert_allclose([fit.A, fit.alpha, fit.beta], case["params"][:3], rtol=1e-3)
    assert case["fix_d"] == fit.D
    assert fit.sse == pytest.approx(case["sse"], rel=1e-4)


@pytest.mark.parametrize(("scores", "golden"), [("scores", "fit_lsq"), ("ocr_scores", "fit_ocr_lsq")])
def test_the_free_fits_are_the_golden_ones(scores, golden):
    fit = fit_vlm_scaling(*golden_points(GOLDEN[scores]), bootstrap=0)
    assert fit.sse == pytest.approx(GOLDEN[golden]["sse"], rel=1e-4)
    np.testing.assert_allclose([fit.alpha, fit.beta], GOLDEN[golden]["params"][1:3], rtol=1e-2)


def test_the_grid_search_finds_the_golden_point():
    fit = grid_search(*published_scores("reasoning"))
    assert [fit.A, fit.alpha, fit.beta, fit.D] == GOLDEN["fit_grid"]["params"]
    assert fit.sse == pytest.approx(GOLDEN["fit_grid"]["sse"], rel=1e-9)


def test_the_papers_ratio_comes_out_and_is_reversed_for_ocr(reasoning, ocr):
    assert reasoning.alpha_beta_ratio == pytest.approx(4.7, abs=0.2)
    assert ocr.alpha_beta_ratio == pytest.approx(0.72, abs=0.01)


def test_a_small_budget_goes_into_the_model_for_reasoning_and_into_tokens_for_ocr(reasoning, ocr):
    assert compute_optimal(reasoning, SIZES, TOKENS, 2e10).n_billion == 7
    assert compute_optimal(reasoning, SIZES, TOKENS, 2e10).visual_tokens == 1
    assert compute_optimal(ocr, SIZES, TOKENS, 2e10).n_billion == 0.5
    assert compute_optimal(ocr, SIZES, TOKENS, 2e10).visual_tokens == 16


def test_only_what_the_largest_model_leaves_over_goes_into_tokens(reasoning):
    best = compute_optimal(reasoning, SIZES, TOKENS, 2e12)
    assert (best.n_billion, best.visual_tokens) == (14, 64)


def test_a_size_that_was_left_out_is_predicted_well():
    size, tokens, error = published_scores("reasoning")
    for left_out in PUBLISHED_SIZES:
        used = size != left_out
        fit = fit_vlm_scaling(size[used], tokens[used], error[used], bootstrap=0)
        missed = fit.predict(size[~used], tokens[~used]) - error[~used]
        assert np.sqrt((missed**2).mean()) < 0.006


def test_it_is_said_that_d_cannot_be_told_and_that_the_ratio_can(reasoning):
    (warning,) = reasoning.warnings
    assert "D cannot be told from these points" in warning
    assert "trust the ratio" in warning
    low, high = reasoning.ci["D"]
    assert low == 0
    assert high > 0.1


def test_the_intervals_hold_the_estimates_and_the_ratio_is_the_tight_one(reasoning):
    for name in ("A", "alpha", "beta", "D", "alpha_beta_ratio"):
        low, high = reasoning.ci[name]
        assert low <= getattr(reasoning, name) <= high
    relative = {name: reasoning.ci[name][1] / reasoning.ci[name][0] for name in ("alpha", "alpha_beta_ratio")}
    assert relative["alpha_beta_ratio"] < 1.3 < relative["alpha"]


def test_the_same_seed_gives_the_same_intervals():
    table = published_scores("reasoning")
    one, same, other = (fit_vlm_scaling(*table, bootstrap=8, seed=seed) for seed in (0, 0, 1))
    assert one.ci == same.ci
    assert one.ci != other.ci


def test_points_over_a_wide_range_tell_d_and_nothing_is_warned_of():
    size, tokens = (each.ravel() for each in np.meshgrid([0.01, 0.1, 1, 10, 100], [1, 10, 100, 1000]))
    truth = ScalingFit(0.2, 0.3, 0.2, 0.1)
    noise = 1e-4 * np.random.default_rng(0).standard_normal(len(size))
    fit = fit_vlm_scaling(size, tokens, truth.predict(size, tokens) + noise)
    assert fit.warnings == ()
    for name in ("A", "alpha", "beta", "D"):
        low, high = fit.ci[name]
        assert low - 1e-3 <= getattr(truth, name) <= high + 1e-3


@settings(max_examples=25, deadline=None)
@given(
    a=st.floats(0.2, 0.6),
    alpha=st.floats(0.02, 0.3),
    beta=st.floats(0.005, 0.1),
    d=st.floats(0.0, 0.2),
    order=st.randoms(use_true_random=False),
)
def test_a_table_without_noise_gives_its_law_back_in_any_order(a, alpha, beta, d, order):
    points = [(size, tokens) for size in (0.5, 2, 8, 32, 128) for tokens in (1, 8, 64, 512)]
    order.shuffle(points)
    size, tokens = np.array(points, dtype=float).T
    error = ScalingFit(a, alpha, beta, d).predict(size, tokens)
    fit = fit_vlm_scaling(size, tokens, error, bootstrap=0)
    np.testing.assert_allclose(fit.predict(size, tokens), error, atol=1e-5)
    assert fit.alpha_beta_ratio == pytest.approx(alpha / beta, rel=1e-2)


@settings(max_examples=25, deadline=None)
@given(
    error=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    alpha=st.floats(0, 1),
    budget=st.floats(0, 1e13),
    text_tokens=st.integers(0, 100),
)
def test_no_affordable_choice_is_better_than_the_best(error, alpha, budget, text_tokens):
    fit = ScalingFit(0.5, alpha, error[0] / 10, error[1] / 2)
    best = compute_optimal(fit, SIZES, TOKENS, budget, text_tokens)
    options = [
        (float(fit.predict(n, v)), -n, v)
        for n in SIZES
        for v in TOKENS
        if inference_flops(n * 1e9, v, text_tokens) <= budget
    ]
    if best is None:
        assert not options
    else:
        assert (best.error, -best.n_billion, best.visual_tokens) == min(options)


def test_ties_go_to_the_larger_model_and_then_to_fewer_tokens():
    flat = ScalingFit(0.5, 0.0, 0.0, 0.1)
    assert compute_optimal(flat, [1, 3, 2], [16, 4], 1e15) == Optimum(3.0, 4, 0.6, 2 * 3e9 * 4)


def test_nothing_that_fits_the_budget_is_none():
    assert compute_optimal(ScalingFit(0.5, 0.1, 0.1, 0.0), SIZES, TOKENS, 1e6) is None
    assert compute_optimal(ScalingFit(0.5, 0.1, 0.1, 0.0), SIZES, TOKENS, 0) is None


def test_a_long_answer_costs_too_and_pulls_towards_smaller_models(reasoning):
    assert inference_flops(7e9, 16, 50, decode_tokens=100) == 2 * 7e9 * 166
    short, long = (compute_optimal(reasoning, SIZES, TOKENS, 2e12, decode_tokens=n) for n in (0, 200))
    assert long.n_billion < short.n_billion


def test_an_own_cost_decides_in_its_own_unit(reasoning):
    best = compute_optimal(
        reasoning, SIZES, TOKENS, 1.0, cost=lambda n, v, text, answer: n / 7e9 * (0.5 + v / 128)
    )
    assert (best.n_billion, best.visual_tokens) == (7, 64)


def test_a_mixture_of_tasks_lies_between_its_tasks(reasoning, ocr):
    def chosen(weight):
        return compute_optimal(TaskMixture([reasoning, ocr], [1 - weight, weight]), SIZES, TOKENS, 2e11)

    assert chosen(0) == compute_optimal(reasoning, SIZES, TOKENS, 2e11)
    assert chosen(1) == compute_optimal(ocr, SIZES, TOKENS, 2e11)
    between = [chosen(weight).visual_tokens for weight in np.linspace(0, 1, 9)]
    assert between == sorted(between)
    mixed = TaskMixture([reasoning, ocr], [3, 1]).predict(7, 16)
    assert mixed == pytest.approx(0.75 * reasoning.predict(7, 16) + 0.25 * ocr.predict(7, 16))


def test_the_closed_form_is_the_papers():
    assert optimal_tokens_closed_form(0.077, 0.015, 50) == pytest.approx(12.1, abs=0.01)
    assert optimal_tokens_closed_form(0.077, 0.015, 0) == 1
    assert optimal_tokens_closed_form(0.028, 0.039, 0) == math.inf
    assert optimal_tokens_closed_form(0.028, 0.039, 50) == math.inf
    assert optimal_tokens_closed_form(0.1, 0.0, 50) == 1


@settings(max_examples=25, deadline=None)
@given(alpha=st.floats(0.05, 0.3), share=st.floats(0.05, 0.9), text_tokens=st.integers(0, 200))
def test_the_closed_form_is_the_minimum_over_any_size(alpha, share, text_tokens):
    beta = alpha * share
    best = optimal_tokens_closed_form(alpha, beta, text_tokens)
    tokens = np.geomspace(1, 1e5, 4001)
    curve = alpha * np.log(text_tokens + tokens) - beta * np.log(tokens)
    assert alpha * np.log(text_tokens + best) - beta * np.log(best) <= curve.min() + 1e-6


def test_as_many_points_as_constants_are_fitted_but_promise_nothing():
    fit = fit_vlm_scaling([1, 1, 4, 4], [1, 16, 1, 16], [0.6, 0.55, 0.5, 0.46])
    assert fit.ci == {}
    assert "4 points for 4 constants: the fit is exact" in fit.warnings[0]


def test_scores_that_do_not_depend_on_tokens_are_said_not_to():
    size, tokens, _ = published_scores("reasoning")
    fit = fit_vlm_scaling(size, tokens, 0.5 * size**-0.1, fix_d=0, bootstrap=0)
    assert (
        "beta is at its bound 0: the error does not fall with the number of visual tokens" in fit.warnings[0]
    )
    assert fit.alpha_beta_ratio == math.inf


def points(**changed):
    return {
        "n_billion": [1, 1, 4, 4, 8],
        "tokens": [1, 16, 1, 16, 4],
        "error": [0.6, 0.5, 0.5, 0.4, 0.4],
    } | changed


@pytest.mark.parametrize("fit", [fit_vlm_scaling, grid_search])
@pytest.mark.parametrize(("changed", "words"), [
    ({"error": [60, 0.5, 0.5, 0.4, 0.4]}, r"errors must be in \[0, 1\], got 60: .*divide per cent by 100"),
    ({"error": [-0.1, 0.5, 0.5, 0.4, 0.4]}, r"errors must be in \[0, 1\], got -0.1"),
    ({"error": [math.nan, 0.5, 0.5, 0.4, 0.4]}, r"errors must be in \[0, 1\], got nan"),
    ({"n_billion": [0, 1, 4, 4, 8]}, "model sizes are billions of parameters and must be above 0, got 0"),
    ({"n_billion": [-7, 1, 4, 4, 8]}, "must be above 0, got -7"),
    ({"tokens": [0, 16, 1, 16, 4]}, "numbers of visual tokens must be at least 1, got 0"),
    ({"tokens": [0.5, 16, 1, 16, 4]}, "numbers of visual tokens must be at least 1, got 0.5"),
    ({"n_billion": [1, 1, 4, 4, 4], "tokens": [1, 16, 1, 1, 1]}, "cannot be identified from 3 distinct points"),
    ({"n_billion": [7, 7, 7, 7, 7], "tokens": [1, 2, 3, 4, 5]}, "all points have the model size 7"),
    ({"n_billion": [1, 2, 3, 4, 5], "tokens": [9] * 5}, "all points have the number of visual tokens 9"),
    ({"tokens": [1, 16]}, "got 5, 2 and 5 of them"),
])  # fmt: skip
def test_a_table_that_tells_nothing_is_refused(fit, changed, words):
    with pytest.raises(UserError, match=words):
        fit(**points(**changed))


def test_a_fixed_d_outside_of_errors_is_refused():
    with pytest.raises(UserError, match=r"fix_d must be in \[0, 1\], got -0.1"):
        fit_vlm_scaling(**points(), fix_d=-0.1)


@pytest.mark.parametrize(("changed", "words"), [
    ({"budget_flops": -1}, "the budget must be at least 0 FLOPs per query, got -1"),
    ({"budget_flops": math.nan}, "the budget must be at least 0"),
    ({"sizes": [0, 1]}, "must be above 0, got 0"),
    ({"sizes": []}, "nothing to choose from"),
    ({"token_counts": [0]}, "must be at least 1, got 0"),
    ({"text_tokens": -1}, "text_tokens must be at least 0, got -1"),
])  # fmt: skip
def test_choices_that_do_not_exist_are_refused(changed, words):
    given_ = {
        "fit": ScalingFit(0.5, 0.1, 0.1, 0.0),
        "sizes": SIZES,
        "token_counts": TOKENS,
        "budget_flops": 1e12,
    }
    with pytest.raises(UserError, match=words):
        compute_optimal(**given_ | changed)


def test_negative_exponents_are_refused():
    with pytest.raises(UserError, match="alpha, beta and text_tokens are at least 0"):
        optimal_tokens_closed_form(-0.1, 0.1, 50)


@pytest.mark.parametrize(("fits", "weights", "words"), [
    (2, [1.0], "one weight per task, got 1 for 2 tasks"),
    (0, [], "one weight per task, got 0 for 0 tasks"),
    (2, [-1.0, 2.0], "none below 0 and not all 0"),
    (2, [0, 0], "none below 0 and not all 0"),
])  # fmt: skip
def test_a_mixture_without_shares_is_refused(fits, weights, words):
    with pytest.raises(UserError, match=words):
        TaskMixture([ScalingFit(0.5, 0.1, 0.1, 0.0)] * fits, weights)
