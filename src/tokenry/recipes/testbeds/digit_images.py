"""Digits as images to generate, and a classifier that tells how far generated ones are from real ones.

The 1,797 digits of scikit-learn, 8 × 8, ink in [−1, 1]; 1,300 to train on, the rest to compare with. The classifier (64 → 64 → 32 → 10, trained on the
training digits) gives features, its 32 hidden activations, for a Fréchet distance, and the share of images that it takes for the digit asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from tokenry.recipes.kit import batches_of_epochs, fit, one_cycle

TRAINING, SIDE, CLASSES = 1300, 8, 10
FEATURES = "a digit classifier (32 hidden units)"


@dataclass(frozen=True)
class DigitImages:
    """Images in [−1, 1] with their digits, and the classifier."""

    train_images: Float[Tensor, "train 1 8 8"]
    train_labels: Int[Tensor, "train"]
    test_images: Float[Tensor, "test 1 8 8"]
    test_labels: Int[Tensor, "test"]
    classifier: nn.Sequential

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 32"]:
        """The hidden activations of the classifier."""
        return self.classifier[:-1](images)

    @torch.no_grad()
    def accuracy(self, images: Float[Tensor, "n 1 8 8"], labels: Int[Tensor, "n"]) -> float:
        """The share of images that the classifier takes for their digit."""
        return float((self.classifier(images).argmax(1) == labels).float().mean())

    def batches(self, batch_size: int, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches of training images with their digits."""
        while True:
            chosen = torch.randint(len(self.train_labels), (batch_size,), generator=generator)
            yield self.train_images[chosen], self.train_labels[chosen]


def load_digit_images(seed: int = 0, epochs: int = 60) -> DigitImages:
    """Split the digits by a seed, and train the classifier on the training digits (two seconds)."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(bunch.target).long()
    generator = Generator().manual_seed(seed)
    train, test = torch.randperm(len(labels), generator=generator).tensor_split([TRAINING])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)
        )  # fmt: skip
    batch_size = 64
    fit(
        classifier,
        batches_of_epochs(TRAINING, batch_size, epochs, generator),
        lambda batch: cross_entropy(classifier(images[train][batch]), labels[train][batch]),
        epochs * (TRAINING // batch_size),
        3e-3,
        one_cycle,
        fused=True,
    )
    classifier.eval().requires_grad_(False)
    return DigitImages(images[train], labels[train], images[test], labels[test], classifier)
