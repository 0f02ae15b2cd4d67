"""Losses of image tokenizers: the adversarial part with its regulariser and its weight, and the semantic regulariser.

    hinge       discriminator ½ (mean relu(1 − D real) + mean relu(1 + D fake)),  generator − mean D fake
    LeCam       mean relu(D real − ema_fake)² + mean relu(ema_real − D fake)²      ema ← 0.999 ema + 0.001 mean logits
    cutout      one rectangle of what the discriminator sees, real or made, is grey: a fifth of each side, anywhere
    weight      |∇ reconstruction| / (|∇ adversarial| + 1e-4) in the last layer of the decoder, at most 1e4, without a gradient
    semantic    mean of both cross-entropies of scale · a bᵀ, row i against row i

Sources: VQGAN, arXiv 2012.09841, for hinge and weight; LeCam, arXiv 2104.03310; DiffAugment, arXiv 2006.10738; RobusTok, arXiv 2509.12474, for the semantic term.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

HIGHEST_WEIGHT = 1e4


def hinge_discriminator(real: Float[Tensor, "*logits"], fake: Float[Tensor, "*logits"]) -> Float[Tensor, ""]:
    """The discriminator's loss."""
    return ((1 - real).relu().mean() + (1 + fake).relu().mean()) / 2


def hinge_generator(fake: Float[Tensor, "*logits"]) -> Float[Tensor, ""]:
    """The decoder's adversarial loss."""
    return -fake.mean()


def cutout(
    images: Float[Tensor, "batch channels *size"], share: float | int
) -> Float[Tensor, "batch channels *size"]:
    """Grey out one box of each image, whose sides are that share of the image's; a part of it may lie outside."""
    hidden = torch.ones(len(images), *[1] * (images.ndim - 2), dtype=torch.bool, device=images.device)
    for axis, length in enumerate(images.shape[2:], start=1):
        side, places = int(share * length + 0.5), torch.arange(length, device=images.device)
        start = torch.randint(length, (len(images), 1), device=images.device) - side // 2
        inside = (places >= start) & (places < start + side)
        hidden = hidden & inside.view(-1, *[length if dim == axis else 1 for dim in range(1, hidden.ndim)])
    return images.masked_fill(hidden[:, None], 0.0)


class LeCam(nn.Module):
    """Keeps a discriminator near the running means of its logits, so that few images do not let it win."""

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.real: Tensor
        self.fake: Tensor
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    @torch.no_grad()
    def update(self, real: Float[Tensor, "*logits"], fake: Float[Tensor, "*logits"]) -> None:
        """Move the means towards those of a batch."""
        for mean, logits in ((self.real, real), (self.fake, fake)):
            mean.lerp_(logits.detach().mean().to(mean.dtype), 1 - self.decay)

    def forward(self, real: Float[Tensor, "*logits"], fake: Float[Tensor, "*logits"]) -> Float[Tensor, ""]:
        """The regulariser."""
        # Clones: DDP copies buffers in place at the next forward, before this one is differentiated.
        held_real, held_fake = self.real.clone(), self.fake.clone()
        return (real - held_fake).relu().square().mean() + (held_real - fake).relu().square().mean()


def adaptive_weight(
    reconstruction: Float[Tensor, ""], adversarial: Float[Tensor, ""], last_layer: Tensor
) -> Float[Tensor, ""]:
    """Make the adversarial gradient of the last layer as long as that of the reconstruction."""
    ours = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0]
    theirs = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    return (ours.norm() / (theirs.norm() + 1e-4)).clamp(0, HIGHEST_WEIGHT).detach()


def semantic_loss(
    image_features: Float[Tensor, "batch dim"],
    teacher_features: Float[Tensor, "batch dim"],
    scale: float | int = 1.0,
    unit: bool = False,
) -> Float[Tensor, ""]:
    """Contrast the mean of each image's quantised map with the feature of a frozen teacher, both ways.

    Args:
        image_features: mean over the positions of the *clean* quantised map (the paper; its code takes the perturbed one).
        teacher_features: the teacher's features, sent through the same 1 × 1 convolution.
        scale: of the logits.
        unit: compare unit vectors.
    """
    if unit:
        image_features, teacher_features = (
            normalize(image_features, dim=-1),
            normalize(teacher_features, dim=-1),
        )
    logits = scale * image_features @ teacher_features.T
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
