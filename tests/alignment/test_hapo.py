"""HAPO: reference numbers, properties, and the message for every kind of bad input."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOTrainer
from trl.rewards import get_soft_overlong_punishment

from tests.golden import golden_arrays
from tokenry.alignment import HeterogeneousCredit, Rollouts, make_credit
from tokenry.alignment.hapo import (
    adaptive_clip_range,
    entropy_stats,
    normalised_entropy,
    redistribute_advantage,
    sampling_temperature,
    token_level_group_advantage,
)
from tokenry.core.errors import UserError

ARRAYS = golden_arrays("35-hapo", "dev-hapo.npz")
CASES = sorted({key.split("/")[0] for key in ARRAYS if "/" in key})
SIGNS = {"official": "released", "signed": "signed"}
# TRL's names of the reference's ways to sum.
LOSS_TYPES = {"token-mean": "bnpo", "seq-mean-token-mean": "grpo", "seq-mean-token-sum": "luspo"}
LOSSES = [
    (case, sign, *key.split("/")[1].removeprefix("loss_").split("_"))
    for case in CASES
    for sign in SIGNS
    for key in ARRAYS
    if key.startswith(f"{case}/loss_") and key.endswith(f"/{sign}")
]


def golden_case(name):
    return {
        key.removeprefix(f"{name}/"): value for key, value in ARRAYS.items() if key.startswith(f"{name}/")
    }


def stats_of(case):
    return entropy_stats(case["entropy"], case["mask"], float(case["pivot"]))


def close(found, expected, mask=None, **tolerance):
    valid = torch.ones_like(expected, dtype=torch.bool) if mask is None else mask.bool()
    torch.testing.assert_close(
        found[valid].to(expected.dtype), expected[valid], **({"rtol": 1e-7, "atol": 1e-9} | tolerance)
    )


@pytest.mark.parametrize("name", CASES)
def test_golden_statistics_and_signed_entropy(name):
    case = golden_case(name)
    stats = stats_of(case)
    close(stats.pivot, case["pivot_log_entropy"])
    close(stats.std, case["std"])
    close(stats.scale_pos, case["scale_pos"])
    close(stats.scale_neg, case["scale_neg"].abs())
    for theirs, sign in SIGNS.items():
        close(normalised_entropy(case["entropy"], stats, sign), case[f"h_{theirs}"], case["mask"])


@pytest.mark.parametrize("name", CASES)
def test_golden_advantages(name):
    case = golden_case(name)
    arguments = case["rewards"], case["mask"], case["group"].long()
    close(token_level_group_advantage(*arguments), case["adv_tlga"])
    close(token_level_group_advantage(*arguments, scale=False), case["adv_tlga_noscale"])
    # A cap of 0 sends every group to the mean over its responses, which is GRPO.
    close(token_level_group_advantage(*arguments, cap=0.0), case["adv_grpo"])


@pytest.mark.parametrize("theirs", SIGNS)
@pytest.mark.parametrize("name", CASES)
def test_golden_clip_ranges_and_redistribution(name, theirs):
    case = golden_case(name)
    low, high, _ = case["clip_low_high_c"].tolist()
    h = normalised_entropy(case["entropy"], stats_of(case), SIGNS[theirs])
    ranges = adaptive_clip_range(h, low, high)
    close(ranges[0], case[f"{theirs}_clip_low"], case["mask"])
    close(ranges[1], case[f"{theirs}_clip_high"], case["mask"])
    ratio = (case["new_logp"] - case["old_logp"]).exp()
    found = redistribute_advantage(case["adv_tlga"], h, ratio, *ranges)
    close(found * case["mask"], case[f"{theirs}_adv_redistributed"])


@pytest.mark.parametrize(
    ("name", "theirs", "how", "clips", "redistributes"),
    [
        pytest.param(*loss, marks=pytest.mark.newer("trl")) if "seq-mean-token-sum" in loss else loss
        for loss in LOSSES
    ],
)
def test_golden_loss_is_that_of_trl(name, theirs, how, clips, redistributes):
    case = golden_case(name)
    low, high, dual_clip = case["clip_low_high_c"].tolist()
    h = normalised_entropy(case["entropy"], stats_of(case), SIGNS[theirs])
    ranges = adaptive_clip_range(h, low, high) if clips == "clip1" else (low, high)
    advantages, new = case["adv_tlga"], case["new_logp"].clone().requires_grad_()
    if redistributes == "adv1":
        ratio = (new - case["old_logp"]).detach().exp()
        advantages = redistribute_advantage(advantages, h, ratio, *ranges)
    loss = loss_of_trl(LOSS_TYPES[how], ranges, dual_clip, advantages, new, case)
    key = f"loss_{how}_{clips}_{redistributes}/{theirs}"
    close(loss.detach(), case[key])
    close(torch.autograd.grad(loss, new)[0], case[f"{key}_grad"])


def loss_of_trl(loss_type, ranges, delta, advantages, new, case):
    """The loss that TRL's trainer computes from these numbers."""
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, case["entropy"], None),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(reduce=lambda value, **_: value, gather=lambda value: value),
        args=SimpleNamespace(delta=delta),
        _metrics={"train": {key: [] for key in ("entropy", "clip_ratio/low_mean", "clip_ratio/high_mean")}},
        loss_type=loss_type,
        epsilon_low=ranges[0],
        epsilon_high=ranges[1],
        current_gradient_accumulation_steps=1,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        beta=0.0,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
    )
    trainer._metrics["train"] |= {f"clip_ratio/{name}": [] for name in ("region_mean", "low_min", "high_max")}
    empty = torch.zeros(len(new), 0, dtype=torch.long)
    inputs = {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": torch.zeros_like(new, dtype=torch.long),
        "completion_mask": case["mask"],
        "advantages": advantages,
        "old_per_token_logps": case["old_logp"],
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize("name", CASES)
def test_golden_temperatures(name):
    case = golden_case(name)
    stats, base = stats_of(case), case["temp_base"]
    close(base * sampling_temperature(case["temp_logits"], stats), case["temp_signed"])
    released = base * sampling_temperature(case["temp_logits"], stats, entropy_sign="released")
    close(released, case["temp_official_f32"].double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_golden_overlong_penalty_is_that_of_trl(name):
    case = golden_case(name)
    longest, buffer, factor = ARRAYS["overlong_max_buf_factor"].tolist()
    penalty = get_soft_overlong_punishment(int(longest), int(buffer))
    found = penalty([[0] * length for length in case["overlong_len"].tolist()])
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64) * factor, case["overlong_penalty"], rtol=0, atol=1e-12
    )


LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=12)


@st.composite
def responses(draw):
    """Rewards, mask and groups of a few responses."""
    lengths = torch.tensor(draw(LENGTHS))
    rewards = draw(st.lists(st.floats(-5, 5), min_size=len(lengths), max_size=len(lengths)))
    groups = draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).to(torch.int8)
    return torch.tensor(rewards, dtype=torch.float64), mask, torch.tensor(groups)


@st.composite
def entropies(draw):
    """Entropies and mask of a few responses; some entropies are exactly 0."""
    _, mask, _ = draw(responses())
    values = draw(st.lists(st.just(0.0) | st.floats(0.0, 6.0), min_size=mask.numel(), max_size=mask.numel()))
    return torch.tensor(values, dtype=torch.float64).view(mask.shape), mask


@given(responses(), st.booleans())
def test_the_advantages_of_the_tokens_of_a_group_sum_to_zero(case, scale):
    rewards, mask, groups = case
    advantages = token_level_group_advantage(rewards, mask, groups, scale, cap=float("inf"))
    for group in groups.unique():
        total = advantages[groups == group].sum()
        # A deviation near 0 makes advantages of rounding; those are bounded by the rounding over epsilon.
        assert abs(float(total)) < 1e-8


@given(responses(), st.randoms())
def test_order_of_rows_names_of_groups_and_padding_change_no_advantage(case, random):
    rewards, mask, groups = case
    expected = token_level_group_advantage(rewards, mask, groups)
    order = list(range(len(rewards)))
    random.shuffle(order)
    padded = torch.nn.functional.pad(mask, (0, 3))[order]
    found = token_level_group_advantage(rewards[order], padded, (7 - groups)[order])
    torch.testing.assert_close(found[:, :-3], expected[order], rtol=1e-6, atol=1e-9)
    assert not found[:, -3:].any()


