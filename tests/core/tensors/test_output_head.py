"""Heads of masked language models: layers, then a matrix that meets the vocabulary at the rows that are asked for."""

import pytest
import torch
from transformers import AutoModelForMaskedLM, DebertaV2Config

from tests import tiny
from tests.tiny.pretraining import KINDS, encoder_config, text_rows
from tokenry.core.tensors.chunked_loss import matrix_loss
from tokenry.core.tensors.output_head import backbone, check_output_head, output_head
from tokenry.core.tensors.row_losses import cross_entropy


def masked_lm(config):
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():  # biases and norms as well: at first they are 0 and 1
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    check_output_head(model)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_matrix_give_the_logits_and_gradients_of_the_model(kind):
    model, rows = masked_lm(encoder_config(kind)), text_rows((9,))
    whole = model(**rows).logits[0, 2:6]
    targets = rows["input_ids"][0, 2:6]
    torch.nn.functional.cross_entropy(whole, targets, reduction="sum").backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    hidden = backbone(model)(**rows).last_hidden_state[0, 2:6]
    head = output_head(model)
    assert not head.is_plain
    assert head.linear is None
    torch.testing.assert_close(head.logits(hidden), whole)
    given, matrix = head.split(hidden)
    assert matrix.linear is not None
    total, nll, *_ = matrix_loss(given, targets, torch.ones(4), matrix, cross_entropy, 1 << 20)
    torch.testing.assert_close(nll, -whole.log_softmax(-1).gather(1, targets[:, None])[:, 0])
    total.backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(
                parameter.grad, expected[name], msg=lambda words, n=name: f"{n}: {words}"
            )


def test_no_rows_at_all_have_no_logits():
    model = masked_lm(encoder_config("bert"))
    given, matrix = output_head(model).split(torch.zeros(0, 16))
    assert matrix.logits(given).shape == (0, model.config.vocab_size)


def test_a_head_that_is_no_layers_and_a_matrix_keeps_its_own_forward():
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = masked_lm(DebertaV2Config(**sizes, intermediate_size=16, legacy=False))
    hidden = torch.randn(3, 16)
    given, head = output_head(model).split(hidden)
    assert given is hidden
    assert head.linear is None


def test_a_model_that_was_trained_in_mixed_precision_is_known_afterwards():
    model = tiny.llama()
    wrapped = torch.autocast("cpu", torch.bfloat16)(model.forward)
    model._original_forward, model.forward = model.forward, wrapped  # as accelerate leaves it
    check_output_head(model)
    assert model.forward is wrapped
    assert output_head(model).module is model.get_output_embeddings()
