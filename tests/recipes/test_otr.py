"""The recipe of one-token rollout: verdicts that follow the measurements in both directions."""

import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.recipes.otr import COOLED, DFT, EXACT, SAMPLED, SFT, RolloutSizes, claims
from tokenry.recipes.testbeds.many_answers import RULES, TOKENS, VALID, AnswerSetting, Measured, is_valid

SMALL = RolloutSizes(
    seeds=(0, 1), setting=AnswerSetting(base_steps=2, base_batch_size=8, steps=2, batch_size=4, draws=2)
)
SHOWN = {
    SFT: (0.7, 2.0, 1.6),
    EXACT: (0.95, 1.0, 0.9),
    SAMPLED: (0.94, 1.0, 0.9),
    DFT: (0.98, 0.2, 2.0),
    COOLED: (0.9, 1.0, 1.6),
}


def verdicts(**changed):
    values = SHOWN | {
        {"exact": EXACT, "dft": DFT, "sampled": SAMPLED}[name]: value for name, value in changed.items()
    }
    runs = {
        name: [
            Measured(valid + 0.0001 * seed * len(name), entropy, drift + 0.01 * seed * len(name))
            for seed in range(4)
        ]
        for name, (valid, entropy, drift) in values.items()
    }
    return [claim.verdict for claim in claims(runs)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"exact": (0.6, 1.0, 2.4)}, {0, 1, 2, 3}),
            ({"dft": (0.6, 0.2, 2.0)}, {4}),
        ],
    )


def test_it_runs_small(tmp_path):
    check_recipe("otr", SMALL, tmp_path)


def test_valid_answers_are_a_ninth_of_all():
    answers = torch.cartesian_prod(torch.arange(TOKENS), torch.arange(TOKENS))
    for rule in range(RULES):
        assert int(is_valid(answers, torch.full((len(answers),), rule)).sum()) == VALID**2
