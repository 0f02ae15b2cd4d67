"""The recipe of gradient entanglement: verdicts that follow the measurements in both directions."""

import torch

from tests import tiny
from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.tokenizers import word_tokenizer
from tokenry.recipes import entanglement
from tokenry.recipes.entanglement import EntanglementSizes, by_kind, claims
from tokenry.recipes.testbeds.entangled_pairs import (
    KINDS,
    MeasuredPair,
    class_model,
    class_pairs,
    measure,
    sentiment_pairs,
)

SMALL = EntanglementSizes(prompts=1, tiny_pairs=3, tiny_steps=2)


def pairs(predicts=True, normalised=0, growth=0.1, ratio=0.1):
    """Of three kinds and twelve prompts, a third of which move together."""
    return [
        MeasuredPair(
            kind,
            prompt,
            cosine=growth * kind + 0.01 * (prompt % 3) * (kind + 1),
            condition_ratio=ratio * kind + 0.01 * (prompt % 3) * (kind + 1),
            predicted=(0.0, 0.0),
            realised=(0.0, 0.0),
            normalised=(0.0, 0.0),
            case_predicted=realised if predicts else 0,
            case_realised=realised,
            case_normalised=realised if normalised else 0,
        )
        for prompt in range(12)
        for kind in range(3)
        for realised in [2 if prompt % 3 == 0 else 0]
    ]


def verdicts(**changed):
    return [claim.verdict for claim in claims(pairs(**changed), pairs(**changed))]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"predicts": False}, {0}),
            ({"normalised": 1}, {1}),
            ({"growth": -0.1}, {2}),
            ({"ratio": -0.1}, {3}),
        ],
    )


def test_both_models_must_agree():
    assert next(claims(pairs(), pairs(predicts=False))).verdict == "not shown"
    assert next(claims(pairs()[:3], pairs())).verdict == "too few"


def test_kinds_are_counted():
    found = by_kind(pairs())
    assert list(found) == list(KINDS[:3])
    assert found["one token"]["as_wanted"] == 8 / 12
    assert found["long suffix"]["predicted"] == 1.0


def test_a_measurement_leaves_the_weights_as_they_were():
    model = class_model(2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    (one,) = measure(model, class_pairs(1), 1e-3)
    assert all(map(torch.equal, before, model.parameters()))
    for side in (0, 1):
        assert abs(one.realised[side] - one.predicted[side]) < 0.02 * abs(one.predicted[side]) + 1e-5


def test_responses_of_the_made_pairs_differ_in_their_first_token_alone():
    for one in class_pairs(30):
        shorter = min(len(one.pair.chosen), len(one.pair.rejected))
        assert one.pair.chosen[0] != one.pair.rejected[0]
        assert one.pair.chosen[1:shorter] == one.pair.rejected[1:shorter]


def test_it_runs_small(tmp_path, monkeypatch):
    monkeypatch.setattr(entanglement, "load_model", lambda name, dtype: tiny.llama())
    monkeypatch.setattr(entanglement, "load_tokenizer", lambda name: word_tokenizer())
    assert len(sentiment_pairs(word_tokenizer(), 2)) == 6
    check_recipe("entanglement", SMALL, tmp_path)
