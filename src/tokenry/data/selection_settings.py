"""Settings of data selection: the sample, the losses of its documents, and the classifier; read without loading a model library.

The defaults are those of PreSelect (arXiv 2503.00808): 300 documents of each of 3,000 domains, windows of 1,900 tokens with a stride of
512, and fastText with 3 epochs at a rate of 0.1 on words and pairs of words.
"""

from dataclasses import dataclass

from tokenry.core.errors import UserError, require_at_least

_STRIDE = 512


@dataclass(frozen=True)
class SampleConfig:
    """Which documents of a corpus are measured.

    Attributes:
        domains: number of domains, the most frequent ones.
        per_domain: documents of each; of a corpus without domains, domains × per_domain documents.
        seed: random seed of the documents.
    """

    domains: int = 3000
    per_domain: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, domains=self.domains, per_domain=self.per_domain)


@dataclass(frozen=True)
class LossConfig:
    """How documents are read.

    Attributes:
        window: number of tokens that a token is predicted from at most.
        stride: tokens by which the windows of a long document advance, the rest is context; by default 512, or a shorter window.
        batch_tokens: tokens that a model reads at once, with padding.
        packed: read all documents as one stream, as the released code does.
    """

    window: int = 1900
    stride: int | None = None
    batch_tokens: int = 16_384
    packed: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, window=self.window, batch_tokens=self.batch_tokens)
        if self.stride is not None and not 1 <= self.stride <= self.window:
            raise UserError(
                f"stride must be from 1 to the window, {self.window}, got {self.stride}: with a longer one, tokens are never scored."
            )

    @property
    def advance(self) -> int:
        """The stride."""
        return min(_STRIDE, self.window) if self.stride is None else self.stride


@dataclass(frozen=True)
class FastTextConfig:
    """Training of a fastText classifier.

    Attributes:
        epoch: passes over the documents.
        lr: learning rate at the beginning.
        word_ngrams: longest sequence of words that is a feature.
        dim: dimensions of the features.
        bucket: number of buckets into which sequences of words are hashed.
        threads: threads; with fewer than 10, fastText 0.9.2 leaves part of its matrix as memory happened to be.
        seed: random seed of the matrix; training itself is not repeatable with several threads.
    """

    epoch: int = 3
    lr: float = 0.1
    word_ngrams: int = 2
    dim: int = 100
    bucket: int = 2_000_000
    threads: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, epoch=self.epoch, word_ngrams=self.word_ngrams, dim=self.dim, bucket=self.bucket)
        require_at_least(10, threads=self.threads)
        if not self.lr > 0:
            raise UserError(f"lr must be above 0, got {self.lr}.")


@dataclass(frozen=True)
class LinearConfig:
    """Training of a logistic regression on hashed words.

    Attributes:
        epoch: passes over the documents.
        alpha: strength of the L2 penalty.
        word_ngrams: longest sequence of words that is a feature.
        features: number of features into which words are hashed.
        seed: random seed of the order of the documents.
    """

    epoch: int = 3
    alpha: float = 1e-5
    word_ngrams: int = 2
    features: int = 1 << 20
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, epoch=self.epoch, word_ngrams=self.word_ngrams, features=self.features)
        if not self.alpha > 0:
            raise UserError(f"alpha must be above 0, got {self.alpha}.")
