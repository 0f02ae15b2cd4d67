"""What a model is asked and how its answers are scored, on a tiny Llama."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from tokenry.core.errors import UserError
from tokenry.evaluation.charbench import TASKS, evaluate_charbench, items_of
from tokenry.evaluation.charbench.evaluate import as_number, common_prefix, continuations, equal_lengths
from tokenry.evaluation.charbench.prompt import ask

ITEMS = items_of(
    [*TASKS, *TASKS],
    ["word", "banana", "answers", "the", "number", "characters", "of", "strawberry"],
    [None, "a", "s", "e", None, "c", "f", "r"],
)


@pytest.fixture
def plain_tokenizer(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    return tokenizer


def by_hand(model, prompt: list[int], answer: list[int]) -> float:
    """One prompt, one answer, one forward pass."""
    model.eval()
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
    return sum(float(logprobs[len(prompt) - 1 + step, token]) for step, token in enumerate(answer))


def check_scores(model, tokenizer, items):
    answers = range(max(map(len, items["word"])) + 1)
    asked = ask(items, tokenizer, answers)
    found = evaluate_charbench(model, tokenizer, items, "score", batch_size=3)
    for place, (prompt, gold) in enumerate(zip(asked.prompts, items["answer"].map(int), strict=True)):
        scores = [by_hand(model, prompt, answer) for answer in asked.answers]
        row = found.iloc[place]
        assert row["logprob"] == pytest.approx(max(scores), abs=1e-4)
        assert row["answer_logprob"] == pytest.approx(scores[gold], abs=1e-4)
        assert scores[int(row["prediction"])] == pytest.approx(max(scores), abs=1e-4)


def test_scores_are_those_of_a_forward_pass_for_each_answer(model, tokenizer):
    check_scores(model, tokenizer, ITEMS)


def test_scores_without_a_chat_template_are_too(model, plain_tokenizer):
    check_scores(model, plain_tokenizer, ITEMS)


def test_scores_of_a_model_with_learned_positions_are_too(tokenizer):
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, initializer_range=0.4)
    check_scores(GPT2LMHeadModel(config), tokenizer, ITEMS)


def test_one_item_alone_is_scored_too(model, tokenizer):
    check_scores(model, tokenizer, ITEMS[5:6])


@pytest.mark.parametrize("mode", ["generate", "score"])
def test_batches_and_their_order_never_change_an_answer(model, tokenizer, mode):
    whole = evaluate_charbench(model, tokenizer, ITEMS, mode, batch_size=8)
    alone = evaluate_charbench(model, tokenizer, ITEMS, mode, batch_size=1)
    turned = evaluate_charbench(model, tokenizer, ITEMS[::-1], mode, batch_size=3).loc[ITEMS.index]
    for other in (alone, turned):
        assert other["prediction"].equals(whole["prediction"])
        assert list(other) == list(whole)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", ["generate", "score"])
def test_the_side_on_which_a_tokenizer_pads_does_not_matter(model, tokenizer, monkeypatch, mode, side):
    expected = evaluate_charbench(model, tokenizer, ITEMS, mode)
    monkeypatch.setattr(tokenizer, "padding_side", side)
    assert evaluate_charbench(model, tokenizer, ITEMS, mode).equals(expected)


class Says(torch.nn.Module):
    """Writes the same tokens after every prompt."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.ids, self.config_seen = ids, None

    def generate(self, input_ids, attention_mask, generation_config):
        assert attention_mask.all()
        self.config_seen = generation_config
        return torch.cat([input_ids, torch.tensor([self.ids]).repeat(len(input_ids), 1)], dim=1)


@pytest.mark.parametrize(
    ("text", "prediction"),
    [("3<|end|>", 3.0), (" 12\n<|end|>", 12.0), ("three<|end|>", math.nan), ("", math.nan)],
)
def test_a_response_that_is_no_integer_has_no_prediction(tokenizer, text, prediction):
    model = Says(tokenizer(text)["input_ids"])
    found = evaluate_charbench(model, tokenizer, ITEMS, "generate")
    np.testing.assert_array_equal(found["prediction"].to_numpy(), np.full(len(ITEMS), prediction))
    assert set(found["response"]) == {text.removesuffix("<|end|>")}
    assert not model.config_seen.do_sample
    assert tokenizer.convert_tokens_to_ids("<|end|>") in model.config_seen.eos_token_id


def test_without_a_chat_template_only_the_first_line_is_the_answer(plain_tokenizer):
    model = Says(plain_tokenizer(" 3\nQuestion: and then?")["input_ids"])
    assert (evaluate_charbench(model, plain_tokenizer, ITEMS, "generate")["prediction"] == 3.0).all()


def test_the_mode_of_the_model_is_restored(model, tokenizer):
    model.train()
    evaluate_charbench(model, tokenizer, ITEMS[:2])
    assert model.training


def test_progress_ends_at_one(model, tokenizer):
    shares: list[float] = []
    evaluate_charbench(model, tokenizer, ITEMS, report=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_index_of_the_items_is_that_of_the_answers(model, tokenizer):
    some = ITEMS.iloc[[6, 1]]
    assert list(evaluate_charbench(model, tokenizer, some).index) == [6, 1]


def test_integers_beyond_every_float_are_infinite():
    assert as_number(10**400) == math.inf
    assert math.isnan(as_number(None))
    assert as_number(-2) == -2.0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_every_token_of_every_answer_is_looked_up_once(answers, batch_size):
    found: dict[tuple[int, int], int] = {}
    for group in continuations(answers):
        for column, row, step, token in group.steps:
            assert list(group.stems[row][: step + 1]) == answers[column][: step + 1]
            assert (column, step) not in found
            found[column, step] = token
    expected = {(c, step): t for c, answer in enumerate(answers) for step, t in enumerate(answer[1:])}
    assert found == expected
    common = common_prefix(answers)
    assert all(answer[: len(common)] == common for answer in answers)
    batches = list(equal_lengths(answers, batch_size))
    assert sorted(place for batch in batches for place in batch) == list(range(len(answers)))
    assert all(len({len(answers[place]) for place in batch}) == 1 for batch in batches)


def test_a_model_without_a_cache_is_sent_to_the_other_mode(tokenizer):
    class Forgetful(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, past_key_values=None, use_cache=True):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            return type("Output", (), {"logits": logits, "past_key_values": ()})

    with pytest.raises(UserError, match=r"Forgetful keeps no cache .* use mode generate"):
        evaluate_charbench(Forgetful(), tokenizer, ITEMS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "guess"}, "mode must be one of generate, score, got 'guess'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(model, tokenizer, options, message):
    with pytest.raises(Exception, match=f"{message}|violates type hint"):
        evaluate_charbench(model, tokenizer, ITEMS, **options)


def test_items_that_ask_the_impossible_are_refused_before_the_model_is(tokenizer):
    with pytest.raises(UserError, match="asks about one character that is in the word"):
        evaluate_charbench(Says([]), tokenizer, ITEMS.assign(character="☃"))
