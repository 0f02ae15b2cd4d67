"""Paired tests of right and wrong: McNemar against reference numbers and peers, Holm, Tango's score test, power."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.core.stats import (
    holm,
    items_needed,
    mcnemar,
    mcnemar_p,
    mcnemar_power,
    not_worse_p,
    paired_share_difference,
    shown,
)
from tokenry.core.stats.paired_tests import METHODS

COUNTS = st.integers(0, 60)


@pytest.mark.parametrize("method", METHODS)
def test_p_values_are_those_of_the_reference(method):
    rows = golden_json("07-clinical-efficiency", "dev-mcnemar.json")
    found = mcnemar_p([row["only_a"] for row in rows], [row["only_b"] for row in rows], method)
    assert found == pytest.approx([row[method] for row in rows], rel=1e-9)


def test_the_case_of_the_paper():
    """112 and 109 of 150 reports are right, p = 0.6291: 10 against 7."""
    right = np.repeat([True, True, False, False], [102, 10, 7, 31])
    other = np.repeat([True, False, True, False], [102, 10, 7, 31])
    test = mcnemar(right, other)
    assert (right.sum(), other.sum(), test.only_a, test.only_b) == (112, 109, 10, 7)
    assert f"{test.p:.4f}" == "0.6291"


@settings(max_examples=40, deadline=None)
@given(COUNTS, COUNTS)
def test_the_exact_test_is_that_of_statsmodels_and_symmetric(a, b):
    assert mcnemar_p(a, b) == pytest.approx(
        statsmodels_mcnemar([[3, a], [b, 4]], exact=True).pvalue, rel=1e-9
    )
    for method in METHODS:
        assert mcnemar_p(a, b, method) == pytest.approx(mcnemar_p(b, a, method))
        assert 0 < mcnemar_p(a, b, method) <= 1
    assert mcnemar_p(a, b, "midp") <= mcnemar_p(a, b)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


# --- not worse by more than a margin -----------------------------------------------------------------------------------


def score_z_by_hand(a, b, items, margin):
    """The same test with the likeliest share found by search: share_a − share_b = −margin."""

    def unlikely(lost):
        parts = ((a, lost - margin), (b, lost), (items - a - b, 1 - 2 * lost + margin))
        return -sum(count * math.log(share) for count, share in parts if count)

    found = minimize_scalar(
        unlikely,
        bounds=(margin + 1e-12, (1 + margin) / 2 - 1e-12),
        method="bounded",
        options={"xatol": 1e-12},
    ).x
    return (a - b + items * margin) / math.sqrt(items * (2 * found - margin * (margin + 1)))


@pytest.mark.parametrize(
    ("a", "b", "items", "margin"), [(10, 7, 150, 0.05), (3, 12, 80, 0.1), (1, 1, 20, 0.2)]
)
def test_the_score_test_uses_the_likeliest_share_under_the_hypothesis(a, b, items, margin):
    assert not_worse_p(a, b, items, margin) == pytest.approx(
        norm.sf(score_z_by_hand(a, b, items, margin)), rel=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(COUNTS, COUNTS, st.integers(1, 200))
def test_the_interval_holds_what_the_test_does_not_reject(a, b, agreed):
    items = a + b + agreed
    found = paired_share_difference(a, b, items)
    assert -1 < found.low <= found.value <= found.high < 1
    assert found.value == (a - b) / items
    if found.low < 0:
        assert not_worse_p(a, b, items, -found.low) == pytest.approx(0.025, rel=1e-6)
    other = paired_share_difference(b, a, items)
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    assert not_worse_p(a, b, items, 0.0) <= not_worse_p(b, a, items, 0.0) or a < b


def test_at_no_margin_it_is_the_chi_square_test_of_mcnemar():
    assert 2 * not_worse_p(17, 6, 90, 0) == pytest.approx(float(mcnemar_p(17, 6, "chi2")))


def test_without_discordant_items_the_interval_depends_on_their_number():
    few, many = paired_share_difference(0, 0, 20), paired_share_difference(0, 0, 400)
    assert (few.value, few.low) == (0, -few.high)
    assert few.high == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-3)
    assert shown(few, -0.1) == "not shown"
    assert shown(many, -0.1) == "shown"
    assert paired_share_difference(7, 0, 7).high == 1


# --- how many items ----------------------------------------------------------------------------------------------------


def test_150_items_settle_gaps_of_about_8_points_only():
    assert mcnemar_power(150, 0.08, 0.12) == pytest.approx(0.79, abs=0.01)
    assert mcnemar_power(150, 0.02, 0.12) < 0.12


def test_power_is_the_share_of_samples_that_are_rejected():
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(60, [0.25, 0.05, 0.7], size=20_000)
    rejected = (mcnemar_p(drawn[:, 0], drawn[:, 1]) <= 0.05).mean()
    assert mcnemar_power(60, 0.2, 0.3) == pytest.approx(rejected, abs=0.01)


def test_the_items_needed_have_about_the_wanted_power():
    number = items_needed(0.1, 0.2, power=0.8)
    assert mcnemar_power(number, 0.1, 0.2) == pytest.approx(0.8, abs=0.04)
    assert items_needed(0.05, 0.2) > 3 * number


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mcnemar([1, 0], [1]), "a paired test needs the same items, at least one, got 2 and 1"),
        (lambda: mcnemar([], []), "at least one, got 0 and 0"),
        (lambda: mcnemar_p(3, -1), "only_b must be at least 0, got -1"),
        (lambda: mcnemar_p(3, 1, "fisher"), "method must be one of exact, midp, chi2, chi2_cc, got 'fisher'"),
        (lambda: paired_share_difference(3, 4, 6), "items must be at least 7, got 6"),
        (lambda: not_worse_p(3, 4, 60, 5), r"margin must be in \[0, 1\], got 5"),
        (lambda: items_needed(0.2, 0.1), "at most the share of discordant items, 0.1, got 0.2"),
    ],
)
def test_impossible_counts_are_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()
