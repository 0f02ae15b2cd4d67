"""Pairs are drawn once; the decoder learns and nothing else does; both parts as two optimisers would; resumed exactly."""

import copy
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from tests import tiny
from tests.fresh_process import run_ranks
from tests.tiny.vq import CODES, TinyTokenizer, images
from tokenry.core.errors import UserError
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.generation.image_tokenizer.decoder_post_training import (
    PatchDiscriminator,
    PostTrainingConfig,
    post_train_decoder,
)
from tokenry.generation.image_tokenizer.drawn_pairs import (
    DecoderPairs,
    PairDrawing,
    draw_pairs,
    eight_bits,
)
from tokenry.generation.image_tokenizer.preserved_sampling import ClassConditionalLM, PreservedSampling

PICTURES, CLASSES = images(12), torch.arange(12) % 3
SHORT = PostTrainingConfig(steps=6, batch_size=4, learning_rate=1e-2, save_every=2)


def generator():
    return partial(ClassConditionalLM, tiny.llama(vocab_size=CODES + 3).eval(), CODES)


def drawing(sigma=0.5, **changed):
    return PairDrawing(PreservedSampling(sigma), **({"shard_size": 5} | changed))


def pairs(tokenizer=None, **changed):
    return draw_pairs(tokenizer or TinyTokenizer(), generator(), PICTURES, CLASSES, drawing(**changed))


def perceptual(made, real):
    return mse_loss(made.mean((2, 3)), real.mean((2, 3)))


def trained(config=SHORT, tokenizer=None, **options):
    tokenizer = tokenizer or TinyTokenizer()
    return tokenizer, post_train_decoder(
        tokenizer, pairs(), PICTURES, config, perceptual, PatchDiscriminator(3, 4, 1), **options
    )


def test_at_sigma_one_pairs_hold_the_real_codes():
    tokenizer = TinyTokenizer()
    codes = tokenizer.encode(PICTURES)
    assert torch.equal(pairs(sigma=1.0, reencode=False).codes, codes)
    again = tokenizer.encode(eight_bits(tokenizer.decode(codes)))
    assert torch.equal(pairs(sigma=1.0).codes, again)


def test_eight_bits_are_those_of_a_file():
    stored = ((PICTURES + 1) * 127.5).round().to(torch.uint8)
    torch.testing.assert_close(eight_bits(PICTURES), stored.float() / 127.5 - 1)
    assert eight_bits(torch.tensor([[[[3.0]]]])).item() == 1


def test_a_shard_that_is_written_is_not_drawn_again(tmp_path):
    def stopped(what, share):
        if share > 0.5:
            raise KeyboardInterrupt

    given = TinyTokenizer(), generator(), PICTURES, CLASSES, drawing(), tmp_path
    with pytest.raises(KeyboardInterrupt):
        draw_pairs(*given, progress=stopped)
    first = sorted(tmp_path.glob("pairs-*.safetensors"))
    assert len(first) == 2
    written = [file.stat().st_mtime_ns for file in first]
    found = draw_pairs(*given)
    assert [file.stat().st_mtime_ns for file in first] == written
    assert torch.equal(found.codes, pairs().codes)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_only_the_decoder_learns(bfloat16):
    before = TinyTokenizer()
    config = PostTrainingConfig(steps=6, batch_size=4, learning_rate=1e-2, bfloat16=bfloat16)
    tokenizer, found = trained(config)
    for name, weight in before.state_dict().items():
        same = torch.equal(weight, tokenizer.state_dict()[name])
        assert same != name.startswith("decoder."), name
    assert all(weight.requires_grad for weight in tokenizer.parameters())
    assert not any(module.training for module in tokenizer.modules())
    assert set(found.history) == {
        "learning_rate",
        "loss",
        "mse",
        "perceptual",
        "adversarial",
        "discriminator",
    }
    assert found.history["learning_rate"][0] == 1e-2


def test_training_makes_the_images_nearer():
    tokenizer = TinyTokenizer()
    codes = tokenizer.encode(PICTURES)
    before = mse_loss(tokenizer.decode(codes), PICTURES)
    config = PostTrainingConfig(steps=60, batch_size=4, learning_rate=2e-2, adversarial_weight=0)
    post_train_decoder(tokenizer, DecoderPairs(codes, torch.arange(12)), PICTURES, config, perceptual)
    assert mse_loss(tokenizer.decode(codes), PICTURES) < 0.9 * before


