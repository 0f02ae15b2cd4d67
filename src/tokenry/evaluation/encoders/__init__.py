"""Compare encoders and tokenizers on a task: tokens, throughput, metrics, paired tests; together, or each part alone."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.core.stats import McNemar, holm, mcnemar
    from tokenry.core.text.token_statistics import TokenStats, token_stats
    from tokenry.evaluation.encoders.compare import (
        EfficiencyReport,
        EncoderData,
        EncoderResult,
        LabelledTexts,
        compare_encoders,
        compare_with_first,
        texts_to_settle,
    )
    from tokenry.evaluation.encoders.multilabel import (
        MultilabelMetrics,
        PairedComparison,
        compare_predictions,
        decisions,
        multilabel_metrics,
        paired_bootstrap,
        tuned_thresholds,
    )
    from tokenry.evaluation.encoders.throughput import SpeedUp, Throughput, speed_ups, throughput

__all__ = [
    "EfficiencyReport",
    "EncoderData",
    "EncoderResult",
    "LabelledTexts",
    "McNemar",
    "MultilabelMetrics",
    "PairedComparison",
    "SpeedUp",
    "Throughput",
    "TokenStats",
    "compare_encoders",
    "compare_predictions",
    "compare_with_first",
    "decisions",
    "holm",
    "mcnemar",
    "multilabel_metrics",
    "paired_bootstrap",
    "speed_ups",
    "texts_to_settle",
    "throughput",
    "token_stats",
    "tuned_thresholds",
]

export_lazily(__name__)
