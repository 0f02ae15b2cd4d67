"""Perturbed codes, pFID over its grid, and the Fréchet distance, each against what is done elsewhere.

Perturbation: 16 images of 256 tokens, 4,096 codes of 64 numbers, a tenth of the images perturbed at rate 1 among 100 neighbours; the released form computes
all distances anew and sorts all tokens. pFID: nine cells with a small decoder, against a search for the neighbours of every token in every cell.
Fréchet: 2,048 features of two normal samples. Results are compared first.
"""

from collections.abc import Iterator

import numpy as np
import scipy.linalg
import torch
from _measure import interleaved
from _report import Result, result, run, speedup
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, embedding
from torchmetrics.image.fid import _compute_fid

from tokenry.core.stats import FrechetStats, frechet_distance
from tokenry.generation import (
    LatentPerturbation,
    PerturbationGrid,
    PFIDConfig,
    VectorQuantizer,
    perturb_latents,
    pfid,
)
from tokenry.generation.image_tokenizer.vector_quantizer import look_up, squared_distances

DIM = 64


def measure(smoke: bool) -> Iterator[Result]:
    """The ratios in CPU time of one thread."""
    yield from perturbation(smoke)
    yield from over_the_grid(smoke)
    yield from distance(smoke)


def perturbation(smoke: bool) -> Iterator[Result]:
    """A step of the quantiser, and what perturbing adds."""
    codes, images, side, rounds = (32, 4, 4, 1) if smoke else (4096, 16, 16, 5)
    torch.manual_seed(0)
    quantizer, z = VectorQuantizer(codes, DIM), torch.randn(images, DIM, side, side)
    settings = LatentPerturbation(1.0, 0.25 if smoke else 0.1, 8 if smoke else 100)
    u = torch.rand(images, side, side)
    rank = torch.randint(settings.strength, (images, side, side))
    with torch.no_grad():
        output = quantizer(z)

        def ours() -> torch.Tensor:
            return perturb_latents(output, quantizer, settings, u=u, rank=rank)[0]

        def released() -> torch.Tensor:
            rows = output.latents.movedim(1, -1).flatten(0, -2)
            nearest = (
                squared_distances(rows, quantizer.codebook).topk(settings.strength, largest=False).indices
            )
            ranks = torch.where(u.flatten() <= settings.rate, rank.flatten(), 0)
            chosen = embedding(
                nearest.gather(1, ranks[:, None])[:, 0].view(images, side, side), quantizer.codebook
            )
            changed = output.latents + (chosen.movedim(-1, 1) - output.latents)
            first = int(images * settings.proportion)
            return torch.cat([changed[:first], output.quantized[first:]])

        torch.testing.assert_close(ours(), released())
        steps = {
            "tokenry": lambda: void(ours()),
            "released": lambda: void(released()),
            "quantiser": lambda: void(quantizer(z)),
        }
        seconds = interleaved(steps, rounds, threads=1)
    told = {
        "threads": 1, "codes": codes, "dim": DIM, "tokens": images * side**2, "rate": settings.rate,
        "proportion": settings.proportion, "strength": settings.strength, "rounds": rounds,
        "cpu_milliseconds": {name: round(1000 * found.cpu, 2) for name, found in seconds.items()},
    }  # fmt: skip
    ours_cpu = max(seconds["tokenry"].cpu, 1e-6)
    yield speedup(
        "perturbing latents: released form / tokenry", seconds["released"].cpu / ours_cpu, 8, **told
    )
    yield result(
        "perturbing latents / the quantiser itself", ours_cpu / seconds["quantiser"].cpu, 0.2, **told
    )