def test_the_discriminator_leaves_no_gradient_in_the_decoder_and_the_other_way_round():
    """One step by one backward pass moves both parts as two optimisers with two losses do."""
    tokenizer, discriminator = TinyTokenizer(), PatchDiscriminator(3, 4, 1)
    tokenizer.decoder[1].p = 0.0
    expected, judge = copy.deepcopy(tokenizer), copy.deepcopy(discriminator)
    config = PostTrainingConfig(
        steps=1, batch_size=12, learning_rate=1e-2, lecam_weight=0, max_gradient_norm=1e9, cutout=0
    )
    given = DecoderPairs(tokenizer.encode(PICTURES), torch.arange(12))
    post_train_decoder(tokenizer, given, PICTURES, config, perceptual, discriminator)
    made = expected.decode(given.codes)
    reconstruction = mse_loss(made, PICTURES) + perceptual(made, PICTURES)
    adversarial = -judge(made).mean()
    norms = [
        torch.autograd.grad(loss, expected.decoder[0].weight, retain_graph=True)[0].norm()
        for loss in (reconstruction, adversarial)
    ]
    of_decoder = reconstruction + 0.5 * norms[0] / (norms[1] + 1e-4) * adversarial
    weights = list(expected.decoder.parameters())
    for weight, gradient in zip(weights, torch.autograd.grad(of_decoder, weights), strict=True):
        weight.grad = gradient
    torch.optim.AdamW(weights, lr=1e-2, betas=(0.9, 0.95), weight_decay=0).step()
    judge.zero_grad()
    real, fake = judge(PICTURES), judge(made.detach())
    (((1 - real).relu().mean() + (1 + fake).relu().mean()) / 2).backward()
    groups = [
        {"params": [weight for weight in judge.parameters() if weight.ndim > 1], "weight_decay": 5e-4},
        {"params": [weight for weight in judge.parameters() if weight.ndim == 1], "weight_decay": 0},
    ]
    torch.optim.AdamW(groups, lr=5e-5, betas=(0.9, 0.95)).step()
    for ours, theirs in ((tokenizer.decoder, expected.decoder), (discriminator, judge)):
        for weight, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-6)


def test_a_resumed_post_training_ends_as_if_it_had_not_stopped(tmp_path):
    def stopped(what, share):
        if share > 0.7:
            raise KeyboardInterrupt

    whole, found = trained()
    with pytest.raises(KeyboardInterrupt):
        trained(folder=tmp_path, progress=stopped)
    resumed, again = trained(folder=tmp_path, resume=True)
    assert model_fingerprint(whole) == model_fingerprint(resumed)
    assert found == again


@pytest.mark.distributed
def test_two_processes_train_one_decoder_and_change_nothing_else(tmp_path):
    for ended in run_ranks("tests.generation.image_tokenizer.two_ranks", str(tmp_path), folder=tmp_path):
        assert ended.returncode == 0, ended.stderr[-3000:]
    ranks = [load_file(tmp_path / f"rank-{rank}.safetensors") for rank in (0, 1)]
    start = TinyTokenizer().state_dict()
    for name, weight in ranks[0].items():
        assert torch.equal(weight, ranks[1][name])
        assert torch.equal(weight, start[name]) != name.startswith("decoder."), name


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (
            lambda folder: post_train_decoder(TinyTokenizer(), pairs(), PICTURES, SHORT),
            "needs a perceptual term: with the squared error alone the decoder blurs",
        ),
        (
            lambda folder: trained(PostTrainingConfig(steps=1, batch_size=13)),
            "there are 12 pairs and batch_size is 13: draw more, or lower batch_size",
        ),
        (lambda folder: PostTrainingConfig(steps=0), "steps must be at least 1, got 0"),
        (lambda folder: PostTrainingConfig(cutout=1.2), r"cutout must be in \[0, 1\], got 1.2"),
        (
            lambda folder: PostTrainingConfig(perceptual_weight=-1),
            "perceptual_weight must be at least 0, got -1",
        ),
        (
            lambda folder: draw_pairs(TinyTokenizer(), generator(), PICTURES, CLASSES[:5], drawing()),
            "got 12 images and 5 classes",
        ),
        (
            lambda folder: drawn_twice(folder, sigma=0.9),
            "holds pairs of another tokenizer, generator, images",
        ),
        (
            lambda folder: torn(folder),
            r"pairs-00001.safetensors is damaged .*: remove it, and it is drawn again",
        ),
    ],
)
def test_wrong_input_is_refused(act, words, tmp_path):
    with pytest.raises(UserError, match=words):
        act(tmp_path)


def drawn_twice(folder, sigma=0.5):
    for share in (0.5, sigma):
        draw_pairs(TinyTokenizer(), generator(), PICTURES, CLASSES, drawing(share), folder)


def torn(folder):
    drawn_twice(folder)
    (folder / "pairs-00001.safetensors").write_bytes(b"half")
    drawn_twice(folder)


def test_a_decoder_may_blur_where_that_is_asked_for():
    config = PostTrainingConfig(steps=1, batch_size=4, allow_blur=True)
    found = post_train_decoder(TinyTokenizer(), pairs(), PICTURES, config)
    assert "perceptual" not in found.history
