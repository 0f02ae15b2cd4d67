import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.alignment import (
    GroupCredit,
    Rollouts,
    Tempo,
    branch_report,
    make_credit,
    prefix_tree_values,
    tempo_advantages,
)
from tokenry.alignment.credit import group_advantages
from tokenry.alignment.tempo import prefix_tree
from tokenry.core.errors import UserError

GOLDEN = golden_arrays("21-tempo", "dev-advantage.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN})
SOURCES = ("ids", "mask", "rewards", "group")


def of_case(case):
    return {key.split("/")[1]: value for key, value in GOLDEN.items() if key.startswith(f"{case}/")}


def by_the_definition(ids, lengths, rewards, groups, eps=1e-6):
    """The sheet, word by word, in Python numbers."""
    result = torch.zeros(ids.shape, dtype=torch.float64)
    for row in range(len(ids)):
        group = [other for other in range(len(ids)) if groups[other] == groups[row]]
        if len(group) == 1:
            continue

        def value(seen, row=row, group=group):
            own = ids[row, :seen].tolist()
            alike = [k for k in group if lengths[k] >= seen and ids[k, :seen].tolist() == own]
            return float(sum(rewards[k] for k in alike)) / len(alike)

        numbers = torch.tensor([float(rewards[k]) for k in group], dtype=torch.float64)
        for token in range(int(lengths[row])):
            change = value(token + 1) - value(token)
            result[row, token] = (float(rewards[row]) - numbers.mean() + change) / (numbers.std() + eps)
    return result


@st.composite
def generations(draw, binary=False):
    rows = draw(st.integers(1, 8))
    width = draw(st.integers(1, 6))
    seed = draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 2, (rows, width), generator=generator)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    rewards = torch.randint(0, 3, (rows,), generator=generator).double() / 2
    groups = torch.randint(0, 3, (rows,), generator=generator)
    return ids, lengths, rewards, groups


def mask_of(ids, lengths):
    return torch.arange(ids.shape[1]) < lengths[:, None]


@pytest.mark.parametrize("case", CASES)
def test_golden_advantages_and_trees(case):
    arrays = of_case(case)
    source = [arrays[name] for name in SOURCES]
    found = tempo_advantages(*source, scale_rewards=bool(arrays["scale"]))
    torch.testing.assert_close(found, arrays["adv_f64"], rtol=0, atol=1e-9)
    torch.testing.assert_close(found.float(), arrays["adv_official_f32"], rtol=0, atol=2e-6)
    tree = prefix_tree_values(*source)
    torch.testing.assert_close(tree.values, arrays["V_f64"], rtol=0, atol=1e-12)
    assert torch.equal(tree.counts, arrays["count"].long())


