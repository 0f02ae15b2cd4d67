"""One classifier under many reductions: accuracy at equal token counts, compared object by object.

    right      for each object, the share of its views that are classified right: what differences are paired over

Laptop: digits on a canvas. Paper: DeiT-S on 5000 validation images of ImageNet-1k, which must be accessible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.reducer import TokenReducer
from tokenry.core.io.progress import Progress
from tokenry.core.stats import Estimate, estimate_of_mean
from tokenry.recipes.testbeds.digits_vit import correct, load_digits_vit

RANDOM_SEEDS = 5
DEIT_S = "facebook/deit-small-patch16-224"


@dataclass(frozen=True)
class Classifier:
    """A trained model with test images.

    Attributes:
        model: takes `pixel_values`; has a class token.
        images: test images.
        views: number of consecutive images that show the same object, and so are not independent.
    """

    model: PreTrainedModel
    images: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, "n"]
    views: int


@dataclass(frozen=True)
class ReductionTrial:
    """One method at one strength.

    Attributes:
        counts: number of tokens that enter each layer, and that leave the last.
        flops: share of the unreduced encoder's FLOPs.
        right: for each object, the percentage of its views that are classified correctly; of random methods, the mean over the seeds.
    """

    counts: tuple[int, ...]
    flops: float
    right: Float[Tensor, "objects"]

    @property
    def accuracy(self) -> float:
        """In percent."""
        return self.right.mean().item()

    @property
    def estimate(self) -> Estimate:
        """The accuracy with its error."""
        return estimate_of_mean(self.right)


def measure(classifier: Classifier, method: TokenReducer, seeds: int = 1) -> ReductionTrial:
    """Run the test images through the model with one method.

    Args:
        classifier: the model and its images.
        seeds: number of runs to average, for a method that draws at random.
    """
    right = []
    with torch.random.fork_rng(), apply_token_reduction(classifier.model, method) as reduction:
        for seed in range(seeds):
            torch.manual_seed(seed)
            right.append(correct(classifier.model, classifier.images, classifier.labels).float().cpu())
        of_objects = 100 * torch.stack(right).mean(dim=0).view(-1, classifier.views).mean(dim=1)
        return ReductionTrial(reduction.token_counts, reduction.flops / reduction.dense_flops, of_objects)


def digits_classifier(progress: Progress) -> Classifier:
    """The digits ViT; each test digit is seen at three places."""
    digits = load_digits_vit(progress)
    return Classifier(digits.model, digits.test_images, digits.test_labels, views=3)


def deit_on_imagenet(progress: Progress) -> Classifier:
    """DeiT-S on 5000 validation images of ImageNet-1k, on a GPU where there is one."""
    from datasets import load_dataset
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    number = 5000
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = AutoImageProcessor.from_pretrained(DEIT_S)
    stream = load_dataset("ILSVRC/imagenet-1k", split="validation", streaming=True).shuffle(0).take(number)
    images, labels = [], []
    for place, row in enumerate(stream):
        progress(f"reading image {place + 1} of {number}", place / number)
        images.append(processor(row["image"].convert("RGB"), return_tensors="pt")["pixel_values"])
        labels.append(row["label"])
    model = AutoModelForImageClassification.from_pretrained(DEIT_S).to(device).eval()
    return Classifier(model, torch.cat(images).to(device), torch.tensor(labels, device=device), views=1)


def imagenet_training() -> DataLoader:
    """The training images of ImageNet-1k in batches for DeiT-S, without augmentation; needs access."""
    from datasets import load_dataset
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(DEIT_S)

    def collate(rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        pixels = processor([row["image"].convert("RGB") for row in rows], return_tensors="pt")["pixel_values"]
        return pixels, torch.tensor([row["label"] for row in rows])

    training = load_dataset("ILSVRC/imagenet-1k", split="train")
    return DataLoader(training, batch_size=256, shuffle=True, collate_fn=collate, num_workers=8)
