r"""The preprocessing and the split of the paper, for reproducing it; off unless asked for.

    lower -> words (`\w+|[^\w\s]`) -> no stop words -> stems (Porter) -> joined by blanks, digits deleted -> white space collapsed
    split: 60 % to train on, 40 % to test on

It throws away what tells texts apart, punctuation and function words among it: a pretrained encoder does better without.

Source: arXiv 2405.16422, section by section; it names no stop words and no stemmer, so that Porter's, as NLTK extends it, is ours.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from nltk.stem.porter import PorterStemmer as NltkStemmer

from tokenry.core.errors import require_one_of
from tokenry.data.decisions import binary_labels, require_rate

_MODES = {"nltk": "NLTK_EXTENSIONS", "martin": "MARTIN_EXTENSIONS", "original": "ORIGINAL_ALGORITHM"}


class PaperStages(NamedTuple):
    """A text after each step."""

    lower: str
    words: list[str]
    no_stop: list[str]
    stemmed: list[str]
    no_digits: str
    final: str


@dataclass(frozen=True)
class PorterStemmer:
    """NLTK's stemmer of Porter (1980).

    Attributes:
        mode: `nltk` with NLTK's irregular forms and changed rules, `martin` with Porter's later ones, or the `original`.
    """

    mode: str = "nltk"

    def __post_init__(self) -> None:
        require_one_of(self.mode, tuple(_MODES), "mode")

    def stem(self, word: str) -> str:
        """The stem of a lower-case word."""
        return str(_stemmer(self.mode).stem(word))


@cache
def _stemmer(mode: str) -> NltkStemmer:
    return NltkStemmer(mode=_MODES[mode])


def paper_stages(text: str, stopwords: Collection[str] | None = None) -> PaperStages:
    """The text after each step; without stop words of one's own, those of scikit-learn are left out."""
    dropped = set(_english() if stopwords is None else stopwords)
    lower, stemmer = text.lower(), PorterStemmer()
    words = re.findall(r"\w+|[^\w\s]", lower)
    no_stop = [word for word in words if word not in dropped]
    stemmed = [stemmer.stem(word) if re.fullmatch("[a-z]+", word) else word for word in no_stop]
    no_digits = re.sub(r"\d+", "", " ".join(stemmed))
    return PaperStages(lower, words, no_stop, stemmed, no_digits, " ".join(no_digits.split()))


def preprocess_paper(texts: Sequence[str], stopwords: Collection[str] | None = None) -> list[str]:
    """Texts as the paper gives them to its classifier."""
    return [paper_stages(text, stopwords).final for text in texts]


def _english() -> Collection[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # NLTK's list is a download

    words: Collection[str] = ENGLISH_STOP_WORDS
    return words


def paper_split(
    texts: Sequence[str], labels: Sequence[Any], train: float = 0.6, seed: int = 0
) -> tuple[list[int], list[int]]:
    """The places of the texts to train on and of those to test on: shuffled, each label in the same share, no text in both.

    The first of equal texts stands for all of them.
    """
    from sklearn.model_selection import train_test_split

    require_rate(train, "train")
    first = list({text: place for place, text in reversed(list(enumerate(texts)))}.values())[::-1]
    classes = binary_labels(labels)[first]
    learned, tested = train_test_split(first, train_size=train, random_state=seed, stratify=classes)
    return sorted(learned), sorted(tested)
