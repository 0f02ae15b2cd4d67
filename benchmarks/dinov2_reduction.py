"""What token reduction costs on a real encoder and real photographs: DINOv2 ViT-S/14, CIFAR-10 enlarged to 224 pixels.

A linear probe is fitted on the class features of the unreduced model and judged on those of the reduced one: no training of either. All
methods leave the same number of tokens in every layer. A line is the probe's accuracy / that of random drop, which must be at least 1;
the accuracies themselves, the cosine with the unreduced features and the time stand in its settings.
Photographs are read from TOKENRY_SHARED_DATA; where they are not, nothing is measured.
"""

import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from _dinov2 import Photographs, cifar10, dinov2, pixel_values
from _report import Result, note, run, speedup
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import Dinov2Config, Dinov2Model

from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.reducer import TokenReducer
from tokenry.compression.vision.controls import ClassAttentionDrop, NormDrop, RandomDrop
from tokenry.compression.vision.pitome import PiToMe, ratio_schedule
from tokenry.compression.vision.tome import ToMe

RATIOS = (0.95, 0.9, 0.85)
RANDOM = "random drop"


def measure(smoke: bool) -> Iterator[Result]:
    """Every method at every ratio."""
    torch.manual_seed(0)
    train, test = (noise(), noise()) if smoke else (cifar10("train", 40), cifar10("test", 20))
    if train is None or test is None:
        note("no photographs: TOKENRY_SHARED_DATA names no folder with cifar10/")
        return
    model, size = (tiny(), 56) if smoke else (dinov2(), 224)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(features(model, train, size)[0].numpy(), train.labels.numpy())
    dense, seconds = features(model, test, size)
    settings = {
        "images": len(test.images),
        "probe fitted on": len(train.images),
        "dense accuracy": accuracy(probe, dense, test),
    }
    for ratio in RATIOS[: 1 if smoke else None]:
        yield from at_ratio(
            model, probe, test, size, ratio, dense, {**settings, "dense cpu seconds": seconds}
        )


def at_ratio(
    model: Dinov2Model,
    probe: Pipeline,
    test: Photographs,
    size: int,
    ratio: float,
    dense: Tensor,
    settings: Mapping[str, object],
) -> Iterator[Result]:
    """One line per method against random drop, at the token counts of this ratio."""
    tokens = (size // model.config.patch_size) ** 2 + 1
    found = {}
    for name, reducer in methods(tokens, model.config.num_hidden_layers, ratio).items():
        note(f"ratio {ratio}: {name}")
        with apply_token_reduction(model, reducer) as reduction:
            reduced, seconds = features(model, test, size)
            share = reduction.flops / reduction.dense_flops
        found[name] = {
            "accuracy": accuracy(probe, reduced, test),
            "cosine with dense features": round(cosine_similarity(reduced, dense, dim=1).mean().item(), 4),
            "cpu seconds": seconds,
        }
    for name, of_method in found.items():
        if name != RANDOM:
            yield speedup(
                f"probe accuracy, {name} / random drop, {share:.0%} of the FLOPs",
                of_method["accuracy"] / found[RANDOM]["accuracy"],
                1.0,
                **settings,
                ratio_per_layer=ratio,
                flops_share=round(share, 3),
                method=of_method,
                random_drop=found[RANDOM],
            )


def methods(tokens: int, layers: int, ratio: float) -> dict[str, TokenReducer]:
    """All methods with the same number of tokens after each layer."""
    counts = ratio_schedule(tokens, layers, ratio)
    removed = [before - after for before, after in zip([tokens, *counts[:-1]], counts, strict=True)]
    return {
        "ToMe": ToMe(removed),
        "PiToMe": PiToMe(ratio),
        "PiToMe, core everywhere": PiToMe(ratio, variants="core"),
        "PiToMe, no sizes in attention": PiToMe(ratio, proportional_attention=False),
        "class-attention drop": ClassAttentionDrop(counts=counts),
        "norm drop": NormDrop(counts=counts),
        RANDOM: RandomDrop(counts=counts),
    }


@torch.inference_mode()
def features(model: Dinov2Model, photographs: Photographs, size: int) -> tuple[Float[Tensor, "n dim"], float]:
    """The class features, and the CPU seconds they took."""
    started = time.process_time()
    parts = [
        model(pixel_values=pixel_values(batch, size)).last_hidden_state[:, 0]
        for batch in photographs.images.split(16)
    ]
    return torch.cat(parts), round(time.process_time() - started, 2)


def accuracy(probe: Pipeline, of_images: Tensor, photographs: Photographs) -> float:
    """Share of photographs that the probe puts in the right class."""
    return float(np.mean(probe.predict(of_images.numpy()) == photographs.labels.numpy()))


def noise() -> Photographs:
    """Photographs of nothing in two classes, to show that it runs: of ten, a reducer could get none right by chance."""
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    return Photographs(images, torch.arange(20) % 2, ("one", "other"))


def tiny() -> Dinov2Model:
    """A random encoder, to show that it runs."""
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
    )
    return Dinov2Model(config).eval()


if __name__ == "__main__":
    run(measure, str(__doc__))
