"""The arithmetic of a race: what it costs, who stays, and what does not matter to either."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.core.stats import Estimate
from tokenry.verbs._tune.course import FINAL_DECAY, LIMIT, Entrant, items_needed, judge, plan_course

CONTROL = Entrant("full")
costs = st.floats(0.8, 1.6)
entries = st.lists(st.tuples(costs, st.floats(0, 30), st.integers(0, 30)), min_size=1, max_size=7).map(
    lambda rows: [
        Entrant(f"entry {number}", cost, {f"pass {number}": ahead}, begins)
        for number, (cost, ahead, begins) in enumerate(rows)
    ]
)


def spent(course, dropping):
    """What a race costs in which `dropping` decides who goes, counted step by step."""
    standing = {entry.name: entry for entry in course.entries}
    reached = {name: entry.begins for name, entry in standing.items()}
    total = course.steps + sum(cost for entry in course.entries for cost in entry.ahead.values())
    for rung in course.rungs:
        racing = [standing[name] for name in course.racing(rung, list(standing))[1:]]
        for entry in racing:
            total += (rung.step - reached[entry.name] + rung.decay) * entry.step_cost
            reached[entry.name] = rung.step
        total += rung.decay
        for entry in sorted(racing, key=dropping)[rung.seats :]:
            del standing[entry.name]
    assert len(standing) <= 1
    return total + sum((course.steps - reached[name]) * entry.step_cost for name, entry in standing.items())


@settings(deadline=None, max_examples=40)
@given(entries, st.integers(20, 400), st.randoms())
def test_no_race_costs_more_than_was_said_whoever_stays(entries, steps, draws):
    course = plan_course(CONTROL, entries, steps)
    order = {entry.name: draws.random() for entry in entries}
    assert course.price <= LIMIT
    assert spent(course, lambda entry: order[entry.name]) <= course.price * steps + 1e-6


@settings(deadline=None, max_examples=40)
@given(entries, st.integers(20, 400))
def test_everyone_is_judged_before_the_final_decay_or_left_out(entries, steps):
    course = plan_course(CONTROL, entries, steps)
    assert {entry.name for entry in course.entries} | {*course.left_out} == {entry.name for entry in entries}
    assert all(rung.step + rung.decay <= (1 - FINAL_DECAY) * steps for rung in course.rungs)
    if len(course.entries) > 1:
        assert course.rungs[-1].seats == 1
        assert course.rungs[-1].step > max(entry.begins for entry in course.entries)


@settings(deadline=None, max_examples=40)
@given(entries, st.integers(20, 400))
def test_the_fewer_are_left_the_farther_they_go_before_they_are_judged_again(entries, steps):
    course = plan_course(CONTROL, entries, steps)
    for begins in {entry.begins for entry in course.entries}:
        rungs = [rung.step for rung in course.rungs if rung.since == begins]
        apart = [later - earlier for earlier, later in itertools.pairwise([begins, *rungs])]
        assert all(steps >= 2 for steps in apart)
        assert all(later >= 2 * earlier - 1 for earlier, later in itertools.pairwise(apart)), apart


def test_the_rungs_of_a_long_race_are_worlds_apart():
    entries = [Entrant(name, begins=84) for name in "abcde"]
    first, second = plan_course(CONTROL, entries, 250).rungs
    assert (first.step, second.step) == (104, 154)
    assert (first.seats, second.seats) == (2, 1)


@settings(deadline=None, max_examples=40)
@given(entries, st.integers(20, 400))
def test_a_race_with_one_candidate_is_a_plain_comparison(entries, steps):
    (only,) = entries[:1]
    course = plan_course(CONTROL, [only], steps, limit=10)
    assert course.rungs == ()
    ours = (steps - only.begins) * only.step_cost + sum(only.ahead.values())
    assert course.price == pytest.approx(1 + ours / steps)


def test_what_is_done_for_several_is_paid_once():
    shared = [Entrant(name, ahead={"a pass": 30.0}) for name in ("a", "b")]
    apart = [Entrant(name, ahead={f"a pass for {name}": 30.0}) for name in ("a", "b")]
    both = [plan_course(CONTROL, entries, 100, limit=9).price for entries in (shared, apart)]
    assert both[0] < both[1]


def test_the_least_promising_are_left_out_and_chance_last():
    entries = [Entrant("a"), Entrant("b"), Entrant("c"), Entrant("random", always=True)]
    for judging in (0, 2, 3, 5):
        left_out = plan_course(CONTROL, entries, 40, judging).left_out
        assert left_out in (("c", "b", "a", "random")[:number] for number in range(5))
    assert plan_course(CONTROL, entries, 40, judging=3).left_out == ("c", "b")


def test_what_is_too_expensive_alone_does_not_keep_the_others_out():
    entries = [
        Entrant("far too expensive", ahead={"passes": 90.0}),
        Entrant("a", begins=25),
        Entrant("b", begins=25),
    ]
    assert plan_course(CONTROL, entries, 100).left_out == ("far too expensive",)


levels = st.lists(st.floats(-1, 1), min_size=2, max_size=6)


def measured(levels, items=30, seed=0):
    draws = np.random.default_rng(seed)
    tokens = draws.integers(5, 40, items)
    hard = draws.normal(2, 0.5, items)
    return {
        f"entry {number}": ((hard + level + draws.normal(0, 0.2, items)) * tokens, tokens)
        for number, level in enumerate(levels)
    }


@settings(deadline=None, max_examples=40)
@given(levels, st.integers(1, 3), st.booleans(), st.integers(0, 99), st.randoms())
def test_who_stays_does_not_depend_on_the_order(levels, seats, robust, seed, draws):
    found = measured(levels, seed=seed)
    names = list(found)
    draws.shuffle(names)
    verdict = judge(found, "entry 0", seats, robust)
    again = judge({name: found[name] for name in names}, "entry 0", seats, robust)
    assert verdict == again
    assert "entry 0" in verdict.staying
    assert len(verdict.staying) <= seats + 1


def test_what_is_clearly_worse_goes_and_what_is_undecided_stays_if_there_is_a_seat():
    found = measured([0.0, 1.0, 0.01])
    verdict = judge(found, "entry 0", seats=2, robust=False)
    assert {row.name: row.out for row in verdict.judged} == {"entry 0": "", "entry 1": "worse", "entry 2": ""}
    tight = judge(measured([0.0, -0.005, 0.005]), "entry 0", seats=1, robust=False)
    assert sorted(row.out for row in tight.judged) == ["", "", "no seat"]


def test_a_mean_alone_sends_nobody_home():
    draws = np.random.default_rng(1)
    tokens = np.full(12, 10)
    noise = [draws.normal(0, 3, 12) * tokens for _ in range(2)]
    found = {"full": (20 * tokens + noise[0], tokens), "a": (20.5 * tokens + noise[1], tokens)}
    assert judge(found, "full", seats=1, robust=False).staying.__len__() == 2


def test_a_few_wrong_items_move_the_mean_and_not_the_trimmed_mean():
    tokens = np.full(20, 10)
    good, plain = np.full(20, 1.0), np.full(20, 1.2) + np.linspace(0, 0.01, 20)
    good[:2] = 9.0  # a weighing that does not learn the noise pays for it on noisy items
    found = {"full": (plain * tokens, tokens), "a": (good * tokens, tokens)}
    robust, naive = (judge(found, "full", 1, robust=robust) for robust in (True, False))
    assert (robust.leader, robust.disagreeing) == ("a", "full")
    assert (naive.leader, naive.disagreeing) == ("full", "")


def test_entries_that_were_measured_on_other_items_are_refused():
    found = measured([0.0]) | {"b": measured([0.0], items=29, seed=1)["entry 0"]}
    with pytest.raises(UserError, match="were not measured on the same validation items"):
        judge(found, "entry 0", 1, robust=False)


def test_how_many_items_a_difference_would_need():
    assert items_needed(Estimate(0.1, 0.1, 25)) == 97
    assert items_needed(Estimate(0.0, 0.1, 25)) is None
