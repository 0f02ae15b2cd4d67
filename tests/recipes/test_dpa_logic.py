"""The recipe of preference logic: identities, and verdicts that follow the measurements in both directions."""

import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.recipes.dpa_logic import EQUATIONS, LogicSizes, _marks_of, claims, identities

SMALL = LogicSizes(rows=20, prompts=12, responses=4, steps=40)


def verdicts(worst=1e-12, violations=0, gain=0.1):
    chosen = {
        _marks_of("CPO"): torch.linspace(-2, -1, 20),
        _marks_of("cCPO"): torch.linspace(-2, -1, 20) + gain,
    }
    chosen[_marks_of("cCPO")][::2] += 0.01
    return [claim.verdict for claim in claims({"CPO": worst}, violations, 81, chosen)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts, [({}, set()), ({"worst": 1e-3}, {0}), ({"violations": 1}, {1}), ({"gain": -0.1}, {2})]
    )


def test_every_equation_is_its_program():
    differences = identities(50)
    assert len(differences) == len(EQUATIONS) + 3
    assert max(differences.values()) < 1e-9


def test_it_runs_small(tmp_path):
    check_recipe("dpa-logic", SMALL, tmp_path)
