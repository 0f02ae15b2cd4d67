"""R2R: a small and a large model write one text, and a router decides token by token which of them (arXiv 2505.21600)."""

from tokenry.decoding.r2r.features import LabelledTokens, Response, TokenFeatures, read_features
from tokenry.decoding.r2r.labelling import label_divergence, label_responses, write_responses
from tokenry.decoding.r2r.labels import TokenLabels, align_labels, find_mismatches, token_types
from tokenry.decoding.r2r.routed import (
    RoutedDecoding,
    RoutedTokens,
    RoutingAccount,
    activated_parameters,
    routed_generate,
)
from tokenry.decoding.r2r.router import TokenRouter
from tokenry.decoding.r2r.router_training import (
    RouterReport,
    RouterTrainingConfig,
    choose_threshold,
    fit_router,
    threshold_for_rate,
)
from tokenry.decoding.r2r.rules import (
    ROUTING_RULES,
    DuoRollingRule,
    EntropyRule,
    LogURule,
    MomentumRule,
    RandomRule,
    RollingRule,
    RoutingRule,
    SmallStep,
    log_u,
)
from tokenry.decoding.r2r.sentence_context import sentence_context, split_sentences, stop_token_ids
from tokenry.decoding.r2r.verifiers import (
    Divergence,
    DivergenceVerifier,
    ExactVerifier,
    JudgeVerifier,
    LogProbGap,
    agreement,
)

__all__ = [
    "ROUTING_RULES",
    "Divergence",
    "DivergenceVerifier",
    "DuoRollingRule",
    "EntropyRule",
    "ExactVerifier",
    "JudgeVerifier",
    "LabelledTokens",
    "LogProbGap",
    "LogURule",
    "MomentumRule",
    "RandomRule",
    "Response",
    "RollingRule",
    "RoutedDecoding",
    "RoutedTokens",
    "RouterReport",
    "RouterTrainingConfig",
    "RoutingAccount",
    "RoutingRule",
    "SmallStep",
    "TokenFeatures",
    "TokenLabels",
    "TokenRouter",
    "activated_parameters",
    "agreement",
    "align_labels",
    "choose_threshold",
    "find_mismatches",
    "fit_router",
    "label_divergence",
    "label_responses",
    "log_u",
    "read_features",
    "routed_generate",
    "sentence_context",
    "split_sentences",
    "stop_token_ids",
    "threshold_for_rate",
    "token_types",
    "write_responses",
]