@given(entropies())
def test_signed_entropy_stays_in_its_range_and_is_zero_at_the_pivot(case):
    entropy, mask = case
    stats = entropy_stats(entropy, mask)
    h = normalised_entropy(entropy, stats)[mask.bool()]
    assert bool(((h >= -1) & (h <= 1)).all())
    assert float(normalised_entropy(stats.pivot.exp(), stats).abs()) < 1e-6
    # No more than the tokens above the pivot are uncertain.
    assert int((h > 0).sum()) <= len(h) - 1 - round(0.8 * (len(h) - 1))


@given(entropies(), st.randoms())
def test_order_of_rows_and_padding_change_no_statistics(case, random):
    entropy, mask = case
    order = list(range(len(entropy)))
    random.shuffle(order)
    junk = torch.nn.functional.pad(entropy, (0, 2), value=float("nan"))[order]
    found = entropy_stats(junk, torch.nn.functional.pad(mask, (0, 2))[order])
    torch.testing.assert_close(tuple(found), tuple(entropy_stats(entropy, mask)))


@pytest.mark.parametrize(
    "entropy", [[[0.7, 0.7, 0.7]], [[0.0, 0.0, 0.0]], [[2.0, 9.0, 9.0]]], ids=["equal", "zero", "one token"]
)
def test_entropies_that_do_not_differ_change_nothing(entropy):
    mask = torch.tensor([[1, 0, 0]]) if entropy[0][0] == 2.0 else torch.ones(1, 3)
    credit = HeterogeneousCredit()
    h = credit.entropy_signal(torch.tensor(entropy), mask)
    assert not h.any()
    low, high = credit.clip_range(h, 0.2, 0.28)
    torch.testing.assert_close(low, torch.full((1, 3), 0.2))
    torch.testing.assert_close(high, torch.full((1, 3), 0.28))


@given(responses())
def test_equal_rewards_and_single_responses_have_no_advantage(case):
    rewards, mask, groups = case
    equal = rewards[:1].expand_as(rewards)
    assert not token_level_group_advantage(equal, mask, groups).any()
    assert not token_level_group_advantage(rewards, mask, torch.arange(len(rewards))).any()


def test_group_average_with_unequal_lengths_is_not_that_of_grpo():
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]])
    rewards, groups = torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.long)
    found = token_level_group_advantage(rewards, mask, groups, scale=False)
    torch.testing.assert_close(found[:, 0], torch.tensor([0.8, -0.2]))


def test_masked_positions_take_no_part_in_the_cap():
    # Of a response without tokens, as truncated ones are, the advantage would be far above the cap.
    mask = torch.tensor([[1, 1], [1, 1], [0, 0]])
    rewards, groups = torch.tensor([1.0, 0.0, 100.0]), torch.zeros(3, dtype=torch.long)
    found = token_level_group_advantage(rewards, mask, groups)
    torch.testing.assert_close(found[:, 0], torch.tensor([1.0, -1.0, 0.0]), rtol=1e-5, atol=1e-5)


def test_impossible_tokens_leave_the_temperature_a_number():
    stats = entropy_stats(torch.tensor([[0.1, 1.0, 2.0]]), torch.ones(1, 3))
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [5.0, -torch.inf, -torch.inf]])
    factor = sampling_temperature(logits, stats)
    assert bool(factor.isfinite().all())
    assert bool(((factor >= 0.95) & (factor <= 1.05)).all())
    assert float(factor[1]) == pytest.approx(0.95)


def test_each_part_can_be_turned_off():
    names = {
        "token_average": "advantages",
        "adaptive_clip": "clip_range",
        "adaptive_advantage": "redistribute",
        "adaptive_temperature": "temperature",
    }
    for name, part in names.items():
        assert HeterogeneousCredit(**{name: False}).parts == set(names.values()) - {part}
    alone = make_credit("hapo:adaptive_clip=false,adaptive_advantage=false,adaptive_temperature=false")
    assert alone.parts == {"advantages"}


def rollouts(rewards=(1.0, 0.0)):
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    learned = torch.tensor([[1, 1, 0], [1, 0, 1]])
    return Rollouts(
        torch.zeros(2, 3, dtype=torch.long), mask, torch.tensor(rewards), torch.zeros(2).long(), learned
    )


def test_results_of_tools_have_no_vote_and_no_advantage():
    advantages = HeterogeneousCredit(scale=False).advantages(rollouts())
    torch.testing.assert_close(advantages, torch.tensor([[0.5, 0.5, 0.0], [-0.5, 0.0, -0.5]]))


