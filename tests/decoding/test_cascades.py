"""Deferral scores and curves: reference numbers, what holds for any input, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.core.stats import index_matrix
from tokenry.decoding.cascades import (
    area,
    auc_df,
    auc_draws,
    chow_score,
    conformal_threshold,
    cost_curve,
    curve_band,
    defer_lowest,
    deferral_curve,
    diagnose_lengths,
    oracle_score,
    pad_logprobs,
    quantile_features,
    threshold_for_budget,
    token_logprobs,
    tune_alpha,
)

SLUG = "39-cascades"
SETS = ("acc", "ties", "reg")
RULES = ("sum", "average", "quantile")
QUALITIES = st.lists(
    st.tuples(st.integers(-3, 3), st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=40
)
OUTPUTS = st.lists(st.lists(st.floats(-30, 0), min_size=1, max_size=9), min_size=1, max_size=6)


def reference(name):
    """The arrays of a golden file, and its outputs padded."""
    stored = golden_arrays(SLUG, f"dev-{name}.npz")
    outputs = torch.split(stored["logprobs"], stored["lengths"].tolist())
    return stored, pad_logprobs([output.tolist() for output in outputs])


# --- reference numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_scores_are_the_reference(name):
    stored, outputs = reference(name)
    for rule in ("sum", "average"):
        np.testing.assert_allclose(chow_score(*outputs, rule), stored[f"chow_{rule}"], rtol=1e-10)
    np.testing.assert_allclose(
        quantile_features(*outputs, stored["alphas"].tolist()),
        stored["chow_quantile"],
        rtol=1e-10,
        atol=1e-14,
    )


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("key", ["chow_sum", "chow_average", "q0", "q0.3", "q1", "oracle"])
def test_curves_and_areas_are_the_reference(name, key):
    stored, _ = reference(name)
    small, large = stored["q1"], stored["q2"]
    level = None if not key.startswith("q") else stored["alphas"].tolist().index(float(key[1:]))
    score = (
        oracle_score(small, large)
        if key == "oracle"
        else stored[key]
        if level is None
        else stored["chow_quantile"][:, level]
    )
    areas = []
    for ties in ("stable", "expected"):
        rates, quality = deferral_curve(score, small, large, ties)
        np.testing.assert_allclose(quality, stored[f"curve_{ties}|{key}"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(rates, np.arange(len(small) + 1) / len(small))
        areas.append(auc_df(score, small, large, ties).auc)
    found = auc_df(score, small, large)
    np.testing.assert_allclose([*areas, found.gain_percent], stored[f"aucdf|{key}"], rtol=1e-9, atol=1e-9)
    assert found.random == pytest.approx(float(stored["auc_random"]), rel=1e-12)
    assert found.oracle == pytest.approx(float(stored["aucdf|oracle"][1]), rel=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_budgets_and_rank_correlations_are_the_reference(name):
    stored, _ = reference(name)
    for rate in (0.0, 0.1, 0.25, 0.5, 1.0):
        expected = stored[f"defer_avg|{rate}"].numpy()
        assert (defer_lowest(stored["chow_average"], rate) == expected).all()
    scores = stored["chow_sum"], stored["chow_average"], stored["chow_quantile"][:, 0]
    found = [
        diagnose_lengths(score, stored["lengths"], stored["q1"], stored["q2"]).spearman for score in scores
    ]
    np.testing.assert_allclose(found, stored["spearman_len"], rtol=1e-9)


def test_log_probabilities_of_logits_are_the_reference():
    stored = golden_arrays(SLUG, "dev-logits.npz")
    mask = stored["mask"]
    logprobs = token_logprobs(stored["logits"], stored["output_ids"], mask)
    np.testing.assert_allclose(logprobs, stored["token_logprobs"], rtol=1e-10)
    for rule in ("sum", "average"):
        np.testing.assert_allclose(chow_score(logprobs, mask, rule), stored[f"chow_{rule}"], rtol=1e-10)
    levels = stored["quantile_levels"].tolist()
    np.testing.assert_allclose(quantile_features(logprobs, mask, levels), stored["chow_quantile"], rtol=1e-10)


def test_log_probabilities_of_a_bfloat16_model_are_float32():
    logits = torch.randn(2, 3, 999, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids, mask = torch.arange(6).view(2, 3), torch.ones(2, 3)
    found = token_logprobs(logits, ids, mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), token_logprobs(logits.double(), ids, mask), rtol=1e-5, atol=0)


# --- what holds for any input ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(OUTPUTS, st.integers(0, 4), st.sampled_from([math.nan, -math.inf, 5.0]), st.floats(0, 1))
def test_scores_ignore_padding_and_the_rest_of_the_batch(outputs, more, junk, alpha):
    logprobs, mask = pad_logprobs(outputs)
    wide = torch.cat([torch.where(mask, logprobs, junk), torch.full((len(outputs), more), junk)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(len(outputs), more, dtype=torch.bool)], dim=1)
    for rule in RULES:
        alone = [float(chow_score(*pad_logprobs([output]), rule, alpha)[0]) for output in outputs]
        np.testing.assert_allclose(chow_score(wide, wide_mask, rule, alpha), alone, rtol=1e-12, atol=1e-300)


@settings(max_examples=60, deadline=None)
@given(OUTPUTS)
def test_quantiles_are_numpys(outputs):
    alphas = [0, 0.1, 1 / 3, 0.5, 0.99, 1]
    expected = [np.quantile(output, alphas) for output in outputs]
    np.testing.assert_allclose(
        quantile_features(*pad_logprobs(outputs), alphas), expected, rtol=1e-12, atol=1e-12
    )


@settings(max_examples=80, deadline=None)
@given(QUALITIES, st.sampled_from(["expected", "stable"]))
def test_curves_end_at_both_means_and_lie_under_the_oracle(rows, ties):
    score, small, large = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    _, quality = deferral_curve(score, small, large, ties)
    _, best = deferral_curve(oracle_score(small, large), small, large)
    assert (quality[0], quality[-1]) == pytest.approx((small.mean(), large.mean()), abs=1e-9)
    assert (quality <= best + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(QUALITIES)
def test_the_expected_curve_is_the_mean_over_orders_of_equal_scores(rows):
    score, small, large = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    forwards = deferral_curve(score, small, large, "stable")[1]
    backwards = deferral_curve(score[::-1], small[::-1], large[::-1], "stable")[1]
    expected = deferral_curve(score, small, large)[1]
    groups = np.sort(score)
    ends = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1], [True]]))
    for curve in (forwards, backwards):
        np.testing.assert_allclose(curve[ends], expected[ends], atol=1e-9)
    np.testing.assert_allclose(
        expected, np.interp(np.arange(len(score) + 1), ends, expected[ends]), atol=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(QUALITIES)
def test_many_rules_at_once_are_each_rule_alone(rows):
    score, small, large = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    several = np.stack([score, -score, np.zeros_like(score)], axis=1)
    for ties in ("expected", "stable"):
        curves = deferral_curve(several, small, large, ties)[1]
        for rule in range(3):
            np.testing.assert_allclose(
                curves[:, rule], deferral_curve(several[:, rule], small, large, ties)[1]
            )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.floats(0, 1))
def test_a_threshold_never_defers_more_than_its_budget(scores, rate):
    values = np.array(scores, dtype=float)
    deferred = values < threshold_for_budget(values, rate)
    assert deferred.sum() <= defer_lowest(values, rate).sum() == math.floor(rate * len(values) + 1e-9)
    if len(set(scores)) == len(scores):
        assert (deferred == defer_lowest(values, rate)).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=40), st.floats(0, 1))
def test_a_conformal_threshold_is_the_lowest_that_keeps_its_promise(rows, risk):
    scores, wrong = (np.array(column) for column in zip(*rows, strict=True))
    threshold = conformal_threshold(scores, wrong, risk)

    def promised(at):
        return (int((wrong & (scores >= at)).sum()) + 1) / (len(scores) + 1)

    if threshold == math.inf:
        assert 1 / (len(scores) + 1) > risk - 1e-9
        return
    assert promised(threshold) <= risk + 1e-9
    lower = scores[scores < threshold]
    assert not len(lower) or promised(lower.max()) > risk - 1e-9


def test_resampled_areas_are_those_of_the_resampled_examples():
    generator = np.random.default_rng(0)
    scores, small, large = generator.integers(0, 4, (9, 2)).astype(float), *generator.random((2, 9))
    found = auc_draws(scores, small, large, draws=20, seed=5)
    for row, draw in zip(index_matrix(9, 20, seed=5), found, strict=True):
        alone = [auc_df(scores[row, rule], small[row], large[row]).auc for rule in range(2)]
        np.testing.assert_allclose(draw, alone)


def test_the_band_holds_the_curve_and_narrows_with_more_examples():
    generator = np.random.default_rng(1)
    width = []
    for examples in (50, 800):
        small, large = generator.random((2, examples))
        band = curve_band(small, small, large, [0.0, 0.5, 1.0])
        assert all(point.low <= point.value <= point.high for point in band)
        width.append(band[1].high - band[1].low)
    assert width[1] < width[0] / 2


def test_a_cost_curve_counts_the_small_models_wasted_work():
    small, large, score = np.array([1.0, 2.0]), np.array([10.0, 20.0]), np.array([0.0, 1.0])
    np.testing.assert_allclose(cost_curve(score, small, large), [1.5, 6.5, 16.5])
    np.testing.assert_allclose(cost_curve(score, small, large, wasted=[0.5, 0.5]), [1.5, 6.25, 15.5])
    assert area(np.array([1.0, 3.0, 5.0]), np.array([0.0, 1.0, 1.0])) == pytest.approx(0.75)


# --- edges -------------------------------------------------------------------------------------------------------------


def test_all_scores_of_a_single_token_coincide():
    outputs = pad_logprobs([[-0.7]])
    assert {float(chow_score(*outputs, rule, 0.4)[0]) for rule in RULES} == {-0.7}


def test_an_impossible_token_sorts_first_and_never_makes_nan():
    outputs = pad_logprobs([[-math.inf, -1.0, -0.5], [-2.0, -1.0, -3.0], [-math.inf] * 3])
    assert chow_score(*outputs, "sum").tolist() == [-math.inf, -6.0, -math.inf]
    levels = quantile_features(*outputs, [0.0, 0.25, 0.5, 0.75, 1.0])
    assert levels[0].tolist() == [-math.inf, -math.inf, -1.0, -0.75, -0.5]
    assert levels[2].tolist() == [-math.inf] * 5
    assert not levels.isnan().any()


def test_equal_scores_draw_a_straight_line_without_gain():
    found = auc_df([1.0] * 4, [0, 1, 0, 1], [1, 1, 0, 1])
    np.testing.assert_allclose(
        deferral_curve([1.0] * 4, [0, 1, 0, 1], [1, 1, 0, 1])[1], np.linspace(0.5, 0.75, 5)
    )
    assert found.gain_percent == pytest.approx(0)


def test_equal_models_draw_a_flat_curve_and_one_example_is_enough():
    assert deferral_curve([3, 1, 2], [0.5] * 3, [0.5] * 3)[1].tolist() == [0.5] * 4
    assert deferral_curve([3.0], [0.0], [1.0])[1].tolist() == [0.0, 1.0]


def test_empty_outputs_are_deferred_first_where_that_is_asked_for():
    outputs = pad_logprobs([[], [-0.5, -0.1]])
    for rule in RULES:
        assert chow_score(*outputs, rule, empty="defer")[0] == -math.inf
    assert threshold_for_budget(chow_score(*outputs, empty="defer"), 0.5) == pytest.approx(-0.6)


def test_the_tuned_level_has_the_largest_area():
    stored, outputs = reference("acc")
    best = tune_alpha(*outputs, stored["q1"], stored["q2"])
    areas = {
        alpha: auc_df(chow_score(*outputs, "quantile", alpha), stored["q1"], stored["q2"]).auc
        for alpha in (best, 0.0, 0.3, 0.8, 1.0)
    }
    assert max(areas, key=areas.get) == best


def test_the_length_diagnosis_compares_with_the_oracle():
    lengths = np.arange(1.0, 41.0)
    found = diagnose_lengths(-lengths, lengths, lengths, np.zeros(40))
    assert (found.spearman, found.oracle_spearman) == pytest.approx((-1, 1))
    assert found.lengths == tuple(reversed(found.oracle_lengths))
    assert math.isnan(diagnose_lengths(np.zeros(40), lengths, lengths, np.zeros(40)).spearman)


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outputs", "options", "words"), [
    ([[-1.0], []], {}, "output 1 has no tokens, so it has no score"),
    ([[-1.0, 0.2]], {}, "a log-probability must be at most 0, got 0.2 for token 1 of output 0"),
    ([[math.nan]], {}, "a log-probability must be at most 0, got nan for token 0 of output 0"),
    ([[-1.0]], {"rule": "quantile", "alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
])  # fmt: skip
def test_outputs_that_have_no_score_are_refused(outputs, options, words):
    with pytest.raises(UserError, match=words):
        chow_score(*pad_logprobs(outputs), **options)


def test_rounding_above_zero_is_allowed():
    assert float(chow_score(*pad_logprobs([[5e-7]]))[0]) == 5e-7


@pytest.mark.parametrize(("score", "small", "large", "words"), [
    ([1.0, 2.0], [0.0, 1.0], [1.0], "both models need one quality per example, got 2 of the small and 1 of the large"),
    ([1.0], [0.0, 1.0], [1.0, 1.0], "1 scores for 2 qualities"),
    ([], [], [], "there are no examples"),
    ([math.nan], [0.0], [1.0], "a score is nan"),
    ([0.0], [math.nan], [1.0], "a quality is nan"),
])  # fmt: skip
def test_examples_that_draw_no_curve_are_refused(score, small, large, words):
    with pytest.raises(UserError, match=words):
        deferral_curve(score, small, large)


def test_a_score_that_is_nan_has_no_place_under_a_budget():
    for choose in (
        defer_lowest,
        threshold_for_budget,
        lambda score, risk: conformal_threshold(score, [0, 1], risk),
    ):
        with pytest.raises(UserError, match="score 1 is nan: a threshold needs a score of every example"):
            choose([1.0, math.nan], 0.5)


def test_a_budget_outside_0_to_1_is_refused():
    for defer in (defer_lowest, threshold_for_budget):
        with pytest.raises(UserError, match=r"the budget must be in \[0, 1\], got 1.2"):
            defer([1.0], 1.2)
    with pytest.raises(UserError, match=r"risk must be in \[0, 1\], got -0.1"):
        conformal_threshold([1.0], [0], -0.1)
    with pytest.raises(UserError, match="mask must both be batch × seq"):
        chow_score(torch.zeros(2, 3), torch.ones(2, 4))
