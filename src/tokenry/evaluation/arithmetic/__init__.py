"""Addition by a model, by the number of digits and the number format; and the patterns of wrong sums."""

from tokenry.evaluation.arithmetic.addition import (
    AdditionAnswer,
    accuracy_table,
    evaluate_addition,
    judge_answer,
)
from tokenry.evaluation.arithmetic.addition_answers import ParsedAnswer, parse_answer
from tokenry.evaluation.arithmetic.addition_errors import analyze_errors
from tokenry.evaluation.arithmetic.addition_patterns import (
    ErrorPattern,
    error_patterns,
    token_rank_patterns,
)
from tokenry.evaluation.arithmetic.addition_problems import (
    SIGNATURES,
    AdditionFormat,
    AdditionProblems,
    addition_pmf,
    addition_prompt,
    format_addition,
    sample_addition,
    sample_free_addition,
    sample_free_problems,
    sample_problems,
)

__all__ = [
    "SIGNATURES",
    "AdditionAnswer",
    "AdditionFormat",
    "AdditionProblems",
    "ErrorPattern",
    "ParsedAnswer",
    "accuracy_table",
    "addition_pmf",
    "addition_prompt",
    "analyze_errors",
    "error_patterns",
    "evaluate_addition",
    "format_addition",
    "judge_answer",
    "parse_answer",
    "sample_addition",
    "sample_free_addition",
    "sample_free_problems",
    "sample_problems",
    "token_rank_patterns",
]
