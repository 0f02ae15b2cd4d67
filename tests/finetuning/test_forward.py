"""A model that takes a token loss is otherwise the model it was."""

import copy

import torch

from tests.tiny.models import llama as tiny_llama
from tokenry.finetuning.forward import add_token_loss


def test_without_a_token_loss_the_forward_is_the_original_one():
    ids = torch.tensor([[7, 8, 9]])
    model = tiny_llama()
    before = model(input_ids=ids, labels=ids)
    add_token_loss(model)
    after = model(input_ids=ids, labels=ids)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)


def test_a_copy_of_a_patched_model_computes_with_its_own_weights():
    ids = torch.tensor([[7, 8, 9]])
    model = tiny_llama()
    add_token_loss(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.mul_(2)
    assert torch.allclose(other(input_ids=ids).logits, 2 * model(input_ids=ids).logits)


def test_generation_still_checks_its_arguments():
    model = tiny_llama()
    add_token_loss(model)
    assert model.generate(torch.tensor([[7, 8]]), max_new_tokens=2, do_sample=False).shape == (1, 4)
