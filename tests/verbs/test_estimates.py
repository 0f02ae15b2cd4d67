import math

from tokenry.verbs._estimates import interval_cell, stored_estimate


def test_an_undefined_error_is_null_in_a_result_and_nan_in_a_table():
    found = stored_estimate({"accuracy": 0.5, "standard_error": None, "n": 1}, "accuracy", "n")
    assert (found.value, found.samples) == (0.5, 1)
    assert math.isnan(found.standard_error)


def test_results_without_a_number_of_items_are_read():
    assert stored_estimate({"value": 1.5, "standard_error": 0.1}, samples="texts").samples == 0


def test_an_interval_has_the_style_of_its_figure():
    assert interval_cell(1.25, 1.0, 1.5, style=".1f").note == "1.0 to 1.5"
