"""Which tokens of the input made the output."""

from tokenry.attribution.answer_probability import AnswerProbability
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
from tokenry.attribution.baselines import (
    AttentionRollout,
    InputXGradient,
    LastAttention,
    LeaveTokenOut,
    MeanAttention,
    RandomAttribution,
)
from tokenry.attribution.faithfulness import (
    FaithfulnessConfig,
    FaithfulnessRow,
    FaithfulnessScores,
    faithfulness,
    faithfulness_report,
    soft_normalized_comprehensiveness,
    soft_normalized_sufficiency,
)
from tokenry.attribution.reagent import ReAGent, reagent_update

__all__ = [
    "ATTRIBUTIONS",
    "AnswerProbability",
    "AttentionRollout",
    "Attribution",
    "AttributionMethod",
    "FaithfulnessConfig",
    "FaithfulnessRow",
    "FaithfulnessScores",
    "InputXGradient",
    "LastAttention",
    "LeaveTokenOut",
    "MeanAttention",
    "Probability",
    "Question",
    "RandomAttribution",
    "ReAGent",
    "TargetProbability",
    "TokenScores",
    "attribute",
    "attribute_generated",
    "faithfulness",
    "faithfulness_report",
    "reagent_update",
    "soft_normalized_comprehensiveness",
    "soft_normalized_sufficiency",
]
