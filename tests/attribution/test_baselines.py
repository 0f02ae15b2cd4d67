"""Baselines: each against what it is by definition, on models of several kinds."""

import pytest
import torch

from tests import tiny
from tokenry.attribution import ATTRIBUTIONS, LeaveTokenOut, attribute
from tokenry.core.errors import UserError

IDS = torch.tensor([[5, 9, 12, 7, 3]])
METHODS = (
    "random",
    "leave-one-out",
    "input-x-gradient",
    "attention-last",
    "attention-mean",
    "attention-rollout",
)
DECODER_METHODS = (
    *METHODS,
    "reagent:probes=2,max_steps=2",
    "reagent:stop=ranking,probes=2,max_steps=8",
    "decompx:method=linear",
)
ENCODER_METHODS = ("globenc", "decompx", "integrated-gradients", "gradient-shap")  # the last two need captum
BATCHED = ("decompx:method=linear",)
MODELS = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    "bf16": lambda: tiny.llama().bfloat16(),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", DECODER_METHODS)
def test_every_method_is_alike_with_padding_and_in_a_batch(method, model):
    near = {"rtol": 0, "atol": 0.0 if method not in BATCHED else 0.02 if model == "bf16" else 1e-5}
    model = MODELS[model]()
    alone = attribute(model, IDS, [8], method).scores[0]
    ids = torch.cat([torch.zeros(2, 2, dtype=torch.long), torch.cat([IDS, IDS.flip(1)])], dim=1)
    real = torch.ones_like(ids)
    real[:, :2] = 0
    both = attribute(model, ids, [8, 8], method, attention_mask=real).scores
    torch.testing.assert_close(both[0, 2:], alone, **near)
    assert bool(both[:, :2].isnan().all())


def reference_attention():
    model = tiny.llama(attn_implementation="eager")
    with torch.no_grad():
        return [layer[0].mean(0) for layer in model(IDS, output_attentions=True).attentions]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("attention-last", lambda layers: layers[-1][-1]),
        ("attention-mean", lambda layers: torch.stack(layers).mean(0)[-1]),
        ("attention-rollout", lambda layers: torch.linalg.multi_dot([(a + torch.eye(5)) / 2 for a in reversed(layers)])[-1]),
    ],
)  # fmt: skip
def test_attention_is_that_of_the_eager_model(method, expected):
    found = attribute(tiny.llama(), IDS, [8], method).scores[0]
    torch.testing.assert_close(found, expected(reference_attention()))


def test_attention_of_an_answer_is_the_mean_over_the_rows_that_predict_it():
    model = tiny.llama(attn_implementation="eager")
    ids = torch.cat([IDS, torch.tensor([[8]])], dim=1)
    expected = model(ids, output_attentions=True).attentions[-1][0].mean(0)[4:, :5].mean(0)
    torch.testing.assert_close(attribute(model, IDS, [[8, 2]], "attention-last").scores[0], expected.detach())


def test_input_times_gradient_is_that_of_the_log_probability():
    model = tiny.llama().double()
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=embedded).logits[0, -1].log_softmax(-1)[8].backward()
    expected = (embedded * embedded.grad).sum(-1).abs()[0].detach()
    torch.testing.assert_close(attribute(model, IDS, [8], "input-x-gradient").scores[0], expected.float())
    assert all(parameter.grad is None for parameter in model.get_input_embeddings().parameters())


def test_one_token_is_left_out_at_a_time():
    def p(contexts):
        read.append(contexts)
        return torch.where(contexts[:, 2] == 12, 0.9, 0.4)

    read: list[torch.Tensor] = []
    found = attribute(p, IDS, method=LeaveTokenOut(rounds=3), vocabulary=torch.arange(20, 60))
    assert found.scores[0].tolist() == pytest.approx([0, 0, 0.5, 0, 0])
    assert found.standard_error[0].tolist() == pytest.approx([0] * 5, abs=1e-8)
    assert found.forwards == sum(map(len, read)) == 16
    assert bool(((torch.cat(read[1:]) != IDS).sum(1) == 1).all())


def test_random_scores_come_from_their_seed():
    one, same, other = (attribute(tiny.llama(), IDS, [8], f"random:seed={seed}").scores for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("method", ["input-x-gradient", "attention-last"])
def test_a_function_cannot_be_looked_into(method):
    with pytest.raises(UserError, match="looks into a causal language model, got function"):
        attribute(lambda ids: torch.ones(len(ids)), IDS, method=method)


def test_every_registered_method_is_tested():
    names = {name.partition(":")[0] for name in (*DECODER_METHODS, *ENCODER_METHODS)}
    assert names == set(ATTRIBUTIONS)
