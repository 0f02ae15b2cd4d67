"""The recipe of one visual token: its toy is what it says, and its verdicts follow the measurements in both directions."""

import dataclasses

import pytest
import torch

from tests.recipes.check_recipe import check_recipe
from tokenry.compression.vision.quecc import QueCC, TokenPackerCompressor
from tokenry.compression.vision.vlm_scaling import ScalingFit
from tokenry.recipes.one_visual_token import (
    VisualTokenSizes,
    digit_claims,
    digit_settings,
    held_out_sizes,
    scaling_claims,
)
from tokenry.recipes.testbeds.quadrant_digits import (
    QuadrantReader,
    QuadrantSetting,
    _digits,
    quadrant_batch,
    reading_accuracy,
    train_reader,
)

SHORT = QuadrantSetting(hidden_size=16, text_hidden_size=4, token_size=16, steps=3, batch_size=8, held_out=16)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def law(alpha, beta, low, high):
    return ScalingFit(0.6, alpha, beta, 0.0, points=28, ci={"alpha_beta_ratio": (low, high)})


def test_an_image_shows_the_asked_digit_in_the_asked_quadrant():
    images, quadrants, digits = quadrant_batch(40, True, draw())
    shapes, labels = _digits(True)
    for image, quadrant, digit in zip(images, quadrants.tolist(), digits.tolist(), strict=True):
        row, column = divmod(quadrant, 2)
        shown = image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert digit in labels[(shapes == shown).all((1, 2))].tolist()


def test_test_images_are_made_of_digits_that_no_training_image_has():
    (training, _), (test, _) = _digits(False), _digits(True)
    assert len(training) + len(test) == 1797
    assert len(training) > 2 * len(test)


def test_the_query_blind_token_is_the_same_for_every_question():
    images, _, _ = quadrant_batch(1, True, draw())
    four = torch.arange(4)
    seen = {}
    for kind in (QueCC, TokenPackerCompressor):
        torch.manual_seed(0)
        reader, found = QuadrantReader(kind, SHORT), []
        reader.projector.register_forward_hook(lambda _, __, token, found=found: found.append(token))
        reader(images.expand(4, -1, -1), four)
        seen[kind] = bool((found[0] - found[0][:1]).abs().max() > 1e-5)
    assert seen == {QueCC: True, TokenPackerCompressor: False}


@pytest.mark.parametrize("read_out", ["linear", "mlp"])
def test_the_same_seed_gives_the_same_reader_and_leaves_the_global_generator_alone(read_out):
    setting, state = dataclasses.replace(SHORT, read_out=read_out), torch.get_rng_state()
    one, same = (train_reader(QueCC, 3, setting) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert reading_accuracy(one, 3, setting) == reading_accuracy(same, 3, setting)
    assert torch.equal(one.projector.weight, same.projector.weight)


def test_a_reader_learns():
    setting = QuadrantSetting(
        hidden_size=32, token_size=32, steps=150, batch_size=64, held_out=500, learning_rate=5e-3
    )
    assert reading_accuracy(train_reader(QueCC, 0, setting), 0, setting) > 0.3


def test_the_whole_recipe_runs_and_draws(tmp_path):
    reproduction = check_recipe("one-visual-token", VisualTokenSizes((0, 1), SHORT), tmp_path)
    assert [claim.verdict for claim in reproduction.claims[:3]] == ["shown"] * 3
    assert "shown" not in [claim.verdict for claim in reproduction.claims[3:]]
    assert "one visual token" in reproduction.headline.claim


def test_only_what_the_readers_get_differs_between_the_settings():
    settings = digit_settings()
    assert {(each.read_out, each.token_size) for each in settings.values()} == {
        ("linear", 64),
        ("mlp", 64),
        ("mlp", 4),
    }
    assert {dataclasses.replace(each, read_out="mlp", token_size=64) for each in settings.values()} == {
        QuadrantSetting()
    }


def test_an_unseen_size_is_predicted_better_than_by_its_neighbour():
    left_out = held_out_sizes()
    assert 0.003 < left_out["law"] < 0.006 < left_out["nearest size"]


@pytest.mark.parametrize(("reasoning", "ocr", "verdicts"), [
    (law(0.07, 0.015, 4.2, 5.2), law(0.03, 0.04, 0.5, 0.9), ["shown", "shown", "shown"]),
    (law(0.01, 0.015, 0.5, 0.8), law(0.03, 0.02, 1.1, 1.9), ["not shown", "not shown", "opposite"]),
    (law(0.07, 0.015, 0.9, 9.0), law(0.03, 0.04, 0.5, 1.1), ["shown", "not shown", "not shown"]),
])  # fmt: skip
def test_the_law_is_judged_by_its_choices_and_its_interval(reasoning, ocr, verdicts):
    assert [claim.verdict for claim in scaling_claims(reasoning, ocr)] == verdicts


@pytest.mark.parametrize(("ours", "blind", "verdict"), [
    ([0.98, 0.97], [0.5, 0.48], "shown"),
    ([0.98, 0.97], [0.5, 0.9], "not shown"),
    ([0.6, 0.61], [0.9, 0.92], "opposite"),
    ([0.98], [0.5], "too few"),
])  # fmt: skip
def test_quecc_must_lead_by_twenty_points_over_the_seeds(ours, blind, verdict):
    (claim,) = digit_claims({"a read-out": {"QueCC": ours, "query-blind": blind}})
    assert claim.verdict == verdict
