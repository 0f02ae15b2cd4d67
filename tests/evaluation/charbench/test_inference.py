"""What is beyond the paper: intervals over words, many tests at once, and several properties together."""

import json

import numpy as np
import pytest
from pandas import DataFrame
from scipy.special import expit

from tokenry.core.errors import UserError
from tokenry.evaluation.charbench import (
    charbench_report,
    correlation_intervals,
    correlations,
    items_of,
    join_records,
    logistic_regression,
    partial_correlation,
)
from tokenry.evaluation.charbench.inference import bootstrap_correlations, word_clusters

from .golden import golden_features, golden_items, golden_predictions, golden_records

TASK = "find_first_occurrence"


def made_up(n: int, slope: float = 0.0, words: int | None = None, seed: int = 0) -> DataFrame:
    """Records whose correctness depends on the length only; the number of tokens goes with the length."""
    draws = np.random.default_rng(seed)
    number = draws.integers(words or 10**9, size=n)
    length = 4 + number % 7
    tokens = length + draws.integers(0, 4, size=n)
    correct = draws.random(n) < expit(slope * (length - length.mean()) / length.std())
    return DataFrame(
        {
            "model": "m",
            "task": TASK,
            "word": [f"w{each}" for each in number],
            "correct": correct,
            "word_length": length,
            "number_of_tokens": tokens,
            "noise": draws.random(n),
        }
    )


def test_an_interval_holds_its_correlation():
    table = correlation_intervals(golden_records(), draws=200)
    known = table[table["r"].notna()]
    assert known["r"].between(known["low"], known["high"]).mean() > 0.95
    assert table.loc[table["r"].isna(), ["low", "high", "p", "adjusted_p"]].isna().all().all()
    assert not table.loc[table["r"].isna(), "shown"].any()
    assert table["r"].equals(correlations(golden_records())["r"])


def test_a_draw_is_the_correlation_of_the_words_drawn():
    group = made_up(60, 1.0, words=15)
    (drawn,) = bootstrap_correlations(group, ["word_length"], 1, seed=5)
    words = word_clusters(group)
    number = words.max() + 1
    times = np.random.default_rng(5).multinomial(number, np.full(number, 1 / number))
    rows = np.concatenate(
        [np.flatnonzero(words == word) for word, drawn in enumerate(times) for _ in range(drawn)]
    )
    expected = np.corrcoef(group["word_length"].iloc[rows], group["correct"].iloc[rows])[0, 1]
    assert drawn[0] == pytest.approx(expected, abs=1e-9)


def test_items_about_one_word_in_any_case_err_together():
    assert word_clusters(DataFrame({"word": ["The", "the", "cat", "THE"]})).tolist() == [0, 0, 1, 0]


def test_repeating_every_item_does_not_make_a_correlation_surer():
    group = made_up(300, 1.0)
    widths = []
    for times in (1, 4):
        repeated = group.loc[group.index.repeat(times)].reset_index(drop=True)
        row = correlation_intervals(repeated, ["word_length"], draws=400).iloc[0]
        widths.append(row["high"] - row["low"])
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)


def test_of_many_properties_of_chance_hardly_any_is_shown():
    group = made_up(400)
    names = [f"chance{number}" for number in range(60)]
    draws = np.random.default_rng(1).random((400, 60))
    table = correlation_intervals(group.join(DataFrame(draws, columns=names)), names, draws=300)
    assert (table["p"] < 0.05).sum() >= 1
    assert table["shown"].sum() == 0


def test_what_goes_with_length_only_is_nothing_when_length_is_known():
    group = made_up(5_000, 1.2)
    assert correlations(group, ["number_of_tokens"])["r"].iloc[0] > 0.3
    assert abs(partial_correlation(group, "number_of_tokens", ["word_length"])) < 0.04
    fitted = logistic_regression(group, ["word_length", "number_of_tokens"]).set_index("property")
    assert fitted.loc["word_length", "p"] < 1e-6
    assert fitted.loc["number_of_tokens", "p"] > 0.01


def test_coefficients_are_those_the_data_were_made_with():
    fitted = logistic_regression(made_up(20_000, 0.8), ["word_length", "noise"]).set_index("property")
    assert fitted.loc["word_length", "coefficient"] == pytest.approx(
        0.8, abs=4 * fitted.loc["word_length", "standard_error"]
    )
    assert abs(fitted.loc["noise", "coefficient"]) < 4 * fitted.loc["noise", "standard_error"]
    assert fitted.loc["word_length", "standard_error"] < 0.05


def test_standard_errors_grow_where_words_come_again():
    group = made_up(400, 0.8)
    once, again = (
        logistic_regression(group.loc[group.index.repeat(times)], ["word_length"]).iloc[0] for times in (1, 5)
    )
    assert again["coefficient"] == pytest.approx(once["coefficient"], abs=1e-4)
    # But for the correction for few rows, (rows − 1) / (rows − parameters).
    assert again["standard_error"] == pytest.approx(once["standard_error"], rel=2e-3)


def test_what_cannot_be_fitted_is_left_out():
    group = made_up(100, 1.0).assign(
        constant=1.0, twice=lambda table: 2 * table["word_length"], unknown=np.nan
    )
    assert logistic_regression(group, ["word_length", "constant", "unknown"])["property"].tolist() == [
        "word_length"
    ]
    assert not len(logistic_regression(group, ["word_length", "twice"]))
    assert not len(logistic_regression(group.assign(correct=True), ["word_length"]))
    assert not len(logistic_regression(group.assign(word="same"), ["word_length"]))
    few = made_up(3).assign(word_length=[4, 5, 7], noise=[1.0, 0.0, 2.0], correct=[True, False, True])
    assert not len(logistic_regression(few, ["word_length", "noise"]))
    assert np.isnan(partial_correlation(group, "twice", ["word_length"]))
    assert np.isnan(partial_correlation(group[:3], "noise", ["word_length"]))


def test_an_unknown_property_and_no_draws_are_refused():
    with pytest.raises(UserError, match=r"a property must be one of .*noise.* got 'colour'"):
        partial_correlation(made_up(20), "colour", ["noise"])
    with pytest.raises(UserError, match="draws must be at least 2, got 1"):
        correlation_intervals(made_up(20), ["noise"], draws=1)


def test_a_report_can_be_written_down_whatever_is_undefined():
    report = charbench_report(golden_items(), golden_predictions(), golden_features(), draws=50)
    written = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert "regeneration" in written["note"]
    assert len(written["correlations"]) == 8 * 7
    assert {row["property"] for row in written["curves"]} >= {"word_length", "target_token_length"}
    assert written["overlap"]["count_unique_chars"]["A"]["A"] == 1.0
    assert written["regression"]


@pytest.mark.parametrize("off", [0, 1])
def test_a_report_on_a_model_that_is_always_right_or_never_is_no_crash(off):
    items = golden_items()
    predictions = {"A": DataFrame({"prediction": items["answer"].map(int) + off})}
    report = charbench_report(items, predictions, golden_features(), draws=20)
    assert report.correlations["r"].isna().all()
    assert not len(report.regression)
    json.dumps(report.as_json(), allow_nan=False)


def test_a_report_on_one_item_is_no_crash():
    items = items_of([TASK], ["word"], ["o"])
    features = golden_features()["A"].iloc[[0]].set_axis([0])
    json.dumps(
        charbench_report(items, {"A": DataFrame({"prediction": [1]})}, {"A": features}, draws=5).as_json(),
        allow_nan=False,
    )
    assert join_records(items, {"A": DataFrame({"prediction": [1]})}, {"A": features})["correct"].all()
