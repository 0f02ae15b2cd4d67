"""The recipe of replaced-token detection: sentences that agree or do not, and verdicts that follow the measurements."""

import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.recipes.electra import MASKED, MLM, RTD, ElectraMeasures, ElectraSizes, claims
from tokenry.recipes.testbeds.clause_language import SPECIAL, ClauseLanguage, ClauseSetting

SMALL = ElectraSizes(
    language=ClauseSetting(rows=4, layers=1, width=8, heads=2, probe=20),
    early=1,
    steps=2,
    warmup=1,
    seeds=(0, 1, 2),
)
LONGER = 524


def judged(**changed):
    accuracy = {
        (RTD, 120): [60.0, 61.0, 62.0],
        (RTD, 480): [95.0, 96.0, 97.0],
        (MASKED, 480): [80.0, 82.0, 81.0],
        (MLM, 120): [70.0, 72.0, 71.0],
        (MLM, 480): [80.0, 82.0, 81.0],
        (MLM, LONGER): [81.0, 82.0, 81.0],
    }
    alike = accuracy | {(MLM, 480): changed.pop("alike", accuracy[MLM, 480])}
    named = {"headline": (MLM, 480), "masked": (MASKED, 480), "flops": (MLM, LONGER), "early": (RTD, 120)}
    accuracy |= {named[name]: values for name, values in changed.items()}
    found = ElectraMeasures(
        {key: {"swapped": values, "alike": alike[key]} for key, values in accuracy.items()}, 1.09, LONGER
    )
    return [claim.verdict for claim in claims(found, ElectraSizes())]


def test_verdicts_follow_the_measurements():
    check_verdicts(
        judged,
        [
            ({}, set()),
            ({"headline": [92.0, 93.0, 94.0]}, {0}),
            ({"masked": [96.0, 95.0, 97.0]}, {1}),
            ({"flops": [96.0, 96.5, 96.0]}, {2}),
            ({"early": [75.0, 80.0, 78.0]}, {3}),
            ({"alike": [99.0, 99.0, 99.0]}, {4}),
        ],
    )


def test_verbs_agree_but_in_half_of_the_probed_sentences():
    language = ClauseLanguage(ClauseSetting(words=3, classes=2, rows=40, probe=50))
    nouns, verbs = language._first["noun"], language._first["verb"]

    def agreeing(ids):
        return ((ids[:, [3, 11]] - nouns) // 3 == (ids[:, [5, 13]] - verbs) // 3).all(1)

    ids = next(language.batches(0))
    assert ids.shape == (40, 18)
    assert agreeing(ids).all()
    assert ids.max() < language.vocabulary
    assert ids[:, 1:-1].min() >= len(SPECIAL)
    labelled = language.labelled(1)
    swapped = labelled["swapped"]
    assert torch.equal(agreeing(swapped.input_ids), torch.from_numpy(swapped.labels["swapped"] == 0))
    alike = labelled["alike"]
    assert agreeing(alike.input_ids).all()
    classes = (alike.input_ids[:, [3, 11]] - nouns) // 3
    assert torch.equal(classes[:, 0] == classes[:, 1], torch.from_numpy(alike.labels["alike"] == 1))


def test_it_runs_small(tmp_path):
    assert len(check_recipe("electra", SMALL, tmp_path).claims) == 5
