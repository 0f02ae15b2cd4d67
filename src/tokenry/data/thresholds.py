"""The threshold that keeps a share of a corpus, counted in characters and not in documents.

    τ = score of the first document, from the highest score down, at which the running sum of lengths exceeds keep · Σ lengths

Documents with a score of at least τ are kept. A share of 1 keeps all.

Source: PreSelect (arXiv 2503.00808), released `find_threshold.py`.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tokenry.core.errors import UserError, require_share

KEEP_ALL = -100.0
"""The threshold below every score."""


def length_weighted_threshold(
    score: Float[ndarray, "documents"], length: Int[ndarray, "lengths"], keep: float | int = 0.1
) -> float:
    """Return the score from which on documents are kept.

    Args:
        score: of each document of a slice of the corpus; higher is better.
        length: of each document, in characters.
        keep: share of the characters to keep, in (0, 1].

    Raises:
        UserError: no documents, shapes that differ, a score that is nan, or a share outside (0, 1].
    """
    crossing = first_beyond(score, length, keep)
    return KEEP_ALL if crossing < 0 else float(np.sort(score)[::-1][crossing])


def first_beyond(
    score: Float[ndarray, "documents"], length: Int[ndarray, "lengths"], keep: float | int
) -> int:
    """Place, from the highest score down, of the first document at which the running length exceeds the share; -1 where none does."""
    require_share(keep, "keep")
    if not len(score):
        raise UserError("a threshold needs documents with a score: there are none.")
    if len(score) != len(length):
        raise UserError(
            f"there are {len(score)} scores and {len(length)} lengths: give one length for each score."
        )
    if np.isnan(score).any():
        raise UserError(
            f"the score of document {int(np.isnan(score).argmax()) + 1} is nan: leave out documents without a score."
        )
    running = np.cumsum(length[np.argsort(-score, kind="stable")])
    beyond = running > keep * running[-1]
    return int(beyond.argmax()) if beyond.any() else -1
