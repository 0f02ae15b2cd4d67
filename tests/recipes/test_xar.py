"""The recipe of xAR runs small, and its verdicts follow the measurements in both directions."""

import numpy as np

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.recipes.xar import CLEAN, HALF, NOISY, Score, XarSizes, claims

SMALL = XarSizes("cell:4", "tiny", 4, 8, 40, 2, (0.0, 0.4), 8, (0, 1))


def test_it_runs_small(tmp_path):
    result = check_recipe("xar", SMALL, tmp_path)
    assert len(result.claims) == 5


def judged(noisy=0.2, clean=1.1, ratio=2.0, right=0.95, ahead=0.5, half=0.5):
    def score(distance, share=0.9):
        spread = np.linspace(-0.02, 0.02, 50)
        return [Score(distance, distance * (1 + spread), [place < share * 200 for place in range(200)])]

    scores = {
        (NOISY, 0.0): score(2.0),
        (NOISY, 0.4): score(2.0 * (1 + noisy), right),
        (CLEAN, 0.0): score(2.0 + ahead),
        (CLEAN, 0.4): score((2.0 + ahead) * (1 + clean), 0.85),
        (HALF, 0.0): score(2.0 + half),
    }
    return [claim.verdict for claim in claims(scores, [ratio - 0.01, ratio] * 5, 0.4)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        judged,
        [
            ({}, set()),
            ({"noisy": 0.6}, {0}),
            ({"clean": 0.6}, {0}),
            ({"ratio": 1.4}, {1}),
            ({"right": 0.8}, {2}),
            ({"ahead": -0.2}, {3}),
            ({"half": -0.2}, {4}),
        ],
    )
