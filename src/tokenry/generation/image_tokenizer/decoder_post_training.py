"""Post-training of a decoder: it learns to make real images of the codes that a generator will give it.

    decoder        MSE + perceptual + weight · adversarial_weight · hinge         weight: `adaptive_weight`, codes from `draw_pairs`
    discriminator  hinge + lecam_weight · LeCam

The target is not determined by the codes, so MSE alone blurs and makes everything worse: a perceptual term is required. Encoder,
codebook and generator stay as they are, which is checked. Both losses are differentiated at the same weights in one backward pass, as the
released code does in two: the decoder's loss sees the discriminator without its gradient, the discriminator's sees images without theirs.

Source: Image Tokenizer Needs Post-Training (RobusTok), arXiv 2509.12474, section 4; where its code leaves parts of the encoder trainable,
the paper is followed.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.progress import Progress
from tokenry.core.io.workspace import fingerprint
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.core.train.adamw import AdamWSettings, PartOptimiser
from tokenry.core.train.numbered import TextBatches
from tokenry.core.train.training import LoopConfig, Training, Values
from tokenry.generation.image_tokenizer.drawn_pairs import DecoderPairs, ImagesByNumber
from tokenry.generation.image_tokenizer.tokenizer_losses import (
    LeCam,
    adaptive_weight,
    cutout,
    hinge_discriminator,
    hinge_generator,
)
from tokenry.generation.image_tokenizer.vq_tokenizers import Samples, VQTokenizer

Perceptual = Callable[[Samples, Samples], Float[Tensor, ""]]
"""How unlike images are, as a loss: LPIPS, or the distance of features of any network."""


@dataclass(frozen=True)
class PostTrainingConfig:
    """The post-training of a decoder.

    Attributes:
        steps: steps of both optimisers.
        batch_size: pairs per step, in each process.
        learning_rate: of the decoder; half a cosine down to 0.
        discriminator_learning_rate: of the discriminator.
        perceptual_weight: weight of the perceptual term.
        adversarial_weight: weight of the adversarial term, beside the one that is computed; 0 for no discriminator.
        lecam_weight: weight of LeCam.
        cutout: share of the sides of the box that the discriminator does not see; 0 for none.
        max_gradient_norm: largest norm of the gradient of either part.
        bfloat16: compute in mixed precision.
        seed: random seed of the order and of dropout.
        save_every: steps between checkpoints.
        allow_blur: train without a perceptual term.
    """

    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 5e-5
    discriminator_learning_rate: float = 5e-5
    perceptual_weight: float | int = 1.0
    adversarial_weight: float | int = 0.5
    lecam_weight: float | int = 0.001
    cutout: float | int = 0.2
    max_gradient_norm: float | int = 1.0
    bfloat16: bool = False
    seed: int = 0
    save_every: int = 500
    allow_blur: bool = False

    def __post_init__(self) -> None:
        require_fraction(self.cutout, "cutout")
        require_at_least(1, steps=self.steps, batch_size=self.batch_size, save_every=self.save_every)
        require_at_least(
            0,
            seed=self.seed,
            learning_rate=self.learning_rate,
            discriminator_learning_rate=self.discriminator_learning_rate,
            perceptual_weight=self.perceptual_weight,
            adversarial_weight=self.adversarial_weight,
            lecam_weight=self.lecam_weight,
        )


class PatchDiscriminator(nn.Module):
    """Judges every patch of an image by convolutions; any module from images to logits may stand in its place."""

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        sizes = [channels, *(width * min(2**layer, 4) for layer in range(layers))]
        blocks: list[nn.Module] = []
        for into, out in pairwise(sizes):
            blocks += [nn.Conv2d(into, out, 4, 2, 1), nn.GroupNorm(1, out), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*blocks, nn.Conv2d(sizes[-1], 1, 1))

    def forward(self, images: Samples) -> Float[Tensor, "batch 1 *patches"]:
        """Logits, above 0 for real."""
        return self.layers(images)


@dataclass(frozen=True)
class PostTrained:
    """What a post-training did.

    Attributes:
        history: one value per step for each loss.
        frozen: fingerprint of everything but the decoder, the same before and after.
    """

    history: dict[str, list[float]]
    frozen: str


def post_train_decoder(
    tokenizer: VQTokenizer,
    pairs: DecoderPairs,
    images: ImagesByNumber,
    config: PostTrainingConfig,
    perceptual: Perceptual | None = None,
    discriminator: nn.Module | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress = lambda what, share: None,
) -> PostTrained:
    """Train the decoder of a tokenizer in place; it ends in evaluation mode.

    Args:
        pairs: from `draw_pairs`, or of your own.
        images: the real images, in [−1, 1].
        perceptual: how unlike images are.
        discriminator: from images to logits; by default a `PatchDiscriminator`.
        folder: of the checkpoints; None to keep none.
        resume: resume from the last checkpoint in it.
        progress: called before each step.

    Raises:
        UserError: no perceptual term, fewer pairs than a batch, or what `Training.run` refuses.
    """
    if perceptual is None and not config.allow_blur:
        raise UserError(
            "post-training needs a perceptual term: with the squared error alone the decoder blurs, and every measure becomes worse. "
            "Give any module that compares images (perceptual=…), or allow_blur=True."
        )
    if len(pairs.codes) < config.batch_size:
        raise UserError(
            f"there are {len(pairs.codes)} pairs and batch_size is {config.batch_size}: draw more, or lower batch_size."
        )
    device = next(tokenizer.decoder.parameters()).device
    parts = nn.ModuleDict({"decoder": tokenizer.decoder})
    if config.adversarial_weight:
        if discriminator is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                discriminator = PatchDiscriminator(images[[0]].shape[1])
        parts["discriminator"], parts["lecam"] = discriminator.to(device), LeCam().to(device)
    losses = _Losses(tokenizer, parts, perceptual, config)

    def loss(numbers: list[int]) -> Values:
        chosen = torch.tensor(numbers)
        real = images[pairs.originals[chosen].tolist()].to(device)
        return losses(pairs.codes[chosen].to(device), real)

    batches = TextBatches(range(len(pairs.codes)), config.batch_size, config.seed)
    with _frozen(tokenizer, perceptual) as frozen:
        training = Training(
            parts,
            loss,
            batches,
            _loop(config),
            fingerprint(repr(config), frozen, pairs.codes, pairs.originals, length=32),
        )
        training.run(folder, resume=resume, progress=progress, stage=lambda step: "post-training the decoder")
    tokenizer.decoder.eval()
    return PostTrained(training.history, frozen)


class _Losses:
    """The losses of both parts, of codes and the real images."""

    def __init__(
        self,
        tokenizer: VQTokenizer,
        parts: nn.ModuleDict,
        perceptual: Perceptual | None,
        config: PostTrainingConfig,
    ) -> None:
        self._tokenizer, self._parts, self._perceptual, self._config = tokenizer, parts, perceptual, config
        self._last_layer = [weight for weight in tokenizer.decoder.parameters() if weight.ndim > 1][-1]

    def __call__(self, codes: Tensor, real: Samples) -> dict[str, Tensor]:
        made = self._tokenizer.decode(codes)
        values = {"mse": mse_loss(made, real)}
        total = values["mse"]
        if self._perceptual is not None:
            values["perceptual"] = self._perceptual(made, real)
            total = total + self._config.perceptual_weight * values["perceptual"]
        if self._config.adversarial_weight:
            total = total + self._adversarial(made, real, total, values)
        return {"loss": total, **values}

    def _adversarial(
        self, made: Samples, real: Samples, reconstruction: Tensor, values: dict[str, Tensor]
    ) -> Tensor:
        """The decoder's adversarial term and the loss of the discriminator, each without a gradient for the other."""
        judge, lecam = self._parts["discriminator"], cast(LeCam, self._parts["lecam"])
        hidden = partial(cutout, share=self._config.cutout)
        held = {name: weight.detach() for name, weight in judge.named_parameters()}
        values["adversarial"] = hinge_generator(functional_call(judge, held, (hidden(made),)))
        weight = torch.ones(())
        if torch.is_grad_enabled():
            weight = adaptive_weight(reconstruction, values["adversarial"], self._last_layer)
        of_real, of_made = judge(hidden(real)), judge(hidden(made.detach()))
        lecam.update(of_real, of_made)
        values["discriminator"] = hinge_discriminator(of_real, of_made)
        return (
            self._config.adversarial_weight * weight * values["adversarial"]
            + values["discriminator"]
            + self._config.lecam_weight * lecam(of_real, of_made)
        )


