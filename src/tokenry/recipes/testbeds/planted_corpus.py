"""A corpus whose quality is known: documents mix words of two kinds, and losses of six models fall the faster the better a document is.

    quality q ~ U(0, 1)                     share of good words among the words that are not common
    C_i = level − slope · q · i + noise     i = 0 … 5, the models in the order of their benchmarks; the level says nothing about q

So the lowest loss does not find the good documents, and the order of the losses does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

_COMMON, _OWN = 60, 400
_WORDS = 50
_SLOPE, _NOISE, _LEVEL = 0.03, 0.02, 0.3


@dataclass(frozen=True)
class PlantedCorpus:
    """Documents of known quality.

    Attributes:
        quality: of each, in [0, 1].
        losses: of each under every model, in bits per character.
    """

    texts: Sequence[str]
    quality: Float[ndarray, "documents"]
    losses: Float[ndarray, "documents models"]
    benchmark: Float[ndarray, "models"]


def planted_corpus(documents: int, seed: int, models: int = 6) -> PlantedCorpus:
    """Draw documents and losses."""
    draw = np.random.default_rng(seed)
    quality = draw.random(documents)
    common = np.array([f"word{number}" for number in range(_COMMON)])
    good, spam = (np.array([f"{kind}{number}" for number in range(_OWN)]) for kind in ("good", "spam"))
    texts = []
    for share in quality:
        own = np.where(draw.random(_WORDS) < share, draw.choice(good, _WORDS), draw.choice(spam, _WORDS))
        texts.append(" ".join(np.where(draw.random(_WORDS) < 0.5, draw.choice(common, _WORDS), own)))
    order = np.arange(models)
    level = 1.0 + _LEVEL * draw.normal(size=(documents, 1))
    noise = _NOISE * draw.normal(size=(documents, models))
    return PlantedCorpus(texts, quality, level - _SLOPE * quality[:, None] * order + noise, 1.0 * order)
