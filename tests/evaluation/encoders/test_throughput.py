"""Speed: encoders take turns, factors multiply to the whole, and nothing is left changed."""

import pytest
import torch

from tests.evaluation.encoders.tiny_task import encoder, labelled
from tokenry.core.errors import UserError
from tokenry.evaluation.encoders import speed_ups, throughput
from tokenry.evaluation.encoders.throughput import as_long_as, plain_attention

TEXTS = labelled(12).texts


def test_the_factors_multiply_to_the_speed_up():
    pair = {"a": encoder(), "b": encoder(num_hidden_layers=1)}
    speeds, split = speed_ups(pair, TEXTS, batch_size=4, rounds=2)
    assert list(speeds) == ["a", "b"]
    assert list(split) == ["b"]
    assert split["b"].total == pytest.approx(speeds["a"].busy_seconds / speeds["b"].busy_seconds)
    assert speeds["a"].device == "cpu"
    assert speeds["a"].busy_seconds == speeds["a"].cpu_seconds
    assert speeds["a"].peak_bytes is None


def test_tokens_are_counted_without_padding():
    found = throughput({"a": encoder()}, ["w1 w2 w3", "w1"], batch_size=2, rounds=1)["a"]
    assert (found.texts, found.tokens) == (2, 4)
    assert found.texts_per_second == pytest.approx(2 / found.seconds)
    assert found.tokens_per_second == pytest.approx(2 * found.texts_per_second)


def test_encoders_take_turns_and_the_first_round_does_not_count():
    calls, told = [], []
    pair = {name: encoder() for name in "ab"}
    for name, classifier in pair.items():
        classifier.model.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    throughput(pair, ["w1"], rounds=3, progress=lambda what, share: told.append(share))
    assert "".join(calls) == "abbaabba"
    assert told == [0, 0.25, 0.5, 0.75]


def test_modes_and_attention_are_left_as_they_were():
    subject = encoder()
    before = subject.model.config._attn_implementation
    subject.model.train()
    ids = torch.tensor([[7, 8, 9]])
    with plain_attention(subject):
        assert subject.model.config._attn_implementation == "eager"
    speed_ups({"a": subject, "b": encoder()}, TEXTS, rounds=1)
    assert subject.model.training
    assert subject.model.config._attn_implementation == before
    assert before != "eager"
    assert subject.model.eval()(input_ids=ids).logits.requires_grad


def test_rows_are_made_as_long_as_others():
    assert as_long_as([[1, 2], [3, 4, 5]], [5, 2], max_length=4) == [[1, 2, 1, 2], [3, 4]]


def test_a_model_without_plain_attention_and_no_rounds_are_refused(monkeypatch):
    subject = encoder()
    monkeypatch.setattr(type(subject.model), "set_attn_implementation", lambda *_: None)
    with pytest.raises(
        UserError, match="BertForSequenceClassification cannot be switched to plain attention"
    ):
        speed_ups({"a": subject, "b": encoder()}, TEXTS, rounds=1)
    with pytest.raises(UserError, match="rounds must be at least 1, got 0"):
        throughput({"a": subject}, TEXTS, rounds=0)
