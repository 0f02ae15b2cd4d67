"""The recipe of TEMPO: exact advantages that are exact, and verdicts that follow the measurements in both directions."""

import pytest
import torch

from tests import tiny
from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.tokenizers import chatml_tokenizer
from tokenry.alignment import GroupCredit, Tempo
from tokenry.recipes import tempo
from tokenry.recipes.tempo import (
    APART,
    DOUBLED,
    GRPO,
    LEFT_OUT,
    MATCHED,
    SIDE_BY_SIDE,
    TEMPO,
    TempoSizes,
    claims,
)
from tokenry.recipes.testbeds.tabular_policy import LearningSetting, TreePolicy, as_rollouts, steps_to_learn

SHOWN = {"side": 36, "apart": 52, "doubled": 40, "correlation": 0.55, "left_out": 0.60, "together": 0.5}


def verdicts(**changed):
    values = SHOWN | changed
    near = lambda value, size: [value + size * (seed % 3) for seed in range(12)]  # noqa: E731
    steps = {
        SIDE_BY_SIDE: {
            TEMPO: near(values["side"], 1),
            MATCHED: near(46, 2),
            DOUBLED: near(values["doubled"], 2),
        },
        APART: {TEMPO: near(values["apart"], 1), MATCHED: near(58, 2)},
    }
    correlations = {
        GRPO: near(0.4, 0.01) * 4,
        TEMPO: near(values["correlation"], 0.012) * 4,
        LEFT_OUT: near(values["left_out"], 0.013) * 4,
    }
    reports = {
        "answer alone": [{"together": value} for value in near(values["together"], 0.02)],
        "reasoning": [{"together": value} for value in near(0.2, 0.01)],
    }
    return [claim.verdict for claim in claims(steps, correlations, reports)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"side": 47}, {0, 2}),
            ({"doubled": 35}, {2}),
            ({"apart": 61}, {1}),
            ({"correlation": 0.49}, {3}),
            ({"left_out": 0.54}, {4}),
            ({"together": 0.15}, {5}),
        ],
    )


def test_it_runs_small(tmp_path, monkeypatch):
    tokenizer = chatml_tokenizer()
    monkeypatch.setattr(tempo, "load_model", lambda name: tiny.llama(vocab_size=len(tokenizer)))
    monkeypatch.setattr(tempo, "load_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(tempo, "ANSWERS", {"answer alone": ("Now.", 2), "reasoning": ("Think.", 4)})
    sizes = TempoSizes(seeds=1, policies=2, rollouts=16, prompts=2, samples=2)
    found = check_recipe("tempo", sizes, tmp_path)
    assert found.settings["texts"]["reasoning"].keys() >= {
        "branch_share",
        "tree_share",
        "together",
        "correct",
    }


def test_exact_advantages_have_mean_zero_under_the_policy_and_lead_to_the_reward():
    policy = TreePolicy(seed=3, length=4)
    for table, before, after in zip(policy.probabilities, policy.values[:-1], policy.values[1:], strict=True):
        change = after.view(-1, 3) - before[:, None]
        torch.testing.assert_close((table * change).sum(1), torch.zeros(len(before), dtype=torch.float64))
    ids, rewards, exact = policy.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(policy.values[0] + exact.sum(1), rewards)
    assert torch.equal(rewards, ((ids[:, :3] == 0).sum(1) >= 2).double())
    assert not exact[:, 3:].any()


@pytest.mark.parametrize("rule", [GroupCredit(), Tempo()])
def test_a_tabular_policy_learns(rule):
    assert 5 < steps_to_learn(rule.advantages, LearningSetting(), seed=0) < 100


def test_a_rule_without_advantages_never_learns():
    setting = LearningSetting(most_steps=3)
    assert steps_to_learn(lambda rollouts: torch.zeros(rollouts.ids.shape), setting, seed=0) == 3


def test_the_control_has_the_size_of_tempo_at_every_position():
    ids, rewards, _ = TreePolicy(seed=1).sample(64, torch.Generator().manual_seed(0))
    rollouts = as_rollouts(ids, rewards, 8)
    sizes = [
        advantages.square().mean(0)
        for advantages in (tempo.at_the_scale_of_tempo(rollouts), Tempo().advantages(rollouts))
    ]
    torch.testing.assert_close(*sizes)
