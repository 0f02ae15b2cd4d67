"""The reference numbers: a small benchmark, and the answers of two made-up models to it."""

from functools import cache
from typing import Any

from pandas import DataFrame

from tests.golden import golden_json
from tokenry.evaluation.charbench import Segmentation, features_of, join_records
from tokenry.evaluation.charbench.items import COLUMNS

# Our names of the columns on the left.
CORRELATED = {
    "word_length": "word_length",
    "gold": "gold_truth",
    "gold_over_length": "gold_truth_devided_by_word_length",
    "number_of_tokens": "number_of_tokens",
    "compression": "compression_rate",
    "target_token_length": "target_token_length",
}


@cache
def golden() -> dict[str, Any]:
    return golden_json("36-charbench", "dev-charbench.json")


def golden_items() -> DataFrame:
    return DataFrame(golden()["items"], columns=list(COLUMNS), dtype=object)


def golden_answers() -> DataFrame:
    analysis = golden()["analysis"]
    return DataFrame(analysis["records"], columns=analysis["record_fields"]).astype(object)


def golden_features() -> dict[str, DataFrame]:
    """Of each model, from its token strings."""
    return {
        model: features_of(
            golden_items(),
            {
                word: Segmentation.of_tokens(tokens)
                for word, tokens in zip(rows["word"], rows["tokens"], strict=True)
            },
        )
        for model, rows in golden_answers().groupby("model")
    }


def golden_predictions() -> dict[str, DataFrame]:
    return {
        model: rows.set_index("question_idx")[["prediction"]]
        for model, rows in golden_answers().groupby("model")
    }


def golden_records() -> DataFrame:
    return join_records(golden_items(), golden_predictions(), golden_features())
