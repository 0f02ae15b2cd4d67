"""Classifiers that score any text by how much it looks like the documents of high predictive strength: cheap enough for a whole corpus.

    score = P(label 1 | text)        label 1: the strongest documents, label 0: the weakest

`FastTextScorer` is the paper's: words and pairs of words, trained by the fasttext package (extra `tokenry[data]`), read and applied by
numpy. `LinearScorer` is a logistic regression on hashed words and pairs of words that needs nothing beyond scikit-learn.

Source: PreSelect (arXiv 2503.00808), section 3.3, and its released settings: 3 epochs, rate 0.1, pairs of words, fastText's other defaults.
"""

import importlib
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write
from tokenry.data.fasttext_model import LABEL, MAGIC, FastTextModel, words_of
from tokenry.data.selection_settings import FastTextConfig, LinearConfig

Labels = Sequence[int] | Int[ndarray, "texts"]
Words = list[tuple[str, float]]


class TextScorer(ABC):
    """Scores texts: higher for those to keep."""

    @abstractmethod
    def score(self, texts: Sequence[str]) -> Float[ndarray, "texts"]:
        """Score texts."""

    @abstractmethod
    def word_weights(self) -> tuple[Sequence[str], Float[ndarray, "words"]]:
        """The known words, and what each adds to the log-odds."""

    def top_words(self, n: int = 20) -> Words:
        """The n known words that raise a score most, and the n that lower it most, with what each adds to the log-odds."""
        words, weights = self.word_weights()
        order = np.argsort(-weights, kind="stable")
        chosen = [*order[:n], *order[max(n, len(order) - n) :]]
        return [(words[place], float(weights[place])) for place in chosen]

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the scorer to a file that `load_scorer` reads."""


class FastTextScorer(TextScorer):
    """The paper's classifier, applied by numpy.

    Args:
        path: a `.bin` file of fastText with the labels `__label__1` and `__label__0`.
        folder: what is removed with the scorer.
    """

    def __init__(self, path: Path, folder: tempfile.TemporaryDirectory | None = None) -> None:
        self.path, self._folder = Path(path), folder
        self.model = FastTextModel.read(self.path)
        if f"{LABEL}1" not in self.model.labels:
            raise UserError(
                f"{path} has the labels {', '.join(self.model.labels)}, and {LABEL}1 is needed: it is the probability to be kept."
            )
        self._kept = list(self.model.labels).index(f"{LABEL}1")

    @classmethod
    def load(cls, path: Path) -> "FastTextScorer":
        """Read a `.bin` file."""
        return cls(path)

    @classmethod
    def train(cls, texts: Sequence[str], labels: Labels, **options: Any) -> "FastTextScorer":
        """Train a classifier; line breaks count as spaces, and case is kept.

        Args:
            texts: the documents.
            labels: 1 for those to keep, 0 for the others.
            **options: those of `FastTextConfig`.

        Raises:
            UserError: the fasttext package is not installed, or one of the labels has no text.
        """
        config = FastTextConfig(**options)
        require_both(texts, labels)
        try:
            fasttext = importlib.import_module("fasttext")
        except ImportError as error:
            raise UserError(
                "fasttext is not installed, which trains this classifier: pip install 'tokenry[data]', or train the linear one."
            ) from error
        folder = tempfile.TemporaryDirectory(prefix="tokenry-fasttext-")
        lines, model = Path(folder.name, "lines.txt"), Path(folder.name, "model.bin")
        with lines.open("wb") as opened:
            opened.writelines(_lines(texts, labels))
        trained = fasttext.train_supervised(
            str(lines),
            epoch=config.epoch,
            lr=config.lr,
            wordNgrams=config.word_ngrams,
            dim=config.dim,
            bucket=config.bucket,
            thread=config.threads,
            seed=config.seed,
            verbose=0,
        )
        trained.save_model(str(model))
        lines.unlink()
        return cls(model, folder)

    def score(self, texts: Sequence[str]) -> Float[ndarray, "texts"]:
        """The probability of `__label__1` of each text, as `fasttext.predict` returns it."""
        return self.model.probabilities(texts)[:, self._kept]

    def word_weights(self) -> tuple[Sequence[str], Float[ndarray, "words"]]:
        """The known words, and what each adds to the log-odds; a text is the mean of its words and pairs of words."""
        return self.model.words, self.model.word_weights(f"{LABEL}1")

    def save(self, path: Path) -> None:
        """Copy the `.bin` file, which fastText and datatrove read too."""
        with atomic_write(path) as partial:
            shutil.copyfile(self.path, partial)


class LinearScorer(TextScorer):
    """A logistic regression on hashed words and pairs of words.

    Args:
        config: how it was trained.
        weights: of every feature.
        intercept: log-odds of a text without words.
        words: words of the training texts, for `top_words`.
    """

    _KNOWN = 20_000

    def __init__(
        self,
        config: LinearConfig,
        weights: Float[ndarray, "features"],
        intercept: float,
        words: Sequence[str],
    ) -> None:
        self.config, self.weights, self.intercept, self.words = config, weights, intercept, list(words)

    @classmethod
    def train(cls, texts: Sequence[str], labels: Labels, **options: Any) -> "LinearScorer":
        """Train a classifier.

        Args:
            texts: the documents.
            labels: 1 for those to keep, 0 for the others.
            **options: those of `LinearConfig`.

        Raises:
            UserError: one of the labels has no text.
        """
        config = LinearConfig(**options)
        require_both(texts, labels)
        fitted = SGDClassifier(
            loss="log_loss", alpha=config.alpha, max_iter=config.epoch, tol=None, random_state=config.seed
        ).fit(_hashed(config, texts), np.asarray(labels))
        counted = Counter(word for text in texts for word in text.split())
        words = [word for word, _ in counted.most_common(cls._KNOWN)]
        return cls(config, fitted.coef_[0].astype(np.float32), float(fitted.intercept_[0]), words)

    @classmethod
    def load(cls, path: Path) -> "LinearScorer":
        """Read a file that `save` wrote.

        Raises:
            UserError: it holds no such scorer, or a damaged one.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                settings = {name: stored[name].item() for name in asdict(LinearConfig())}
                words = stored["words"].tobytes().decode().split("\n")
                return cls(LinearConfig(**settings), stored["weights"], float(stored["intercept"]), words)
        except (KeyError, ValueError, OSError) as error:
            raise UserError(
                f"{path} is no scorer: `tokenry select-data train` writes one, and fastText's save_model (.bin)."
            ) from error

    def score(self, texts: Sequence[str]) -> Float[ndarray, "texts"]:
        """The probability to be kept of each text."""
        logits = _hashed(self.config, texts) @ self.weights + self.intercept
        return 1 / (1 + np.exp(-logits.astype(float)))

    def word_weights(self) -> tuple[Sequence[str], Float[ndarray, "words"]]:
        """Words of the training texts, and what each adds to the log-odds, with all that share its feature."""
        return self.words, _hashed(self.config, self.words) @ self.weights

    def save(self, path: Path) -> None:
        """Write weights, words and settings; nothing in the file is code."""
        words = np.frombuffer("\n".join(self.words).encode(errors="replace"), dtype=np.uint8)
        with atomic_write(path) as partial, partial.open("wb") as opened:
            np.savez_compressed(
                opened,
                weights=self.weights,
                intercept=self.intercept,
                words=words,
                **asdict(self.config),
            )


