"""What becomes of each token: for any plan, merging conserves, undoing copies, and places say where everything is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.compression.plan import DROPPED, EMPTY, MergePlan, compose_places, source_map
from tokenry.compression.reducer import per_length
from tokenry.core.errors import UserError


def make_plan(seed: int, batch: int, tokens: int, kept: int, merged: int, ragged: bool = False) -> MergePlan:
    """A random plan: each row its own permutation, targets anywhere; some of them dropped where it is ragged."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(batch)])
    target = torch.randint(0, kept, (batch, merged), generator=generator)
    if ragged:
        target = target.where(torch.rand(batch, merged, generator=generator) < 0.6, DROPPED)
    return MergePlan(tokens, order[:, :kept], order[:, kept : kept + merged], target, ragged)


@st.composite
def plans(draw, drops=True, ragged=None):
    tokens = draw(st.integers(1, 12))
    kept = draw(st.integers(1, tokens))
    merged = draw(st.integers(0, tokens - kept)) if drops else tokens - kept
    is_ragged = draw(st.booleans()) if ragged is None else ragged
    return make_plan(draw(st.integers(0, 2**20)), draw(st.integers(1, 3)), tokens, kept, merged, is_ragged)


def tokens_for(plan: MergePlan, channels: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(plan.kept.shape[0], plan.tokens, channels, generator=generator, dtype=torch.float64)


def members(plan: MergePlan, row: int) -> list[list[int]]:
    """Which tokens each place is made of, the slow way."""
    made = [[token] for token in plan.kept[row].tolist()]
    for token, place in zip(plan.merged[row].tolist(), plan.target[row].tolist(), strict=True):
        if place != DROPPED:
            made[place].append(token)
    return made


quick = settings(max_examples=25, deadline=None)


@quick
@given(plans())
@pytest.mark.parametrize("reduce", ["mean", "sum", "amax"])
def test_each_place_holds_the_reduction_of_its_tokens(reduce, plan):
    x = tokens_for(plan)
    merged = plan.merge(x, reduce)
    assert merged.shape == (*plan.kept.shape, 5)
    for row in range(len(x)):
        for place, made_of in enumerate(members(plan, row)):
            expected = getattr(x[row, made_of], reduce)(dim=0)
            torch.testing.assert_close(merged[row, place], expected)


@quick
@given(plans(), st.integers(0, 100))
def test_weighted_merging_is_the_mean_weighted_with_sizes(plan, seed):
    x = tokens_for(plan)
    size = torch.randint(1, 9, (*x.shape[:2], 1), generator=torch.Generator().manual_seed(seed)).double()
    merged, total = plan.merge_weighted(x, size)
    for row in range(len(x)):
        for place, made_of in enumerate(members(plan, row)):
            weight = size[row, made_of]
            torch.testing.assert_close(total[row, place], weight.sum(dim=0))
            torch.testing.assert_close(
                merged[row, place], (x[row, made_of] * weight).sum(dim=0) / weight.sum()
            )


@quick
@given(plans(drops=False, ragged=False))
def test_merging_without_dropping_conserves_sizes_and_the_weighted_mean_of_all_tokens(plan):
    x = tokens_for(plan)
    merged, size = plan.merge_weighted(x)
    again = make_plan(3, len(x), size.shape[1], (size.shape[1] + 1) // 2, size.shape[1] // 2)
    merged, size = again.merge_weighted(merged, size)
    assert size.sum(dim=1).flatten().tolist() == [plan.tokens] * len(x)
    torch.testing.assert_close((merged * size).sum(dim=1) / plan.tokens, x.mean(dim=1))


@quick
@given(plans())
def test_a_token_is_one_place_or_nowhere(plan):
    place = plan.place()
    for row in range(len(place)):
        expected = [DROPPED] * plan.tokens
        for number, made_of in enumerate(members(plan, row)):
            for token in made_of:
                expected[token] = number
        assert place[row].tolist() == expected
    assert not (place == DROPPED).any() or plan.drops


@quick
@given(plans())
def test_undoing_copies_what_stands_at_a_tokens_place(plan):
    x = tokens_for(plan)
    y = plan.merge(x, "sum")
    place = plan.place()
    restored, bare = plan.unmerge(y, x), plan.unmerge(y)
    for row in range(len(x)):
        for token, where in enumerate(place[row].tolist()):
            gone = where == DROPPED
            assert torch.equal(restored[row, token], x[row, token] if gone else y[row, where])
            assert torch.equal(bare[row, token], torch.zeros(5).double() if gone else y[row, where])


@quick
@given(plans(drops=False, ragged=False))
def test_merging_what_was_undone_changes_nothing(plan):
    y = plan.merge(tokens_for(plan))
    torch.testing.assert_close(plan.merge(plan.unmerge(y)), y)


@quick
@given(plans())
def test_sources_follow_one_hot_rows(plan):
    eye = torch.eye(plan.tokens).expand(plan.kept.shape[0], -1, -1)
    source = plan.merge_source(eye)
    assert torch.equal(source.bool(), source_map(plan.place(), plan.kept.shape[1]))
    assert torch.equal(source, plan.merge(eye, "sum"))


@quick
@given(plans(), st.integers(0, 100))
def test_a_place_is_seen_if_one_of_its_tokens_was(plan, seed):
    seen = torch.rand(plan.kept.shape[0], plan.tokens, generator=torch.Generator().manual_seed(seed)) < 0.5
    merged = plan.merge_mask(seen)
    assert merged.dtype == torch.bool
    for row in range(len(seen)):
        assert merged[row].tolist() == [bool(seen[row, made_of].any()) for made_of in members(plan, row)]


@quick
@given(plans(), st.integers(0, 100))
def test_places_after_several_plans_are_those_of_one_after_the_other(plan, seed):
    kept = plan.kept.shape[1]
    then = make_plan(seed, plan.kept.shape[0], kept, max(1, kept // 2), kept // 3, ragged=seed % 2 == 1)
    places = compose_places([plan, then], plan.tokens, plan.kept.shape[0], plan.kept.device)
    first, second = plan.place(), then.place()
    for row in range(len(places)):
        expected = [DROPPED if at == DROPPED else int(second[row, at]) for at in first[row].tolist()]
        assert places[row].tolist() == expected
    eye = torch.eye(plan.tokens).expand(len(places), -1, -1)
    source = then.merge_source(plan.merge_source(eye))
    assert torch.equal(source.bool(), source_map(places, then.kept.shape[1]))


def test_without_a_plan_every_token_is_where_it_was():
    assert compose_places([], 4, 2, torch.device("cpu")).tolist() == [[0, 1, 2, 3]] * 2


def test_keeping_drops_the_others_in_the_order_given():
    plan = MergePlan.keep(torch.tensor([[3, 0]]), 4)
    assert plan.drops
    assert plan.merge(torch.arange(4.0)[None, :, None]).flatten().tolist() == [3, 0]
    assert plan.place().tolist() == [[1, DROPPED, DROPPED, 0]]
    assert not MergePlan.keep(torch.arange(4)[None], 4).drops


def test_a_dropped_target_changes_no_place():
    """Also where the values are such that a stray one would be seen: what is cut off is not the last place."""
    plan = MergePlan(
        4, torch.tensor([[0, 1]]), torch.tensor([[2, 3]]), torch.tensor([[DROPPED, 1]]), ragged=True
    )
    x = torch.tensor([1.0, 2.0, 1000.0, 4.0])[None, :, None]
    assert plan.merge(x, "sum").flatten().tolist() == [1, 6]
    assert plan.merge(x, "amax").flatten().tolist() == [1, 4]
    assert plan.merge(x).flatten().tolist() == [1, 3]
    merged, size = plan.merge_weighted(x)
    assert (merged.flatten().tolist(), size.flatten().tolist()) == ([1, 3], [1, 2])


def test_half_precision_is_merged_in_single_and_given_back_in_half():
    plan = make_plan(0, 2, 200, 1, 199)
    x = torch.full((2, 200, 3), 1.0 + 2**-7, dtype=torch.bfloat16)
    merged, size = plan.merge_weighted(x)
    assert (merged.dtype, size.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(merged, x[:, :1])
    assert size.flatten().tolist() == [200, 200]


def test_gradients_reach_every_token_that_was_merged_and_no_dropped_one():
    plan = MergePlan(
        4, torch.tensor([[0, 1]]), torch.tensor([[2, 3]]), torch.tensor([[DROPPED, 1]]), ragged=True
    )
    x = torch.ones(1, 4, 1, requires_grad=True)
    merged, size = plan.merge_weighted(x)
    merged.sum().backward()
    assert x.grad.flatten().tolist() == [1, 0.5, 0, 0.5]
    assert not size.requires_grad


def test_other_tokens_than_those_of_the_plan_are_refused():
    plan = MergePlan.keep(torch.tensor([[0, 2]]), tokens=3)
    with pytest.raises(UserError, match="the plan is for 3 tokens, but there are 5"):
        plan.merge(torch.zeros(1, 5, 2))


@quick
@given(plans())
def test_a_token_that_nothing_is_merged_into_stays_as_it_is_to_the_last_bit(plan):
    x = tokens_for(plan)
    size = torch.randint(1, 9, (*x.shape[:2], 1), generator=torch.Generator().manual_seed(1)).double()
    merged, _ = plan.merge_weighted(x, size)
    for row in range(len(x)):
        for place, made_of in enumerate(members(plan, row)):
            if len(made_of) == 1:
                assert torch.equal(merged[row, place], x[row, made_of[0]])


@quick
@given(plans(), st.sampled_from(["mean", "sum", "amax"]))
def test_merging_leaves_the_tokens_before_as_they_were(plan, reduce):
    x = tokens_for(plan)
    before = x.clone()
    plan.merge(x, reduce)
    plan.merge_weighted(x)
    assert torch.equal(x, before)


def test_texts_of_different_lengths_are_planned_as_if_alone_and_filled_with_padding():
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    asked = []

    def plan(rows, real):
        asked.append((rows.tolist(), real.tolist()))
        half = real.shape[1] // 2
        index = torch.arange(real.shape[1]).expand(len(rows), -1)
        return MergePlan(real.shape[1], index[:, :half], index[:, half:], index[:, :half])

    together = per_length(mask, plan)
    assert asked == [([1], [[0, 1]]), ([0], [[0, 1, 2, 3]])]
    assert together.kept.tolist() == [[0, 1], [0, 2]]
    assert together.place().tolist() == [[0, 1, 0, 1], [0, 0, 1, DROPPED]]
    assert together.merge_mask(mask).tolist() == [[True, True], [True, False]]


def test_texts_that_only_drop_merge_nothing():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    together = per_length(mask, lambda rows, real: MergePlan.keep(real[:, :1] * 0, real.shape[1]))
    assert (together.kept.tolist(), together.merged.shape[1]) == ([[0], [0]], 0)


# --- groups of neighbours ------------------------------------------------------------------------------------------------------------


@st.composite
def group_ids(draw):
    """Rows of at least one group each, and padding behind them or none."""
    rows = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), min_size=1, max_size=3))
    width = max(map(sum, rows)) + draw(st.integers(0, 2))
    groups = [[number for number, size in enumerate(row) for _ in range(size)] for row in rows]
    return torch.tensor([row + [DROPPED] * (width - len(row)) for row in groups])


@quick
@given(group_ids(), st.sampled_from(["mean", "sum", "amax"]))
def test_a_place_holds_the_reduction_of_its_group_and_an_empty_one_nothing(groups, reduce):
    plan = MergePlan.from_groups(groups)
    x = tokens_for(plan)
    merged, seen = plan.merge(x, reduce), plan.merge_mask(groups != DROPPED)
    assert merged.shape[1] == groups.max() + 1
    for row in range(len(groups)):
        for place in range(merged.shape[1]):
            made_of = x[row, groups[row] == place]
            assert bool(seen[row, place]) is bool(len(made_of))
            expected = getattr(made_of, reduce)(dim=0) if len(made_of) else torch.zeros(5)
            torch.testing.assert_close(merged[row, place], expected.double())


@quick
@given(group_ids())
def test_groups_are_places_and_padding_is_nowhere(groups):
    plan = MergePlan.from_groups(groups)
    assert torch.equal(plan.place(), groups)
    assert torch.equal(compose_places([plan], plan.tokens, len(groups), groups.device), groups)
    eye = torch.eye(plan.tokens).expand(len(groups), -1, -1)
    assert torch.equal(plan.merge_source(eye).bool(), source_map(groups, plan.kept.shape[1]))
    x = tokens_for(plan)
    restored = plan.unmerge(plan.merge(x, "sum"), x)
    assert torch.equal(restored[groups == DROPPED], x[groups == DROPPED])


@quick
@given(group_ids(), st.integers(0, 100))
def test_groups_are_weighted_by_any_weights(groups, seed):
    plan = MergePlan.from_groups(groups)
    x = tokens_for(plan)
    weight = torch.rand(*groups.shape, 1, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    merged, total = plan.merge_weighted(x, weight)
    assert merged.isfinite().all()
    for row, place in (plan.kept != EMPTY).nonzero().tolist():
        own = groups[row] == place
        expected = (x[row, own] * weight[row, own]).sum(dim=0) / weight[row, own].sum()
        torch.testing.assert_close(merged[row, place], expected)
    assert torch.equal(total[..., 0] == 0, plan.kept == EMPTY)


def test_a_full_row_and_one_that_merges_most_have_places_for_the_fuller_and_a_mask():
    """No padding in the batch: without empty places, the second row could not be filled up."""
    plan = MergePlan.from_groups(torch.tensor([[0, 1, 2, 3], [0, 1, 1, 1]]))
    assert plan.merge_mask(None).tolist() == [[True] * 4, [True, True, False, False]]
    x = torch.ones(2, 4, 3, requires_grad=True)
    merged, size = plan.merge_weighted(x)
    assert size[..., 0].tolist() == [[1, 1, 1, 1], [1, 3, 0, 0]]
    merged.sum().backward()
    torch.testing.assert_close(x.grad[1, :, 0], torch.tensor([1, 1 / 3, 1 / 3, 1 / 3]))


def test_rows_with_equally_many_groups_have_no_empty_place():
    plan = MergePlan.from_groups(torch.tensor([[0, 1, 1], [0, 0, 1]]))
    assert (plan.sparse, plan.ragged, plan.drops, plan.merge_mask(None)) == (False, False, False, None)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([[0, 1, 0]], "token 2 of row 0 is in group 0 after 1"),
        ([[0, 2, 2]], "token 1 of row 0 is in group 2 after 0"),
        ([[0, 0], [1, 1]], "token 0 of row 1 is in group 1 after -1"),
        ([[0, -1, 0]], "token 2 of row 0 is in group 0 after -1"),
        ([[0, -2]], "token 1 of row 0 is in group -2 after 0"),
    ],
)
def test_groups_that_do_not_follow_each_other_are_refused(groups, words):
    with pytest.raises(UserError, match=f"groups are numbered 0, 1, 2.*{words}: use group_tokens"):
        MergePlan.from_groups(torch.tensor(groups))
