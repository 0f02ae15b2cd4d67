import math
import re

import numpy as np
import pytest

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.tokenization.premiums.premium_factors import factor_report, premium_factors, trigram_similarity

GOLDEN = golden("premiums")


@pytest.mark.parametrize("language", GOLDEN["languages"])
def test_features_are_those_of_the_reference(language):
    found = premium_factors(GOLDEN["eval"][language])
    for name, value in GOLDEN["features"][language].items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize(
    ("language", "script", "kind"),
    [
        ("eng", "LATIN", "alphabet"),
        ("hin", "DEVANAGARI", "abugida"),
        ("jpn", "HIRAGANA", "syllabary"),
    ],
)
def test_the_script_is_that_of_most_letters(language, script, kind):
    found = premium_factors(GOLDEN["eval"][language])
    assert (found.script, found.writing_system) == (script, kind)
    assert found.numbers()[f"is_{kind}"] == 1.0


def test_text_without_letters_has_no_script():
    assert premium_factors(["123"]).writing_system == "other"


def test_a_text_is_like_itself_and_unlike_another_script():
    english, hindi = GOLDEN["eval"]["eng"], GOLDEN["eval"]["hin"]
    assert trigram_similarity(english, english) == pytest.approx(1.0)
    assert trigram_similarity(english, hindi) < 0.2
    assert trigram_similarity(GOLDEN["train"]["eng"], english) > 0.5


@pytest.fixture(scope="module")
def made_up():
    """Counts that follow one factor and the vocabulary, and know nothing of another."""
    generator = np.random.default_rng(0)
    cause, other = generator.normal(size=40), generator.normal(size=40)
    features = {f"l{n}": {"cause": cause[n].item(), "other": other[n].item(), "same": 1.0} for n in range(40)}
    counts = {
        f"l{n}": {size: 1000 + 50 * cause[n].item() - 80 * math.log(size) for size in (1000, 2000, 4000)}
        for n in range(40)
    }
    return features, counts


def test_the_factor_behind_the_counts_comes_first_and_explains_them(made_up):
    first, *others = factor_report(*made_up)
    assert first.factor == "cause"
    assert first.r2 == pytest.approx(1.0)
    assert first.pearson_r == pytest.approx(1.0)
    assert first.coefficient > 0
    assert first.languages == 40
    assert all(each.r2_gain < 0.15 for each in others)


def test_measured_features_are_taken_as_they_are():
    measured = {language: premium_factors(GOLDEN["eval"][language]) for language in GOLDEN["languages"]}
    counts = {
        language: dict(zip(GOLDEN["vocab_sizes"], row, strict=True))
        for language, row in GOLDEN["ctc"].items()
    }
    found = factor_report(measured, counts)
    assert [test.factor for test in found] == [
        test.factor
        for test in factor_report(
            {language: features.numbers() for language, features in measured.items()}, counts
        )
    ]
    assert {test.factor for test in found} >= {"whitespace_proportion", "bytes_per_char"}


def test_the_coefficient_is_in_standard_deviations(made_up):
    features, counts = made_up
    scaled = {language: {**row, "cause": 1000 * row["cause"]} for language, row in features.items()}
    ours, theirs = factor_report(features, counts)[0], factor_report(scaled, counts)[0]
    assert ours.coefficient == pytest.approx(theirs.coefficient)


def test_a_factor_that_does_not_vary_tells_nothing(made_up):
    (same,) = [each for each in factor_report(*made_up) if each.factor == "same"]
    assert math.isnan(same.pearson_r)
    assert same.coefficient == 0.0
    assert same.r2_gain == pytest.approx(0.0, abs=1e-12)


COUNTS = {language: {300: 1.0} for language in "abcd"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: premium_factors(["  ", ""]), "the evaluation text is empty"),
        (lambda: trigram_similarity(["ab"], ["abc"]), "fewer than three characters"),
        (lambda: factor_report({"a": {}}, {"a": {300: 1.0}}), "1 languages are too few"),
        (lambda: factor_report({"a": {"x": 1}}, COUNTS), "b, c, d has counts but no features"),
        (
            lambda: factor_report({"a": {"x": 1}, "b": {"x": 1}, "c": {"y": 1}, "d": {"x": 1}}, COUNTS),
            "a and c have different factors",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
