import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.finetuning import AllTokens, RandomTokens, SSToken, TokenCleaning
from tokenry.recipes.testbeds.selection_toy import (
    END,
    FIRST_FILLER,
    FIRST_KEY,
    KEYS,
    PAIRS,
    ToySetting,
    fine_tune,
    key_mapping,
    pretrain_base,
    toy_batch,
    toy_model,
    train_reference,
)

SHORT = ToySetting(
    pretraining_steps=4, pretraining_batch_size=8, reference_steps=3, steps=4, batch_size=8, held_out=8
)


def draw(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def base():
    return pretrain_base(0, SHORT)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**40))
def test_a_mapping_permutes_the_keys(seed):
    assert sorted(key_mapping(seed).tolist()) == list(range(FIRST_KEY, FIRST_KEY + KEYS))


def test_a_clean_response_spells_out_the_mapped_keys():
    mapping = key_mapping(3)
    for ids in toy_batch(mapping, 5, 0.0, draw(0)).input_ids.tolist():
        keys, response = ids[:PAIRS], ids[PAIRS:]
        assert response[::2] == [*range(FIRST_FILLER, FIRST_FILLER + PAIRS), END]
        assert response[1::2] == [int(mapping[key - FIRST_KEY]) for key in keys]


def test_only_the_response_is_learned():
    batch = toy_batch(key_mapping(0), 4, 0.3, draw(0))
    assert (batch.labels[:, :PAIRS] == -100).all()
    assert (batch.labels[:, PAIRS:] == batch.input_ids[:, PAIRS:]).all()
    assert batch.signals.learnable.sum() == 4 * 13


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**40))
def test_what_is_marked_as_replaced_is_what_differs_from_the_clean_response(seed):
    mapping = key_mapping(seed)
    clean, noisy = (toy_batch(mapping, 16, noise, draw(seed)) for noise in (0.0, 0.3))
    assert torch.equal(noisy.replaced, noisy.input_ids != clean.input_ids)


def test_noise_is_the_stated_share_of_the_response():
    batch = toy_batch(key_mapping(0), 4000, 0.3, draw(0))
    assert batch.replaced.sum() / batch.signals.learnable.sum() == pytest.approx(0.277, abs=0.005)
    assert not batch.replaced[:, -1].any()


def test_mapped_marks_the_places_that_depend_on_the_mapping():
    one, other = (
        toy_batch(mapping, 50, 0.0, draw(0)) for mapping in (key_mapping(0), key_mapping(0).roll(1))
    )
    assert torch.equal(one.mapped, one.input_ids != other.input_ids)


def test_a_seed_makes_one_model_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    one, same, other = toy_model(1), toy_model(1), toy_model(2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_the_same_seed_gives_the_same_run(base):
    weighing = SSToken(balance=0.5)
    assert fine_tune(base, weighing, 0, SHORT) == fine_tune(base, weighing, 0, SHORT)
    assert fine_tune(base, weighing, 0, SHORT) != fine_tune(base, weighing, 1, SHORT)


def test_fine_tuning_and_reference_leave_the_base_as_it_was(base):
    before = {name: value.clone() for name, value in base.state_dict().items()}
    reference = train_reference(base, 0, SHORT)
    fine_tune(base, TokenCleaning(scope="sample"), 0, SHORT, reference)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert not torch.equal(reference.lm_head.weight, base.lm_head.weight)


def test_full_fine_tuning_keeps_all_the_noise_and_a_random_share_keeps_its_share(base):
    many = dataclasses.replace(SHORT, steps=10, batch_size=128, learning_rate=0.0)
    assert fine_tune(base, AllTokens(), 0, many).noise_kept == pytest.approx(0.277, abs=0.01)
    random = fine_tune(base, RandomTokens(scope="sample", share=0.5), 0, many)
    assert random.noise_kept == pytest.approx(0.277, abs=0.015)


def test_accuracy_is_measured_on_the_model_that_was_trained():
    untrained = pretrain_base(0, dataclasses.replace(SHORT, pretraining_steps=0))
    enough = ToySetting(steps=60, batch_size=32, learning_rate=3e-3, noise=0.0, held_out=64)
    learned = fine_tune(untrained, AllTokens(), 0, enough)
    at_start = fine_tune(untrained, AllTokens(), 0, dataclasses.replace(enough, steps=0))
    assert at_start.mapped_accuracy < 0.2 < 0.3 < learned.mapped_accuracy
    assert learned.response_nll < 1.5 < at_start.response_nll


def test_noise_is_a_probability():
    with pytest.raises(UserError, match="noise must be in"):
        ToySetting(noise=1.5)
