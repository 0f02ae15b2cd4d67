"""The fine-tuning of a text classifier, as options."""

from dataclasses import dataclass

from tokenry.core.errors import require_at_least, require_fraction, require_one_of


@dataclass(frozen=True)
class ClassifierConfig:
    """Fine-tuning of a classifier.

    Attributes:
        epochs: passes over the training texts.
        batch_size: texts of a step, in each process.
        learning_rate: highest learning rate; it falls to 0 in a straight line.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: weight decay of matrices.
        bfloat16: compute in mixed precision.
        seed: random seed of the order of the texts and of dropout.
        best_by: score of the validation texts that chooses the epoch.
    """

    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    bfloat16: bool = False
    seed: int = 0
    best_by: str = "share-right"

    def __post_init__(self) -> None:
        require_at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        require_at_least(0, learning_rate=self.learning_rate, seed=self.seed)
        require_fraction(self.warmup, "warmup")
        require_one_of(self.best_by, ("share-right", "macro-f1"), "best_by")


FOUR_EPOCHS = ClassifierConfig()
"""The settings that the paper's figures tell of, and ours where they tell nothing."""
