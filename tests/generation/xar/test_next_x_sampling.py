"""Sampling from xAR: published images, caches that change nothing, images of their own, guidance that is skipped, and mistakes."""

import re

import pytest
import torch

from tests.generation.xar.released import released_model
from tests.generation.xar.tiny_next_x import next_x
from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.generation import (
    NextXSamplingConfig,
    Partition,
    euler,
    even_times,
    generate_next_x,
    guidance_schedule,
    guide,
)

LABELS = torch.tensor([0, 4, 2])
KINDS = ["cell:2", "subsample:2", "scale:1,2,4", "image"]


@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_images_are_the_reference(solver):
    model, _ = released_model()
    data = golden_arrays("34-xar", f"dev-sample-{solver}.npz")
    assert guidance_schedule(float(data["cfg"]), 4) == data["cfg_per_entity"].tolist()

    def noise(entity, draws):
        begun = data["latents"][entity][:, None].double()
        steps = data["sde_noise"][entity].transpose(0, 1) if solver == "sde" else begun[:, :0]
        rest = begun.new_zeros(2, draws - 1 - steps.shape[1], *begun.shape[2:])
        return torch.cat([begun, steps, rest], dim=1)

    config = NextXSamplingConfig(int(data["num_steps"]), solver, float(data["cfg"]))
    found = generate_next_x(model, data["labels"], config, noise=noise)
    torch.testing.assert_close(found, data["tokens_chw"], atol=1e-4, rtol=0)


def without_cache(model, labels, partition, steps, guidance, draws):
    """Every call runs all finished entities again, with and without the class."""
    weights, finished = (
        guidance_schedule(guidance, partition.entities),
        torch.empty(len(labels), 0, 3).double(),
    )
    for entity in range(partition.entities):
        end, layout = partition.starts[entity + 1], model.layout(partition, range(entity + 1))

        def velocity(x, t, entity=entity, end=end, layout=layout, before=finished):
            tokens = torch.cat([before, x], dim=1).float()
            times = torch.tensor([1.0] * entity + [t]).expand(len(labels), -1)
            mask = partition.attention_mask()[:end, :end]
            both = [model.velocity(tokens, times, y, layout, mask)[:, -x.shape[1] :] for y in (labels, torch.full_like(labels, 5))]  # fmt: skip
            return guide(both[0], both[1], weights[entity]).double()

        made = euler(velocity, draws(entity, 1)[:, 0].double(), even_times(steps))
        finished = torch.cat([finished, made], dim=1)
    return partition.merge(finished).float()


