import copy

import pytest

from tokenry.core.errors import UserError
from tokenry.evaluation.charbench import TASKS, charbench_prompt, items_of, parse_answer
from tokenry.evaluation.charbench.prompt import SYSTEM, ask

from .golden import golden

ITEMS = items_of([TASKS[0], TASKS[3]], ["word", "banana"], [None, "a"])
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}</end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
DROPS_SYSTEM = NO_SYSTEM.replace("{{ raise_exception('no system') }}{% endif %}", "{% else %}").replace(
    "</end>\n", "</end>\n{% endif %}"
)


def test_prompts_are_those_of_the_reference_to_the_last_space():
    examples = golden()["prompt_examples"]
    assert [charbench_prompt(golden()["items"][place]) for place in (0, -1)] == examples


def test_a_row_of_the_table_is_an_item():
    assert "Question: How many unique characters appear in the string 'word'?" in charbench_prompt(
        ITEMS.iloc[0]
    )


def test_an_item_without_a_question_is_refused():
    with pytest.raises(UserError, match="an item needs a question"):
        charbench_prompt({"word": "word"})


@pytest.mark.parametrize("case", golden()["parse"], ids=lambda case: repr(case["text"]))
def test_responses_are_read_as_in_the_reference(case):
    assert parse_answer(case["text"]) == case["value"]


def test_a_number_of_more_digits_than_python_reads_is_invalid():
    assert parse_answer("9" * 5000) is None


def test_an_answer_ends_with_what_the_template_ends_a_turn_with(tokenizer):
    asked = ask(ITEMS, tokenizer, range(12))
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert [tokenizer.decode(answer) for answer in asked.answers] == [f"{n}<|end|>" for n in range(12)]
    assert all(answer[-1] == end for answer in asked.answers)
    text = tokenizer.decode(asked.prompts[1])
    assert text.endswith(f"{charbench_prompt(ITEMS.iloc[1])}<|end|><|assistant|>")
    assert SYSTEM in text
    assert not asked.one_line


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_template_without_a_system_turn_has_its_words_in_the_users(tokenizer, monkeypatch, template):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    text = tokenizer.decode(ask(ITEMS, tokenizer, [0]).prompts[0])
    assert text.startswith(f"<user>{SYSTEM}\n")
    assert text.endswith("</end>\n<assistant>")


def test_without_a_template_the_answer_ends_with_its_line(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    asked = ask(ITEMS, tokenizer, [3, 10])
    assert asked.one_line
    assert tokenizer.decode(asked.prompts[0]).endswith("'word'?\nAnswer:")
    assert [tokenizer.decode(answer) for answer in asked.answers] == [" 3\n", " 10\n"]


def test_a_text_begins_with_the_tokenizers_own_first_token(tokenizer):
    begins = copy.deepcopy(tokenizer)
    begins.chat_template, begins.bos_token = None, "<|pad|>"
    assert all(prompt[0] == 1 for prompt in ask(ITEMS, begins, [0]).prompts)
