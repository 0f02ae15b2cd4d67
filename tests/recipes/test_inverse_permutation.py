"""The recipe of inverse permutation runs small, and its verdicts follow the measurements in both directions."""

import numpy as np

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.chats import write_model
from tokenry.recipes.inverse_permutation import PermutationSizes, claims, text_claim
from tokenry.recipes.testbeds.row_transformer import RowTransformerSizes
from tokenry.theory import best_scratch_mse


def test_it_runs_small(tmp_path):
    model = str(write_model(tmp_path / "model", positions=1024))
    small = PermutationSizes(2, 4, (0, 1), (0, 1), RowTransformerSizes(8, 1, 2), 4, model, 2, 4)
    result = check_recipe("inverse-permutation", small, tmp_path)
    assert len(result.claims) == 6
    assert result.claims[1].verdict == "shown"


def judged(causal=0.376, scratch=0.001, changed=0, partial=0.0, mlps=0.38, on_p=1.0, filler=0.3):
    def seeds(value):
        return [value - 0.0005, value, value + 0.0005]

    losses = {
        "causal": seeds(causal),
        "scratch": seeds(scratch),
        "rows of P": seeds(on_p),
        "MLPs": seeds(mlps),
        **{f"{rows} scratch": seeds(best_scratch_mse(4, rows) + partial) for rows in (1, 2, 3)},
    }
    share = np.arange(100) / 100
    matches = {"plain": share < 0.3, "filler": share < filler, "repeated": share < 0.3}
    return [claim.verdict for claim in [*claims(losses, changed, 4), text_claim(matches, 3)]]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        judged,
        [
            ({}, set()),
            ({"causal": 0.6}, {0}),
            ({"causal": 0.3}, {0}),
            ({"scratch": 0.2}, {0}),
            ({"changed": 3}, {1}),
            ({"partial": 0.1}, {2}),
            ({"mlps": 0.2}, {3}),
            ({"on_p": 0.8}, {4}),
            ({"filler": 0.6}, {5}),
        ],
    )
