"""The recipe of HAPO: verdicts that follow the measurements in both directions."""

import pytest

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.alignment import GroupCredit, HeterogeneousCredit
from tokenry.recipes import load_recipe
from tokenry.recipes.hapo import BONUS, DAPO, HAPO, RELEASED, HapoSizes, claims, token_sum
from tokenry.recipes.testbeds.many_styles import StyleSetting
from tokenry.recipes.testbeds.policy_trial import PolicyPoint

SMALL = HapoSizes(
    seeds=(0, 1),
    setting=StyleSetting(
        base_steps=2, generations=4, prompts=4, samples=4, minibatches=2, every=1, measured=50
    ),
    rewards=(0.01, 0.02),
    groups=4,
)
REWARDS = (0.4, 0.6)


def curves(kept, end):
    """A run of four seeds from reward 0.2 to `end`, that keeps so much entropy at every reward."""
    return [
        [
            PolicyPoint(reward, kept + 0.1 * (1 - reward) + 0.001 * seed * kept)
            for reward in (0.2, (0.2 + end) / 2, end + 0.01 * kept * seed)
        ]
        for seed in range(4)
    ]


def verdicts(dapo=(0.5, 0.7), hapo=(0.8, 0.9), released=(0.6, 0.7), bonus=(0.7, 0.7), balanced=1e-9):
    runs = {DAPO: curves(*dapo), HAPO: curves(*hapo), RELEASED: curves(*released), BONUS: curves(*bonus)}
    return [claim.verdict for claim in claims(runs, REWARDS, {DAPO: 0.1, HAPO: balanced})]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"hapo": (0.4, 0.65)}, {0, 1, 2, 3}),
            ({"bonus": (0.5, 0.7)}, {4}),
            ({"balanced": 0.01}, {5}),
        ],
    )


def test_what_learns_more_slowly_has_kept_nothing():
    # Less reward, so more entropy at the end, but the same entropy at the same reward.
    found = verdicts(dapo=(0.5, 0.95), hapo=(0.5, 0.65))
    assert found[0] == "not shown"
    assert found[1] == "shown"
    assert found[2] == "opposite"


def test_seeds_without_a_common_reward_are_too_few():
    assert verdicts(hapo=(0.8, 0.3))[0] == "too few"


def test_it_runs_small(tmp_path):
    check_recipe("hapo", SMALL, tmp_path)


def test_token_sums_are_those_of_the_sheet():
    assert token_sum(HeterogeneousCredit(cap=float("inf")), 500) < 1e-15
    assert token_sum(GroupCredit(), 500) == pytest.approx(0.12, abs=0.02)


def test_the_paper_scale_names_the_papers_model_and_data():
    setting = load_recipe("hapo").scales["paper"].setting
    assert setting.model == "Qwen/Qwen2.5-Math-1.5B"
    assert "DAPO-Math-17k" in setting.data
    assert (setting.prompts, setting.samples, setting.minibatches) == (512, 16, 16)
