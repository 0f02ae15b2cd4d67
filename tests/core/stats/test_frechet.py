"""The Fréchet distance: the released values, torchmetrics and scipy, streams, processes, intervals."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import ROOT
from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.core.stats import FrechetDistance, FrechetStats, frechet_distance, frechet_estimate
from tokenry.core.stats.frechet import feature_rows

SEEDS = st.integers(0, 1000)


def drawn(samples, features, seed=0, shift=0.0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(features, features))
    return generator.normal(size=(samples, features)) @ mixing + shift


def stats(rows):
    return FrechetStats().update(rows)


@pytest.fixture(scope="module")
def released():
    return golden_arrays("40-image-tokenizer-posttraining", "dev-frechet.npz")


def test_the_released_distances(released):
    real, fake, small = (stats(released[name]) for name in ("real", "fake", "small"))
    assert real.distance(fake) == pytest.approx(released["fd"].item(), rel=1e-6)
    assert real.distance(real) == pytest.approx(released["fd_same"].item(), abs=1e-9)
    expected = released["fd_small_rank_deficient"].item()
    assert real.distance(small) == pytest.approx(expected, rel=1e-5)
    assert small.distance(real) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("samples", "features"), [(64, 9), (200, 32)])
def test_torchmetrics_and_scipy_agree(samples, features):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = features

        def forward(self, rows):
            return rows

    one, other = drawn(samples, features), drawn(samples + 7, features, seed=1, shift=0.3)
    metric = FrechetInceptionDistance(feature=Given(), input_img_size=(features,)).set_dtype(torch.float64)
    metric.update(torch.from_numpy(one), real=True)
    metric.update(torch.from_numpy(other), real=False)
    ours = stats(one).distance(stats(other))
    assert ours == pytest.approx(metric.compute().item(), rel=1e-6)
    root = scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(other.T)).real
    classic = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(
        np.cov(one.T) + np.cov(other.T) - 2 * root
    )
    assert ours == pytest.approx(classic, rel=1e-6)


@pytest.mark.parametrize(("samples", "others"), [(4, 300), (300, 4), (4, 6), (2, 2)])
def test_fewer_samples_than_features_give_the_distance_of_the_symmetric_root(samples, others):
    one, other = drawn(samples, 9), drawn(others, 9, seed=1)
    values, vectors = np.linalg.eigh(np.cov(one.T))
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ np.cov(other.T) @ root).clip(0)).sum()
    expected = (
        ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(np.cov(one.T) + np.cov(other.T)) - 2 * shared
    )
    assert stats(one).distance(stats(other)) == pytest.approx(expected, rel=1e-5)


def test_features_that_do_not_vary_have_the_distance_of_their_means():
    one, other = np.full((5, 3), 1.0), np.full((7, 3), 3.0)
    assert stats(one).distance(stats(other)) == pytest.approx(12.0)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 8), st.integers(2, 30))
def test_the_distance_of_a_set_to_itself_is_zero_and_a_rotation_changes_nothing(seed, features, samples):
    one, other = drawn(samples, features, seed), drawn(samples + 3, features, seed + 1, shift=0.5)
    scale = float(np.trace(stats(one).covariance)) + 1
    assert stats(one).distance(stats(one)) <= 1e-6 * scale
    turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(features, features)))[0]
    assert stats(one @ turned).distance(stats(other @ turned)) == pytest.approx(
        stats(one).distance(stats(other)), rel=1e-6, abs=1e-6 * scale
    )
    assert stats(one).distance(stats(other)) == pytest.approx(
        stats(other).distance(stats(one)), rel=1e-6, abs=1e-6 * scale
    )


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_any_batches_and_any_merge_give_the_statistics_of_the_whole(seed, sizes):
    rows = drawn(sum(sizes) + 2, 4, seed, shift=1e3)
    streamed, merged, start = FrechetStats(), FrechetStats(), 0
    for size in [*sizes, 2]:
        part = rows[start : start + size]
        streamed.update(torch.from_numpy(part))
        merged.merge(FrechetStats().update(part))
        start += size
    for found in (streamed, merged):
        assert found.samples == len(rows)
        np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(rows.T), rtol=1e-9, atol=1e-9)


def test_half_precision_is_added_up_in_double():
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    np.testing.assert_allclose(stats(rows).covariance, np.cov(rows.double().numpy().T), rtol=1e-12)


RANKS = """
import numpy as np, os, torch.distributed
from tokenry.core.stats import FrechetStats
torch.distributed.init_process_group("gloo")
rank = int(os.environ["RANK"])
rows = np.random.default_rng(0).normal(size=(40, 3))
whole = FrechetStats().update(rows[rank::2]).across_ranks()
assert whole.samples == 40
np.testing.assert_allclose(whole.covariance, np.cov(rows.T), rtol=1e-9)
"""


def test_two_processes_have_the_statistics_of_all(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_interval_holds_the_value_and_is_as_wide_as_fresh_samples_vary():
    reference = stats(drawn(2000, 5))
    fresh = [
        stats(np.random.default_rng(seed).normal(size=(150, 5))).distance(reference) for seed in range(60)
    ]
    estimate = frechet_estimate(np.random.default_rng(0).normal(size=(150, 5)), reference)
    assert estimate.value == pytest.approx(fresh[0])
    assert estimate.low < estimate.value < estimate.high
    assert 0.5 < estimate.standard_error / np.std(fresh) < 2


def test_originals_drawn_with_their_reconstructions_vary_less():
    originals = drawn(200, 4)
    rebuilt = originals + 0.1 * drawn(200, 4, seed=1)
    paired = frechet_estimate(rebuilt, originals, draws=60, paired=True)
    apart = frechet_estimate(rebuilt, originals, draws=60)
    assert paired.value == apart.value
    assert paired.standard_error < 0.7 * apart.standard_error


def test_without_draws_there_is_a_value_and_no_interval():
    estimate = frechet_estimate(drawn(20, 3), stats(drawn(30, 3, seed=1)), draws=0)
    assert np.isfinite(estimate.value)
    assert np.isnan(estimate.low)


def distance(**changed):
    conditions = {
        "reference": "digits, test",
        "samples": 500,
        "preparation": "8 × 8",
        "features": "probe",
    } | changed
    return FrechetDistance(
        frechet_estimate(drawn(20, 3), stats(drawn(30, 3, seed=1)), draws=20), **conditions
    )


def test_distances_under_the_same_conditions_are_subtracted_and_others_refuse():
    assert distance() - distance() == 0
    assert "to digits, test, 500 samples, 8 × 8, features of probe" in str(distance())
    with pytest.raises(UserError, match=r"do not compare \(samples: 500 and 50; features: probe and dino\)"):
        distance() - distance(samples=50, features="dino")


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: feature_rows(np.zeros(3)), r"shape \(samples, features\), got \(3,\)"),
        (
            lambda: feature_rows([[1.0, np.nan], [0.0, 1.0]]),
            "1 of 2 feature vectors hold a value that is not finite",
        ),
        (
            lambda: stats(drawn(1, 3)).distance(stats(drawn(5, 3))),
            "at least 2 feature vectors on either side, got 1",
        ),
        (lambda: FrechetStats().distance(stats(drawn(5, 3))), "got 0"),
        (
            lambda: stats(drawn(5, 3)).update(drawn(5, 4)),
            "3 features and the other 4: take both from the same network",
        ),
        (lambda: stats(drawn(5, 3)).distance(stats(drawn(5, 4))), "3 features and the other 4"),
        (
            lambda: frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)),
            "2 features and the other 3",
        ),
        (
            lambda: frechet_estimate(drawn(5, 3), drawn(6, 3), paired=True),
            "for each of 5 samples, got 6 rows",
        ),
        (lambda: frechet_estimate(drawn(5, 3), stats(drawn(5, 3)), paired=True), "got statistics"),
    ],
)
def test_wrong_input_is_refused(act, sentence):
    with pytest.raises(UserError, match=sentence):
        act()
