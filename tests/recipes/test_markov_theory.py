"""The recipe of the theory of tokenization runs small, and its verdicts follow the measurements in both directions."""

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.recipes.markov_theory import curve_claims, dictionary_claims
from tokenry.recipes.testbeds.markov_trial import Curves, DictionaryCosts, MarkovSizes
from tokenry.theory import MarkovCurve, MarkovExperimentConfig

SMALL = MarkovSizes(
    sources=((1, 0.1), (2, 0.1)),
    dictionaries=(16, 64),
    symbols=3000,
    stretches=10,
    orders=(1,),
    tokens=8,
    judged_at=2,
    training=MarkovExperimentConfig(
        layers=1, width=8, heads=2, length=16, batch_size=4, steps=4, measure_at=(0, 2), held_out=400
    ),
    seeds=(0, 1),
)


def test_it_runs_small(tmp_path):
    result = check_recipe("markov-theory", SMALL, tmp_path)
    assert len(result.claims) == 6
    assert len(result.settings["curves"][0]["tokens"]) == 2


def curve(at_step, last):
    return [
        MarkovCurve((0, 100, 600), (0.7, at_step + shift, last + shift), 1.0) for shift in (0, 0.001, 0.002)
    ]


def judged(symbols=0.6, tokens=0.34, last=0.69, tiny=0.75, lzw=0.45, bpe=0.42, large=0.4):
    """Six verdicts; every argument alone makes a claim fail."""
    curves = [Curves(2, 0.325, 0.693, curve(symbols, last), curve(tokens, 0.33))]
    cost = DictionaryCosts(
        2,
        0.1,
        0.325,
        0.693,
        tiny,
        {16: 0.5, 64: lzw, 256: large},
        {64: [bpe + 0.001 * place for place in range(20)]},
    )
    return [claim.verdict for claim in (*curve_claims(curves, 100), *dictionary_claims([cost]))]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        judged,
        [
            ({}, set()),
            ({"symbols": 0.4}, {0}),
            ({"tokens": 0.5}, {0}),
            ({"last": 0.35}, {1}),
            ({"bpe": 0.7}, {2}),
            ({"lzw": 0.66}, {3}),
            ({"large": 0.46}, {3}),
            ({"tiny": 0.6}, {4}),
            ({"lzw": 0.7}, {2, 3, 5}),
        ],
    )