@pytest.mark.parametrize("kind", KINDS)
def test_caches_change_nothing(kind):
    model, partition = next_x([kind]), Partition.named(kind, 4, 4)

    def draws(entity, number):
        generator = torch.Generator().manual_seed(entity)
        return torch.randn(3, 1, partition.sizes[entity], 3, generator=generator).expand(-1, number, -1, -1)

    config = NextXSamplingConfig(3, "ode", 2.5)
    found = generate_next_x(model, LABELS, config, noise=draws)
    with torch.no_grad():
        expected = without_cache(model, LABELS, partition, 3, 2.5, draws)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", ["ode", "sde"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_own_seed_alone(kind, solver):
    model, config = next_x([kind]), NextXSamplingConfig(2, solver, 2.0)
    together = generate_next_x(model, LABELS, config, seed=7)
    in_batches = generate_next_x(model, LABELS, config, seed=7, batch_size=2)
    torch.testing.assert_close(together, in_batches, atol=1e-5, rtol=1e-5)
    alone = generate_next_x(model, LABELS[2:], config, seed=9)
    torch.testing.assert_close(together[2:], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(generate_next_x(model, LABELS, config, seed=8)[:2], together[:2])


class Calls:
    """Rows of every call of a model."""

    def __init__(self, model):
        self.rows, self._velocity = [], model.velocity
        model.velocity = self

    def __call__(self, tokens, *arguments):
        self.rows.append(len(tokens))
        return self._velocity(tokens, *arguments)


def test_without_guidance_the_model_without_a_class_is_never_run():
    model, config = next_x(), NextXSamplingConfig(3, "sde", 1.0)
    calls = Calls(model)
    found = generate_next_x(model, LABELS, config)
    assert calls.rows == [3] * 12
    assert torch.equal(found, generate_next_x(model, LABELS, NextXSamplingConfig(3, "sde", 0.2))), (
        "as below 1"
    )


def test_the_first_entity_is_not_guided():
    model = next_x()
    calls = Calls(model)
    found = generate_next_x(model, LABELS, NextXSamplingConfig(3, "ode", 4.0))
    assert calls.rows == [3] * 3 + [6] * 9
    unguided = generate_next_x(model, LABELS, NextXSamplingConfig(3, "ode", 1.0))
    assert torch.equal(found[:, :, :2, :2], unguided[:, :, :2, :2])
    assert not torch.allclose(found[:, :, 2:], unguided[:, :, 2:])
    assert guidance_schedule(3.0, 1) == [3.0], "but a lone one is"


def test_each_entity_may_have_its_own_steps():
    model = next_x()
    calls = Calls(model)
    generate_next_x(model, LABELS, NextXSamplingConfig((4, 1, 2, 1), "sde", 1.0))
    assert len(calls.rows) == 8


def test_noise_on_finished_entities_changes_later_ones_alone():
    model = next_x()
    clean = generate_next_x(model, LABELS, NextXSamplingConfig(3, "ode", 1.0))
    disturbed = generate_next_x(model, LABELS, NextXSamplingConfig(3, "ode", 1.0, context_noise=0.4))
    assert torch.equal(clean[:, :, :2, :2], disturbed[:, :, :2, :2]), "what is returned is what was generated"
    assert not torch.allclose(clean[:, :, 2:, 2:], disturbed[:, :, 2:, 2:])


def test_low_precision_gives_images_that_are_close():
    model, config = next_x(), NextXSamplingConfig(3, "ode", 2.0)
    expected = generate_next_x(model, LABELS, config)
    found = generate_next_x(model.to(torch.bfloat16), LABELS, config)
    assert found.dtype == torch.float32
    assert float((found - expected).square().mean().sqrt() / expected.std()) < 0.1


def test_a_model_in_training_is_evaluated_and_left_in_training():
    model = next_x(dropout=0.5).train()
    config = NextXSamplingConfig(2, "ode", 1.0)
    assert torch.equal(generate_next_x(model, LABELS, config), generate_next_x(model, LABELS, config))
    assert model.training


def test_progress_rises_and_one_step_is_enough():
    told = []
    generate_next_x(
        next_x(),
        LABELS,
        NextXSamplingConfig(1, "sde"),
        batch_size=2,
        progress=lambda what, share: told.append(share),
    )
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] < 1


MODEL = next_x()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: NextXSamplingConfig(steps=0), "steps must be at least 1, got 0"),
        (lambda: NextXSamplingConfig(solver="heun"), "solver must be one of sde, ode, got 'heun'"),
        (lambda: NextXSamplingConfig(guidance=-1.0), "guidance must be at least 0, got -1.0"),
        (lambda: NextXSamplingConfig(sde_end=0.0), "the last step of the SDE must begin between 0 (noise) and 1 (data)"),
        (lambda: generate_next_x(MODEL, LABELS, NextXSamplingConfig((2, 2))), "steps must be one number, or one for each of the 4 entities of cell:2, got 2"),
        (lambda: generate_next_x(MODEL, LABELS[:0]), "give at least one class label"),
        (lambda: generate_next_x(MODEL, torch.tensor([9])), "a class must be from 0 to 4, or 5 for none, got 9"),
        (lambda: generate_next_x(MODEL, LABELS, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: guidance_schedule(2.0, 0), "entities must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_in_a_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
