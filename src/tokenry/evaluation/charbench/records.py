"""One row per item that a model was asked: the question, the segmentation of its word, and whether the answer was correct.

    correct = (prediction == answer), and an invalid answer is a wrong one

All analyses start from this table.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from tokenry.core.errors import UserError
from tokenry.evaluation.charbench.items import characters_of, check_items
from tokenry.evaluation.charbench.segmentation import PROPERTIES

Predictions: TypeAlias = DataFrame | Series
"""Predictions indexed by item: integers, with None or nan for an invalid answer; of a table, the column `prediction`."""


def join_records(
    items: DataFrame, predictions: Mapping[str, Predictions], features: Mapping[str, DataFrame]
) -> DataFrame:
    """Join items, answers and segmentations.

    Args:
        items: table as of `build_charbench`.
        predictions: predictions by the name of the model. An item without a row was not asked, and is left out for this model.
        features: features by the name of the model, as of `tokenization_features`.

    Returns:
        Columns model, task, item, word, character, answer, prediction, correct, those of `PROPERTIES` and any other number in `features`.
    """
    check_items(items)
    if not predictions:
        raise UserError("there are no predictions: give those of at least one model.")
    tables = [
        _of_model(items, name, _column(name, given), _features(items, name, features))
        for name, given in predictions.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _of_model(items: DataFrame, name: str, answers: Series, features: DataFrame) -> DataFrame:
    unknown = answers.index.difference(items.index)
    if len(unknown):
        raise UserError(
            f"the predictions of {name} are about items that are not there ({len(unknown)} of them, such as {unknown[0]}): "
            "index them by the item's number, and give the items they were made on."
        )
    if not answers.index.is_unique:
        twice = answers.index[answers.index.duplicated()][0]
        raise UserError(f"{name} has two predictions for item {twice}: give one.")
    asked = items.loc[items.index.isin(answers.index)]
    if not len(asked):
        raise UserError(f"{name} has no predictions: ask it at least one item.")
    prediction = answers.loc[asked.index].to_numpy()
    gold = asked["answer"].map(int).to_numpy()
    numbers = features.loc[asked.index].select_dtypes("number")
    return DataFrame(
        {
            "model": name,
            "task": asked["task"].to_numpy(),
            "item": asked.index.to_numpy(),
            "word": asked["word"].to_numpy(),
            "character": np.array(characters_of(asked), dtype=object),
            "answer": gold,
            "prediction": prediction,
            "correct": prediction == gold,
            **{column: numbers[column].to_numpy() for column in numbers},
        }
    )


def _column(name: str, given: Predictions) -> Series:
    if isinstance(given, DataFrame):
        if "prediction" not in given:
            raise UserError(f"the predictions of {name} need a column named prediction.")
        given = given["prediction"]
    numbers = pd.to_numeric(given, errors="coerce").astype(float)
    return Series(numbers.to_numpy(dtype=float, na_value=np.nan), index=given.index)


def _features(items: DataFrame, name: str, features: Mapping[str, DataFrame]) -> DataFrame:
    if name not in features:
        raise UserError(f"there are no tokenization features of {name}: give those of its own tokenizer.")
    table = features[name]
    missing: Sequence[str] = [column for column in PROPERTIES if column not in table]
    if missing:
        raise UserError(f"the features of {name} lack {', '.join(missing)}: take tokenization_features.")
    if not items.index.isin(table.index).all() or not table.index.is_unique:
        raise UserError(f"the features of {name} are not of these items: take tokenization_features of them.")
    return table