def _loop(config: PostTrainingConfig) -> LoopConfig:
    def falling(peak: float, step: int) -> float:
        return peak * (1 + math.cos(math.pi * step / config.steps)) / 2

    parts = {}
    if config.adversarial_weight:
        adamw = AdamWSettings(weight_decay=5e-4, max_gradient_norm=config.max_gradient_norm)
        parts["discriminator"] = PartOptimiser(partial(falling, config.discriminator_learning_rate), adamw)
    return LoopConfig(
        config.steps,
        partial(falling, config.learning_rate),
        AdamWSettings(weight_decay=0.0, max_gradient_norm=config.max_gradient_norm),
        parts=parts,
        bfloat16=config.bfloat16,
        seed=config.seed,
        save_every=config.save_every,
    )


@contextmanager
def _frozen(tokenizer: VQTokenizer, perceptual: Any) -> Iterator[str]:
    """Let only the decoder learn, and check that nothing else did; yields the fingerprint of what is frozen."""
    ours = {id(weight) for weight in tokenizer.decoder.parameters()}
    modules = [tokenizer.module, *([perceptual] if isinstance(perceptual, nn.Module) else [])]
    weights = [weight for module in [*modules, tokenizer.decoder] for weight in module.parameters()]
    asked = [weight.requires_grad for weight in weights]
    held = _Held(modules, tokenizer.decoder)
    before = model_fingerprint(held)
    for module in modules:
        module.eval()
    for weight in weights:
        weight.requires_grad_(id(weight) in ours)
    try:
        yield before
        if model_fingerprint(held) != before:
            raise RuntimeError("parts of the tokenizer that are frozen were changed by its post-training")
    finally:
        for weight, learns in zip(weights, asked, strict=True):
            weight.requires_grad_(learns)


class _Held(nn.Module):
    """The weights and buffers of modules but for those of one part, to be hashed; codebooks may be buffers."""

    def __init__(self, modules: list[nn.Module], but: nn.Module) -> None:
        super().__init__()
        left_out = {id(tensor) for tensor in [*but.parameters(), *but.buffers()]}
        tensors = [
            tensor
            for module in modules
            for tensor in [*module.parameters(), *module.buffers()]
            if id(tensor) not in left_out
        ]
        self.held = nn.ParameterList([nn.Parameter(tensor.data, requires_grad=False) for tensor in tensors])
