import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.tokenization.premiums.vocabulary_curve import EXPONENTS, PowerLaw, fit_vocab_curve

GOLDEN = golden("premiums")
SIZES = GOLDEN["vocab_sizes"]
CURVES = {language: fit_vocab_curve(SIZES, counts) for language, counts in GOLDEN["ctc"].items()}


@pytest.mark.parametrize("language", GOLDEN["languages"])
def test_the_fit_is_at_least_as_close_as_the_reference(language):
    expected, found = GOLDEN["power_law"][language], CURVES[language]
    assert found.sse <= expected["sse"] * 1.001 + 1e-6
    assert found.r2 >= expected["r2"] - 1e-6
    assert found.a >= 0
    assert found.c >= 0
    assert EXPONENTS[0] <= found.b <= EXPONENTS[1]


@pytest.mark.parametrize("case", [case for case in GOLDEN["synthetic_power_law"] if len(case["vocab"]) > 3])
def test_a_curve_without_noise_is_recovered(case):
    found = fit_vocab_curve(case["vocab"], case["ctc"], v0=case["reference_vocab"])
    for name in "abc":
        assert getattr(found, name) == pytest.approx(case[name], rel=1e-4)
    assert found.solve(case["target"]) == pytest.approx(case["optimal_vocab"], rel=1e-4)


def test_three_points_are_too_few_for_three_parameters():
    (case,) = [case for case in GOLDEN["synthetic_power_law"] if len(case["vocab"]) == 3]
    with pytest.raises(UserError, match="3 points cannot fit a curve of three parameters"):
        fit_vocab_curve(case["vocab"], case["ctc"])


@settings(max_examples=25, deadline=None)
@given(
    st.floats(10, 1e6),
    st.floats(0.2, 3),
    st.floats(0.05, 2),
    st.lists(st.floats(-0.01, 0.01), min_size=7, max_size=7),
)
def test_no_start_of_a_general_solver_finds_a_better_fit(a, b, floor, noise):
    from scipy.optimize import least_squares

    sizes = np.array([512, 1024, 2048, 4096, 8192, 16384, 32768], dtype=float)
    counts = a * ((sizes / 256) ** -b + floor) * (1 + np.array(noise))
    ours = fit_vocab_curve(sizes.tolist(), counts.tolist())
    scale = counts.max()
    for start in ([0.5, 0.3, 0.1], [1.0, 1.0, 0.5], [1.0, 3.0, 0.01]):
        theirs = least_squares(
            lambda p: p[0] * (sizes / 256) ** -p[1] + p[2] - counts / scale,
            start,
            bounds=([0, EXPONENTS[0], 0], [np.inf, EXPONENTS[1], np.inf]),
        )
        assert ours.sse / scale**2 <= 2 * theirs.cost * (1 + 1e-6) + 1e-12


@settings(max_examples=25, deadline=None)
@given(st.floats(10, 1e4), st.floats(0.05, 4), st.floats(0, 1e3), st.floats(300, 1e6))
def test_solving_undoes_predicting(a, b, c, size):
    curve = PowerLaw(a=float(a), b=float(b), c=float(c), v0=256.0, r2=1.0, sse=0.0)
    target = curve.predict(size)
    if target - c > 1e-6 * target:
        assert curve.solve(target) == pytest.approx(size, rel=1e-6)


def test_counts_that_do_not_fall_are_fitted_and_flagged():
    curve = fit_vocab_curve([300, 400, 500, 600], [100.0, 140.0, 90.0, 150.0])
    assert curve.r2 < 0.5
    assert curve.c == pytest.approx(120, abs=1)


def test_counts_that_do_not_vary_are_a_floor():
    curve = fit_vocab_curve([300, 400, 500, 600], [100.0] * 4)
    assert curve.r2 == 1.0
    assert curve.predict(1000) == pytest.approx(100)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: fit_vocab_curve([1, 2, 3, 4], [1, 2]),
            "4 vocabulary sizes and 2 counts do not belong together",
        ),
        (lambda: fit_vocab_curve([300, 400, 350, 500], [4, 3, 2, 1]), "must be positive and increase"),
        (lambda: fit_vocab_curve([300, 400, 500, 600], [4, 3, 0, 1]), "must be a positive number"),
        (lambda: fit_vocab_curve([300, 400, 500, 600], [4, 3, 2, 1], v0=0), "v0 must be positive"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
