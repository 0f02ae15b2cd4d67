"""Evaluation of models on held-out data: NLL, bits per byte, paired differences, verified answers.

`tokenry.evaluation.arithmetic` tests addition, `tokenry.evaluation.charbench` questions about the characters of words, and
`tokenry.evaluation.encoders` compares encoders and their tokenizers.
"""

from tokenry.evaluation.arithmetic import (
    AdditionFormat,
    ParsedAnswer,
    addition_prompt,
    analyze_errors,
    evaluate_addition,
    sample_addition,
)
from tokenry.evaluation.charbench import (
    build_charbench,
    charbench_prompt,
    charbench_report,
    evaluate_charbench,
    load_word_list,
    tokenization_features,
)
from tokenry.evaluation.held_out import HeldOut, held_out_nll, paired_difference
from tokenry.evaluation.verifiers import (
    extract_answer,
    generate_answers,
    is_right,
    last_number,
    verifier_accuracy,
)

__all__ = [
    "AdditionFormat",
    "HeldOut",
    "ParsedAnswer",
    "addition_prompt",
    "analyze_errors",
    "build_charbench",
    "charbench_prompt",
    "charbench_report",
    "evaluate_addition",
    "evaluate_charbench",
    "extract_answer",
    "generate_answers",
    "held_out_nll",
    "is_right",
    "last_number",
    "load_word_list",
    "paired_difference",
    "sample_addition",
    "tokenization_features",
    "verifier_accuracy",
]
