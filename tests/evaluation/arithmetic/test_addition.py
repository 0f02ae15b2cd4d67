"""Evaluating addition: the prompt that a model sees, answers that do not depend on the batch, and tables of accuracy."""

import re

import pytest
import torch
from pandas import DataFrame
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tokenry.core.errors import UserError
from tokenry.core.text.digit_groups import NumberFormat, number_format
from tokenry.core.text.number_tokens import all_numbers
from tokenry.evaluation.arithmetic.addition import (
    AdditionAnswer,
    accuracy_table,
    evaluate_addition,
    format_title,
    judge_answer,
)
from tokenry.evaluation.arithmetic.addition_problems import AdditionFormat, sample_problems

TWO = [(1, 1, 2), (2, 2, 2)]


class Scribe(torch.nn.Module):
    """Writes down its prompts, and says what it is told to."""

    def __init__(self, tokenizer, say):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer, self.say, self.prompts = tokenizer, say, []

    def generate(self, input_ids, attention_mask, generation_config):
        said = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            self.prompts.append(self.tokenizer.decode(ids[mask.bool()]))
            said.append(self.tokenizer(self.say(self.prompts[-1]))["input_ids"])
        longest = max(map(len, said))
        rows = [ids + [generation_config.pad_token_id] * (longest - len(ids)) for ids in said]
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)


def adds(prompt):
    """The right answer to the last question, then a line of chatter."""
    first, second = re.findall(r"(\d+)\+(\d+)=", prompt)[-1]
    return f"{int(first) + int(second)}\nand more"


@pytest.fixture
def plain():
    """A tokenizer of characters, numbers in threes from the left, without a chat template."""
    words = ["<pad>", "<end>", *map(chr, range(32, 127)), "\n"]
    words += [number for number in all_numbers(3) if len(number) > 1]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d{1,3}|[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


def test_a_model_without_a_template_is_asked_in_lines_and_its_first_line_counts(plain):
    scribe = Scribe(plain, adds)
    answers = evaluate_addition(scribe, plain, TWO, shots=1, per_signature=2)
    assert all(answer.answer_match and answer.formatted_answer_match for answer in answers)
    assert re.fullmatch(
        r"You are a helpful assistant\.\n\n\d\d?\+\d\d?=\d\d\n\d\d?\+\d\d?=", scribe.prompts[0]
    )


def test_a_model_with_a_template_is_asked_in_turns(tokenizer):
    scribe = Scribe(tokenizer, lambda prompt: adds(prompt).split("\n")[0])
    answers = evaluate_addition(scribe, tokenizer, TWO, "comma_r2l", shots=2, per_signature=3)
    assert all(answer.formatted_answer_match for answer in answers)
    assert scribe.prompts[0].startswith("You are a helpful assistant.") or "<|end|>" in scribe.prompts[0]
    assert scribe.prompts[0].endswith("=<|end|><|assistant|>")
    assert scribe.prompts[0].count("<|assistant|>") == 3


def test_answers_of_a_real_model_do_not_depend_on_the_batch(model, tokenizer):
    model.train()
    one, many = (
        evaluate_addition(model, tokenizer, TWO, shots=2, batch_size=size, per_signature=4, max_new_tokens=6)
        for size in (1, 8)
    )
    assert [answer.response for answer in one] == [answer.response for answer in many]
    assert model.training


def test_formats_are_compared_on_the_same_problems(plain):
    runs = [
        evaluate_addition(Scribe(plain, adds), plain, TWO, fmt, shots=1, per_signature=3)
        for fmt in ("nosep", "space_l2r")
    ]
    assert [(a.num1, a.num2) for a in runs[0]] == [(a.num1, a.num2) for a in runs[1]]


def test_of_a_repeated_question_the_answer_is_what_comes_last():
    asked = sample_problems([(4, 4, 5)], 1, 0)
    first, second = asked.problems[0].tolist()
    fmt = AdditionFormat(number_format("nosep"), number_format("comma_r2l"), number_format("comma_r2l"))
    answer = judge_answer(asked, 0, f"{first:,}+{second:,}={first + second:,}", fmt)
    assert answer.formatted_answer_match
    assert answer.format == "nosep, answer ',' r2l 3, repeat ',' r2l 3"
    assert not judge_answer(asked, 0, "I cannot", fmt).valid


def test_length_match_is_that_of_the_signature():
    asked = sample_problems([(7, 7, 7), (7, 7, 8)], 1, 0)
    assert [judge_answer(asked, row, "", "nosep").length for row in (0, 1)] == ["match", "mismatch"]
    assert judge_answer(asked, 1, "", "nosep").signature == "7+7=8"


def rows():
    asked = sample_problems([(1, 1, 1), (1, 1, 2)], 2, 0)
    right = [str(total) for total in asked.problems.sum(1)]
    said = [right[0], "none", right[2], f"{right[3][0]},{right[3][1:]}"]
    return [judge_answer(asked, row, text, "nosep") for row, text in enumerate(said)]


def test_accuracy_is_counted_by_any_fields_with_its_error():
    table = accuracy_table(rows())
    assert [(row["signature"], row["accuracy"], row["formatted"], row["valid"]) for row in table] == [
        ("1+1=1", 1.0, 1.0, 1.0),
        ("1+1=2", 0.5, 0.0, 0.5),
    ]
    (total,) = accuracy_table((row.as_row() for row in rows()), by=())
    assert total["problems"] == 4
    assert total["standard_error"] == pytest.approx((0.75 * 0.25 / 3) ** 0.5)


def test_rows_may_be_a_data_frame():
    frame = DataFrame([row.as_row() for row in rows()])
    assert accuracy_table(frame, ("signature",)) == accuracy_table(rows(), ("signature",))


def test_without_rows_there_is_no_table():
    assert accuracy_table([]) == []


def test_groups_from_the_right_without_a_separator_need_a_tokenizer_that_makes_them(plain):
    fmt = AdditionFormat(NumberFormat("", "r2l"))
    words = "an empty separator leaves 1234567 as it is, and this tokenizer cuts it into 123|456|7: give a separator"
    with pytest.raises(UserError, match=re.escape(words)):
        evaluate_addition(Scribe(plain, adds), plain, TWO, fmt)
    plain.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\d{1,3}(?=(?:\d{3})*(?!\d))|[\s\S]"), "isolated"
    )
    assert evaluate_addition(Scribe(plain, adds), plain, TWO, fmt, shots=0, per_signature=1)


def test_titles_name_what_is_special():
    assert format_title(AdditionFormat(number_format("nosep"), spaces=1, trailing_spaces=2)) == (
        "nosep, 1+2 spaces"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fmt": "comma"}, "format must be one of nosep"),
        ({"signatures": [(7, 7, 9)]}, "no addition has the signature (7, 7, 9)"),
        ({"signatures": []}, "there is no signature"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"shots": -1}, "shots must be at least 0, got -1"),
        ({"chat": True}, "the tokenizer has no chat template"),
    ],
)
def test_bad_input_is_one_sentence(plain, options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        evaluate_addition(Scribe(plain, adds), plain, **{"signatures": TWO, **options})


def test_a_template_that_refuses_a_system_message_is_told(tokenizer):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match=r"leave out the system message with AdditionFormat\(system=None\)"):
        evaluate_addition(Scribe(tokenizer, adds), tokenizer, TWO, per_signature=1)


def test_rows_without_the_fields_are_refused():
    with pytest.raises(UserError, match="the rows have no signature, format, answer_match"):
        accuracy_table([{"a": 1}])
    assert isinstance(rows()[0], AdditionAnswer)
