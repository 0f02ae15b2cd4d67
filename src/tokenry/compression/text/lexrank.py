"""LexRank: how central each sentence of a text is, by the similarity of its words to those of the other sentences.

    similarity[i, j]   cosine of the word counts, each times its idf; 1 on the diagonal
    link[i, j]         1 where similarity > threshold, else 0; without a threshold the similarity itself
    score              stationary distribution of the random walk along links, times the number of sentences that are linked

The walk goes both ways alike, so that within the sentences that are linked, directly or over others, the distribution is known in closed
form: score[i] = Σ_j link[i, j] / its mean. No power iteration is needed, and a sentence that stands alone has the score 1.

Sources: Erkan and Radev (2004); used by FrugalPrompt (arXiv 2510.16439) to weigh sentences, with threshold 0.03 and without idf.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from tokenry.core.errors import UserError, require_fraction

_LINKS = re.compile(r"https?://\S+|www\.\S+|\S+@\S+\.\w+")
_BETWEEN = re.compile(r"[\s.,;:/!?…\"“”«»()\[\]{}]+")
_INSIDE = re.compile(r"[^\w\u0300-\u036f\u0900-\u0dff-]|_")


def sentence_words(sentence: str) -> list[str]:
    """The words that are compared: in lower case, without signs, addresses, and what holds a digit or no letter."""
    pieces = (
        _INSIDE.sub("", piece).strip("-") for piece in _BETWEEN.split(_LINKS.sub(" ", sentence.lower()))
    )
    return [piece for piece in pieces if any(map(str.isalpha, piece)) and not any(map(str.isdigit, piece))]


def lexrank(
    sentences: Sequence[str], threshold: float | int | None = 0.03, idf: Mapping[str, float] | None = None
) -> Float[ndarray, "sentences"]:
    """Score the sentences of a text; 1 is the mean of those that are linked.

    Args:
        threshold: similarity above which two sentences are linked; None links all that share a word, by their similarity.
        idf: inverse document frequency by word, 1 for others; None: 1 for all.
    """
    if threshold is not None:
        require_fraction(threshold, "threshold")
    similarity = lexrank_similarity(sentences, idf)
    links = similarity if threshold is None else (similarity > threshold).astype(float)
    strength = links.sum(axis=1)
    _, component = connected_components(csr_array(links), directed=False)
    size = np.bincount(component)
    return strength / (np.bincount(component, strength) / size)[component]


def lexrank_similarity(
    sentences: Sequence[str], idf: Mapping[str, float] | None = None
) -> Float[ndarray, "sentences sentences"]:
    """Cosine of the word counts of every two sentences; 0 to others for one without words."""
    if not sentences:
        raise UserError("there are no sentences: give at least one.")
    words = [sentence_words(sentence) for sentence in sentences]
    column = {
        word: number for number, word in enumerate(dict.fromkeys(word for row in words for word in row))
    }
    counts = np.zeros((len(words), len(column)))
    for row, found in enumerate(words):
        np.add.at(counts[row], [column[word] for word in found], 1.0)
    counts *= [(idf or {}).get(word, 1.0) for word in column]
    norms = np.linalg.norm(counts, axis=1, keepdims=True)
    unit = np.divide(counts, norms, out=np.zeros_like(counts), where=norms > 0)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, 1.0)
    return similarity


def released_idf(text: str) -> dict[str, float]:
    """The idf of FrugalPrompt's released code, which took every character for a document: only words of one letter differ from the others."""
    letters = Counter(filter(str.isalpha, text.lower()))
    documents = letters.total()
    return {
        letter: math.log(documents / count) / math.log(documents + 1) for letter, count in letters.items()
    }