def test_without_the_group_average_advantages_are_those_of_grpo():
    credit = HeterogeneousCredit(token_average=False)
    torch.testing.assert_close(credit.advantages(rollouts()), make_credit("grpo").advantages(rollouts()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pivot": 1.2}, "pivot must be in [0, 1], got 1.2"),
        ({"pivot": -0.1}, "pivot must be in [0, 1], got -0.1"),
        ({"tau": -0.1}, "tau must be at least 0, got -0.1"),
        ({"tau": 1.0}, "tau must be below 1, got 1.0"),
        ({"alpha": -1.0}, "alpha must be in [0, 1], got -1.0"),
        ({"alpha": 1.5}, "alpha must be in [0, 1], got 1.5"),
        ({"beta": -1.0}, "beta must be in [0, 1], got -1.0"),
        ({"beta": 1.5}, "beta must be in [0, 1], got 1.5"),
        ({"cap": -1.0}, "cap must be at least 0, got -1.0"),
        ({"entropy_sign": "official"}, "entropy_sign must be one of signed, released, got 'official'"),
        (
            {
                "token_average": False,
                "adaptive_clip": False,
                "adaptive_advantage": False,
                "adaptive_temperature": False,
            },
            "all four parts turned off",
        ),
    ],
    ids=str,
)
def test_bad_options(options, words):
    with pytest.raises(UserError) as refusal:
        HeterogeneousCredit(**options)
    assert words in str(refusal.value)


def test_bad_input():
    credit, mask = HeterogeneousCredit(), torch.ones(2, 2)
    with pytest.raises(UserError, match="the mask holds no token"):
        credit.entropy_signal(torch.ones(2, 2), torch.zeros(2, 2))
    with pytest.raises(UserError, match="the entropy of row 1, token 0 is not a number"):
        credit.entropy_statistics(torch.tensor([[1.0, 1.0], [torch.nan, 1.0]]), mask)
    stats = entropy_stats(torch.ones(2, 2), mask)
    with pytest.raises(UserError, match=r"the logits of row \[1\] are not numbers"):
        credit.temperature(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), stats)
    for asks in (credit.entropy_signal, credit.entropy_statistics):
        with pytest.raises(UserError, match="reads the entropy of each token and was given none"):
            asks(None, mask)
    with pytest.raises(UserError, match="did you mean 'tau'"):
        make_credit("hapo:tua=0.1")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda one, stats: sampling_temperature(one, stats, tau=-1.0), "tau must be at least 0, got -1.0"),
        (lambda one, stats: sampling_temperature(one, stats, tau=1.0), "tau must be below 1, got 1.0"),
        (lambda one, stats: adaptive_clip_range(one, alpha=1.5), "alpha must be in [0, 1], got 1.5"),
        (lambda one, stats: redistribute_advantage(one, one, one, 0.2, 0.2, -1.0), "beta must be in [0, 1]"),
        (
            lambda one, stats: normalised_entropy(one, stats, "official"),
            "entropy_sign must be one of signed, released, got 'official'",
        ),
        (lambda one, stats: entropy_stats(one, one[:1]), "the shape of the entropies, (2, 2), got (1, 2)"),
        (
            lambda one, stats: token_level_group_advantage(one[:1, 0], one, torch.zeros(2).long()),
            "rewards must hold one number for each of the 2 responses, got the shape (1,)",
        ),
        (
            lambda one, stats: token_level_group_advantage(one[0] * torch.nan, one, torch.zeros(2).long()),
            "the reward of row 0 is nan",
        ),
    ],
)
def test_functions_refuse_what_the_credit_rule_refuses(ask, words):
    one = torch.ones(2, 2)
    with pytest.raises(UserError) as refusal:
        ask(one, entropy_stats(one, one))
    assert words in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.long, torch.bfloat16])
def test_advantages_of_whole_rewards_and_in_half_precision_are_single(dtype):
    rewards, mask, groups = torch.tensor([1.0, 0.0, 0.0]), torch.ones(3, 2), torch.zeros(3).long()
    found = token_level_group_advantage(rewards.to(dtype), mask, groups)
    assert torch.equal(found, token_level_group_advantage(rewards, mask, groups))
