"""What a grid of tokenizers is trained on, as options: reading it loads no more than the `tokenizers` library."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenry.core.errors import UserError
from tokenry.core.plans import option
from tokenry.tokenization.training.settings import ALGORITHM_NAMES, PATTERN, TrainingPlan

SIZES = (8192, 16384, 32768, 49152, 65536, 98304, 114688)
"""Vocabulary sizes of the grid."""

AMOUNTS = ("scaled", "unscaled")


@dataclass(frozen=True)
class GridConfig:
    """What is trained.

    Attributes:
        algorithms: bpe, unigram, superbpe or boundless; can be repeated.
        vocab_sizes: vocabulary sizes, increasing.
        amounts: scaled (same content) or unscaled (same bytes) training text; can be repeated.
        reference: the language that byte premiums and premiums are relative to.
        train_bytes: training text of the reference language; by default as much as every language has.
        pattern: regular expression that cuts a text into pieces.
        special_tokens: special tokens of every vocabulary.
        transition_share: share of the vocabulary that the first stage of SuperBPE makes.
        tau: share of its occurrences from which BoundlessBPE deletes a part.
        min_frequency: pairs seen less often are not merged.
        save_tokenizers: keep the tokenizers too.
    """

    algorithms: tuple[str, ...] = option(("bpe", "unigram", "superbpe"), flag="--algorithm", metavar="NAME")
    vocab_sizes: tuple[int, ...] = option(SIZES, metavar="512,1024", commas=True)
    amounts: tuple[str, ...] = option(AMOUNTS, flag="--amount", metavar="NAME")
    reference: str = "eng"
    train_bytes: int | None = None
    pattern: str = PATTERN
    special_tokens: tuple[str, ...] = ()
    transition_share: float = 0.8
    tau: float | None = 0.9
    min_frequency: int = 0
    save_tokenizers: bool = False

    def __post_init__(self) -> None:
        for given, allowed, name in (
            (self.algorithms, ALGORITHM_NAMES, "algorithm"),
            (self.amounts, AMOUNTS, "amount"),
        ):
            unknown = [word for word in given if word not in allowed]
            if unknown or not given:
                raise UserError(
                    f"the {name} must be one of {', '.join(allowed)}, got {', '.join(map(repr, unknown)) or 'none'}."
                )
        if not self.vocab_sizes:
            raise UserError("there is no vocabulary size: give at least one.")
        require_increasing(self.vocab_sizes)
        if self.train_bytes is not None and self.train_bytes < 1:
            raise UserError(f"the training text must hold at least one byte, got {self.train_bytes}.")
        self.training(self.algorithms[0], self.vocab_sizes[0])

    def training(self, algorithm: str, vocab_size: int) -> TrainingPlan:
        """How a tokenizer of the grid is trained."""
        return TrainingPlan(
            algorithm,
            vocab_size,
            self.pattern,
            self.special_tokens,
            self.min_frequency,
            tau=self.tau,
            transition_share=self.transition_share,
        )


def require_increasing(sizes: Sequence[float | int]) -> None:
    """Raise `UserError` unless vocabulary sizes are positive and increase."""
    if not all(size > 0 for size in sizes) or any(b <= a for a, b in pairwise(sizes)):
        raise UserError(f"vocabulary sizes must be positive and increase, got {', '.join(map(str, sizes))}.")
