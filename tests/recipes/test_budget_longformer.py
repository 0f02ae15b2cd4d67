"""The recipe of BudgetLongformer: documents whose echo agrees with a far clue, and verdicts that follow the measurements."""

import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.recipes.budget_longformer import (
    GLOBAL,
    LOCAL,
    MLM,
    PARAMETERS,
    WIDE,
    BudgetLongformerSizes,
    claims,
)
from tokenry.recipes.testbeds.far_evidence import FILLER, FarEvidence, FarEvidenceSetting

SMALL = BudgetLongformerSizes(
    documents=FarEvidenceSetting(length=12, distances=(1, 3), probed=20, layers=1, width=8),
    window=4,
    generator_share=0.5,
    rows=4,
    steps=2,
    seeds=(0, 1),
    processes=1,
)
SIZES = BudgetLongformerSizes(documents=FarEvidenceSetting(distances=(2, 4, 6, 8, 12)))


def judged(counts=PARAMETERS, **changed):
    seen, chance = [0.9, 0.91, 0.92], [0.5, 0.51, 0.49]
    areas = {
        LOCAL: {2: seen, 4: seen, 6: chance, 8: chance, 12: chance},
        GLOBAL: dict.fromkeys((2, 4, 6, 8, 12), seen),
        WIDE: {2: seen, 4: seen, 6: seen, 8: seen, 12: chance},
        MLM: {2: [0.8, 0.81, 0.82], 4: [0.8, 0.81, 0.82], 6: chance, 8: chance, 12: chance},
    }
    for name, values in changed.items():
        arm, distance = {"near": (LOCAL, 4), "far": (LOCAL, 12), "restored": (GLOBAL, 6), "grown": (WIDE, 8), "filled": (MLM, 2)}[name]  # fmt: skip
        areas[arm][distance] = values
    return [claim.verdict for claim in claims(areas, counts, SIZES)]


def test_verdicts_follow_the_measurements():
    check_verdicts(
        judged,
        [
            ({}, set()),
            ({"near": [0.6, 0.7, 0.8]}, {0, 3}),
            ({"far": [0.6, 0.6, 0.6]}, {0}),
            ({"restored": [0.5, 0.5, 0.5]}, {0}),
            ({"counts": {"small": 29.5, "base": 158.6}}, {1}),
            ({"grown": [0.5, 0.9, 0.5]}, {2}),
            ({"filled": [0.99, 0.99, 0.99]}, {3}),
        ],
    )


def test_only_the_clue_tells_the_echo():
    evidence = FarEvidence(FarEvidenceSetting(length=12, distances=(3,), values=4, probed=60))
    ids = next(evidence.batches(30, 0))
    assert ids.shape == (30, 12)
    special = ids[:, 1:-1] > FILLER
    assert (special.sum(1) == 2).all()
    places = special.nonzero()[:, 1].view(-1, 2)
    assert (places[:, 1] - places[:, 0] == 3).all()
    words = ids[:, 1:-1][special].view(-1, 2)
    assert (words[:, 1] - words[:, 0] == 4).all()

    seen = []

    def knowing(documents):
        rows = torch.arange(len(documents.echo))
        clue = documents.input_ids[rows, documents.echo - 3] - FILLER - 1
        seen.append(documents.value.float())
        return (clue != documents.value).float()

    assert evidence.detection(knowing, 1) == {3: 1.0}
    assert abs(evidence.detection(lambda documents: documents.value.float(), 1)[3] - 0.5) < 0.3


def test_it_runs_small(tmp_path):
    assert len(check_recipe("budget-longformer", SMALL, tmp_path).claims) == 4
