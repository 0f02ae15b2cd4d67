"""Unigram models over tokens: reference numbers, the exact law beside samples, bounds, and what has no figure."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tests.theory.test_markov_source import sources
from tokenry.core.errors import UserError
from tokenry.theory import (
    BlockTokenizer,
    BPETokenizer,
    GreedyTokenizer,
    LZWTokenizer,
    MarkovSource,
    exact_token_law,
    heldout_bigram_ce,
    heldout_unigram_ce,
    lzw_bound,
    lzw_epsilon,
    share_done,
    unigram_report,
)

NAMES = {"Hinf_ratio_form": "ce_form", "H_Q_MLE": "H_Q", "H_Q_MLE_P": "H_Q_P"}
CASES = golden_json("11-markov-theory", "dev-markov.json")["cases"]


@pytest.mark.parametrize("kind", ["lzw", "bpe"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"A{case['alphabet']}k{case['order']}")
def test_reports_are_the_reference_numbers(case, kind):
    source = MarkovSource(case["transition"], case["order"])
    for expected in case["dicts"]:
        make = {"lzw": LZWTokenizer, "bpe": BPETokenizer}[kind].train
        tokenizer = make(case["train"], expected["d"], case["alphabet"])
        found = unigram_report(tokenizer, case["test"], source).as_json()
        for name, value in expected[kind].items():
            assert found[NAMES.get(name, name)] == pytest.approx(value, rel=1e-8)
        counted, predicted = tokenizer.encode(case["train"]), tokenizer.encode(case["test"])
        heldout = heldout_unigram_ce(counted, predicted, len(tokenizer.dictionary), 1, len(case["test"]))
        assert heldout == pytest.approx(expected[f"{kind}_heldout_ce_addone"], rel=1e-8)
        assert lzw_epsilon(source.delta, expected["d"]) == pytest.approx(expected["epsilon"], rel=1e-9)
        bound = lzw_bound(source.delta, expected["d"])
        assert bound == pytest.approx(expected["bound_factor"] or math.inf, rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(sources(highest=2), st.integers(4, 12))
def test_the_exact_law_is_what_a_long_sample_approaches(source, size):
    tokenizer = LZWTokenizer.train(source.sample(200, seed=1)[0], size, source.alphabet)
    law, text = exact_token_law(source, tokenizer), source.sample(1000, batch=40, seed=2)
    ids = np.concatenate([tokenizer.encode(row) for row in text])
    shares = np.bincount(ids, minlength=len(tokenizer.dictionary)) / len(ids)
    np.testing.assert_allclose(law.probability, shares, atol=0.04)
    assert law.tokens_per_symbol == pytest.approx(len(ids) / text.size, rel=0.05)
    assert law.cross_entropy >= source.entropy_rate() - 1e-9, "no model beats the entropy rate"


def test_the_exact_law_of_blocks_is_their_block_entropy():
    source = MarkovSource.switching(2, 0.1, 0.3)
    for r in (1, 2, 3, 5):
        assert exact_token_law(source, BlockTokenizer(r)).cross_entropy == pytest.approx(
            source.block_entropy(r) / r
        )


def test_the_exact_law_reads_again_what_lay_beyond_a_token():
    # After 0 1 1 0 the reader may have gone four symbols too far.
    tokenizer = GreedyTokenizer([(0,), (1,), (0, 1, 1, 0, 1)])
    source = MarkovSource.switching(1, 0.4, 0.3)
    sampled = unigram_report(tokenizer, source.sample(40_000, seed=5)[0], source)
    assert exact_token_law(source, tokenizer).cross_entropy == pytest.approx(sampled.cross_entropy, rel=0.03)


def test_a_law_needs_the_same_alphabet_and_a_token_for_each_symbol():
    source = MarkovSource.switching(1, 0.1, 0.1)
    with pytest.raises(UserError, match="the source writes 2 symbols, and the dictionary is of 3"):
        exact_token_law(source, GreedyTokenizer([(0,), (1,), (2,)]))
    with pytest.raises(UserError, match="no token begins where the text has the symbol 1"):
        exact_token_law(source, GreedyTokenizer([(0,), (1, 1)]))


def test_symbols_alone_cost_the_symbol_entropy_and_nothing_is_done():
    source = MarkovSource.switching(1, 0.1, 0.1)
    report = unigram_report(GreedyTokenizer([(0,), (1,)]), source.sample(5000)[0], source)
    assert report.cross_entropy == pytest.approx(report.symbol_entropy, rel=0.02)
    assert report.share_done == pytest.approx(0, abs=0.03)
    assert share_done(0.4, 0.7, 0.3) == pytest.approx(0.75)
    assert share_done(0.4, 0.7, None) is None


def test_the_extreme_sources_have_figures_too():
    fixed = MarkovSource([[0, 1], [1, 0]], 1)
    report = unigram_report(LZWTokenizer.train([0, 1] * 50, 6), [0, 1] * 50, fixed)
    assert report.ratio == math.inf
    assert lzw_bound(0, 16) == math.inf
    empty = unigram_report(GreedyTokenizer([(0,), (1,)]), [], MarkovSource.switching(1, 0.1, 0.1))
    assert empty.tokens == 0
    assert math.isnan(empty.cross_entropy)
    alone = unigram_report(LZWTokenizer.train([0] * 30, 9), [0] * 30)
    assert (alone.symbol_entropy, alone.paper_form, alone.ratio) == (0, None, None)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=40), st.lists(st.integers(0, 5), min_size=1, max_size=40)
)
def test_held_out_laws_are_laws(train, test):
    mean = lambda ce: sum(math.exp(-ce([token])) for token in range(6))  # noqa: E731
    assert mean(lambda ids: heldout_unigram_ce(train, ids, 6)) == pytest.approx(1)
    assert mean(lambda ids: heldout_unigram_ce(train, ids, 6, None)) == pytest.approx(1)
    first = heldout_unigram_ce(train, [test[0]], 6, None)
    after = [math.exp(first - 2 * heldout_bigram_ce(train, [test[0], token], 6)) for token in range(6)]
    assert sum(after) == pytest.approx(1)


def test_a_bigram_over_tokens_lies_between_the_unigram_and_the_optimum():
    source = MarkovSource.switching(1, 0.1, 0.1)
    first, second = source.sample(20_000, seed=1)[0], source.sample(20_000, seed=2)[0]
    tokenizer = BPETokenizer.train(first, 8)
    counted, predicted = tokenizer.encode(first), tokenizer.encode(second)
    unigram = heldout_unigram_ce(counted, predicted, 8, None, len(second))
    bigram = heldout_bigram_ce(counted, predicted, 8, len(second))
    assert source.entropy_rate() < bigram < unigram


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda: heldout_unigram_ce([0], [0], 2, 0), "alpha must be above 0, got 0"),
        (lambda: heldout_unigram_ce([0], [2], 2), "a dictionary of 2 tokens has no token 2"),
        (lambda: lzw_epsilon(0.1, 1), "a dictionary has at least 2 tokens, got d=1"),
    ],
)
def test_what_is_no_model_is_refused(do, words):
    with pytest.raises(UserError, match=words):
        do()
