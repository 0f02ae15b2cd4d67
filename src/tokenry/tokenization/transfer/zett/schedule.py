"""The learning rate of the two stages: up from zero for the warm-up on single tokens, up from zero again, then down a cosine.

    stage j       linear from 0 to learning_rates[j] over (boundaries[j−1], boundaries[j]]; a boundary belongs to what follows it
    afterwards    cosine from the last rate to alpha · rate at `steps`, constant from there

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), appendix, and the released `create_learning_rate_fn`.
"""

import math
from collections.abc import Sequence

from tokenry.core.errors import UserError, require_fraction


def two_stage_schedule(
    step: int,
    boundaries: Sequence[int] = (10_000, 20_000),
    learning_rates: Sequence[float] = (3e-4, 6e-5),
    steps: int = 200_000,
    alpha: float = 0.1,
) -> float:
    """Compute the learning rate of one step.

    Args:
        step: number of the step, from 0.
        boundaries: step at which each stage ends; a stage may be empty.
        learning_rates: learning rate at the end of each stage.
        steps: step at which the cosine ends.
        alpha: share of the last rate that remains there.

    Raises:
        UserError: boundaries that do not ascend up to `steps`, another number of rates, or an alpha outside [0, 1].
    """
    require_schedule(boundaries, learning_rates, steps, alpha)
    start = 0
    for boundary, rate in zip(boundaries, learning_rates, strict=True):
        if step < boundary:
            return rate * (step - start) / (boundary - start)
        start = boundary
    gone = min(1.0, (step - start) / max(1, steps - start))
    return learning_rates[-1] * (alpha + (1 - alpha) * (1 + math.cos(math.pi * gone)) / 2)


def require_schedule(
    boundaries: Sequence[int], learning_rates: Sequence[float], steps: int, alpha: float
) -> None:
    """Raise `UserError` unless these describe a schedule."""
    if not boundaries or len(boundaries) != len(learning_rates):
        raise UserError(
            f"every stage needs a boundary and a learning rate, got {len(boundaries)} and {len(learning_rates)}."
        )
    if any(before > after for before, after in zip([0, *boundaries], [*boundaries, steps], strict=True)):
        listed = ", ".join(map(str, boundaries))
        raise UserError(f"stages must end in ascending order and within the {steps} steps, got {listed}.")
    if not all(0 <= rate < math.inf for rate in learning_rates):
        raise UserError(f"learning rates must be 0 or more, got {', '.join(map(str, learning_rates))}.")
    require_fraction(alpha, "alpha")
