"""Who races: by what the data allow."""

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.verbs._tune.candidates import CHANCE, Length, by_promise, default_candidates, make_entry
from tokenry.verbs._tune.course import LIMIT
from tokenry.verbs._tune.material import Material
from tokenry.verbs._tune.plan import make_plan
from tokenry.verbs._tune.racing import planned_course, price_in_words


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
@pytest.mark.parametrize("with_reference", [True, False])
def test_six_by_default_with_the_controls_and_each_can_be_run(epochs, with_reference):
    length = Length(100, epochs)
    found = default_candidates(length, with_reference, lora=True)
    assert len(found) == 5
    assert found[-1] == CHANCE
    assert any(name.startswith("token-cleaning") for name in found) == with_reference
    for description in found:
        entry, weighing = make_entry(description, length, 10)
        assert entry.begins == (length.begins if entry.begins else 0)
        assert weighing.selects(length.begins / 100 * epochs + 1e-9)


def test_a_race_begins_after_an_epoch_or_a_quarter():
    assert Length(90, 3).begins == 30
    assert Length(90, 2).begins == 22


@pytest.mark.parametrize("steps", range(20, 60))
@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_an_entry_begins_exactly_where_it_is_said_to(steps, epochs):
    length = Length(steps, epochs)
    entry, weighing = make_entry("small-loss", length, 0)
    at = entry.begins * epochs / steps
    assert entry.begins == length.begins
    assert weighing.selects(at)
    assert not weighing.selects(at - epochs / steps)


@given(st.permutations(["sstoken", "token-cleaning:dropped_weight=0.1", "rho1", "cross-fitted", "dft"]))
def test_it_does_not_matter_in_which_order_candidates_are_named(names):
    found = by_promise(names)
    assert found == ["token-cleaning:dropped_weight=0.1", "sstoken", "cross-fitted", "dft", "rho1"]


@pytest.mark.parametrize(("steps", "epochs"), [(93, 3), (30_000, 1), (20, 5)])
def test_a_warm_up_is_written_in_few_digits_and_ends_where_it_should(steps, epochs):
    length = Length(steps, epochs)
    entry, weighing = make_entry("small-loss", length, 0)
    assert entry.begins == length.begins
    assert len(f"{weighing.warmup_epochs}") <= 8


def test_what_two_need_has_one_name():
    ours, theirs = (make_entry(name, Length(99, 3), 12)[0] for name in ("token-cleaning", "sstoken"))
    assert theirs.ahead.items() <= ours.ahead.items()
    assert set(ours.ahead) - set(theirs.ahead) == {
        "a pass of the reference model",
        "training the reference model",
    }


@pytest.mark.parametrize(
    "description", ["sstoken:history=ema", "random:reduction=sample", "prompt-response-weights"]
)
def test_what_differs_from_the_first_step_begins_there(description):
    assert make_entry(description, Length(99, 3), 0)[0].begins == 0


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("random:share=1.0", "learns from all tokens, as the control does"),
        ("small-loss:warmup_epochs=3", "would select nothing in 3 epochs"),
    ],
)
def test_what_cannot_race_is_refused(description, words):
    with pytest.raises(UserError, match=words):
        make_entry(description, Length(99, 3), 0)


def planned(epochs, trusted=False, splits_weights=False, **said):
    rows = Dataset.from_dict({"input_ids": [[1] * 20] * 80})
    few = rows.select(range(8))
    material = Material(rows, few if trusted else None, few, [], validation=few)
    length = Length(100, epochs)
    plan = make_plan({"model": "m", "data": "d.jsonl", **said})
    return planned_course(plan, material, length, 2.0, {}, splits_weights)[0]


@pytest.mark.parametrize(
    ("trusted", "name", "ahead"),
    [
        (True, "token-cleaning dropped_weight=0.1 after step 25", 0.82),
        (False, "cross-fitted after step 25", 1.3),
    ],
)
def test_what_one_epoch_has_no_room_for_is_left_out_and_the_sentence_says_why(trusted, name, ahead):
    course = planned(1, trusted)
    assert course.price <= LIMIT
    assert name in course.left_out
    assert course.reasons.keys() == {*course.left_out}
    assert course.reasons[name] == f"no room in the price: {ahead:.2f} of a plain run before the first step"
    sentence = price_in_words(course)
    assert sentence.index(name) < sentence.index(f"({course.reasons[name]})")
    assert name not in planned(3, trusted).left_out


def test_what_takes_nothing_ahead_is_only_one_too_many():
    reasons = planned(
        1, trusted=True, candidates=["small-loss", *(f"random:share=0.{n}" for n in range(1, 9))]
    )
    assert {*reasons.reasons.values()} == {"no room in the price"}
    assert price_in_words(reasons).count("no room in the price") == 1


def test_a_sentence_tells_a_missing_reference_from_a_missing_budget():
    course = planned(3, candidates=["rho1", "random"])
    (reason,) = course.reasons.values()
    assert reason.startswith("there is no reference model to compare with: give --trusted")


@pytest.mark.parametrize("name", ["cross-fitted", "sstoken:history=crossfit"])
def test_cross_fitting_does_not_race_where_weights_are_split(name):
    assert planned(3, candidates=[name, "random"]).reasons == {}
    (reason,) = planned(3, candidates=[name, "random"], splits_weights=True).reasons.values()
    assert "which FSDP and DeepSpeed do not allow" in reason
    with pytest.raises(UserError, match=f"{name} cannot race: it trains the model on each fold"):
        planned(3, candidates=[name], splits_weights=True)
