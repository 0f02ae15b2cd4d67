"""xAR (arXiv 2502.20388): is a model that was trained behind noisy context robust to the errors of its own beginning?

Digits of 8 × 8 in 16 cells of 2 × 2, a model of 3 blocks × 48; two ways to train it, at equal steps:

    noisy context    each cell behind noisy cells, one pass (the paper's)
    clean context    each cell behind clean cells, twice the tokens (teacher forcing)

Every model then makes the same images, from the same noise, with Gaussian noise on the finished cells before later cells see them. The
score is the Fréchet distance to the training digits on the hidden layer of a digit classifier.

Headline: noise of 0.4 costs the first less than half of its distance, the second more than 70 %.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray
from torch import Generator, Tensor

from tokenry.core.io.progress import Progress, named, part
from tokenry.core.stats import (
    Estimate,
    FrechetStats,
    all_of,
    bootstrap_estimate,
    estimate_of_mean,
    index_matrix,
    more_often,
    shown,
)
from tokenry.generation import NextXConfig, NextXModel, NextXSamplingConfig, generate_next_x
from tokenry.recipes.kit import Claim, RecipeRun, cosine, fit, recipe
from tokenry.recipes.testbeds.digit_images import CLASSES, SIDE, DigitImages, load_digit_images

NOISY, CLEAN, HALF = "noisy context", "clean context", "clean context, equal tokens"
LITTLE, MUCH, SLOWER = 0.5, 0.7, 1.5


@dataclass(frozen=True)
class XarSizes:
    """Size of the experiment at one scale.

    Attributes:
        unit: what is predicted at once.
        size: of the network.
        steps: training steps.
        batch_size: images of a step.
        images: samples of each model for each disturbance.
        flow_steps: Euler steps of a cell.
        disturbances: standard deviations of the noise on finished cells; the first is 0, the last the headline's.
        rounds: timed steps.
        seeds: one run of all arms for each.
    """

    unit: str = "cell:2"
    size: str = "tiny"
    steps: int = 800
    batch_size: int = 48
    images: int = 600
    flow_steps: int = 10
    disturbances: tuple[float, ...] = (0.0, 0.2, 0.4)
    rounds: int = 10
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Score:
    """What one model made under one disturbance.

    Attributes:
        distance: the Fréchet distance of its images.
        drawn: that of each resample of the images, moved onto the value: a resample is biased once more.
        right: whether the classifier takes each image for its digit.
    """

    distance: float
    drawn: Float[ndarray, "draws"]
    right: Sequence[bool]


Scores = Mapping[tuple[str, float], Sequence[Score]]
"""For each arm and disturbance one score a seed; image i of all of them began as the same noise."""


@recipe(
    "xar",
    laptop=XarSizes(),
    paper=XarSizes("cell:2", "B", 200_000, 256, 10_000, 40, seeds=(0, 1, 2)),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train both models, disturb them, and judge each claim."""
    sizes: XarSizes = run.sizes
    scores: dict[tuple[str, float], list[Score]] = {}
    drawn: dict[tuple[str, float], Tensor] = {}
    for number, seed in enumerate(sizes.seeds):
        told = part(run.progress, number / len(sizes.seeds), (number + 0.97) / len(sizes.seeds))
        digits = load_digit_images(seed)
        for arm, disturbance, images, score in measured(sizes, seed, digits, told):
            scores.setdefault((arm, disturbance), []).append(score)
            drawn.setdefault((arm, disturbance), images[:10])
    ratios = step_ratios(sizes)
    run.settings |= {
        "sizes": asdict(sizes),
        "distances": {f"{arm}, {noise:g}": [score.distance for score in found] for (arm, noise), found in scores.items()},
        "right": {f"{arm}, {noise:g}": [float(np.mean(score.right)) for score in found] for (arm, noise), found in scores.items()},
        "step_ratios": ratios,
    }  # fmt: skip
    with run.figure(11, 4.2) as figure:
        draw(figure, scores, drawn, sizes)
    yield from claims(scores, ratios, sizes.disturbances[-1])


