import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.alignment.every_part import EveryPart
from tokenry.alignment import CREDITS, GroupCredit, MixedCredit, Rollouts, Tempo, TokenCredit, make_credit
from tokenry.alignment.credit import READS_ENTROPY, READS_RATIO, group_advantages
from tokenry.core.errors import UserError


def rollouts(rewards, groups, lengths=None, width=3):
    rows = len(rewards)
    mask = torch.arange(width) < torch.tensor(lengths or [width] * rows)[:, None]
    ids = torch.arange(rows * width).reshape(rows, width)
    return Rollouts(ids, mask, torch.tensor(rewards), torch.tensor(groups))


def test_group_advantages_are_those_of_trl():
    torch.manual_seed(0)
    rewards = torch.randn(12)
    of_group = rewards.view(3, 4)
    expected = (of_group - of_group.mean(1, keepdim=True)) / (of_group.std(1, keepdim=True) + 1e-4)
    found = group_advantages(rollouts(rewards.tolist(), [0] * 4 + [1] * 4 + [2] * 4))
    torch.testing.assert_close(found, expected.flatten())
    of_batch = group_advantages(rollouts(rewards.tolist(), [0] * 4 + [1] * 4 + [2] * 4), "batch")
    torch.testing.assert_close(
        of_batch, ((of_group - of_group.mean(1, keepdim=True)) / (rewards.std() + 1e-4)).flatten()
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1, width=32)), min_size=1, max_size=12))
def test_advantages_of_every_group_sum_to_zero_in_any_order(rows):
    groups, rewards = [group for group, _ in rows], [float(reward) for _, reward in rows]
    found = group_advantages(rollouts(rewards, groups), "none")
    for group in set(groups):
        assert abs(float(found[torch.tensor(groups) == group].sum())) < 1e-5
    backwards = group_advantages(rollouts(rewards[::-1], groups[::-1]), "none")
    torch.testing.assert_close(backwards.flip(0), found, rtol=0, atol=1e-6)


def test_equal_rewards_and_single_responses_have_no_advantage():
    assert not group_advantages(rollouts([0.1, 0.1, 0.1, 0.7], [0, 0, 0, 1])).any()


def test_group_credit_gives_every_learned_token_the_advantage_of_its_response():
    given_rollouts = rollouts([1.0, 0.0], [5, 5], lengths=[3, 1])
    found = GroupCredit().advantages(given_rollouts)
    high = group_advantages(given_rollouts)[0]
    assert torch.equal(found, torch.stack([high.expand(3), torch.stack([-high, high * 0, high * 0])]))
    assert GroupCredit().parts == frozenset()
    assert GroupCredit().report(given_rollouts) == {}


def test_the_parts_of_a_mix_come_from_the_first_rule_that_has_them():
    rule = EveryPart(which=READS_ENTROPY)
    mix = MixedCredit(credits=(GroupCredit(), Tempo(td_weight=2.0), Tempo(), rule))
    assert mix.parts == {"advantages"} | READS_ENTROPY
    given_rollouts = rollouts([1.0, 0.0], [0, 0])
    assert torch.equal(mix.advantages(given_rollouts), Tempo(td_weight=2.0).advantages(given_rollouts))
    assert mix.report(given_rollouts) == Tempo().report(given_rollouts)
    entropies, mask = torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool)
    h = mix.entropy_signal(entropies, mask)
    mix.clip_range(h, 0.1, 0.2)
    mix.redistribute(entropies, entropies, h, 0.1, 0.2)
    mix.temperature(entropies, mix.entropy_statistics(entropies, mask))
    asked = [call[0] for call in rule.asked]
    assert asked == ["entropy_signal", "clip_range", "redistribute", "entropy_statistics", "temperature"]
    assert mix.describe().startswith("GroupCredit() + Tempo(td_weight=2.0) + Tempo() + EveryPart(")


def test_a_mix_without_advantages_of_its_own_is_grpo():
    given_rollouts = rollouts([1.0, 0.0], [0, 0])
    mix = MixedCredit(credits=(GroupCredit(), EveryPart(which=READS_RATIO)))
    assert torch.equal(mix.advantages(given_rollouts), GroupCredit().advantages(given_rollouts))


def test_clip_range_and_redistribution_of_two_rules_are_refused():
    with pytest.raises(UserError, match="both must read the entropy of one rule"):
        MixedCredit(
            credits=(EveryPart(which=frozenset({"clip_range"})), EveryPart(which=frozenset({"redistribute"})))
        )


def test_credits_are_made_by_name():
    assert next(iter(CREDITS)) == "grpo"
    assert make_credit("grpo") == GroupCredit()
    assert make_credit("tempo+hapo") == make_credit("tempo,hapo")
    assert make_credit("tempo:eps=1e+0+grpo") == make_credit("tempo:eps=1.0,grpo")
    assert make_credit("tempo:eps=0.1,td_weight=2,grpo") == MixedCredit(
        credits=(Tempo(eps=0.1, td_weight=2.0), GroupCredit())
    )


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("tempi", "there is no credit rule 'tempi' (did you mean 'tempo'?)"),
        ("", "no credit rule is named; there are grpo, tempo"),
        ("tempo:gamma=1", "tempo has no option 'gamma'"),
    ],
)
def test_unknown_credits_are_refused(description, words):
    with pytest.raises(UserError) as refused:
        make_credit(description)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "method",
    ["advantages", "entropy_signal", "clip_range", "redistribute", "entropy_statistics", "temperature"],
)
def test_a_rule_must_define_the_parts_it_names(method):
    tensor = torch.zeros(1, 1)
    arguments = {
        "advantages": (rollouts([1.0], [0]),),
        "clip_range": (tensor, 0.1, 0.1),
        "redistribute": (tensor, tensor, tensor, 0.1, 0.1),
        "temperature": (tensor, None),
    }.get(method, (tensor, tensor.bool()))
    with pytest.raises(NotImplementedError, match=f"TokenCredit must define `{method}`"):
        getattr(TokenCredit(), method)(*arguments)
