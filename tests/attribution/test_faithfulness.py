"""Faithfulness metrics: the authors' numbers, their ranges, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.attribution.test_reagent import NEAR, golden_model, replay
from tokenry.attribution import (
    FaithfulnessConfig,
    RandomAttribution,
    faithfulness,
    faithfulness_report,
    replacement_aopc,
)
from tokenry.attribution.faithfulness import distance, keep_probabilities, soft_normalized
from tokenry.core.errors import UserError

SETS = [(name, scores) for name in ("a", "b", "none") for scores in ("softmax", "unit", "reagent")]


@pytest.mark.parametrize(("name", "scores"), SETS)
def test_metrics_are_those_of_the_authors(name, scores):
    arrays = replay(name)
    if f"metric/{scores}/importance" not in arrays:
        pytest.skip("no probe converged, so that the released code has no scores")
    context, importance = arrays["input_ids"][0], arrays[f"metric/{scores}/importance"][0]
    config = FaithfulnessConfig(scale="none", distance="reagent-code", shares=(3 / len(context),))
    model = golden_model(arrays)
    found = faithfulness(model, context, importance, config=config, uniform=arrays["metric/uniform"][0])
    expected = {key.split("/")[-1]: float(value) for key, value in arrays.items() if key.startswith(f"metric/{scores}/") and value.ndim == 0}  # fmt: skip
    assert found.soft_ns == pytest.approx(expected["soft_norm_sufficiency"], rel=1e-7, abs=1e-9)
    assert found.soft_nc == pytest.approx(expected["soft_norm_comprehensiveness"], rel=1e-7, abs=1e-9)
    assert found.sufficiency == pytest.approx(expected["hard_sufficiency_top3"], rel=1e-7, abs=1e-9)
    plain = faithfulness(model, context, importance, config=FaithfulnessConfig(shares=config.shares))
    assert plain.comprehensiveness == pytest.approx(expected["hard_comprehensiveness_top3"], rel=1e-7)
    zero, soft = expected["sufficiency_0"], expected["soft_sufficiency"]
    torch.testing.assert_close(
        torch.tensor(soft_normalized(soft, expected["soft_comprehensiveness"], zero)),
        torch.tensor((found.soft_ns, found.soft_nc)), **NEAR,
    )  # fmt: skip


@given(seed=st.integers(0, 50))
def test_hellinger_is_a_distance_in_0_to_1(seed):
    p, q, r = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(-1)
    assert float(distance(p, p)) == 0
    assert 0 <= float(distance(p, q)) <= 1
    assert float(distance(p, r)) <= float(distance(p, q) + distance(q, r)) + 1e-6
    assert float(distance(p, q, "reagent-code")) == pytest.approx(
        float(distance(p, q)) ** 2 * 2**0.5, rel=1e-4
    )


@given(seed=st.integers(0, 50), stretch=st.floats(0.1, 5))
def test_by_rank_only_the_order_of_scores_counts(seed, stretch):
    scores = torch.rand(6, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(keep_probabilities(scores), keep_probabilities((stretch * scores).exp()))
    assert sorted(keep_probabilities(scores).tolist()) == pytest.approx([(n + 0.5) / 6 for n in range(6)])


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 20))
def test_metrics_stay_in_their_ranges(seed):
    scores = torch.rand(5, generator=torch.Generator().manual_seed(seed))
    found = faithfulness(tiny.llama(), torch.tensor([5, 9, 12, 7, 3]), scores)
    assert all(0 <= value <= 1 for value in (found.sufficiency, found.comprehensiveness))
    assert found.soft_ns >= 0
    assert -1 <= found.aopc <= 1


def test_all_tokens_kept_is_sufficient_and_all_zeroed_is_what_no_token_says():
    context, scores = torch.tensor([5, 9, 12, 7]), torch.rand(4)
    found = faithfulness(tiny.llama(), context, scores, config=FaithfulnessConfig(shares=(1.0,)))
    assert found.sufficiency == pytest.approx(1, abs=1e-3)
    ones = faithfulness(tiny.llama(), context, torch.ones(4), config=FaithfulnessConfig(scale="none"))
    assert ones.soft_ns == pytest.approx(1, abs=1e-2)


def test_the_report_holds_every_method_beside_random():
    contexts = [torch.tensor([5, 9, 12, 7, number]) for number in range(20, 24)]
    rows = faithfulness_report(
        tiny.llama(), contexts, {"gradient": "input-x-gradient", "same": RandomAttribution(3)}
    )
    assert [row.method for row in rows] == ["gradient", "same", "random"]
    assert [row.forwards for row in rows] == [8, 0, 0]
    random = rows[-1].log_ratios["soft_nc"]
    assert (random.value, random.low, random.high) == (0, 0, 0)
    ours = rows[0]
    ratio = ours.means["soft_nc"].value / rows[-1].means["soft_nc"].value
    assert ours.log_ratios["soft_nc"].value == pytest.approx(math.log(ratio))
    assert ours.means["soft_nc"].samples == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": "softmax"}, "scale must be one of rank, max, none"),
        ({"distance": "kl"}, "distance must be one of hellinger, reagent-code"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"shares": (0.0,)}, "shares must be in (0, 1]"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(UserError) as refused:
        FaithfulnessConfig(**options)
    assert words in str(refused.value)


def test_scores_that_are_missing_are_refused():
    with pytest.raises(UserError, match="one finite score per token: 3 tokens, 2 finite scores"):
        faithfulness(tiny.llama(), torch.tensor([5, 9, 12]), torch.tensor([1.0, float("nan"), 2.0]))


def test_a_report_needs_texts():
    with pytest.raises(UserError, match="there are no texts to measure methods on: give at least one"):
        faithfulness_report(tiny.llama(), [], {"random": RandomAttribution()})


def test_a_function_that_needs_one_token_falls_only_where_that_token_is_important():
    context, vocabulary = torch.tensor([7, 8, 9, 10]), torch.tensor([1, 2])

    def p(contexts):
        return 0.1 + 0.8 * (contexts == 9).any(dim=1)

    config = FaithfulnessConfig(shares=(0.25, 0.5))
    found = [
        replacement_aopc(p, context, torch.tensor(scores), vocabulary, config)
        for scores in ([0.0, 0, 1, 0], [3.0, 2, 0, 1])
    ]
    assert found == pytest.approx([0.8, 0.0], abs=1e-6)
