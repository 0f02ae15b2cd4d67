"""pFID: the released cells, its grid, its interval, and that nothing perturbed is rFID."""

import pytest
import torch

from tests.golden import golden_arrays
from tests.tiny.vq import TinyTokenizer, images
from tokenry.core.errors import UserError
from tokenry.core.stats import FrechetStats
from tokenry.generation.image_tokenizer.perturbation import neighbour_table, perturb_tokens
from tokenry.generation.image_tokenizer.pfid import PerturbationGrid, PFIDConfig, pfid

PICTURES = images(40)
GRID = PerturbationGrid((0.5, 0.9), (0.25, 0.5))


def means(batch):
    return batch.mean((2, 3))


def test_the_released_cells():
    released = golden_arrays("40-image-tokenizer-posttraining", "dev-frechet.npz")
    codebook, tokens = released["pfid_codebook"], released["pfid_tokens"]

    def features(codes):
        return codebook[codes].flatten(1) @ released["pfid_decoder"] @ released["pfid_feature"]

    reference = FrechetStats().update(released["pfid_images"] @ released["pfid_feature"])
    table = neighbour_table(codebook, len(codebook))
    values = []
    for cell, (rate, strength) in enumerate(released["pfid_grid"].tolist()):
        drawn = {"u": released["pfid_u"][cell], "rank": released["pfid_r"][cell]}
        perturbed = perturb_tokens(tokens, table[:, : int(strength)], rate, **drawn)
        values.append(FrechetStats().update(features(perturbed)).distance(reference))
    assert values == pytest.approx(released["pfid_values"].tolist(), rel=1e-6)
    assert sum(values) / len(values) == pytest.approx(released["pfid_mean"].item(), rel=1e-6)
    clean = FrechetStats().update(features(tokens)).distance(reference)
    assert clean == pytest.approx(released["rfid"].item(), rel=1e-6)


def test_a_grid_in_shares_of_the_codebook():
    assert PerturbationGrid().cells(4096)[:3] == [(0.5, 41), (0.5, 123), (0.5, 205)]
    assert len(PerturbationGrid().cells(4096)) == 9
    assert PerturbationGrid((0.5,), (0.001, 0.002)).cells(64) == [(0.5, 1)]
    assert str(PerturbationGrid()) == "alpha 0.5, 0.7, 0.9 × delta 1, 3, 5 % of the codebook"


def test_the_mean_is_that_of_the_cells_and_everything_is_written_with_it():
    found = pfid(TinyTokenizer(), PICTURES, means, PFIDConfig(GRID, draws=20), "squares", "8 × 8", "means")
    assert found.mean.estimate.value == pytest.approx(
        sum(cell.distance.value for cell in found.cells) / len(found.cells)
    )
    for estimate in (found.mean.estimate, found.rfid.estimate, found.cells[0].distance):
        assert estimate.low <= estimate.value <= estimate.high
    for words in ("squares", "8 × 8", "features of means", "40 samples", "alpha 0.5, 0.9 × delta 25, 50 %"):
        assert words in str(found)


def test_nothing_perturbed_is_rfid_to_the_bit():
    for grid in (PerturbationGrid((0.0,), (0.5,)), PerturbationGrid((0.9,), (0.01,))):
        found = pfid(TinyTokenizer(), PICTURES, means, PFIDConfig(grid, draws=0))
        assert found.mean.estimate.value == found.rfid.estimate.value


def test_streamed_features_and_other_batches_give_the_reconstruction_distance():
    one = pfid(TinyTokenizer(), PICTURES, means, PFIDConfig(GRID, batch_size=40, draws=10))
    other = pfid(TinyTokenizer(), PICTURES, means, PFIDConfig(GRID, batch_size=7, draws=0))
    assert one.rfid.estimate.value == pytest.approx(other.rfid.estimate.value, rel=1e-6)
    assert one.mean - one.mean == 0


def test_two_tokenizers_on_the_same_images_have_a_paired_difference():
    other = TinyTokenizer()
    with torch.no_grad():
        other.decoder[0].weight.mul_(0.9)
    config = PFIDConfig(GRID, draws=60)
    one, two = (pfid(tokenizer, PICTURES, means, config) for tokenizer in (TinyTokenizer(), other))
    found = two.minus(one)
    assert found.value == pytest.approx(two.mean - one.mean)
    assert found.standard_error < one.mean.estimate.standard_error
    with pytest.raises(UserError, match="compare on one grid and the same resamples"):
        two.minus(pfid(other, PICTURES, means, PFIDConfig(PerturbationGrid((0.5,)), draws=60)))


def test_tokenizers_are_compared_on_the_same_images_only():
    one = pfid(TinyTokenizer(), PICTURES, means, PFIDConfig(GRID, draws=0), reference="squares")
    fewer = pfid(TinyTokenizer(), PICTURES[:20], means, PFIDConfig(GRID, draws=0), reference="squares")
    with pytest.raises(UserError, match=r"do not compare \(samples: 40 and 20"):
        one.mean - fewer.mean


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: PerturbationGrid((1.5,)), r"rates must be in \[0, 1\], got 1.5"),
        (
            lambda: PerturbationGrid(strengths=(0.0,)),
            r"strengths must be in \(0, 1\], shares of the codebook, got 0.0",
        ),
        (lambda: PerturbationGrid(()), "at least one rate and one strength"),
        (lambda: PFIDConfig(batch_size=0), "batch_size must be at least 1, got 0"),
        (
            lambda: pfid(TinyTokenizer(), PICTURES[:1], means),
            "at least 2 feature vectors on either side, got 1",
        ),
        (
            lambda: pfid(TinyTokenizer(), PICTURES, lambda batch: means(batch) / 0),
            "hold a value that is not finite",
        ),
    ],
)
def test_wrong_input_is_refused(act, words):
    with pytest.raises(UserError, match=words):
        act()
