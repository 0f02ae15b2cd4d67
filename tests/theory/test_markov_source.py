"""Sources: reference numbers, closed forms, samples, and what is no source."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.theory import MarkovSource

CASES = golden_json("11-markov-theory", "dev-markov.json")["cases"]


@st.composite
def sources(draw, highest=3):
    alphabet, order = draw(st.integers(2, 3)), draw(st.integers(1, highest))
    table = np.random.default_rng(draw(st.integers(0, 99))).dirichlet(np.ones(alphabet), alphabet**order)
    return MarkovSource(table, order)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"A{case['alphabet']}k{case['order']}")
def test_quantities_are_the_reference_numbers(case):
    source = MarkovSource(case["transition"], case["order"])
    np.testing.assert_allclose(source.stationary, case["stationary"], rtol=1e-9)
    np.testing.assert_allclose(source.symbol_law, case["char_marginal"], rtol=1e-9)
    assert source.entropy_rate() == pytest.approx(case["H_inf"], rel=1e-9)
    assert source.char_entropy() == pytest.approx(case["H_char"], rel=1e-9)
    assert source.delta == case["delta"]
    for block in case["toy_block"]:
        assert source.block_entropy(block["r"]) / block["r"] == pytest.approx(block["ce_per_char"], rel=1e-9)
    for substring in case["log_prob_substrings"]:
        assert source.log_prob(substring["s"]) == pytest.approx(substring["logp"], rel=1e-9)


@pytest.mark.parametrize(("k", "p", "q"), [(1, 0.1, 0.1), (3, 0.2, 0.05), (12, 0.1, 0.3)])
def test_a_switching_source_has_its_closed_forms(k, p, q):
    source = MarkovSource.switching(k, p, q)
    zero, one = p / (p + q), q / (p + q)
    binary = lambda x: -x * math.log(x) - (1 - x) * math.log(1 - x)  # noqa: E731
    assert source.char_entropy() == pytest.approx(binary(zero))
    assert source.entropy_rate() == pytest.approx(one * binary(p) + zero * binary(q))
    solved = MarkovSource(source.transition, k)
    np.testing.assert_allclose(solved.stationary, source.stationary, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(sources())
def test_the_law_stays_and_strings_of_one_length_exhaust_it(source):
    assert source.stationary.sum() == pytest.approx(1)
    np.testing.assert_allclose(source._chain.T @ source.stationary, source.stationary, atol=1e-12)
    strings = np.stack(np.meshgrid(*[range(source.alphabet)] * 4), axis=-1).reshape(-1, 4)
    assert sum(math.exp(source.log_prob(string)) for string in strings) == pytest.approx(1)
    assert source.entropy_rate() <= source.char_entropy() + 1e-12
    assert source.block_entropy(0) == pytest.approx(0, abs=1e-12)


def test_samples_have_the_law_of_the_source_and_follow_their_seed():
    source = MarkovSource.switching(2, 0.1, 0.3)
    drawn = source.sample(400, batch=200, seed=3)
    assert drawn.shape == (200, 400)
    switched = drawn[:, 2:] != drawn[:, :-2]
    assert switched[drawn[:, :-2] == 1].mean() == pytest.approx(0.1, abs=0.01)
    assert switched[drawn[:, :-2] == 0].mean() == pytest.approx(0.3, abs=0.01)
    assert (drawn == source.sample(400, batch=200, seed=3)).all()
    assert source.sample(1, batch=3).shape == (3, 1), "shorter than the order"
    assert source.sample(0).shape == (1, 0)


def test_a_deterministic_source_has_no_entropy():
    source = MarkovSource([[0, 1], [1, 0]], 1)
    assert (source.entropy_rate(), source.delta) == (0, 0)
    assert source.log_prob([0, 0]) == -math.inf


def test_a_reducible_chain_is_warned_of_unless_its_law_is_chosen():
    identity = np.eye(2)
    with pytest.warns(UserWarning, match="the chain is reducible"):
        assert MarkovSource(identity, 1).stationary.sum() == pytest.approx(1)
    assert MarkovSource(identity, 1).is_reducible
    chosen = MarkovSource(identity, 1, np.array([0.25, 0.75]))
    assert chosen.symbol_law.tolist() == [0.25, 0.75]
    with pytest.raises(UserError, match="stationary must be a law of the states that the source keeps"):
        MarkovSource([[0.5, 0.5], [0.1, 0.9]], 1, np.array([0.5, 0.5]))


@pytest.mark.parametrize(
    ("table", "order", "words"),
    [
        ([[0.5, 0.5], [0.5, 0.4]], 1, "row 1 of the transition table is no law"),
        ([[1.5, -0.5], [0.5, 0.5]], 1, "row 0 of the transition table is no law"),
        ([[0.5, 0.5]] * 2, 0, "order must be at least 1, got 0"),
        ([[1.0], [1.0]], 1, "a source needs at least 2 symbols"),
        ([[0.5, 0.5]] * 3, 1, "has 2 states, got 3 rows"),
        ([[1 / 300] * 300] * 300, 1, "at most 256 symbols"),
        ([[0.5, 0.5]] * 4, 17, "at most 256 symbols and 65,536 states"),
    ],
)
def test_what_is_no_source_is_refused(table, order, words):
    with pytest.raises(UserError, match=words):
        MarkovSource(table, order)


def test_switches_and_symbols_are_checked():
    with pytest.raises(UserError, match=r"p must be in \(0, 1\), got 0"):
        MarkovSource.switching(1, 0, 0.5)
    with pytest.raises(UserError, match="give an order of at most 16"):
        MarkovSource.switching(17, 0.1, 0.1)
    with pytest.raises(UserError, match="the text has the symbol 2, and the source writes 0 to 1 only"):
        MarkovSource.switching(1, 0.1, 0.1).log_prob([0, 2])
