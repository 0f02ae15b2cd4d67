"""How much of its vocabulary a tokenizer uses on a text, and how evenly.

    used               = distinct tokens of the text / vocabulary
    entropy H_α        = ln(Σ p^α) / (1 − α)  of the shares p of the tokens; α = 1 is Shannon's, −Σ p ln p
    Rényi efficiency   = H_α / ln(vocabulary)        1 where every token is as frequent as every other

Efficiency at α = 2.5 goes with how well models translate, better than counts do (its authors); it compares tokenizers on one text only.

Source: Tokenization and the Noiseless Channel (arXiv 2306.16842), section 4.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from tokenry.core.errors import UserError

ALPHA = 2.5


@dataclass(frozen=True)
class VocabularyUse:
    """Use of a vocabulary by a text.

    Attributes:
        used: share of the vocabulary that occurs.
        shannon_efficiency: entropy over that of an even use, in [0, 1].
        renyi_efficiency: the same for the Rényi entropy, which counts frequent tokens more.
    """

    used: float
    shannon_efficiency: float
    renyi_efficiency: float


def vocabulary_use(
    ids: Int[np.ndarray, "tokens"], vocabulary_size: int, alpha: float | int = ALPHA
) -> VocabularyUse:
    """Describe the use of a vocabulary by the ids of a text.

    Args:
        ids: token ids of the text.
        vocabulary_size: number of tokens of the tokenizer.
        alpha: order of the Rényi entropy, positive and not 1.
    """
    if not len(ids):
        raise UserError("there are no tokens: give a text that holds something.")
    if vocabulary_size < 2 or int(ids.max()) >= vocabulary_size:
        raise UserError(
            f"a vocabulary of {vocabulary_size} has no token {int(ids.max())}: give the size with added tokens, at least 2."
        )
    if not alpha > 0 or alpha == 1:
        raise UserError(f"alpha must be positive and not 1, got {alpha}: 2.5 is usual.")
    counts = np.unique(ids, return_counts=True)[1]
    shares = counts / counts.sum()
    even = math.log(vocabulary_size)
    shannon = -float((shares * np.log(shares)).sum())
    renyi = float(np.log((shares**alpha).sum())) / (1 - alpha)
    return VocabularyUse(len(counts) / vocabulary_size, shannon / even, renyi / even)
