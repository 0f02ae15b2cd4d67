"""The recipe of inverse permutation runs small, and its verdicts follow the measurements in both directions."""

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.recipes.inverse_permutation import PermutationSizes, claims
from tokenry.recipes.testbeds.row_transformer import RowTransformerSizes
from tokenry.theory import best_scratch_mse

SMALL = PermutationSizes(2, 4, (0, 1), (0, 1), RowTransformerSizes(8, 1, 2), 4)


def test_it_runs_small(tmp_path):
    result = check_recipe("inverse-permutation", SMALL, tmp_path)
    assert len(result.claims) == 5
    assert result.claims[1].verdict == "shown"


def judged(causal=0.376, scratch=0.001, changed=0, partial=0.0, mlps=0.38, on_p=1.0):
    def seeds(value):
        return [value - 0.0005, value, value + 0.0005]

    losses = {
        "causal": seeds(causal),
        "scratch": seeds(scratch),
        "rows of P": seeds(on_p),
        "MLPs": seeds(mlps),
        **{f"{rows} scratch": seeds(best_scratch_mse(4, rows) + partial) for rows in (1, 2, 3)},
    }
    return [claim.verdict for claim in claims(losses, changed, 4)]


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
        ],
    )
