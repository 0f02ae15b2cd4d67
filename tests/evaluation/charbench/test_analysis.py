import math

import numpy as np
import pytest
from pandas import DataFrame

from tokenry.core.errors import UserError
from tokenry.evaluation.charbench import (
    TASKS,
    accuracy_curve,
    accuracy_table,
    correlations,
    counting_bias,
    error_overlap,
    items_of,
    mean_correlations,
    mixed_case,
)
from tokenry.evaluation.charbench.analysis import has_mixed_case, pearson

from .golden import CORRELATED, golden, golden_records

ANALYSIS = golden()["analysis"]


@pytest.fixture(scope="module")
def records():
    return golden_records()


def same(found: float, expected: float | None, tolerance: float) -> bool:
    return (
        math.isnan(found) if expected is None else math.isclose(found, expected, rel_tol=0, abs_tol=tolerance)
    )


def row(table: DataFrame, **keys) -> DataFrame:
    for name, value in keys.items():
        table = table[table[name] == value]
    assert len(table) == 1, keys
    return table.iloc[0]


def test_correlations_are_the_reference_numbers(records):
    table = correlations(records)
    assert len(ANALYSIS["point_biserial"]) == 8
    for expected in ANALYSIS["point_biserial"]:
        for ours, theirs in CORRELATED.items():
            found = row(table, task=expected["task"], model=expected["model"], property=ours)
            assert same(found["r"], expected[theirs], 1e-9), (expected, ours, found["r"])


def test_the_overlap_of_errors_is_the_reference_number(records):
    for task, expected in ANALYSIS["error_jaccard"].items():
        table = error_overlap(records, task)
        assert list(table) == ANALYSIS["models"]
        assert table.to_numpy() == pytest.approx(np.array(expected), abs=1e-12)


def test_curves_are_the_reference_numbers_and_leave_no_length_out(records):
    table = accuracy_curve(records, "word_length")
    assert len(table) == len(ANALYSIS["accuracy_by_word_length"])
    for expected in ANALYSIS["accuracy_by_word_length"]:
        found = row(table, task=expected["task"], model=expected["model"], value=expected["word_length"])
        assert found["n"] == expected["n"]
        assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-12)
        assert found["standard_error"] == pytest.approx(expected["std_err"], abs=1e-12)


def test_counting_bias_is_the_reference_number(records):
    table = counting_bias(records)
    assert len(table) == len(ANALYSIS["counting_bias"])
    for expected in ANALYSIS["counting_bias"]:
        found = row(table, task=expected["task"], model=expected["model"])
        assert found["count"] == expected["count"]
        assert same(found["mean"], expected["mean"], 1e-9)
        assert same(found["std"], expected["std"], 1e-9)


def test_mixed_case_is_the_reference_number(records):
    table = mixed_case(records)
    assert len(table) == len(ANALYSIS["mixed_case"])
    for expected in ANALYSIS["mixed_case"]:
        found = row(table, task=expected["task"], model=expected["model"], mixed=expected["mixed"])
        assert found["n"] == expected["n"]
        assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-12)


def test_means_over_models_leave_undefined_correlations_out():
    table = DataFrame(
        [
            ("t", "a", "p", 0.5, 9),
            ("t", "b", "p", math.nan, 9),
            ("t", "a", "q", math.nan, 9),
            ("t", "b", "q", math.nan, 9),
        ],
        columns=["task", "model", "property", "r", "n"],
    )
    means = mean_correlations(table)
    assert means.loc["t", "p"] == 0.5
    assert math.isnan(means.loc["t", "q"])


@pytest.mark.parametrize("right", [True, False])
def test_a_model_that_is_always_right_or_always_wrong_has_no_correlations_and_does_not_crash(records, right):
    same_everywhere = records.assign(correct=right, prediction=records["answer"] + (0.0 if right else 1.0))
    assert correlations(same_everywhere)["r"].isna().all()
    assert (accuracy_table(same_everywhere)["standard_error"] == 0).all()
    assert (accuracy_curve(same_everywhere, "number_of_tokens")["accuracy"] == right).all()
    assert (error_overlap(same_everywhere, TASKS[0]).to_numpy() == (not right)).all()
    assert counting_bias(same_everywhere)["count"].eq(0).all() == right
    mixed_case(same_everywhere)


def test_a_value_without_errors_stays_in_the_curve(records):
    of_one = records[(records["model"] == "A") & (records["task"] == TASKS[2])]
    always_right = of_one.assign(correct=of_one["correct"] | (of_one["word_length"] == 5))
    assert row(accuracy_curve(always_right, "word_length"), value=5)["accuracy"] == 1.0


def test_models_are_compared_over_the_items_that_both_were_asked(records):
    of_task = records[records["task"] == TASKS[1]]
    items = of_task["item"].unique()
    half = of_task[(of_task["model"] == "A") | of_task["item"].isin(items[:12])]
    both = of_task[of_task["item"].isin(items[:12])]
    assert error_overlap(half, TASKS[1]).loc["A", "B"] == error_overlap(both, TASKS[1]).loc["A", "B"]


def test_a_correlation_of_a_constant_is_undefined():
    changing = np.array([0.0, 1.0, 2.0])
    assert math.isnan(pearson(np.full(3, 0.1), changing))
    assert math.isnan(pearson(changing, np.ones(3)))
    assert math.isnan(pearson(np.array([]), np.array([])))
    assert pearson(changing, 3 * changing) == pytest.approx(1)


@pytest.mark.parametrize(
    ("task", "word", "character", "mixed"),
    [
        ("find_first_occurrence", "Abacus", "a", True),
        ("find_first_occurrence", "Abacus", "A", True),
        ("find_last_occurrence", "Abacus", "b", False),
        ("find_last_occurrence", "a11", "1", False),
        ("count_unique_chars", "Abacus", None, True),
        ("count_character_frequency", "ABACUS", "A", False),
        ("count_character_frequency", "Strasse", "e", True),
        ("find_first_occurrence", "日本", "日", False),
    ],
)
def test_case_is_mixed_where_it_can_be_mistaken(task, word, character, mixed):
    assert has_mixed_case(items_of([task], [word], [character])).tolist() == [mixed]


def test_an_unknown_property_or_task_is_refused(records):
    with pytest.raises(UserError, match="a property must be one of word_length, gold"):
        accuracy_curve(records, "colour")
    with pytest.raises(UserError, match="task must be one of count_unique_chars"):
        error_overlap(records, "spell")
