"""How well a model does on data it has not seen: NLL, bits per byte, paired differences, verified answers.

`tokenry.evaluation.arithmetic` lets it add, `tokenry.evaluation.charbench` asks it about the characters of words.
"""

from tokenry.evaluation.held_out import HeldOut, held_out_nll, paired_difference
from tokenry.evaluation.verifiers import (
    extract_answer,
    generate_answers,
    is_right,
    last_number,
    verifier_accuracy,
)

__all__ = [
    "HeldOut",
    "extract_answer",
    "generate_answers",
    "held_out_nll",
    "is_right",
    "last_number",
    "paired_difference",
    "verifier_accuracy",
]
