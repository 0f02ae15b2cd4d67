"""Losses of the hypernetwork against the reference numbers, and at the edges."""

import pytest
import torch

from tests.tokenization.transfer.zett.golden import arrays
from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.zett.encoder import rescaling
from tokenry.tokenization.transfer.zett.losses import (
    clm_loss,
    identity_loss,
    lexical_loss,
    masked_lm_loss,
    nats_per_byte,
    single_piece,
)

GOLDEN = arrays("losses")
CASES = sorted({name.split("_")[0] for name in GOLDEN})


def case(number):
    return {
        name.removeprefix(f"{number}_"): each
        for name, each in GOLDEN.items()
        if name.startswith(f"{number}_")
    }


def exactly(expected):
    return pytest.approx(float(expected), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("distance", ["mse", "rmse", "huber"])
def test_the_lexical_loss_is_the_reference(number, distance):
    g = case(number)
    found = lexical_loss(
        g["pred_in"],
        g["src_in"],
        g["surface_forms"],
        int(g["pad_id"]),
        g["pred_out"],
        g["src_out"],
        distance,
    )
    assert float(found) == exactly(g[f"lexical_{distance}"])


@pytest.mark.parametrize("number", CASES)
def test_the_lexical_loss_of_a_tied_model_is_the_reference(number):
    g = case(number)
    found = lexical_loss(g["pred_in"], g["src_in"], g["surface_forms"], int(g["pad_id"]))
    assert float(found) == exactly(g["lexical_tied_mse"])


@pytest.mark.parametrize("number", CASES)
def test_the_share_of_tokens_with_one_piece_is_the_reference(number):
    g = case(number)
    found = single_piece(g["surface_forms"], int(g["pad_id"])).double().mean()
    assert float(found) == exactly(g["overlap"])


@pytest.mark.parametrize("number", CASES)
def test_the_identity_loss_is_the_reference(number):
    g = case(number)
    tied = identity_loss(g["pred_in"], g["src_in"], g["ids"])
    untied = identity_loss(g["pred_in"], g["src_in"], g["ids"], g["pred_out"], g["src_out"])
    assert float(tied) == exactly(g["identity_tied"])
    assert float(untied) == exactly(g["identity_untied"])


@pytest.mark.parametrize("number", CASES)
def test_the_language_models_loss_is_the_reference(number):
    g = case(number)
    of_text = g["logits"], g["labels"], g["attention_mask"]
    assert float(clm_loss(*of_text)) == exactly(g["clm_loss"])
    assert float(nats_per_byte(*of_text, g["byte_lengths"])) == exactly(g["nats_per_byte"])


@pytest.mark.parametrize("number", CASES)
def test_rescaling_is_the_reference(number):
    g = case(number)
    target = g["rescale_target"]
    to_target = rescaling(g["rescale_x"], target.std(0, unbiased=False, keepdim=True), target.mean(0, True))
    to_std = rescaling(g["rescale_x"], 0.02, 0.0)
    for found, prefix in ((to_target, "rescale_"), (to_std, "rescale_std_")):
        for each, name in zip(found, ("w", "b"), strict=True):
            # The producer computes in float32: where w x cancels, the error is that of the terms.
            torch.testing.assert_close(
                each, g[prefix + name].double(), rtol=1e-5, atol=1e-5 * float(each.abs().max())
            )


def test_without_a_token_of_one_piece_the_lexical_loss_is_zero_and_so_is_its_gradient():
    predicted = torch.randn(3, 4, requires_grad=True)
    forms = torch.tensor([[1, 2], [2, 3], [3, 1]])
    for distance in ("mse", "rmse", "huber"):
        loss = lexical_loss(predicted, torch.randn(5, 4), forms, 0, distance=distance)
        loss.backward()
        assert float(loss.detach()) == 0
        assert torch.equal(predicted.grad, torch.zeros(3, 4))


def test_a_row_that_equals_its_source_row_has_a_finite_gradient():
    source = torch.randn(5, 4)
    predicted = source[[1, 2]].clone().requires_grad_()
    lexical_loss(predicted, source, torch.tensor([[1, 0], [2, 0]]), 0, distance="rmse").backward()
    assert predicted.grad.isfinite().all()


def test_tokens_that_begin_with_a_fallback_piece_take_no_part():
    source, predicted = torch.randn(5, 4), torch.randn(3, 4)
    forms = torch.tensor([[1, 0], [2, 3], [6, 0]])
    alone = lexical_loss(predicted[:2], source, forms[:2], 0)
    assert float(lexical_loss(predicted, source, forms, 0)) == pytest.approx(float(alone))
    assert float(lexical_loss(predicted[2:], source, forms[2:], 0)) == 0


def test_a_masked_token_is_predicted_where_it_stands():
    logits = torch.randn(2, 3, 5)
    labels = torch.full((2, 3), -100)
    labels[1, 2] = 4
    assert float(masked_lm_loss(logits, labels)) == pytest.approx(
        float(-logits[1, 2].log_softmax(0)[4]), rel=1e-5
    )
    assert float(masked_lm_loss(logits, torch.full((2, 3), -100))) == 0


def test_another_distance_is_refused():
    with pytest.raises(UserError, match="distance must be one of mse, rmse, huber"):
        lexical_loss(torch.randn(1, 2), torch.randn(1, 2), torch.zeros(1, 2).long(), 0, distance="l1")
