"""The losses of tokenizers: the released values."""

import pytest
import torch

from tests.golden import golden_arrays
from tokenry.generation.image_tokenizer.tokenizer_losses import (
    LeCam,
    adaptive_weight,
    cutout,
    hinge_discriminator,
    hinge_generator,
    semantic_loss,
)

SLUG = "40-image-tokenizer-posttraining"


@pytest.fixture(scope="module")
def released():
    return golden_arrays(SLUG, "dev-losses.npz")


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_released_hinge_and_regulariser(released):
    real, fake = released["logits_real"], released["logits_fake"]
    close(hinge_discriminator(real, fake), released["hinge_d"])
    close(hinge_generator(fake), released["hinge_g"])
    lecam = LeCam().double()
    lecam.update(real, fake)
    lecam.update(fake, 0.5 * real)
    close(lecam.real, released["lecam_ema_real"])
    close(lecam.fake, released["lecam_ema_fake"])
    close(lecam(real, fake), released["lecam_reg"])


@pytest.mark.parametrize("size", [(10, 15), (20,)])
def test_a_box_of_the_asked_size_is_grey_and_lets_no_gradient_through(size):
    torch.manual_seed(0)
    images = torch.ones(200, 2, *size, requires_grad=True)
    seen = cutout(images, 0.2)
    hidden = (seen == 0).flatten(1).sum(1) / 2
    assert hidden.max() == torch.tensor([0.2 * side for side in size]).prod()
    assert hidden.min() >= 1
    assert not (seen == 0).all(0).any(), "anywhere"
    assert (seen == 0).any(0).all()
    seen.sum().backward()
    assert torch.equal(images.grad, seen.detach())
    assert torch.equal(cutout(images, 0), images)


def test_the_released_weight(released):
    layer = released["last_layer"].clone().requires_grad_()
    rebuilt = released["x"] @ layer.T
    reconstruction, adversarial = (rebuilt - released["target"]).square().mean(), -rebuilt.tanh().mean()
    close(adaptive_weight(reconstruction, adversarial, layer), released["adaptive_weight"])


def test_a_weight_is_bounded_where_the_adversarial_part_says_nothing():
    layer = torch.ones(2, requires_grad=True)
    weight = adaptive_weight(1e3 * layer.sum(), 0 * layer.sum(), layer)
    assert weight.item() == 1e4
    assert not weight.requires_grad


def test_the_released_semantic_term():
    released = golden_arrays(SLUG, "dev-semantic.npz")
    pair = released["image_features"], released["teacher_features"]
    close(semantic_loss(*pair, float(released["logit_scale"])), released["loss"])
    close(semantic_loss(*pair, float(released["logit_scale"]), unit=True), released["loss_l2norm"])
