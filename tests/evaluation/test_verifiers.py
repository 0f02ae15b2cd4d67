import json

import pytest
import torch

from tokenry.core.errors import UserError
from tokenry.evaluation import extract_answer, generate_answers, is_right, last_number, verifier_accuracy


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5 - 3 = 2. The answer is 2.", "2"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is -4", "-4"),
        ("The answer is dog, cat. Two dots mean up one level.", "dog, cat"),
        ("The answer is 1. No: the answer is 2.", "2"),
        ("The answer is 7.\nAnd so on", "7"),
        ("It is 7.", None),
    ],
)
def test_the_answer_is_what_follows_the_words_the_answer_is(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [("so 3 + 4 = 7\n#### 7", 7), ("it costs $1,250.50.", 1250.5), ("-3", -3), ("2-5", 5), ("none", None)],
)
def test_the_last_number_is_read_with_sign_and_commas(text, number):
    assert last_number(text) == number


def test_a_number_is_right_whatever_its_spelling():
    verifier = {"kind": "number", "answer": "3 * 350 = 1050\n#### 1,050"}
    assert is_right("That makes 1050.00", verifier)
    assert not is_right("That makes 1051", verifier)
    assert not is_right("I do not know", verifier)


def test_an_exact_answer_is_compared_as_text():
    assert is_right("So. The answer is Paris.", {"kind": "exact", "answer": "Paris"})
    assert not is_right("Paris", {"kind": "exact", "answer": "Paris"})


def test_a_mathematical_answer_is_compared_as_a_number_or_as_math_v2_does():
    half = {"kind": "math", "answer": "So \\boxed{\\frac{1}{2}}"}
    assert is_right("Therefore the answer is 0.5.", half)
    assert not is_right("Therefore the answer is 0.5.", {**half, "equality": "math_v2"})
    assert is_right("It is \\boxed{\\dfrac12}.", {**half, "equality": "math_v2"})
    assert not is_right("I do not know", half)


def test_reasoning_gym_scores_its_own_tasks_and_half_right_is_wrong():
    pytest.importorskip("reasoning_gym")
    chain = {"kind": "reasoning-gym", "dataset": "chain_sum", "entry": json.dumps({"answer": "8"})}
    assert is_right("The answer is 8.0.", chain)
    assert not is_right("The answer is 18.", chain)
    assert not is_right("8", chain)


def test_accuracy_is_the_share_of_right_answers_with_its_standard_error():
    items = [{"verifier": {"kind": "number", "answer": "1"}}] * 5
    accuracy = verifier_accuracy(["1", "1", "1", "2", "no"], items)
    assert accuracy.value == pytest.approx(0.6)
    assert accuracy.standard_error == pytest.approx((0.6 * 0.4 / 4) ** 0.5)
    assert accuracy.samples == 5


@pytest.mark.parametrize(
    ("answers", "items", "message"),
    [
        (["1"], [{"verifier": {"kind": "number", "answer": "1"}}] * 2, "one answer per item"),
        (["1", "1"], [{"task": "a"}] * 2, "item 0 has no verifier .columns found: task"),
        (
            ["1", "1"],
            [{"verifier": {"kind": "guess"}}] * 2,
            "exact, math, number, reasoning-gym, got 'guess'",
        ),
        (["1", "1"], [{"verifier": {"kind": "exact"}}] * 2, "needs answer"),
        (["1", "1"], [{"verifier": {"kind": "number", "answer": "x"}}] * 2, "needs a number, got 'x'"),
    ],
)
def test_unusable_items_are_refused(answers, items, message):
    with pytest.raises(UserError, match=message):
        verifier_accuracy(answers, items)


def test_an_unknown_dataset_is_named():
    pytest.importorskip("reasoning_gym")
    verifier = {"kind": "reasoning-gym", "dataset": "no_such_task", "entry": "{}"}
    with pytest.raises(UserError, match="no dataset 'no_such_task'"):
        is_right("The answer is 1.", verifier)


PROMPTS = [
    [{"role": "user", "content": text}]
    for text in ("one", "a longer question?", "two words", "the number of the words")
]


def test_batches_and_their_padding_never_change_an_answer(model, tokenizer):
    alone = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=1)
    assert alone == generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=3)
    assert len(set(alone)) > 1


def test_answers_are_the_greedy_continuation(model, tokenizer):
    model.eval()
    ids = tokenizer("<|user|>one<|end|><|assistant|>")["input_ids"]
    start = len(ids)
    while len(ids) < start + 6:
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    expected = tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
    assert generate_answers(model, tokenizer, PROMPTS[:1], max_new_tokens=6) == [expected]


def test_a_models_own_sampling_defaults_do_not_count(model, tokenizer):
    greedy = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8)
    model.generation_config.do_sample = True
    model.generation_config.temperature = 5.0
    model.generation_config.repetition_penalty = 3.0
    model.generation_config.max_length = 5
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8) == greedy


def test_the_models_mode_is_restored(model, tokenizer):
    model.train()
    generate_answers(model, tokenizer, PROMPTS[:2], max_new_tokens=2)
    assert all(module.training for module in model.modules())


def test_a_prompt_that_already_holds_its_answer_is_refused(model, tokenizer):
    answered = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    with pytest.raises(UserError, match="prompt 1 does not end with the user's turn"):
        generate_answers(model, tokenizer, [PROMPTS[0], answered])


def test_a_tokenizer_without_chat_template_is_refused(model, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(UserError, match="no chat template"):
        generate_answers(model, tokenizer, PROMPTS)
