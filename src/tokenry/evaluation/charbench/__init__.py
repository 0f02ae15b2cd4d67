"""CharBench: four character-level questions about single words, and what tokenization has to do with the answers.

Source: CharBench: Evaluating the Role of Tokenization in Character-Level Tasks (arXiv 2508.02591).
"""

from tokenry.evaluation.charbench.analysis import (
    accuracy_curve,
    accuracy_table,
    correlations,
    counting_bias,
    error_overlap,
    mean_correlations,
    mixed_case,
)
from tokenry.evaluation.charbench.evaluate import evaluate_charbench
from tokenry.evaluation.charbench.inference import (
    correlation_intervals,
    logistic_regression,
    partial_correlation,
)
from tokenry.evaluation.charbench.items import TASKS, answer_of, build_charbench, items_of, sample_items
from tokenry.evaluation.charbench.prompt import charbench_prompt, parse_answer
from tokenry.evaluation.charbench.records import join_records
from tokenry.evaluation.charbench.report import CharBenchReport, charbench_report
from tokenry.evaluation.charbench.segmentation import (
    PROPERTIES,
    Segmentation,
    features_of,
    segment_words,
    tokenization_features,
)
from tokenry.evaluation.charbench.words import (
    frequent_words,
    load_word_list,
    read_word_list,
    word_frequencies,
    words_of_corpus,
)

__all__ = [
    "PROPERTIES",
    "TASKS",
    "CharBenchReport",
    "Segmentation",
    "accuracy_curve",
    "accuracy_table",
    "answer_of",
    "build_charbench",
    "charbench_prompt",
    "charbench_report",
    "correlation_intervals",
    "correlations",
    "counting_bias",
    "error_overlap",
    "evaluate_charbench",
    "features_of",
    "frequent_words",
    "items_of",
    "join_records",
    "load_word_list",
    "logistic_regression",
    "mean_correlations",
    "mixed_case",
    "parse_answer",
    "partial_correlation",
    "read_word_list",
    "sample_items",
    "segment_words",
    "tokenization_features",
    "word_frequencies",
    "words_of_corpus",
]