@pytest.mark.parametrize("case", CASES)
def test_golden_advantages_in_single_precision(case):
    arrays = of_case(case)
    source = [arrays["ids"], arrays["mask"], arrays["rewards"].float(), arrays["group"]]
    found = tempo_advantages(*source, scale_rewards=bool(arrays["scale"]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), arrays["adv_f64"], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_golden_group_advantages(case):
    arrays = of_case(case)
    rollouts = Rollouts(*(arrays[name] for name in SOURCES))
    scale = "group" if arrays["scale"] else "none"
    found = group_advantages(rollouts, scale, eps=1e-6)[:, None] * rollouts.of_policy
    torch.testing.assert_close(found.float(), arrays["grpo_official_f32"], rtol=0, atol=2e-6)


@given(generations())
@settings(max_examples=60, deadline=None)
def test_any_generation_follows_the_definition(generation):
    ids, lengths, rewards, groups = generation
    found = tempo_advantages(ids, mask_of(ids, lengths), rewards, groups)
    torch.testing.assert_close(found, by_the_definition(*generation), rtol=0, atol=1e-9)


@given(generations(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_padding_and_names_of_groups_change_nothing(generation, random):
    ids, lengths, rewards, groups = generation
    expected = tempo_advantages(ids, mask_of(ids, lengths), rewards, groups)
    order = list(range(len(ids)))
    random.shuffle(order)
    wider = torch.nn.functional.pad(ids, (0, 3), value=1)
    wider[~mask_of(wider, lengths)] = random.randrange(5)
    found = tempo_advantages(
        wider[order], mask_of(wider, lengths)[order], rewards[order], 7 - 3 * groups[order]
    )
    torch.testing.assert_close(found[:, : ids.shape[1]], expected[order], rtol=0, atol=1e-12)
    assert not found[:, ids.shape[1] :].any()


@given(generations(), st.sampled_from([{}, {"leave_one_out": True}, {"shrinkage": 2.0}, {"td_scale": "own"}]))
@settings(max_examples=60, deadline=None)
def test_tokens_that_do_not_branch_have_the_advantage_of_grpo(generation, options):
    ids, lengths, rewards, groups = generation
    rollouts = Rollouts(ids, mask_of(ids, lengths), rewards, groups)
    credit = Tempo(**options)
    plain = group_advantages(rollouts, eps=1e-6)[:, None].expand(ids.shape)
    quiet = rollouts.of_policy & ~credit.tree(rollouts).branch_mask
    assert torch.equal(credit.advantages(rollouts)[quiet], plain[quiet])


def test_without_a_common_token_or_with_equal_responses_there_is_no_tree():
    rewards, groups = torch.tensor([1.0, 0.0, 0.5]), torch.zeros(3, dtype=torch.long)
    same = torch.tensor([[4, 5, 6]] * 3)
    rollouts = Rollouts(same, torch.ones(3, 3), rewards, groups)
    assert torch.equal(Tempo(eps=1e-4).advantages(rollouts), GroupCredit().advantages(rollouts))
    assert branch_report(prefix_tree(rollouts))["tree_share"] == 0.0


@pytest.mark.parametrize(
    "options", [{}, {"leave_one_out": True}, {"shrinkage": 1.0}, {"td_scale": "own"}, {"scale": False}]
)
def test_one_response_or_equal_rewards_say_nothing(options):
    ids = torch.tensor([[3, 4, 5], [3, 4, 6], [3, 7, 8], [9, 9, 9]])
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.7])
    found = Tempo(**options).advantages(Rollouts(ids, torch.ones(4, 3), rewards, torch.tensor([0, 0, 0, 1])))
    assert torch.equal(found, torch.zeros(4, 3))


def test_a_response_that_is_cut_branches_where_the_other_goes_on():
    ids = torch.tensor([[3, 4, 0], [3, 4, 5]])
    found = tempo_advantages(
        ids,
        torch.tensor([[1, 1, 0], [1, 1, 1]]),
        torch.tensor([0.0, 1.0]),
        torch.zeros(2),
        scale_rewards=False,
    )
    assert found.tolist() == [[-0.5, -0.5, 0.0], [0.5, 0.5, 1.0]]


def test_tool_results_belong_to_the_prefix_and_are_not_learned():
    ids = torch.tensor([[3, 8, 5], [3, 9, 5]])
    holes = torch.tensor([[1, 0, 1], [1, 0, 1]])
    rewards, groups = torch.tensor([1.0, 0.0]), torch.zeros(2)
    found = tempo_advantages(ids, holes, rewards, groups, scale_rewards=False)
    assert found.tolist() == [[0.5, 0.0, 0.5], [-0.5, 0.0, -0.5]]
    named = Rollouts(ids, torch.ones(2, 3), rewards, groups, learned=holes)
    assert torch.equal(Tempo(scale=False).advantages(named), found)


def test_a_row_without_tokens_counts_in_its_group_and_learns_nothing():
    ids = torch.tensor([[3, 4], [3, 5], [0, 0]])
    mask = torch.tensor([[1, 1], [1, 1], [0, 0]])
    found = tempo_advantages(ids, mask, torch.tensor([1.0, 0.0, 0.5]), torch.zeros(3), scale_rewards=False)
    assert found.tolist() == [[0.5, 1.0], [-0.5, -1.0], [0.0, 0.0]]


def test_one_token_and_brain_floats():
    ids, ones = torch.tensor([[3], [4], [3]]), torch.ones(3, 1)
    rewards = torch.tensor([1.0, 0.0, 0.0])
    found = tempo_advantages(ids, ones, rewards.bfloat16(), torch.zeros(3))
    torch.testing.assert_close(found, tempo_advantages(ids, ones, rewards, torch.zeros(3)))


def test_leave_one_out_values_leave_the_response_out():
    ids = torch.tensor([[3, 4], [3, 5], [3, 4]])
    rollouts = Rollouts(ids, torch.ones(3, 2), torch.tensor([1.0, 0.5, 0.0]), torch.zeros(3))
    values = prefix_tree(rollouts, leave_one_out=True).values.tolist()
    assert values == [[0.25, 0.25, 0], [0.5, 0.5, 0.5], [0.75, 0.75, 1]]


def test_shrinkage_draws_a_node_towards_its_shrunk_parent():
    ids = torch.tensor([[3, 4, 6], [3, 4, 7], [3, 5, 8], [3, 5, 8]])
    rollouts = Rollouts(ids, torch.ones(4, 3), torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.zeros(4))
    values = prefix_tree(rollouts, shrinkage=2.0).values
    assert values[0].tolist() == pytest.approx([0.5, 0.5, 0.75, (1 + 2 * 0.75) / 3])
    assert values[2].tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25])


