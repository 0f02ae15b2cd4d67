"""Which tokens of the input made the output."""

from tokenry.attribution.attribution import (
    ATTRIBUTIONS,
    Attribution,
    AttributionMethod,
    Probability,
    Question,
    TargetProbability,
    TokenScores,
    attribute,
    attribute_generated,
)
from tokenry.attribution.reagent import ReAGent, reagent_update

__all__ = [
    "ATTRIBUTIONS",
    "Attribution",
    "AttributionMethod",
    "Probability",
    "Question",
    "ReAGent",
    "TargetProbability",
    "TokenScores",
    "attribute",
    "attribute_generated",
    "reagent_update",
]
