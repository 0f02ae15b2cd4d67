"""Two-stage training: any model, resumed bitwise, in micro-batches, and refused where it cannot work."""

import math

import pytest
import torch

from tests.tiny.models import tiny_model
from tests.tokenization.transfer.zett.tiny import DRAWING, TEXTS, causal, config, masked_lm, tokenizer
from tokenry.core.errors import UserError
from tokenry.core.train.adamw import AdamWSettings
from tokenry.tokenization.transfer.zett.drawn_batches import DrawingConfig
from tokenry.tokenization.transfer.zett.hypernetwork import EmbeddingHyperNetwork
from tokenry.tokenization.transfer.zett.training import (
    HyperNetworkTrainer,
    HyperNetworkTrainingConfig,
    hypernetwork_for,
)

SMALL = {"layers": 1, "hidden_size": 16, "heads": 2}


def trainer(model=None, texts=TEXTS, hypernetwork=None, cut=None, **changed):
    model, cut = model or causal(), cut or tokenizer()
    made = hypernetwork or hypernetwork_for(model, cut, **SMALL)
    return HyperNetworkTrainer(model, cut, texts, config(**changed), made)


def weights(network):
    return {name: each.clone() for name, each in network.state_dict().items()}


def same(one, other):
    return all(torch.equal(each, other[name]) for name, each in one.items())


@pytest.mark.parametrize("tied", [True, False])
def test_training_lowers_both_losses_and_leaves_the_model_as_it_was(tied):
    model = causal(tied)
    before = weights(model)
    made = trainer(
        model,
        steps=40,
        identity_steps=15,
        warmup_steps=17,
        identity_learning_rate=1e-2,
        learning_rate=3e-3,
    )
    made.train()
    history = made.history
    assert history["loss"][14] < 0.9 * history["loss"][0]
    main = history["language_model"][15:]
    assert sum(main[-5:]) < sum(main[:5])
    assert all(map(math.isnan, history["language_model"][:15]))
    assert same(before, weights(model))
    assert all(each.requires_grad for each in model.parameters())


def test_a_masked_model_is_trained_too_with_its_bias():
    cut = tokenizer(mask_token="<mask>")
    made = trainer(masked_lm(), cut=cut, objective="masked")
    bias = made.network.bias_projection.weight.clone()
    made.train()
    assert not torch.equal(made.network.bias_projection.weight, bias)


def test_a_killed_training_goes_on_bitwise_as_if_nothing_had_happened(tmp_path):
    whole = trainer()
    expected = weights(whole.train())

    def kill(what, share):
        if share > 0.7:
            raise KeyboardInterrupt

    killed = trainer()
    with pytest.raises(KeyboardInterrupt):
        killed.train(tmp_path, progress=kill)
    resumed = trainer()
    assert same(expected, weights(resumed.train(tmp_path, resume=True)))
    assert str(resumed.history) == str(whole.history)
    assert same(expected, weights(EmbeddingHyperNetwork.load(tmp_path)))


def test_a_begun_training_is_not_overwritten_unless_it_is_resumed(tmp_path):
    trainer().train(tmp_path)
    with pytest.raises(UserError, match="holds a training that was begun"):
        trainer().train(tmp_path)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"texts": TEXTS[:-1]}, {"lexical_weight": 0.1}])
def test_a_checkpoint_of_another_training_is_refused(tmp_path, changed):
    trainer().train(tmp_path)
    with pytest.raises(UserError, match="belongs to a training with another model"):
        trainer(**changed).train(tmp_path, resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="is damaged"):
        trainer().train(tmp_path, resume=True)


def test_micro_batches_change_nothing_but_rounding():
    whole, parts = trainer(micro_batch_size=0), trainer(micro_batch_size=3)
    whole.train()
    parts.train()
    for name in ("loss", "language_model", "lexical"):
        assert parts.history[name][2:] == pytest.approx(whole.history[name][2:], rel=1e-4)


def test_few_predicted_tokens_hold_those_of_the_texts_and_others():
    made = trainer(predicted_tokens=50)
    batch = made._drawn[2]
    few = batch.only(50, torch.Generator().manual_seed(0))
    assert len(few.forms) < len(batch.forms)
    assert torch.equal(few.forms[few.input_ids], batch.forms[batch.input_ids])
    assert torch.equal(few.forms[few.special], batch.forms[batch.special])
    made.train()
    assert all(math.isfinite(each) for each in made.history["loss"])