class Toy(nn.Module):
    """A tokenizer whose decoder is one layer."""

    def __init__(self, codes: int, side: int) -> None:
        super().__init__()
        self.quantizer, self.decoder = VectorQuantizer(codes, DIM), nn.ConvTranspose2d(DIM, 3, 4, 4)
        self.side = side

    @property
    def module(self) -> nn.Module:
        """The whole model."""
        return self

    @property
    def codebooks(self) -> tuple[torch.Tensor]:
        """One codebook."""
        return (self.quantizer.codebook,)

    def encode(self, samples: torch.Tensor) -> torch.Tensor:
        """Codes of averaged colours."""
        z = samples.repeat(1, -(-DIM // 3), 1, 1)[:, :DIM]
        return self.quantizer(adaptive_avg_pool2d(z, self.side)).indices[:, None]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Images of codes."""
        return self.decoder(look_up(self.quantizer.codebook, codes[:, 0]))


def over_the_grid(smoke: bool) -> Iterator[Result]:
    """All cells of the default grid."""
    codes, images, side, rounds = (64, 8, 4, 1) if smoke else (4096, 32, 16, 3)
    torch.manual_seed(0)
    toy, pictures = Toy(codes, side).eval(), torch.rand(images, 3, 4 * side, 4 * side) * 2 - 1
    grid, config = PerturbationGrid(), PFIDConfig(batch_size=16, draws=0)

    def features(batch: torch.Tensor) -> torch.Tensor:
        return adaptive_avg_pool2d(batch, 4).flatten(1)

    def ours() -> float:
        return float(pfid(toy, pictures, features, config).mean.estimate.value)

    @torch.no_grad()
    def searched() -> float:
        reference, codebook = FrechetStats(), toy.codebooks[0]
        cells = grid.cells(codes)
        found = [FrechetStats() for _ in cells]
        for batch in pictures.split(16):
            reference.update(features(batch))
            tokens = toy.encode(batch)
            for stats, (rate, strength) in zip(found, cells, strict=True):
                distances = squared_distances(embedding(tokens.flatten(), codebook), codebook)
                near = distances.topk(strength, largest=False).indices
                rank = torch.randint(strength, (len(near), 1))
                drawn = near.gather(1, rank)[:, 0].view_as(tokens)
                chosen = torch.where(torch.rand(tokens.shape) <= rate, drawn, tokens)
                stats.update(features(toy.decode(chosen)))
        return float(np.mean([stats.distance(reference) for stats in found]))

    assert abs(ours() / searched() - 1) < 0.2
    seconds = interleaved(
        {"tokenry": lambda: void(ours()), "searched": lambda: void(searched())}, rounds, threads=1
    )
    yield speedup(
        "pFID over nine cells: a search per cell / tokenry",
        seconds["searched"].cpu / seconds["tokenry"].cpu,
        3,
        threads=1, codes=codes, images=images, tokens=images * side**2, rounds=rounds,
        cpu_seconds={name: round(found.cpu, 3) for name, found in seconds.items()},
    )  # fmt: skip


def distance(smoke: bool) -> Iterator[Result]:
    """Two full covariances."""
    size, rounds = (16, 1) if smoke else (2048, 1)
    draw = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        mixing = draw.normal(size=(size, size)) / np.sqrt(size)
        sides.append((draw.normal(size=size), mixing @ mixing.T + 0.01 * np.eye(size)))
    (mean, covariance), (other_mean, other_covariance) = sides
    tensors = [torch.from_numpy(array) for side in sides for array in side]

    def classic() -> float:
        root = scipy.linalg.sqrtm(covariance @ other_covariance).real
        delta = mean - other_mean
        return float(delta @ delta + np.trace(covariance + other_covariance - 2 * root))

    steps = {
        "tokenry": lambda: frechet_distance(mean, covariance, other_mean, other_covariance),
        "torchmetrics": lambda: float(_compute_fid(*tensors)),
        "sqrtm": classic,
    }
    values: dict[str, float] = {}

    def kept(name: str) -> None:
        values[name] = steps[name]()

    seconds = interleaved({name: (lambda name=name: kept(name)) for name in steps}, rounds, threads=1)
    np.testing.assert_allclose([values["torchmetrics"], values["sqrtm"]], values["tokenry"], rtol=1e-6)
    told = {
        "threads": 1, "features": size, "rounds": rounds,
        "cpu_seconds": {name: round(found.cpu, 3) for name, found in seconds.items()},
    }  # fmt: skip
    for name in ("torchmetrics", "sqrtm"):
        ratio = seconds[name].cpu / max(seconds["tokenry"].cpu, 1e-6)
        title = {"torchmetrics": "torchmetrics", "sqrtm": "scipy's sqrtm"}[name]
        yield speedup(f"Fréchet distance of {size} features: {title} / tokenry", ratio, 3, **told)


def void(_: object) -> None:
    """Let nothing come of a step."""


if __name__ == "__main__":
    run(measure, str(__doc__))
