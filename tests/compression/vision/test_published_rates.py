"""The schedules that the authors released: they cost what the paper says, and fit the models that they were learned for."""

import pytest
import torch
from transformers import ViTConfig, ViTModel

from tokenry.compression.vision import DiffRate, Schedule, apply_token_reduction, vit_flops
from tokenry.core.errors import UserError

WIDTHS = {"deit-base": 768, "vit-base": 768, "vit-large": 1024, "vit-huge": 1280}
LAYERS = {"deit-base": 12, "vit-base": 12, "vit-large": 24, "vit-huge": 32}
TARGETS = {
    "deit-base": (8.7, 10.0, 10.4, 11.5, 12.5),
    "vit-base": (8.7, 10.0, 10.4, 11.5),
    "vit-large": (31.0, 34.7, 38.5, 42.3, 46.1),
    "vit-huge": (83.7, 93.2, 103.4, 124.5),
}
ALL = [(model, target) for model, targets in TARGETS.items() for target in targets]


def gflops(model, schedule):
    patch, patches = (14, 256) if model == "vit-huge" else (16, 196)
    counts = (schedule.prune_kept, schedule.merge_kept)
    return float(vit_flops(*counts, WIDTHS[model], patch, patches, 1000)) / 1e9


@pytest.mark.parametrize(("model", "target"), ALL)
def test_a_published_schedule_costs_what_it_was_learned_for(model, target):
    schedule = Schedule.load_published(model, target)
    assert len(schedule.prune_kept) == LAYERS[model]
    assert gflops(model, schedule) == pytest.approx(target, rel=0.012)


@pytest.mark.parametrize(
    ("model", "target", "reported"),
    [
        ("deit-base", 11.5, 11.517),
        ("vit-base", 11.5, 11.517),
        ("vit-large", 42.3, 42.290),
        ("vit-huge", 103.4, 103.337),
    ],
)
def test_the_cost_is_the_one_that_the_authors_report(model, target, reported):
    assert gflops(model, Schedule.load_published(model, target)) == pytest.approx(reported, abs=5e-4)


@pytest.mark.parametrize(("model", "target"), [("vit-large", 31.0), ("vit-huge", 83.7), ("vit-base", 8.7)])
def test_a_model_of_as_many_layers_and_patches_takes_it(model, target):
    torch.manual_seed(0)
    patch = 14 if model == "vit-huge" else 16
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "patch_size": patch}
    vit = ViTModel(ViTConfig(**sizes, num_hidden_layers=LAYERS[model], image_size=224)).eval()
    schedule = Schedule.load_published(model, target)
    with apply_token_reduction(vit, DiffRate(schedule)) as reduction, torch.no_grad():
        vit(torch.randn(1, 3, 224, 224))
        counts = reduction.token_counts
    left, expected = (14**2 if patch == 16 else 16**2) + 1, []
    for prune, merge in zip(schedule.prune_kept, schedule.merge_kept, strict=True):
        left = min(left, prune, merge)
        expected.append(left)
    assert list(counts)[-len(expected) :] == expected


@pytest.mark.parametrize(
    ("released", "name", "target"),
    [
        ("ViT-S-DeiT", "deit-small", 2.9),
        ("ViT-B-DeiT", "deit-base", 11.5),
        ("ViT-L-MAE", "vit-large", 42.3),
        ("ViT-H-MAE", "vit-huge", 103.4),
    ],
)
def test_the_authors_name_of_a_model_is_understood(released, name, target):
    assert Schedule.load_published(released, target) == Schedule.load_published(name, target)


@pytest.mark.parametrize(
    ("model", "target", "words"),
    [
        ("vit-large", 40.0, "no published schedule for vit-large at 40.0 GFLOPs: choose from vit-large at 31.0, .*vit-large at 46.1, or"),
        ("vit-giant", 31.0, "no published schedule for vit-giant at 31.0 GFLOPs: choose from deit-tiny at 0.6, .*vit-huge at 124.5"),
        ("vit-base", 12.5, "choose from vit-base at 8.7, vit-base at 10.0, vit-base at 10.4, vit-base at 11.5, or learn one"),
    ],
)  # fmt: skip
def test_what_was_not_published_is_refused_with_what_was(model, target, words):
    with pytest.raises(UserError, match=words):
        Schedule.load_published(model, target)


@pytest.mark.parametrize("model", ["vit-large", "vit-huge"])
def test_a_schedule_of_a_deeper_model_is_refused(model):
    vit = ViTModel(ViTConfig(hidden_size=8, intermediate_size=8, num_attention_heads=1, num_hidden_layers=12))
    with pytest.raises(UserError, match=f"the schedule has {LAYERS[model]} layers, but ViTModel has 12"):
        apply_token_reduction(vit, DiffRate(Schedule.load_published(model, TARGETS[model][0])))
