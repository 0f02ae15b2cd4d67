import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.tiny.images import IMAGE, SIZE, write_classifier, write_model
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.reducer import LayerReducer
from tokenry.core.stats import Estimate
from tokenry.models.image_encoders import load_image_encoder
from tokenry.verbs.compress._vision.findings import finding, sweep_findings
from tokenry.verbs.compress._vision.measure import (
    Seconds,
    peak_memory,
    reads_patches,
    reduction_share,
    speedup,
    take_turns,
)
from tokenry.verbs.compress._vision.records import Reduced, Speed, Spread, Unpatched

CPU = torch.device("cpu")
PIXELS = torch.randn(2, 3, 32, 32)


def test_variants_take_turns_and_the_first_round_does_not_count():
    order = []

    @contextmanager
    def patched(name):
        order.append(name)
        yield

    variants = {name: lambda name=name: patched(name) for name in "ab"}
    taken = take_turns(lambda: time.sleep(0.001), variants, 3, lambda share: None)
    assert "".join(order) == "abbaabba"
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}
    assert all(each.wall >= 0.001 for seconds in taken.values() for each in seconds)


def test_a_speed_up_is_told_round_by_round():
    before = [Seconds(wall, 2.0) for wall in (2.0, 20.0, 4.0)]
    after = [Seconds(wall, 1.0) for wall in (1.0, 10.0, 1.0)]
    wall, cpu = speedup(before, after)
    assert (wall.lower, wall.median, wall.upper, cpu) == (2.0, 2.0, 3.0, 2.0)


def test_memory_is_that_of_the_tensors_that_live_at_once():
    source = torch.zeros(250_000)  # one megabyte

    def forward():
        two = torch.cat([source, source])
        view = two.view(2, -1)
        three = torch.cat([view[0], source, source])
        del two, view
        return three + 1

    assert peak_memory(forward, CPU) == pytest.approx(6.0)
    assert peak_memory(lambda: source.add_(1), CPU) == 0.0


def test_the_share_of_a_slow_reduction_is_seen(tmp_path):
    class Slow(LayerReducer):
        def reduce(self, hidden_states, tokens, attention):
            time.sleep(0.2)
            return hidden_states, tokens

    class SlowReducer:
        proportional_attention = False

        def layer_reducers(self, encoder):
            return [Slow(), *[None] * (len(encoder.layers) - 1)]

    encoder = load_image_encoder(write_classifier(tmp_path))
    share = reduction_share(
        lambda: encoder(PIXELS), lambda reducer: apply_token_reduction(encoder.model, reducer), SlowReducer()
    )
    assert 0.5 < share <= 1.0


@pytest.mark.parametrize(
    ("model", "reads"),
    [
        (Dinov2Model(Dinov2Config(**SIZE, **IMAGE)), False),
        (Dinov2ForImageClassification(Dinov2Config(**SIZE, **IMAGE, num_labels=3)), True),
        (SiglipVisionModel(SiglipVisionConfig(**SIZE, **IMAGE)), True),
    ],
    ids=["class token", "mean of patches beside it", "no class token"],
)
def test_a_head_that_reads_patches_is_told_from_one_that_does_not(model, reads, tmp_path):
    assert reads_patches(load_image_encoder(write_model(model, tmp_path)), PIXELS) is reads


def said(lower, median, upper, *, share=0.6, reduction_share=0.02, memory=1.0):
    setting = replace(
        at("tome", round(1000 * share), 0.96),
        speed=Speed(images_per_second=1.0, images_per_cpu_second=1.0, peak_memory_mb=100 * memory),
        speedup=Spread(lower=lower, median=median, upper=upper),
        reduction_share=reduction_share,
    )
    return finding(setting, Unpatched(17, 1000, Speed(1.0, 1.0, 100.0)), batch_size=8, agreement_of="top-1")


def test_a_setting_that_pays_is_said_to():
    assert said(1.5, 1.6, 1.7) == (
        "saves 40% of the FLOPs and runs 1.60× as fast; same class on 96.0% of the images"
    )


def test_a_setting_that_does_not_pay_is_said_not_to_and_why():
    slow = said(0.8, 0.9, 0.95, reduction_share=0.4)
    assert slow.startswith("does not pay here: it saves 40% of the FLOPs, but runs 0.90× as fast; ")
    assert "choosing and merging tokens takes 40% of its time" in slow
    assert "so few FLOPs are saved" in said(0.8, 0.9, 0.95, share=0.95)
    assert "at batch size 8 the time of this model does not follow its FLOPs" in said(0.8, 0.9, 0.95)


def test_what_cannot_be_told_is_not_claimed():
    assert "but no speed-up is measurable: 1.05× as fast" in said(0.98, 1.05, 1.1)


def test_a_busy_machine_and_more_memory_are_named():
    noisy = said(1.2, 1.6, 2.4, memory=1.31)
    assert "1.60× as fast (1.20 to 2.40: the machine was busy with other work)" in noisy
    assert "with 31% more memory" in noisy


def at(method, flops, agreement, lower=1.4):
    return Reduced(
        name=f"{method} at {flops}", method=method, options={}, token_counts=[17, 9], flops=flops,
        speed=Speed(images_per_second=1.0, images_per_cpu_second=1.0, peak_memory_mb=1.0),
        speedup=Spread(lower=lower, median=1.5, upper=lower + 0.1), cpu_speedup=1.5, reduction_share=0.1,
        agreement=Estimate(value=agreement, standard_error=0.0, samples=9), finding="",
    )  # fmt: skip


def test_a_sweep_says_how_far_each_method_can_go():
    results = [at("tome", 80, 1.0), at("tome", 50, 0.96), at("tome", 35, 0.5), at("norm", 80, 0.9)]
    results += [at("random", 80, 0.99, lower=0.9)]
    tome, norm, random = sweep_findings(results, 100, "top-1")
    assert tome == (
        "tome",
        "keeps the same class on at least 95% of the images down to 50% of the FLOPs, 1.50× as fast",
    )
    assert norm == ("norm", "does not keep the same class on at least 95% of the images at any setting tried")
    assert random[1].endswith("down to 80% of the FLOPs, not measurably faster")
    assert "a cosine of at least 0.95" in sweep_findings(results, 100, "features")[0][1]
