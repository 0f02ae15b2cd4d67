"""Which distance tells before a generator is trained how a tokenizer will generate: rFID or pFID?

Eight tokenizers of small digits (codebook, size of a code, width and perturbation differ), a generator for each, trained alike. The pairs of
tokenizers that a distance puts in the order of their generated images are counted: those of pFID / those of rFID, expected above 1 (the
paper's argument). Once with the features of a digit classifier, once with those of DINOv2, to which 16 × 16 digits are strange.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import torch
from _dinov2 import dinov2, pixel_values
from _report import Result, note, run, speedup
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from tokenry.core.stats import FrechetStats
from tokenry.generation import LatentPerturbation, PerturbationGrid, PFIDConfig, pfid
from tokenry.recipes.testbeds.digits_tokenizer import (
    DigitsTokenizerSetting,
    DistortedDigits,
    distorted_digits,
    metric_body,
    perceptual_body,
    sampled_codes,
    train_digits_tokenizer,
    train_generator,
    train_judge,
)

SETTING = DigitsTokenizerSetting(copies=2, steps=300, generator_steps=250, judge_steps=300)
SMOKE = replace(SETTING, copies=1, test_digits=60, steps=2, generator_steps=2, judge_steps=2)
OFTEN = LatentPerturbation(0.7, 0.5, 8)
TOKENIZERS: dict[str, tuple[DigitsTokenizerSetting, bool]] = {
    "plain": (SETTING, False),
    "32 codes": (replace(SETTING, codes=32), False),
    "256 codes": (replace(SETTING, codes=256), False),
    "codes of 3 numbers": (replace(SETTING, dim=3), False),
    "8 channels": (replace(SETTING, width=8), False),
    "perturbed, beta 0.1": (SETTING, True),
    "perturbed, beta 0.5": (replace(SETTING, perturbation=OFTEN), True),
    "256 codes, perturbed, beta 0.5": (replace(SETTING, codes=256, perturbation=OFTEN), True),
}
GRID, COARSE = PerturbationGrid(strengths=(0.06, 0.12)), PerturbationGrid((0.7,), (0.06, 0.12))
SEED, DINO_IMAGES, DINO_SIDE = 0, 200, 56
Features = Callable[[Tensor], Tensor]


def measure(smoke: bool) -> Iterator[Result]:
    """Train all tokenizers with their generators, and compare the orders."""
    setting = SMOKE if smoke else SETTING
    digits = distorted_digits(setting, SEED)
    percept = train_judge(perceptual_body, 512, digits, setting, SEED + 1)
    networks: dict[str, tuple[Features, PerturbationGrid, int]] = {
        "a digit classifier": (train_judge(metric_body, 32, digits, setting, SEED), GRID, len(digits.test)),
        "DINOv2": (pooled if smoke else of_dinov2(), COARSE, DINO_IMAGES),
    }
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in networks}
    for name, (chosen, perturbed) in [*TOKENIZERS.items()][: 3 if smoke else None]:
        note(f"tokenizer: {name}")
        own = replace(chosen, **{field: getattr(SMOKE, field) for field in ("steps", "generator_steps")}) if smoke else chosen  # fmt: skip
        tokenizer = train_digits_tokenizer(digits, percept, own, SEED, perturbed)
        codes = tokenizer.encode(digits.train).flatten(1)
        generator = train_generator(codes, digits.train_classes, own, SEED)
        with torch.no_grad():
            made = tokenizer.decode(sampled_codes(generator, digits.test_classes, own.codes, SEED))
        for network, (features, grid, images) in networks.items():
            found[network][name] = distances(tokenizer, made, digits, features, grid, images)
    for network, of_tokenizers in found.items():
        _, grid, images = networks[network]
        columns = {kind: [figures[kind] for figures in of_tokenizers.values()] for kind in ("generated", "pfid", "rfid")}  # fmt: skip
        orders = {kind: in_order(columns[kind], columns["generated"]) for kind in ("pfid", "rfid")}
        yield speedup(
            f"pairs of tokenizers in the order of their generated images, features of {network}: by pFID / by rFID",
            max(orders["pfid"], 0.5) / max(orders["rfid"], 0.5),
            1.0,
            pairs_in_order=orders,
            pairs=len(of_tokenizers) * (len(of_tokenizers) - 1) // 2,
            spearman={
                kind: round(float(spearmanr(columns[kind], columns["generated"]).statistic), 3)
                for kind in orders
            },
            images=images,
            grid=str(grid),
            seed=SEED,
            distances=of_tokenizers,
        )


def distances(
    tokenizer: torch.nn.Module,
    made: Tensor,
    digits: DistortedDigits,
    features: Features,
    grid: PerturbationGrid,
    images: int,
) -> Mapping[str, float]:
    """gFID, pFID and rFID of a tokenizer."""
    with torch.no_grad():
        generated, real = (
            FrechetStats().update(torch.cat([features(part) for part in all_of[:images].split(64)]))
            for all_of in (made, digits.test)
        )
    measured = pfid(tokenizer, digits.test[:images], features, PFIDConfig(grid, draws=0, seed=SEED))
    values = generated.distance(real), measured.mean.estimate.value, measured.rfid.estimate.value
    return {
        kind: round(float(value), 3)
        for kind, value in zip(("generated", "pfid", "rfid"), values, strict=True)
    }


def in_order(predicted: list[float], generated: list[float]) -> int:
    """Pairs of which the one with the lower distance also generates better."""
    rows = zip(predicted, generated, strict=True)
    return sum((one[0] - other[0]) * (one[1] - other[1]) > 0 for one, other in combinations(rows, 2))


def of_dinov2() -> Features:
    """The class token of DINOv2 (ViT-S/14), of digits enlarged to 4 × 4 patches."""
    model = dinov2()

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        colours = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)
        return model(pixel_values(colours, DINO_SIDE)).pooler_output

    return features


def pooled(images: Tensor) -> Tensor:
    """Averages of 4 × 4 pixels."""
    return adaptive_avg_pool2d(images, 4).flatten(1)


if __name__ == "__main__":
    run(measure, str(__doc__))
