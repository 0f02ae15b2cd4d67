import math

import pytest

from tokenry.core.errors import UserError
from tokenry.core.io.settings import of_kind, parse_yaml


@pytest.mark.parametrize("word", ["no", "No", "NO", "yes", "on", "off", "y", "n"])
def test_a_word_is_a_word_and_no_truth_value(word):
    assert parse_yaml(word, "x") == word
    assert parse_yaml(f"{{save_strategy: {word}}}", "x") == {"save_strategy": word}


@pytest.mark.parametrize(("word", "meant"), [("no", False), ("off", False), ("yes", True), ("on", True)])
def test_where_a_truth_value_is_asked_for_a_word_may_stand_for_it(word, meant):
    assert of_kind(bool, parse_yaml(word, "bf16"), "bf16") is meant


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("", None),
        ("~", None),
        ("null", None),
        ("1e-4", 1e-4),
        ("-2E3", -2000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("-.inf", -math.inf),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("1.0.0", "1.0.0"),
        ("[13, -1.0, no]", [13, -1.0, "no"]),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_a_setting_is_what_it_looks_like(text, value):
    parsed = parse_yaml(text, "x")
    assert (type(parsed), parsed) == (type(value), value)


@pytest.mark.parametrize("text", ["!!python/name:os.system", "!!timestamp x", "!!int x", "[1", "a: b: c"])
def test_what_is_no_yaml_or_would_make_objects_is_refused(text):
    with pytest.raises(UserError, match="the run file is not YAML"):
        parse_yaml(text, "the run file")


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (bool, "perhaps", r"x cannot be 'perhaps': input should be a valid boolean"),
        (int, "no", r"x cannot be 'no': input should be a valid integer"),
        (float, ".nan", r"x cannot be nan: input should be a finite number"),
        (float, "1:30", r"x cannot be '1:30': input should be a valid number"),
    ],
)
def test_a_value_of_another_kind_is_shown_as_it_was_written(kind, text, words):
    with pytest.raises(UserError, match=words):
        of_kind(kind, parse_yaml(text, "x"), "x")
