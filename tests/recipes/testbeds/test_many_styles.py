"""The policy of many styles: what is right, what is sampled, and an objective that is TRL's."""

import pytest
import torch

from tests.alignment.test_hapo import CASES, golden_case, loss_of_trl
from tokenry.alignment import HeterogeneousCredit
from tokenry.recipes.testbeds.many_styles import (
    DIGITS,
    END,
    LONGEST,
    PADDING,
    REPEATS,
    Batch,
    StyleSetting,
    clipped_loss,
    measure,
    reward,
    sample,
    score,
    train_base,
)
from tokenry.recipes.testbeds.policy_trial import Arm, PolicyPoint, at_equal_reward, at_the_end, entropy_at

SETTING = StyleSetting(base_steps=150, base_batch_size=128, measured=400)


@pytest.fixture(scope="module")
def base():
    return train_base(SETTING, seed=0)


def test_an_answer_is_right_in_any_style():
    prompts = torch.tensor([[7, 5]]).repeat(len(REPEATS) + 2, 1)
    responses = [
        [2, DIGITS + style, *prompts[0, list(repeats)].tolist(), END] for style, repeats in enumerate(REPEATS)
    ]
    responses += [[3, DIGITS, END], [END]]
    ids = torch.full((len(prompts), LONGEST), PADDING)
    for row, response in enumerate(responses):
        ids[row, : len(response)] = torch.tensor(response)
    assert reward(prompts, ids).tolist() == [1.0] * len(REPEATS) + [0.0, 0.0]


def test_the_base_policy_has_all_styles_alike_and_answers_that_do_not_depend_on_them(base):
    prompts = torch.randint(DIGITS, (4000, 2), generator=torch.Generator().manual_seed(1))
    ids = sample(base, prompts, torch.Generator().manual_seed(2))
    right = reward(prompts, ids)
    of_style = [ids[:, 1] == DIGITS + style for style in range(len(REPEATS))]
    assert min(float(rows.float().mean()) for rows in of_style) > 0.2
    assert max(abs(float(right[rows].mean() - right.mean())) for rows in of_style) < 0.08
    assert measure(base, SETTING).entropy > 0.5


def test_scores_are_of_the_sampled_tokens(base):
    prompts = torch.tensor([[1, 2], [3, 4]])
    ids = torch.tensor(
        [[DIGITS, 3, END, *[PADDING] * (LONGEST - 3)], [DIGITS + 1, 3, 7, END, PADDING, PADDING]]
    )
    logps, entropies = score(base, prompts, ids)
    logits, _ = base(torch.cat([prompts, ids[:, :1]], dim=1))
    expected = logits[:, -1].log_softmax(-1)
    torch.testing.assert_close(logps[:, 1], expected[[0, 1], ids[:, 1]])
    torch.testing.assert_close(entropies[:, 1], -(expected.exp() * expected).sum(-1))


@pytest.mark.parametrize("name", CASES)
def test_the_objective_is_that_of_trl(name):
    case = golden_case(name)
    low, high, delta = case["clip_low_high_c"].tolist()
    credit = HeterogeneousCredit(pivot=float(case["pivot"]))
    mask = case["mask"].bool()
    h = credit.entropy_signal(case["entropy"], mask)
    empty = torch.zeros(len(mask), 2, dtype=torch.long)
    batch = Batch(
        empty, torch.zeros_like(mask, dtype=torch.long), mask, case["old_logp"], case["adv_tlga"], h
    )
    new = case["new_logp"].clone().requires_grad_()
    ours = clipped_loss(new, batch, Arm(credit, low, high, delta))
    torch.testing.assert_close(ours.detach(), case["loss_token-mean_clip1_adv1/signed"], rtol=1e-7, atol=1e-9)
    plain = clipped_loss(
        new, batch, Arm(HeterogeneousCredit(adaptive_clip=False, adaptive_advantage=False), low, high, delta)
    )
    theirs = loss_of_trl("bnpo", (low, high), delta, case["adv_tlga"], new, case)
    torch.testing.assert_close(plain, theirs)


CURVE = [PolicyPoint(0.2, 1.0), PolicyPoint(0.4, 0.8), PolicyPoint(0.35, 0.7), PolicyPoint(0.6, 0.4)]


def test_the_entropy_at_a_reward_is_that_of_its_first_time():
    assert entropy_at(CURVE, 0.3) == pytest.approx(0.9)
    assert entropy_at(CURVE, 0.5) == pytest.approx(0.52)
    assert entropy_at(CURVE, 0.7) != entropy_at(CURVE, 0.7)
    assert at_the_end(CURVE) == PolicyPoint(0.6, 0.4)


def test_runs_are_compared_at_the_rewards_that_both_reach():
    slower = [PolicyPoint(0.2, 1.0), PolicyPoint(0.4, 0.9)]
    assert at_equal_reward(CURVE, slower, (0.3, 0.5)) == pytest.approx((0.9, 0.95))