def test_the_tree_may_be_scaled_by_its_own_deviation():
    ids = torch.tensor([[3, 4, 6], [3, 4, 7], [3, 5, 8], [3, 5, 8]])
    rollouts = Rollouts(ids, torch.ones(4, 3), torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4))
    td = prefix_tree(rollouts).td
    both, plain = (
        Tempo(eps=0.0, td_scale="own", td_weight=weight).advantages(rollouts) for weight in (1.0, 0.0)
    )
    torch.testing.assert_close(both - plain, td / td.std(correction=0))


def test_what_the_report_counts():
    ids = torch.tensor([[3, 4, 6], [3, 4, 7], [3, 5, 8], [3, 5, 8]])
    rollouts = Rollouts(ids, torch.ones(4, 3), torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4))
    report = branch_report(prefix_tree(rollouts))
    with_another = Rollouts(
        torch.cat([ids, ids[:1]]),
        torch.ones(5, 3),
        torch.tensor([1.0, 0, 0, 0, 1]),
        torch.tensor([0, 0, 0, 0, 1]),
    )
    assert branch_report(prefix_tree(with_another))["depth_alone"] == 3.0
    assert report["branch_share"] == pytest.approx(6 / 12)
    assert report["depth_alone"] == 3.0
    # d: +0.25, +0.5; +0.25, −0.5; −0.25; −0.25. r − mean: 3 · 0.75 and 9 · 0.25.
    assert report["tree_share"] == pytest.approx(2.0 / (2.0 + 4.5))
    assert Tempo().report(rollouts) == report


def test_it_is_made_by_name():
    assert make_credit("tempo:shrinkage=1,leave_one_out=true") == Tempo(shrinkage=1.0, leave_one_out=True)
    assert make_credit("tempo").parts == {"advantages"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"rewards": torch.zeros(3)},
            "rewards must hold one number for each of the 2 responses, got the shape (3,)",
        ),
        ({"groups": torch.zeros(1)}, "groups must hold one number for each of the 2 responses"),
        ({"mask": torch.ones(3, 2)}, "mask must have the shape of ids, (2, 2), got (3, 2)"),
        ({"learned": torch.ones(2, 3)}, "learned must have the shape of ids"),
        ({"ids": torch.zeros(2, 2)}, "ids must be whole numbers, got torch.float32"),
        ({"ids": torch.zeros(2, dtype=torch.long)}, "ids must have the shape (rows, tokens)"),
        ({"rewards": torch.tensor([0.0, torch.nan])}, "the reward of row 1 is nan: rewards must be finite"),
        ({"rewards": torch.tensor([torch.inf, 0.0])}, "the reward of row 0 is inf"),
        ({"ids": torch.zeros(0, 2, dtype=torch.long)}, "there are no rollouts"),
    ],
)
def test_bad_rollouts_are_refused(changes, words):
    good = {
        "ids": torch.tensor([[3, 4], [3, 5]]),
        "mask": torch.ones(2, 2),
        "rewards": torch.zeros(2),
        "groups": torch.zeros(2),
    }
    with pytest.raises(UserError) as refused:
        Rollouts(**(good | changes))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": -1.0}, "eps must be at least 0, got -1.0"),
        ({"td_weight": -0.5}, "td_weight must be at least 0"),
        ({"shrinkage": -1.0}, "shrinkage must be at least 0"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(UserError) as refused:
        Tempo(**options)
    assert words in str(refused.value)


def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(UserError) as refused:
        make_credit("tempo:td_scale=td")
    assert "td_scale cannot be 'td': input should be 'rewards' or 'own'" in str(refused.value)
    with pytest.raises(UserError) as refused:
        make_credit("tempo:shrinkag=1")
    assert "did you mean 'shrinkage'?" in str(refused.value)