def load_scorer(path: Path) -> TextScorer:
    """Read a scorer of either kind.

    Raises:
        UserError: the file is not there, or holds neither.
    """
    try:
        with Path(path).open("rb") as opened:
            is_fasttext = opened.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise UserError(f"{path} cannot be read as a scorer ({error.strerror}).") from error
    return (
        FastTextScorer.load(path) if is_fasttext or Path(path).suffix == ".bin" else LinearScorer.load(path)
    )


def require_both(texts: Sequence[str], labels: Labels) -> None:
    """Raise `UserError` unless there is one label for each text, and texts of both."""
    if len(texts) != len(labels):
        raise UserError(
            f"there are {len(texts)} texts and {len(labels)} labels: give one label for each text."
        )
    if (found := {int(label) for label in labels}) != {0, 1}:
        raise UserError(
            f"a classifier learns from texts to keep (1) and others (0), and the labels are {sorted(found)}: give some of both."
        )


def _lines(texts: Sequence[str], labels: Labels) -> Iterator[bytes]:
    """What fastText trains on; a text is one line."""
    for text, label in zip(texts, labels, strict=True):
        yield b" ".join([f"{LABEL}{int(label)}".encode(), *words_of(text)]) + b"\n"


def _hashed(config: LinearConfig, texts: Sequence[str]) -> Any:
    vectorizer = HashingVectorizer(
        n_features=config.features,
        ngram_range=(1, config.word_ngrams),
        lowercase=False,
        token_pattern=r"\S+",
        alternate_sign=False,
        dtype=np.float32,
    )
    return vectorizer.transform(texts if len(texts) else [""])[: len(texts)]
