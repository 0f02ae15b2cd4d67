"""The one loop that trains the small models of the recipes."""

import pytest
import torch
from torch import nn

from tokenry.recipes.kit import batches_of_epochs, cosine, fit, linear, one_cycle


def line():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def trained(model, **options):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    batches = batches_of_epochs(64, 16, 20, generator)
    settings = {"steps": 80, "learning_rate": 0.05, "schedule": one_cycle} | options
    return fit(model, batches, lambda some: (model(x[some]) - y[some]).square().mean(), **settings)


@pytest.mark.parametrize("schedule", [one_cycle, cosine, linear])
def test_a_model_learns_under_every_schedule_and_in_the_same_way_again(schedule):
    one, again = line(), line()
    losses = trained(one, schedule=schedule)
    assert losses == trained(again, schedule=schedule)
    assert torch.equal(one.weight, again.weight)
    assert len(losses) == 80
    assert losses[-1] < 0.2 * losses[0]


def test_the_loop_is_that_of_torch():
    one, other = line(), line()
    trained(one, schedule=linear, steps=4, weight_decay=0.1, betas=(0.8, 0.9), clip=0.5)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    optimizer = torch.optim.AdamW(other.parameters(), 0.05, betas=(0.8, 0.9), weight_decay=0.1)
    for step, some in enumerate(torch.randperm(64, generator=generator).split(16)):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 4)
        (other(x[some]) - y[some]).square().mean().backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(one.weight, other.weight)


def test_every_sample_comes_once_in_an_epoch_and_a_small_last_batch_is_left_out():
    batches = list(batches_of_epochs(10, 3, 2, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [3] * 6
    for epoch in (batches[:3], batches[3:]):
        assert len(set(torch.cat(epoch).tolist())) == 9


def test_progress_is_told_about_a_hundred_times_and_ends_at_one():
    told = []
    trained(line(), progress=told.append, steps=80)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert len(told) == 81
