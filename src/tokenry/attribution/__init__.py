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
from tokenry.attribution.captum_gradients import GradientShap, IntegratedGradients
from tokenry.attribution.decompx import DecompX, DecompXOutput, decompx, decompx_rollout
from tokenry.attribution.faithfulness import (
    FaithfulnessConfig,
    FaithfulnessRow,
    FaithfulnessScores,
    faithfulness,
    faithfulness_report,
    replacement_aopc,
    soft_normalized_comprehensiveness,
    soft_normalized_sufficiency,
)
from tokenry.attribution.globenc import GlobEnc, GlobEncOutput, globenc
from tokenry.attribution.linearised import Contributions, contributions, linearised
from tokenry.attribution.parts_of_speech import parts_of_speech
from tokenry.attribution.reagent import ReAGent, reagent_update

__all__ = [
    "ATTRIBUTIONS",
    "AnswerProbability",
    "AttentionRollout",
    "Attribution",
    "AttributionMethod",
    "Contributions",
    "DecompX",
    "DecompXOutput",
    "FaithfulnessConfig",
    "FaithfulnessRow",
    "FaithfulnessScores",
    "GlobEnc",
    "GlobEncOutput",
    "GradientShap",
    "InputXGradient",
    "IntegratedGradients",
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
    "contributions",
    "decompx",
    "decompx_rollout",
    "faithfulness",
    "faithfulness_report",
    "globenc",
    "linearised",
    "parts_of_speech",
    "reagent_update",
    "replacement_aopc",
    "soft_normalized_comprehensiveness",
    "soft_normalized_sufficiency",
]
