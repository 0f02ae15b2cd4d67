import math

import pytest
from pandas import DataFrame, Series

from tokenry.core.errors import UserError
from tokenry.evaluation.charbench import join_records
from tokenry.evaluation.charbench.segmentation import PROPERTIES

from .golden import golden_features, golden_items, golden_predictions

ITEMS, ANSWERS, FEATURES = golden_items(), golden_predictions(), golden_features()


def join(predictions, features=FEATURES):
    return join_records(ITEMS, predictions, features)


def test_an_invalid_answer_is_wrong():
    records = join(ANSWERS)
    invalid = records["prediction"].isna()
    assert invalid.any()
    assert not records.loc[invalid, "correct"].any()
    valid = records[~invalid]
    assert (valid["correct"] == (valid["prediction"] == valid["answer"])).all()


def test_a_series_of_any_numbers_will_do():
    listed = Series([3, None, "x", 4.0], index=[5, 6, 7, 8], dtype=object)
    records = join({"A": listed})
    assert records["item"].tolist() == [5, 6, 7, 8]
    assert records["prediction"].isna().tolist() == [False, True, True, False]


def test_items_that_were_not_asked_are_left_out():
    records = join({"A": ANSWERS["A"].iloc[:10], "B": ANSWERS["B"]})
    assert records.groupby("model").size().to_dict() == {"A": 10, "B": 96}


def test_the_order_of_the_predictions_does_not_matter():
    assert join({"A": ANSWERS["A"][::-1]}).equals(join({"A": ANSWERS["A"]}))


def test_properties_and_further_numbers_are_there():
    features = {"A": FEATURES["A"].assign(frequency=2.5)}
    records = join({"A": ANSWERS["A"]}, features)
    assert {*PROPERTIES, "frequency"} <= {*records}
    assert "tokens" not in records
    assert math.isnan(records["target_token_length"].iloc[0])


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ({}, "there are no predictions"),
        (
            {"A": Series([1], index=[960])},
            "predictions of A are about items that are not there .1 of them, such as 960",
        ),
        ({"A": Series([1, 2], index=[3, 3])}, "A has two predictions for item 3"),
        ({"A": Series([], dtype=float)}, "A has no predictions"),
        ({"A": DataFrame({"answer": [1]})}, "predictions of A need a column named prediction"),
        ({"C": Series([1])}, "there are no tokenization features of C"),
    ],
)
def test_predictions_that_do_not_belong_to_the_items_are_refused(predictions, message):
    with pytest.raises(UserError, match=message):
        join(predictions)


def test_features_that_do_not_belong_to_the_items_are_refused():
    with pytest.raises(UserError, match="features of A lack compression"):
        join(ANSWERS, {**FEATURES, "A": FEATURES["A"].drop(columns="compression")})
    with pytest.raises(UserError, match="features of A are not of these items"):
        join(ANSWERS, {**FEATURES, "A": FEATURES["A"][:5]})
