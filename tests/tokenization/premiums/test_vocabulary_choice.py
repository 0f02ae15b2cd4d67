import re
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.tokenization.premiums.vocabulary_choice import allocate_budget, optimal_vocab_sizes
from tokenry.tokenization.premiums.vocabulary_curve import EXPONENTS, PowerLaw, fit_vocab_curve

GOLDEN = golden("premiums")
SIZES = GOLDEN["vocab_sizes"]
CURVES = {language: fit_vocab_curve(SIZES, counts) for language, counts in GOLDEN["ctc"].items()}


def test_the_target_is_the_median_count_at_the_base_size():
    found = optimal_vocab_sizes(CURVES, base_size=SIZES[3])
    assert {each.target for each in found.values()} == {GOLDEN["target_ctc"]}
    assert GOLDEN["target_ctc"] == median(counts[3] for counts in GOLDEN["ctc"].values())


@pytest.mark.parametrize("language", GOLDEN["languages"])
def test_the_optimal_vocabulary_is_that_of_the_reference(language):
    expected = GOLDEN["power_law"][language]
    found = optimal_vocab_sizes(CURVES, GOLDEN["target_ctc"])[language].exact
    if expected["optimal_vocab"] is None:
        assert found is None
    elif EXPONENTS[0] < expected["b"] < EXPONENTS[1]:
        assert found == pytest.approx(expected["optimal_vocab"], rel=0.01)


def test_a_target_at_or_below_the_floor_is_out_of_reach():
    curve = PowerLaw(100.0, 1.0, 50.0, 256.0, 1.0)
    assert curve.solve(50.0) is None
    (found,) = optimal_vocab_sizes({"mya": curve}, target=40.0).values()
    assert (found.vocab_size, found.exact, found.clipped) == (None, None, False)


def test_sizes_are_rounded_and_clipped_to_what_can_be_trained():
    found = optimal_vocab_sizes(CURVES, 1.2 * GOLDEN["target_ctc"], smallest=350, largest=500)
    sizes = [each.vocab_size for each in found.values() if each.vocab_size is not None]
    assert all(350 <= size <= 500 for size in sizes)
    for each in found.values():
        assert each.clipped == (each.exact is not None and not 350 <= round(each.exact) <= 500)


def curves(parameters):
    return {
        f"l{number}": PowerLaw(a=float(a), b=float(b), c=float(c), v0=256.0, r2=1.0, sse=0.0)
        for number, (a, b, c) in enumerate(parameters)
    }


LAWS = st.lists(st.tuples(st.floats(50, 5000), st.floats(0.1, 3), st.floats(0, 800)), min_size=2, max_size=6)


@settings(max_examples=50, deadline=None)
@given(LAWS, st.integers(300, 20000))
def test_the_budget_is_spent_and_no_exchange_helps_the_worst_off(parameters, each):
    laws = curves(parameters)
    found = allocate_budget(laws, each * len(laws))
    assert sum(found.sizes.values()) == each * len(laws)
    assert min(found.sizes.values()) >= 256
    worst = max(found.counts, key=found.counts.get)
    even = max(curve.predict(each) for curve in laws.values())
    assert found.largest <= even + 1e-6 * even
    # Whoever could give a hundred tokens of vocabulary away would then be worse off than the worst-off is with them.
    for language, curve in laws.items():
        if language != worst and found.sizes[language] - 100 >= 256 and laws[worst].a > 0:
            helped = laws[worst].predict(found.sizes[worst] + 100)
            harmed = curve.predict(found.sizes[language] - 100)
            assert max(helped, harmed) >= found.largest - 0.02 * found.largest


def test_languages_that_are_not_held_sink_to_one_level():
    laws = curves([(500, 1.0, 100), (900, 0.7, 50), (300, 1.5, 120)])
    found = allocate_budget(laws, 6000)
    free = [found.counts[language] for language in laws if language not in found.held]
    assert max(free) - min(free) < 1.0
    assert found.premiums("l0")["l0"] == 1.0


def test_a_language_whose_floor_is_too_high_gets_no_more_than_it_may():
    laws = curves([(500, 1.0, 100), (500, 1.0, 5000)])
    found = allocate_budget(laws, 4000, largest=3000)
    assert found.sizes == {"l0": 1000, "l1": 3000}
    assert found.held == ("l1",)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: optimal_vocab_sizes({}), "there is no curve"),
        (lambda: optimal_vocab_sizes(CURVES, -1.0), "the target must be a positive number of tokens"),
        (lambda: optimal_vocab_sizes(CURVES, smallest=100), "must hold the 256 bytes, got 100"),
        (
            lambda: optimal_vocab_sizes(CURVES, largest=255),
            "the largest vocabulary (255) is below the smallest",
        ),
        (lambda: optimal_vocab_sizes(curves([(1.0, 1.0, 1.0)])), "curves without points have no base size"),
        (lambda: allocate_budget(CURVES, 1000), "a budget of 1000 cannot be spread over 6 languages"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
