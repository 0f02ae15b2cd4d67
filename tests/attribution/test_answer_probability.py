"""p(answer) of text models: a local one against its logits, an endpoint, and what gives no log-probabilities."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import llama
from tests.tiny.server import tiny_server
from tests.tiny.tokenizers import word_tokenizer
from tokenry.attribution import AnswerProbability, attribute
from tokenry.attribution.attribution import own_predictions
from tokenry.core.errors import UserError
from tokenry.models import Endpoint, LocalText

TOKENIZER = word_tokenizer()
CONTEXTS = torch.tensor([[6, 7, 8], [9, 10, 11]])


def local():
    return LocalText(llama(seed=2), TOKENIZER)


def answer_of(model, context):
    return TOKENIZER.decode([int(own_predictions(model.model, context)[-1])])


def test_it_is_the_models_probability_where_it_writes_the_answer_and_0_elsewhere():
    model = local()
    own, other = (answer_of(model, context) for context in CONTEXTS)
    assert own != other
    found = AnswerProbability(model, TOKENIZER, own)(CONTEXTS)
    expected = model.model(CONTEXTS[:1]).logits[0, -1].softmax(-1).max()
    torch.testing.assert_close(found, torch.tensor([float(expected), 0.0]))


def test_an_endpoint_is_explained_by_what_it_writes(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    model = local()
    with tiny_server(model) as server:
        ours = AnswerProbability(model, TOKENIZER, answer_of(model, CONTEXTS[0]))
        theirs = replace(ours, model=Endpoint(server.address, "tiny"))
        method, vocabulary = "reagent:stop=never,probes=2,max_steps=4", torch.arange(6, 64)
        one, other = (
            attribute(p, CONTEXTS[:1], method=method, vocabulary=vocabulary).scores for p in (ours, theirs)
        )
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_without_log_probabilities_there_is_no_probability():
    class Silent(LocalText):
        def generate(self, prompts, sampling):
            return [replace(text, log_probs=None) for text in super().generate(prompts, sampling)]

    model = Silent(llama(), TOKENIZER)
    with pytest.raises(UserError, match="gives no log-probabilities"):
        AnswerProbability(model, TOKENIZER, "w1")(CONTEXTS)
    with pytest.raises(UserError, match="the answer is empty"):
        AnswerProbability(model, TOKENIZER, " ")