def test_languages_are_told_apart_and_drawn_by_their_size():
    model, cut = causal(), tokenizer()
    texts = {"one": TEXTS[:250], "other": TEXTS[250:]}
    network = hypernetwork_for(model, cut, languages=2, **SMALL)
    made = HyperNetworkTrainer(model, cut, texts, config(), network)
    assert {made._drawn.language(number) for number in range(40)} == {0, 1}
    made.train()
    with pytest.raises(UserError, match="tells 2 languages apart, but there are texts of 1"):
        HyperNetworkTrainer(model, cut, TEXTS, config(), network)


def test_the_residual_form_needs_no_warm_up():
    network = hypernetwork_for(causal(), tokenizer(), residual=True, **SMALL)
    made = trainer(hypernetwork=network, identity_steps=0, warmup_steps=1)
    made.train()
    assert made.history["lexical"][0] == pytest.approx(0, abs=1e-6)
    assert made.history["lexical"][-1] > 0


def test_a_lexical_weight_of_zero_still_trains():
    made = trainer(lexical_weight=0.0)
    made.train()
    assert made.history["loss"][-1] == pytest.approx(made.history["language_model"][-1])


def test_the_defaults_are_the_papers():
    made = HyperNetworkTrainingConfig()
    assert (made.steps, made.identity_steps, made.warmup_steps) == (200_000, 10_000, 20_000)
    assert (made.identity_learning_rate, made.learning_rate, made.alpha) == (3e-4, 6e-5, 0.1)
    assert made.adamw == AdamWSettings(0.9, 0.95, 1e-8, 0.01, 0.1)
    assert made.drawing == DrawingConfig(128, 128, 32_768, 0.0, 16_384, 32_768, 1e-5, 4.0)
    assert (made.lexical_weight, made.identity_tokens) == (0.5, 16_384)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": 1}, "stages must end in ascending order and within the 1 steps"),
        ({"objective": "denoising"}, "objective must be one of causal, masked"),
        ({"lexical_distance": "l1"}, "lexical_distance must be one of mse, rmse, huber"),
        ({"lexical_weight": -1.0}, "lexical_weight must not be negative, got -1"),
        ({"identity_tokens": 0}, "identity_tokens must be at least 1, got 0"),
    ],
)
def test_a_bad_setting_is_one_sentence(changed, words):
    with pytest.raises(UserError, match=words):
        config(**changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"noise_sigma": -1.0}, "noise_sigma must not be negative, got -1"),
        ({"noise_median": -1.0}, "noise_median must not be negative, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"vocabulary_size": 10}, "vocabulary_size must lie between least_vocabulary"),
        ({"language_exponent": 2.0}, "language_exponent must be in"),
    ],
)
def test_a_bad_setting_of_the_drawing_is_one_sentence(changed, words):
    with pytest.raises(UserError, match=words):
        DrawingConfig(**changed)


@pytest.mark.parametrize("changed", [{"beta2": 1.0}, {"epsilon": 0.0}, {"weight_decay": -1.0}])
def test_a_bad_setting_of_the_optimiser_is_one_sentence(changed):
    with pytest.raises(UserError, match=next(iter(changed))):
        AdamWSettings(**changed)


def test_texts_too_short_for_the_vocabulary_are_refused_before_training():
    drawing = DrawingConfig(**{**vars(DRAWING), "vocabulary_size": 5000, "most_vocabulary": 5000})
    with pytest.raises(UserError, match=r"a vocabulary of .* substrings, but the texts hold only \d+"):
        trainer(drawing=drawing)


@pytest.mark.parametrize("texts", [[], ["a", ""]])
def test_missing_or_empty_texts_are_refused(texts):
    with pytest.raises(UserError, match="training needs texts, and none that is empty"):
        trainer(texts=texts)


def test_a_tokenizer_without_pad_and_eos_is_refused():
    cut = tokenizer()
    cut.pad_token = cut.eos_token = None
    with pytest.raises(UserError, match="has neither a pad nor an eos token"):
        trainer(cut=cut)


def test_a_masked_objective_needs_a_mask_token():
    with pytest.raises(UserError, match="a masked objective needs a mask token"):
        trainer(masked_lm(), objective="masked")


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(UserError, match=r"the tokenizer has \d+ tokens but the model only 40 rows"):
        trainer(tiny_model(40))
