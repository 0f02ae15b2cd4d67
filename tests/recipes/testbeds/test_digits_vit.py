import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.recipes.testbeds import digits_vit
from tokenry.recipes.testbeds.digits_vit import (
    PLACES,
    DigitsViTSetting,
    accuracy,
    correct,
    digits_on_canvas,
    load_digits_vit,
    train_digits_vit,
)

SHORT = DigitsViTSetting(training_digits=20, test_digits=30, epochs=1)


def draw(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path))


@pytest.fixture
def trainings(monkeypatch):
    """The settings with which a model was trained."""
    seen = []

    def counted(images, labels, setting, progress):
        seen.append(setting)
        return train_digits_vit(images, labels, setting, progress)

    monkeypatch.setattr(digits_vit, "train_digits_vit", counted)
    return seen


@settings(max_examples=20, deadline=None)
@given(st.integers(0, PLACES - 1))
def test_a_digit_covers_four_by_four_whole_patches_at_its_place(place):
    canvas = digits_on_canvas(torch.ones(1, 8, 8), torch.tensor([place]), 0.0, draw(0))[0, 0]
    patches = canvas.reshape(6, 4, 6, 4).mean(dim=(1, 3))
    row, column = divmod(place, 3)
    expected = torch.zeros(6, 6)
    expected[row : row + 4, column : column + 4] = 1
    assert torch.equal(patches, expected)


def test_noise_covers_the_whole_canvas_digit_or_not():
    digits, places = torch.rand(200, 8, 8), torch.arange(200) % PLACES
    clean, noisy = (digits_on_canvas(digits, places, noise, draw(0)) for noise in (0.0, 0.2))
    per_pixel = (noisy - clean).std(dim=0)
    assert per_pixel.min() > 0.14
    assert (noisy - clean).std() == pytest.approx(0.2, abs=0.002)


def test_the_test_set_has_three_different_places_of_each_of_the_397_digits():
    setting = DigitsViTSetting(noise=0.0)
    _, (images, labels) = digits_vit._images(setting)
    assert images.shape == (1191, 1, 24, 24)
    assert torch.equal(labels[::3], labels[1::3])
    assert torch.equal(labels[::3], labels[2::3])
    ink = images.flatten(1)
    assert all(
        (ink[first::3] != ink[second::3]).any(dim=1).all() for first, second in ((0, 1), (1, 2), (0, 2))
    )
    assert torch.allclose(ink[::3].sum(dim=1), ink[1::3].sum(dim=1), atol=1e-3)


def test_no_digit_is_trained_and_tested_on():
    (train, _), (test, _) = digits_vit._images(DigitsViTSetting(noise=0.0))
    inks = [{round(total, 3) for total in images.sum(dim=(1, 2, 3)).tolist()} for images in (train, test)]
    # Two digits can have the same amount of ink; if the sets overlapped, all of the test digits would.
    assert len(inks[0] & inks[1]) < len(inks[1])
    shared = (test[:, None] == train[None, :600]).all(dim=(2, 3, 4)).sum()
    assert shared == 0


def test_a_slice_of_the_training_images_is_a_sample_of_digits_and_places():
    (images, labels), _ = digits_vit._images(DigitsViTSetting(noise=0.0))
    assert images.shape == (1400 * PLACES, 1, 24, 24)
    assert labels[:500].bincount(minlength=10).min() > 25
    blank_rows = (images[:500, 0].sum(dim=2)[:, :4] == 0).all(dim=1).float().mean()
    assert blank_rows == pytest.approx(2 / 3, abs=0.1)


def test_images_are_the_same_for_the_same_seed_and_others_for_another():
    one, same = (digits_vit._images(SHORT) for _ in range(2))
    other = digits_vit._images(dataclasses.replace(SHORT, seed=1))
    assert torch.equal(one[0][0], same[0][0])
    assert torch.equal(one[1][0], same[1][0])
    assert not torch.equal(one[1][0], other[1][0])


def test_a_second_call_reads_the_cache(trainings):
    first, second = load_digits_vit(setting=SHORT), load_digits_vit(setting=SHORT)
    assert trainings == [SHORT]
    weights = second.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.model.state_dict().items())
    assert first.accuracy == second.accuracy


def test_another_setting_trains_another_model(trainings):
    longer = dataclasses.replace(SHORT, epochs=2)
    first, second = load_digits_vit(setting=SHORT), load_digits_vit(setting=longer)
    assert trainings == [SHORT, longer]
    assert not torch.equal(first.model.classifier.weight, second.model.classifier.weight)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DigitsViTSetting)])
def test_every_setting_changes_the_fingerprint(field):
    other = dataclasses.replace(SHORT, **{field: getattr(SHORT, field) * 2 + 1})
    assert other.fingerprint != SHORT.fingerprint
    assert dataclasses.replace(other, **{field: getattr(SHORT, field)}).fingerprint == SHORT.fingerprint


def test_a_change_of_the_training_code_changes_the_fingerprint(monkeypatch):
    before = SHORT.fingerprint
    monkeypatch.setattr(digits_vit, "_TRAINING", -1)
    assert SHORT.fingerprint != before


def test_training_is_seeded_and_leaves_the_global_generator_alone():
    (images, labels), _ = digits_vit._images(SHORT)
    state = torch.get_rng_state()
    one, same = (train_digits_vit(images, labels, SHORT) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.classifier.weight, same.classifier.weight)


def test_the_number_of_threads_changes_nothing_and_is_left_as_it_was():
    (images, labels), _ = digits_vit._images(SHORT)
    one = train_digits_vit(images, labels, SHORT)
    torch.set_num_threads(2)
    try:
        two = train_digits_vit(images, labels, SHORT)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one.classifier.weight, two.classifier.weight)


def test_the_model_is_frozen_and_ready_to_be_used():
    model = load_digits_vit(setting=SHORT).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_loaded_model_is_the_trained_one():
    loaded = load_digits_vit(setting=SHORT)
    trained = train_digits_vit(loaded.train_images, loaded.train_labels, SHORT).eval()
    assert torch.equal(
        trained(pixel_values=loaded.test_images).logits, loaded.model(pixel_values=loaded.test_images).logits
    )


def test_training_learns_the_digits():
    setting = DigitsViTSetting(training_digits=20, test_digits=30, epochs=30)
    (images, labels), _ = digits_vit._images(setting)
    model = train_digits_vit(images, labels, setting)
    assert accuracy(model, images, labels) > 0.8


def test_progress_goes_from_nothing_to_everything():
    shares = []
    load_digits_vit(
        progress=lambda what, share: shares.append(share), setting=DigitsViTSetting(8, 8, epochs=13)
    )
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    assert len(shares) > 5


class Brightest(torch.nn.Module):
    """Says the class whose pixel in the first row is the brightest, and only when it is used, not trained."""

    def forward(self, pixel_values):
        assert not self.training
        return SimpleNamespace(logits=pixel_values[:, 0, 0, :10])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**30))
def test_accuracy_does_not_depend_on_the_batch_size(number, batch_size, seed):
    images = torch.rand(number, 1, 4, 12, generator=draw(seed))
    labels = torch.randint(3, (number,), generator=draw(seed))
    model = Brightest()
    expected = images[:, 0, 0, :10].argmax(dim=1) == labels
    assert torch.equal(correct(model, images, labels, batch_size), expected)
    assert accuracy(model, images, labels, batch_size) == pytest.approx(expected.float().mean().item())
    assert model.training


def test_more_digits_than_there_are_cannot_be_asked_for():
    with pytest.raises(UserError, match="there are 1797 digits, got training_digits=1500"):
        DigitsViTSetting(training_digits=1500)