def model_for(sizes: XarSizes, arm: str, seed: int) -> NextXModel:
    """A model that has not been trained."""
    config = NextXConfig.of_size(
        sizes.size,
        channels=1,
        height=SIDE,
        width=SIDE,
        partitions=(sizes.unit,),
        classes=CLASSES,
        dropout=0.0,
        clean_context=arm != NOISY,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NextXModel(config).train()


def measured(
    sizes: XarSizes, seed: int, digits: DigitImages, progress: Progress
) -> Iterator[tuple[str, float, Tensor, Score]]:
    """Train each arm on the same batches and score what it makes."""
    reference = FrechetStats().update(digits.features(digits.train_images))
    labels = torch.arange(sizes.images) % CLASSES
    resampled = index_matrix(sizes.images, 200, seed)
    for number, arm in enumerate((NOISY, CLEAN, HALF)):
        steps = sizes.steps // 2 if arm == HALF else sizes.steps
        told = part(progress, number / 3, (number + 0.8) / 3)
        model = model_for(sizes, arm, seed)
        batches = digits.batches(sizes.batch_size, Generator().manual_seed(seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fit(
                model,
                batches,
                _loss(model),
                steps,
                3e-3,
                cosine,
                fused=True,
                progress=named(told, f"training, {arm}"),
            )
        for disturbance in sizes.disturbances if arm != HALF else sizes.disturbances[:1]:
            progress(f"sampling, {arm}", (number + 0.8) / 3)
            config = NextXSamplingConfig(sizes.flow_steps, "ode", 1.0, context_noise=disturbance)
            images = generate_next_x(
                model, labels, config, seed=seed * 1_000_000, batch_size=sizes.images
            ).clamp(-1, 1)
            features = digits.features(images)
            distance = FrechetStats().update(features).distance(reference)
            others = np.array(
                [FrechetStats().update(features[rows]).distance(reference) for rows in resampled]
            )
            right = digits.classifier(images).argmax(1) == labels
            yield arm, disturbance, images, Score(distance, others - others.mean() + distance, right.tolist())


def _loss(model: NextXModel) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
    return lambda batch: model(*batch).loss


def step_ratios(sizes: XarSizes) -> list[float]:
    """The processor time of a training step behind clean context as a multiple of one behind noisy context, by turns."""
    latents, labels = torch.zeros(sizes.batch_size, 1, SIDE, SIDE), torch.zeros(sizes.batch_size).long()
    models = {arm: model_for(sizes, arm, 0) for arm in (CLEAN, NOISY)}
    seconds: dict[str, list[float]] = {arm: [] for arm in models}
    for _ in range(sizes.rounds + 1):
        for arm, model in models.items():
            began = time.process_time()
            model(latents, labels).loss.backward()
            seconds[arm].append(time.process_time() - began)
    return [clean / noisy for clean, noisy in zip(seconds[CLEAN][1:], seconds[NOISY][1:], strict=True)]


def loss_of_distance(scores: Scores, arm: str, disturbance: float) -> Estimate:
    """The share of its own distance that an arm loses under a disturbance, with images as the units."""
    pairs = list(zip(scores[arm, disturbance], scores[arm, 0.0], strict=True))
    value = np.mean([after.distance / before.distance - 1 for after, before in pairs])
    drawn = np.mean([after.drawn / before.drawn - 1 for after, before in pairs], axis=0)
    return bootstrap_estimate(float(value), drawn, _images(scores))


def ahead(scores: Scores, arm: str) -> Estimate:
    """How far the undisturbed distance of noisy context lies below that of another arm."""
    pairs = list(zip(scores[arm, 0.0], scores[NOISY, 0.0], strict=True))
    value = np.mean([theirs.distance - ours.distance for theirs, ours in pairs])
    drawn = np.mean([theirs.drawn - ours.drawn for theirs, ours in pairs], axis=0)
    return bootstrap_estimate(float(value), drawn, _images(scores))


def _images(scores: Scores) -> int:
    return sum(len(score.right) for score in scores[NOISY, 0.0])


def _distance(scores: Scores, arm: str, disturbance: float = 0.0) -> float:
    return float(np.mean([score.distance for score in scores[arm, disturbance]]))


def claims(scores: Scores, ratios: Sequence[float], disturbance: float) -> Iterator[Claim]:
    """Judge what was measured."""
    noisy, clean = (loss_of_distance(scores, arm, disturbance) for arm in (NOISY, CLEAN))
    yield Claim(
        f"noise of {disturbance:g} on 16 finished cells costs a model trained on noisy context less than {LITTLE:.0%} of its Fréchet distance, and "
        f"one trained on clean context more than {MUCH:.0%} (units: images)",
        "noisy context learning removes exposure bias",
        measured=_share(noisy),
        control=f"{_share(clean)} (clean context)",
        verdict=all_of([shown(noisy.scaled(-1), -LITTLE), shown(clean, MUCH)]),
    )
    ratio = estimate_of_mean(ratios)
    yield Claim(
        f"a training step behind clean context takes at least {SLOWER:g} times as long",
        None,
        measured=f"{ratio:.2f} times (n = {ratio.samples} pairs of steps)",
        control="1 (noisy context, half of the tokens)",
        verdict=shown(ratio, SLOWER),
    )
    ours, theirs = (
        [right for score in scores[arm, disturbance] for right in score.right] for arm in (NOISY, CLEAN)
    )
    won = sum(one and not other for one, other in zip(ours, theirs, strict=True))
    lost = sum(other and not one for one, other in zip(ours, theirs, strict=True))
    yield Claim(
        f"under noise of {disturbance:g} more images of the first are the digit that was asked for",
        None,
        measured=f"{np.mean(ours):.1%} ({won} images to {lost})",
        control=f"{np.mean(theirs):.1%} (clean context)",
        verdict=more_often(won, lost, len(ours)),
    )
    for arm, equal in ((CLEAN, "steps"), (HALF, "tokens")):
        lead = ahead(scores, arm)
        yield Claim(
            f"undisturbed, at equal {equal}, noisy context makes the better images (lower Fréchet distance); not expected on digits",
            "better on ImageNet",
            measured=f"{_distance(scores, NOISY):.3g} (lower by {lead.with_interval('.3g')})",
            control=f"{_distance(scores, arm):.3g} ({arm})",
            verdict=shown(lead),
        )


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:+.0%} (95 %: {estimate.low:+.0%} to {estimate.high:+.0%}, n = {estimate.samples} images)"


def draw(figure: Figure, scores: Scores, drawn: Mapping[tuple[str, float], Tensor], sizes: XarSizes) -> None:
    """The distance over the noise in the context, and the same ten images under the most of it."""
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for arm, marker in ((NOISY, "o"), (CLEAN, "s")):
        losses = [loss_of_distance(scores, arm, noise) for noise in sizes.disturbances]
        values, low, high = (100 * np.array([(loss.value, loss.low, loss.high) for loss in losses])).T
        bars = np.abs([values - low, high - values])
        left.errorbar(sizes.disturbances, values, bars, marker=marker, capsize=3, label=arm)
    left.axhline(0, color="0.7", linewidth=1)
    left.set(xlabel="noise on finished cells", ylabel="Fréchet distance lost (%)")
    left.set_title("robustness to its own errors")
    left.legend(frameon=False)
    rows = [(arm, noise) for arm in (NOISY, CLEAN) for noise in (0.0, sizes.disturbances[-1])]
    grid = torch.cat([torch.cat([*drawn[row][:, 0]], dim=1) for row in rows])
    right.imshow(grid, cmap="gray", vmin=-1, vmax=1)
    middles = [SIDE * (place + 0.5) - 0.5 for place in range(len(rows))]
    right.set_yticks(middles, [f"{arm}, {noise:g}" for arm, noise in rows])
    right.set_xticks([])
    right.set_title("the same noise at the start, in rows")
