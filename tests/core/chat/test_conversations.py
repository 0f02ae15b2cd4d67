import json
import logging
import re
from pathlib import Path

import datasets
import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tests.tiny.tokenizers import CHATML, character_tokenizer, chatml_tokenizer
from tokenry.core.chat.conversations import class_names
from tokenry.core.errors import UserError
from tokenry.finetuning import encode_rows, encode_with_notes

GOLDEN = golden_json("01-sstoken", "dev-chat.json")

QUESTION = {"role": "user", "content": "Why?"}
TWO_TURNS = [
    QUESTION,
    {"role": "assistant", "content": "No."},
    QUESTION,
    {"role": "assistant", "content": "Yes."},
]


def learned_text(row, tokenizer):
    """The learned tokens as text, one string per run of them."""
    runs, before = [], False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (-100, token)
        if label != -100:
            runs = [*runs[:-1], [*runs[-1], token]] if before else [*runs, [token]]
        before = label != -100
    return [tokenizer.decode(run) for run in runs]


def encode_one(row, tokenizer, **options):
    (encoded,) = encode_rows([row], tokenizer, **{"max_length": 512, **options})
    return encoded


def mask_of_characters(row, tokenizer):
    """'1' for each character of a learned token."""
    return "".join(
        ("0" if label == -100 else "1") * len(tokenizer.decode([token]))
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
    )


# What the open-instruct format learns


@pytest.mark.parametrize("case", [case for case in GOLDEN if not case["quirk"]])
def test_the_open_instruct_format_learns_the_characters_of_the_golden_file(case):
    tokenizer = character_tokenizer()
    row = encode_one(case, tokenizer, max_length=case["max_length"], chat_template="open-instruct")
    assert tokenizer.decode(row["input_ids"]) == case["text"]
    assert mask_of_characters(row, tokenizer) == case["target_mask"]


@pytest.mark.parametrize("case", [case for case in GOLDEN if case["quirk"]])
def test_a_bos_token_does_not_move_the_beginning_of_the_answer(case):
    tokenizer = character_tokenizer(adds_bos=True)
    row = encode_one(case, tokenizer, max_length=case["max_length"], chat_template="open-instruct")
    assert tokenizer.decode(row["input_ids"]) == case["text"]
    answer = f"{case['messages'][-1]['content']}</s>"
    assert mask_of_characters(row, tokenizer) == "1".rjust(len(case["text"]) - len(answer) + 1, "0") + "1" * (
        len(answer) - 1
    )


# Which tokens are learned


def test_every_assistant_turn_is_learned_with_its_end_and_nothing_else():
    tokenizer = chatml_tokenizer()
    row = encode_one({"messages": TWO_TURNS}, tokenizer)
    assert tokenizer.decode(row["input_ids"]).startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhy?"
    )
    assert learned_text(row, tokenizer) == ["No.<|im_end|>\n", "Yes.<|im_end|>\n"]


def test_answers_in_a_prompt_are_not_learned():
    tokenizer = chatml_tokenizer()
    row = encode_one({"prompt": TWO_TURNS[:3], "completion": TWO_TURNS[3:]}, tokenizer)
    assert learned_text(row, tokenizer) == ["Yes.<|im_end|>\n"]


@pytest.mark.parametrize("chat_template", ["open-instruct", None])
def test_markers_and_prefixes_agree_about_a_prompt_with_answers_in_it(chat_template):
    tokenizer = character_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + (eos_token if m['role'] == 'assistant' else '') }}"
        "{{ '' if loop.last and not add_generation_prompt else '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    row = encode_one(
        {"prompt": TWO_TURNS[:3], "completion": TWO_TURNS[3:]}, tokenizer, chat_template=chat_template
    )
    assert learned_text(row, tokenizer) == ["Yes.</s>"]


def test_completions_without_chat_format_end_with_eos_and_leave_the_prompt_out():
    tokenizer = chatml_tokenizer()
    row = encode_one({"prompt": "1 + 1 =", "completion": " 2"}, tokenizer)
    assert tokenizer.decode(row["input_ids"]) == "1 + 1 = 2<|im_end|>"
    assert learned_text(row, tokenizer) == [" 2<|im_end|>"]


def test_an_eos_that_is_there_already_is_not_doubled():
    tokenizer = chatml_tokenizer()
    row = encode_one({"text": "Hello<|im_end|>"}, tokenizer)
    assert tokenizer.decode(row["input_ids"]) == "Hello<|im_end|>"


def test_text_is_learned_whole_and_begins_with_bos_where_the_tokenizer_says_so():
    tokenizer = character_tokenizer(adds_bos=True)
    row = encode_one({"text": "ab"}, tokenizer)
    assert tokenizer.decode(row["input_ids"]) == "<s>ab</s>"
    assert row["labels"] == row["input_ids"]


def test_a_token_across_the_beginning_of_the_answer_belongs_to_the_prompt():
    tokenizer = chatml_tokenizer()
    assert tokenizer.tokenize("The answer")[-1] == "Ġanswer"
    row = encode_one({"prompt": "The ans", "completion": "wer is 42"}, tokenizer)
    assert tokenizer.decode(row["input_ids"]) == "The answer is 42<|im_end|>"
    assert learned_text(row, tokenizer) == [" is 42<|im_end|>"]


def test_a_template_that_strips_contents_is_followed():
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = CHATML.replace("message['content']", "message['content'] | trim")
    row = encode_one({"messages": [QUESTION, {"role": "assistant", "content": "  Yes. \n"}]}, tokenizer)
    assert learned_text(row, tokenizer) == ["Yes.<|im_end|>\n"]


def test_a_turn_may_be_marked_in_several_pieces():
    tokenizer = character_tokenizer()
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ '(' }}{% endgeneration %}{{ '-' }}"
        "{% generation %}{{ m['content'] + ')' }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    spans = [{"start": 0, "end": 3, "class": "word"}]
    row = encode_one(
        {"prompt": TWO_TURNS[:3], "completion": TWO_TURNS[3:], "spans": spans},
        tokenizer,
        chat_template=template,
    )
    assert tokenizer.decode(row["input_ids"]) == "Why?(-No.)Why?(-Yes.)"
    assert learned_text(row, tokenizer) == ["(", "Yes.)"]
    assert row["token_class"][-6:] == [-1, 1, 1, 1, 0, 0]


def test_a_template_that_rewrites_earlier_turns_is_replaced_by_its_training_form():
    templates = pytest.importorskip("trl.chat_template_utils")
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = templates.qwen3_chat_template
    thoughtful = [
        QUESTION,
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nNo."},
        QUESTION,
        {"role": "assistant", "content": "<think>\nAh.\n</think>\n\nYes."},
    ]
    first, second = learned_text(encode_one({"messages": thoughtful}, tokenizer), tokenizer)
    assert first == "<think>\nHm.\n</think>\n\nNo.<|im_end|>\n"
    assert second == "<think>\nAh.\n</think>\n\nYes.<|im_end|>\n"


def test_rows_of_different_formats_keep_their_order():
    tokenizer = chatml_tokenizer()
    dataset = encode_rows(
        [{"text": "First line."}, {"messages": TWO_TURNS}, {"question": "Why?", "answer": "Yes."}],
        tokenizer,
        512,
    )
    assert [learned_text(row, tokenizer)[-1] for row in dataset] == [
        "First line.<|im_end|>",
        "Yes.<|im_end|>\n",
        "Yes.<|im_end|>\n",
    ]


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(contents=st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_the_learned_text_is_the_answers_whatever_they_say(contents):
    tokenizer = chatml_tokenizer()
    messages = [
        {"role": role, "content": content}
        for pair in contents
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    row = encode_one({"messages": messages}, tokenizer, max_length=100_000)
    # A last character of the header and a first of the answer may share a token only if both are white space.
    learned = [text.lstrip() for text in learned_text(row, tokenizer)]
    assert learned == [f"{answer}<|im_end|>\n".lstrip() for _, answer in contents]


# Columns beside a conversation, and keys of a turn

TOOLS = [{"type": "function", "function": {"name": "lookup", "parameters": {}}}]
TOOL_CHATML = (
    "{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    + CHATML.replace(
        "message['content'] +",
        "(message['content'] or '') + (message.tool_calls | default([]) | map(attribute='function') | list | tojson"
        " if message.tool_calls else '') +",
    )
)


CALLS_OF_A_TOOL = {
    "role": "assistant",
    "tool_calls": [{"type": "function", "function": {"name": "lookup", "arguments": {"n": 3}}}],
}


def tokenizer_with(template):
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tools_are_written_by_the_template(tools):
    tokenizer = tokenizer_with(TOOL_CHATML)
    row = encode_one({"messages": TWO_TURNS, "tools": tools}, tokenizer)
    assert tokenizer.decode(row["input_ids"]).startswith(
        f"<|im_start|>tools\n{json.dumps(TOOLS)}<|im_end|>\n"
    )
    assert learned_text(row, tokenizer) == ["No.<|im_end|>\n", "Yes.<|im_end|>\n"]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TWO_TURNS, "tools": TOOLS},
        {"messages": TWO_TURNS, "tools": TOOLS, "chat_template_kwargs": {"mode": "loud"}},
        {"messages": TWO_TURNS, "chat_template_kwargs": {"tools": TOOLS, "eos_token": "x"}},
        {
            "messages": [QUESTION, CALLS_OF_A_TOOL, {"role": "tool", "content": "3"}, TWO_TURNS[1]],
            "tools": TOOLS,
        },
    ],
)
def test_columns_are_written_as_transformers_writes_them(row):
    tokenizer = tokenizer_with("{{ mode }}{{ eos_token }}" + TOOL_CHATML)
    options = {"tools": row.get("tools"), **row.get("chat_template_kwargs", {})}
    wanted = tokenizer.apply_chat_template(row["messages"], return_dict=True, **options)["input_ids"]
    assert encode_one(row, tokenizer)["input_ids"] == wanted


def test_no_tools_are_no_tools():
    tokenizer = tokenizer_with(TOOL_CHATML)
    for tools in ([], "[]", "", None):
        row = encode_one({"messages": TWO_TURNS, "tools": tools}, tokenizer)
        assert row["input_ids"] == encode_one({"messages": TWO_TURNS}, tokenizer)["input_ids"]


def test_options_for_the_template_reach_it():
    tokenizer = tokenizer_with(
        "{{ mode | default('plain') }}{{ documents[0].text if documents else '' }}" + CHATML
    )
    options = {"mode": "loud"}
    row = encode_one(
        {"messages": TWO_TURNS, "chat_template_kwargs": options, "documents": [{"text": "A fact."}]},
        tokenizer,
    )
    assert tokenizer.decode(row["input_ids"]).startswith("loudA fact.<|im_start|>")
    assert tokenizer.decode(encode_one({"messages": TWO_TURNS}, tokenizer)["input_ids"]).startswith(
        "plain<|im"
    )


def test_the_template_for_tools_is_used_where_the_tokenizer_has_one():
    tokenizer = tokenizer_with({"default": CHATML, "tool_use": TOOL_CHATML})
    row = encode_one({"messages": TWO_TURNS, "tools": TOOLS}, tokenizer)
    assert tokenizer.decode(row["input_ids"]).startswith("<|im_start|>tools")


@pytest.mark.parametrize("markers", [False, True])
def test_a_turn_of_weight_0_is_given_and_not_learned_from(markers):
    template = CHATML
    if markers:
        template = CHATML.replace(
            "message['content'] + '<|im_end|>\n' }}",
            "'' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>\n' }}"
            "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}",
        )
    tokenizer = tokenizer_with(template)
    answers = [{**message, "content": f"Answer {place}."} for place, message in enumerate([TWO_TURNS[1]] * 3)]
    for silent in range(3):
        turns = [
            {**answer, "weight": 0} if place == silent else answer for place, answer in enumerate(answers)
        ]
        messages = [turn for answer in turns for turn in (QUESTION, answer)]
        encoding = encode_with_notes([{"messages": messages}], tokenizer, 512)
        assert encoding.dataset.column_names == ["input_ids", "labels"]
        assert learned_text(encoding.dataset[0], tokenizer) == [
            f"Answer {place}.<|im_end|>\n" for place in range(3) if place != silent
        ]
        assert encoding.notes == ("1 of 3 assistant turns have a weight of 0: given, not learned from.",)
    halves = [QUESTION, {**answers[0], "weight": 0.5}, QUESTION, answers[1]]
    row = encode_one({"messages": halves, "weight": 4}, tokenizer)
    weights = [
        weight for weight, label in zip(row["token_weights"], row["labels"], strict=True) if label != -100
    ]
    first, second = learned_text(row, tokenizer)
    assert weights == [2.0] * len(tokenizer.tokenize(first)) + [4.0] * len(tokenizer.tokenize(second))


def test_spans_of_an_answer_that_is_not_learned_from_are_nowhere():
    messages = [*TWO_TURNS[:3], {**TWO_TURNS[3], "train": False}]
    spans = [{"start": 0, "end": 3, "class": "x"}]
    row = encode_one({"messages": messages, "spans": spans}, chatml_tokenizer())
    assert 1 not in row["token_class"]


# What a template leaves out

STRIPS_THINKING = (
    "{% for m in messages %}{% set c = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKS = {"role": "assistant", "content": "<think>Hm.</think>Yes."}
CALL = {"type": "function", "function": {"name": "lookup", "arguments": {"city": "Oslo", "days": 3}}}
CALLS = [QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL]}]


@pytest.mark.parametrize(
    ("template", "row", "words"),
    [
        (
            STRIPS_THINKING,
            {"messages": [QUESTION, THINKS]},
            r"leaves out the reasoning of the assistant in 1 of 2 samples \(first in sample 2, message 2\): pass --chat-template",
        ),
        (
            STRIPS_THINKING,
            {"messages": [QUESTION, THINKS, QUESTION, TWO_TURNS[3]]},
            r"sample 2, message 2\).*for each answer",
        ),
        (STRIPS_THINKING, {"prompt": "Why?", "completion": [THINKS]}, r"leaves out the reasoning"),
        (
            CHATML,
            {"messages": [QUESTION, {**TWO_TURNS[1], "reasoning_content": "Hm."}]},
            r"leaves out the reasoning of the assistant",
        ),
        (CHATML, {"messages": [QUESTION, {**TWO_TURNS[1], "thinking": "Hm."}]}, r"leaves out the reasoning"),
        (CHATML, {"messages": CALLS}, r"leaves out the tool calls of the assistant in 1 of 2 samples"),
        (
            TOOL_CHATML.replace("| list | tojson", "| list | first | tojson"),
            {"messages": [QUESTION, {**CALLS[1], "tool_calls": [CALL, {**CALL, "id": "2"}]}]},
            r"leaves out the tool calls",
        ),
        (
            TOOL_CHATML.replace("attribute='function'", "attribute='function.name'"),
            {"messages": CALLS},
            r"leaves out the tool calls",
        ),
        (
            CHATML,
            {"messages": TWO_TURNS, "tools": TOOLS},
            r"leaves out the column tools in 1 of 2 samples \(first in sample 2\)",
        ),
        (CHATML, {"messages": TWO_TURNS, "documents": [{"text": "x"}]}, r"leaves out the column documents"),
        (
            CHATML.replace(
                "{{ '<|im_start|>' + message",
                "{% if message['role'] != 'system' %}{{ '<|im_start|>' + message",
            ).replace("{% endfor %}", "{% endif %}{% endfor %}"),
            {"messages": [{"role": "system", "content": "Be brief."}, *TWO_TURNS]},
            r"leaves out the content of the system in 1 of 2 samples \(first in sample 2, message 1\)",
        ),
        (
            CHATML.replace("message['content'] +", "message['content'][:20] +"),
            {"messages": [QUESTION, {"role": "assistant", "content": "Yes, of course, and then some."}]},
            r"leaves out the content of the assistant",
        ),
        (
            CHATML.replace("message['content'] +", "message['content'].replace('secret', '') +"),
            {"messages": [QUESTION, {"role": "assistant", "content": "secret"}]},
            r"leaves out the content of the assistant",
        ),
        (
            "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m.get('thinking', '') }}{% generation %}{{ m['content'] }}"
            "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}",
            {"messages": [QUESTION, {**TWO_TURNS[1], "thinking": "Hm."}]},
            r"has no \{% generation %\} markers around the reasoning of the assistant in 1 of 2 samples",
        ),
        (
            "{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}{% generation %}{{ m['content'] }}"
            "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}",
            {"messages": TWO_TURNS},
            r"has no \{% generation %\} markers around the content of the assistant",
        ),
    ],
)
def test_a_template_that_leaves_out_what_is_to_be_learned_is_refused(template, row, words):
    simple = {"messages": [QUESTION, TWO_TURNS[3]]}
    with pytest.raises(UserError, match="^the chat template of this tokenizer " + f".*{words}"):
        encode_rows([simple, row], tokenizer_with(template), 512)
    assert len(encode_rows([simple], tokenizer_with(template), 512)) == 1


def test_the_template_is_named_as_the_user_knows_it(tmp_path):
    (tmp_path / "own.jinja").write_text(STRIPS_THINKING)
    rows, tokenizer = [{"messages": [QUESTION, THINKS]}], chatml_tokenizer()
    with pytest.raises(UserError, match=r"^the chat template .*own.jinja leaves out the reasoning"):
        encode_rows(rows, tokenizer, 512, chat_template=str(tmp_path / "own.jinja"))
    with pytest.raises(UserError, match=r"^the chat template that was passed leaves out the reasoning"):
        encode_rows(rows, tokenizer, 512, chat_template=STRIPS_THINKING)
    tokenizer.chat_template, tokenizer.name_or_path = STRIPS_THINKING, "some/Model"
    with pytest.raises(UserError, match=r"^the chat template of some/Model leaves out the reasoning"):
        encode_rows(rows, tokenizer, 512)


def test_reasoning_of_earlier_turns_that_are_given_may_be_left_out_and_is_counted():
    tokenizer = tokenizer_with(STRIPS_THINKING)
    row = {"prompt": [QUESTION, THINKS, QUESTION], "completion": "Yes."}
    encoding = encode_with_notes([row], tokenizer, 512)
    assert learned_text(encoding.dataset[0], tokenizer) == ["Yes.<|im_end|>\n"]
    assert encoding.notes == (
        "in 1 of 1 samples the chat template leaves out the reasoning of earlier turns, which are given and not learned from.",
    )


def test_a_generation_prompt_that_begins_to_think_is_no_part_of_an_answer_that_does_not():
    template = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")
    tokenizer = tokenizer_with(template)
    thinks = {"role": "assistant", "content": "<think>\nHm.\n</think>\nYes."}
    row = encode_one({"messages": [*TWO_TURNS[:3], thinks]}, tokenizer)
    assert learned_text(row, tokenizer) == ["No.<|im_end|>\n", "Hm.\n</think>\nYes.<|im_end|>\n"]


@pytest.mark.parametrize("arguments", [{"city": "Oslo", "n": None}, '{"city": "Oslo", "n": null}'])
def test_arguments_of_calls_are_data_whether_they_come_as_text_or_not(arguments):
    messages = [
        QUESTION,
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]},
    ]
    tokenizer = tokenizer_with(TOOL_CHATML)
    (learned,) = learned_text(encode_one({"messages": messages}, tokenizer), tokenizer)
    assert json.loads(learned.partition("<|im_end|>")[0]) == [
        {"name": "f", "arguments": {"city": "Oslo", "n": None}}
    ]
    as_text = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.arguments + c.function.name }}{% endfor %}{{ m['content'] or '' }}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = tokenizer_with(as_text)
    (learned,) = learned_text(encode_one({"messages": messages}, tokenizer), tokenizer)
    assert learned.startswith('{"city": "Oslo", "n": null}f')


def test_nulls_that_pad_the_structs_of_a_data_set_are_not_learned():
    calls = [
        {"function": {"name": "f", "arguments": arguments}} for arguments in ({"city": "Oslo"}, {"days": 3})
    ]
    rows = [{"messages": [QUESTION, {"role": "assistant", "tool_calls": [call]}]} for call in calls]
    tokenizer = tokenizer_with(TOOL_CHATML)
    encoding = encode_with_notes(datasets.Dataset.from_list(rows), tokenizer, 512)
    assert encoding.dataset[:] == encode_rows(rows, tokenizer, 512)[:]
    assert encoding.notes == ()
    padded = encode_with_notes(datasets.Dataset.from_list(rows).to_list(), tokenizer, 512)
    assert padded.notes[0].startswith(
        "in 2 of 2 samples the tools or a tool call hold a null, which is written as null"
    )


# What is skipped is said


def test_a_conversation_that_begins_with_the_assistant_costs_that_row_alone(caplog):
    rows = [{"messages": TWO_TURNS}, {"messages": TWO_TURNS[1:]}, {"messages": TWO_TURNS[:2]}]
    encoding = encode_with_notes(rows, chatml_tokenizer(), 512)
    assert encoding.numbers == (1, 3)
    (note,) = encoding.notes
    assert note.startswith(
        "1 of 3 samples begin with an assistant turn, which the chat template cannot write (the first is sample 2)"
    )
    assert encode_rows(rows, chatml_tokenizer(), 512)[:] == encoding.dataset[:]
    assert caplog.messages == [note]


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
def test_so_it_is_where_the_template_insists_on_the_order_of_turns(system):
    refusal = (
        "{% set turns = messages | rejectattr('role', 'equalto', 'system') | list %}"
        "{% if turns and turns[0]['role'] != 'user' %}{{ raise_exception('turns must alternate') }}{% endif %}"
    )
    tokenizer = tokenizer_with(refusal + CHATML)
    rows = [{"messages": [*system, *TWO_TURNS[1:]]}, {"messages": [*system, *TWO_TURNS]}]
    assert encode_with_notes(rows, tokenizer, 512).numbers == (2,)


def test_markers_show_an_answer_that_begins_a_conversation():
    tokenizer = character_tokenizer()
    row = encode_one({"messages": TWO_TURNS[1:]}, tokenizer, chat_template="open-instruct")
    assert learned_text(row, tokenizer) == ["No.</s>\n", "Yes.</s>"]


@pytest.mark.parametrize(
    ("row", "note"),
    [
        (
            {"messages": TWO_TURNS, "id": 1, "source": "web"},
            "columns that are not read: id (1 of 2), source (1 of 2).",
        ),
        (
            {"messages": [{**QUESTION, "name": "Ann", "at": 3}, TWO_TURNS[1]]},
            "keys of messages that the chat template does not read: at (1 of 2), name (1 of 2).",
        ),
        (
            {"messages": TWO_TURNS, "chat_template_kwargs": {"enable_thinking": True}},
            "options in chat_template_kwargs that the chat template does not read: enable_thinking (1 of 2).",
        ),
        (
            {"messages": [{**QUESTION, "train": True}, TWO_TURNS[1]]},
            "1 of 5 turns of others than the assistant ask to be learned from: only the assistant's are.",
        ),
    ],
)
def test_what_is_not_read_is_noted(row, note):
    tokenizer = chatml_tokenizer()
    if "train" in str(row):
        note = note.replace("of 5", "of 3")
    assert encode_with_notes([{"messages": TWO_TURNS}, row], tokenizer, 512).notes == (note,)


def test_what_the_template_reads_is_not_noted():
    tokenizer = tokenizer_with(
        CHATML.replace("message['content'] +", "message['content'] + (message.name or '') +")
    )
    row = {"messages": [{**QUESTION, "name": "Ann"}, TWO_TURNS[1]]}
    assert encode_with_notes([row], tokenizer, 512).notes == ()


# Text that is rendered already


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "<s>hi</s>"}, "<s>hi</s>"),
        ({"text": "<s>hi</s>\n"}, "<s>hi</s>\n"),
        ({"text": "\n<s>hi"}, "\n<s>hi</s>"),
        ({"text": "hi <s>"}, "<s>hi <s></s>"),
        ({"prompt": "<s>Q", "completion": "A</s>"}, "<s>QA</s>"),
        ({"prompt": "Q", "completion": "A"}, "<s>QA</s>"),
        ({"prompt": "", "completion": "<s>A"}, "<s>A</s>"),
    ],
)
def test_rendered_text_gets_no_second_bos_or_eos(row, text):
    tokenizer = character_tokenizer(adds_bos=True)
    length = len(row.get("completion", row.get("text")))
    encoded = encode_one({**row, "spans": [{"start": 0, "end": min(3, length), "class": "x"}]}, tokenizer)
    assert tokenizer.decode(encoded["input_ids"]) == text
    at = encoded["token_class"].index(1)
    assert tokenizer.decode([encoded["input_ids"][at]]) in ("<s>", "\n", "h", "A")


# The property: all that the assistant says is learned, or the data is refused


def turn_template(body, think_prompt=""):
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        + body
        + "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n" + think_prompt + "' }}{% endif %}"
    )


CONTENT = "{{ m['content'] or '' }}"
REASONED = "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
CALLED = "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + ' ' + (c.function.arguments | tojson) + '</call>' }}{% endfor %}"
SPLIT = "{% set c = m['content'] or '' %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}{{ c }}"
TEMPLATES = {
    "chatml": turn_template(CONTENT),
    "trims": turn_template("{{ (m['content'] or '') | trim }}"),
    "strips thinking": turn_template(SPLIT),
    "strips thinking of earlier turns": turn_template(
        "{% if loop.last %}" + CONTENT + "{% else %}" + SPLIT + "{% endif %}"
    ),
    "reasons": turn_template(REASONED + CONTENT),
    "calls": turn_template(CONTENT + CALLED),
    "all": turn_template(REASONED + CONTENT + CALLED),
    "thinks in its prompt": turn_template(CONTENT + CALLED, think_prompt="<think>"),
    "marks all": turn_template(
        "{% if m['role'] == 'assistant' %}{% generation %}"
        + REASONED
        + CONTENT
        + CALLED
        + "{% endgeneration %}"
        "{% else %}" + CONTENT + "{% endif %}"
    ),
    "marks contents": turn_template(
        "{% if m['role'] == 'assistant' %}"
        + REASONED
        + "{% generation %}"
        + CONTENT
        + "{% endgeneration %}"
        + CALLED
        + "{% else %}"
        + CONTENT
        + "{% endif %}"
    ),
    "first call only": turn_template(
        REASONED + CONTENT + CALLED.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    ),
    "names of calls": turn_template(
        REASONED + CONTENT + "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}"
    ),
}
FAITHFUL = ("all", "marks all")
said = st.text('ab"{}<é \n', min_size=1, max_size=8).filter(str.strip)
thought = said.map("Hm, {}".format)  # reasoning of one brace would stand in any tool call
call_arguments = st.dictionaries(
    st.sampled_from(["city", "days"]),
    st.none() | st.integers(-9, 99) | st.booleans() | said | st.lists(said, max_size=2),
)
tool_calls = st.lists(
    st.builds(
        lambda name, arguments, as_text: {
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments) if as_text else arguments},
        },
        st.sampled_from(["lookup", "sum"]),
        call_arguments,
        st.booleans(),
    ),
    max_size=2,
)


@st.composite
def answers(draw):
    content, calls = draw(said), draw(tool_calls)
    if draw(st.booleans()):
        content = f"<think>{draw(thought)}</think>{content}"
    message = {"role": "assistant", "content": "" if calls and draw(st.booleans()) else content}
    if calls:
        message["tool_calls"] = calls
    if draw(st.booleans()):
        message["reasoning_content"] = draw(thought)
    return message


def squashed(text):
    return re.sub(r"\s", "", text)


def parts_of(message):
    """What an assistant turn says, in the order in which all templates here write it; white space left out."""
    parts = [message.get("reasoning_content", ""), *re.split("</?think>", message["content"])]
    for call in message.get("tool_calls", []):
        arguments = call["function"]["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        parts += [call["function"]["name"], json.dumps(arguments, ensure_ascii=False) if arguments else ""]
    return [squashed(part) for part in parts]


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(TEMPLATES)),
    turns=st.lists(st.tuples(said, answers()), min_size=1, max_size=3),
    silent=st.sampled_from([None, None, 0]),
)
def test_all_that_the_assistant_says_is_learned_or_the_data_is_refused(name, turns, silent):
    tokenizer = tokenizer_with(TEMPLATES[name])
    messages = [
        turn for question, answer in turns for turn in ({"role": "user", "content": question}, dict(answer))
    ]
    if silent is not None and len(turns) > 1:
        messages[1]["weight"] = 0
    learnable = [message for message in messages[1::2] if message.get("weight") != 0]
    try:
        row = encode_one({"messages": messages}, tokenizer, max_length=100_000)
    except UserError as error:
        refusal = str(error)
        row = None
    if row is None:
        assert re.search("leaves out|has no .* markers|writes message .* otherwise", refusal)
        assert name not in FAITHFUL
        return
    learned = squashed("\0".join(learned_text(row, tokenizer)))
    for message in learnable:
        for part in parts_of(message):
            place = learned.find(part)
            assert place >= 0, (part, learned)
            learned = learned[place + len(part) :]


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["chatml", "trims", "strips thinking", "calls", "marks contents"]),
    turns=st.lists(st.tuples(said, said), min_size=1, max_size=3),
)
def test_plain_conversations_are_never_refused(name, turns):
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    tokenizer = tokenizer_with(TEMPLATES[name])
    learned = "".join(
        learned_text(encode_one({"messages": messages}, tokenizer, max_length=100_000), tokenizer)
    )
    assert squashed(learned) == "".join(
        f"{squashed(answer)}" + ("" if name == "marks contents" else "<|im_end|>") for _, answer in turns
    )


def zoo():
    """The chat templates that TRL ships, by name."""
    folder = Path(trl.__file__).parent / "chat_templates"
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja"))}


@pytest.mark.parametrize("name", sorted(zoo()))
def test_a_template_of_the_zoo_writes_all_of_a_conversation_or_is_refused(name):
    tokenizer = tokenizer_with(zoo()[name])
    call = {**CALL, "id": "abcdefghi"}
    result = {"role": "tool", "name": "lookup", "content": "sunny", "tool_call_id": "abcdefghi"}
    plain = [
        QUESTION,
        {"role": "assistant", "content": "Alpha."},
        QUESTION,
        {"role": "assistant", "content": "Beta."},
    ]
    thinks = [
        {**turn, "content": f"<think>\nHm {place}.\n</think>\n\nAh."}
        for place, turn in enumerate(plain)
        if place % 2
    ]
    conversations = [
        (plain, ["Alpha.", "Beta."]),
        ([QUESTION, thinks[0], QUESTION, thinks[1]], ["Hm 1.", "Ah.", "Hm 3.", "Ah."]),
        ([QUESTION, {**plain[1], "reasoning_content": "Hm."}], ["Hm.", "Alpha."]),
        (
            [*CALLS[:1], {**CALLS[1], "tool_calls": [call]}, result, plain[1]],
            ["lookup", "city", "Oslo", "days", "3", "Alpha."],
        ),
    ]
    written = 0
    for messages, parts in conversations:
        try:
            row = encode_one({"messages": messages}, tokenizer, max_length=100_000)
        except UserError:
            continue
        written += 1
        learned = "".join(learned_text(row, tokenizer))
        assert re.search(".*".join(map(re.escape, parts)), learned, re.DOTALL)
        assert "Why?" not in learned
    for_images = ("idefics3", "llava_next", "smolvlm")
    assert written or name.startswith(for_images)


# Classes and weights


def test_a_token_has_the_class_of_the_first_span_that_covers_half_of_it():
    tokenizer = chatml_tokenizer()
    text = "The answer is 42"
    pieces = [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]]
    place = pieces.index(" answer")
    spans = [
        {"start": 3, "end": 6, "class": "too little"},  # 3 of the 7 characters of " answer"
        {"start": 4, "end": 9, "class": "enough"},
        {"start": 0, "end": 16, "class": "later"},
    ]
    row = encode_one({"text": text, "spans": spans}, tokenizer)
    dataset = encode_rows([{"text": text, "spans": spans}], tokenizer, 512, default_class="fine")
    assert class_names(dataset) == ["fine", "enough", "later", "too little"]
    names = [class_names(dataset)[number] for number in row["token_class"]]
    assert names[place] == "enough"
    assert names[-1] == "fine"
    assert names[-2] == "later"


def test_spans_count_from_the_beginning_of_the_last_answer_even_when_it_is_stripped():
    tokenizer = character_tokenizer()
    messages = [*TWO_TURNS[:3], {"role": "assistant", "content": "  No. Yes. "}]
    spans = [{"start": 2, "end": 5, "class": "no"}, {"start": 11, "end": 11, "class": "end"}]
    row = encode_one({"messages": messages, "spans": spans}, tokenizer, chat_template="open-instruct")
    text = [tokenizer.decode([token]) for token in row["input_ids"]]
    named = [(piece, number) for piece, number in zip(text, row["token_class"], strict=True) if number > 0]
    assert named == [("N", 2), ("o", 2), (".", 2), ("</s>", 1)]


def test_an_empty_span_at_the_end_stands_for_the_token_that_ends_the_answer():
    tokenizer = chatml_tokenizer()
    spans = [{"start": 4, "end": 4, "class": "cut"}]
    row = encode_one({"messages": TWO_TURNS, "spans": spans}, tokenizer)
    assert [
        tokenizer.decode([t]) for t, c in zip(row["input_ids"], row["token_class"], strict=True) if c == 1
    ] == ["<|im_end|>"]


def test_what_is_not_learned_has_no_class():
    row = encode_one(
        {"prompt": "a", "completion": "b", "spans": [{"start": 0, "end": 1, "class": "x"}]},
        character_tokenizer(),
    )
    assert row["token_class"] == [-1, 1, 0]


def test_without_spans_and_weights_there_are_no_such_columns():
    dataset = encode_rows([{"text": "ab"}], character_tokenizer(), 8)
    assert dataset.column_names == ["input_ids", "labels"]
    assert class_names(dataset) == []


def test_weights_of_samples_and_tokens_are_multiplied_and_default_to_one():
    rows = [
        {"text": "ab", "weight": 0.5},
        {"text": "ab", "weight": 2, "token_weights": [0, 1, 3]},
        {"text": "ab"},
    ]
    dataset = encode_rows(rows, character_tokenizer(), 8)
    assert dataset["token_weights"][:] == [[0.5] * 3, [0.0, 2.0, 6.0], [1.0] * 3]


def test_weights_are_cut_with_the_tokens():
    row = encode_one({"text": "abc", "token_weights": [1, 2, 3, 4]}, character_tokenizer(), max_length=2)
    assert row["token_weights"] == [1.0, 2.0]


# Length


def rows_of_lengths(*lengths):
    """Texts that have so many tokens with their EOS."""
    return [{"text": "a" * (length - 1)} for length in lengths]


def test_samples_of_exactly_the_maximum_length_are_left_alone(caplog):
    dataset = encode_rows(rows_of_lengths(4, 5), character_tokenizer(), 5, too_long="error")
    assert [len(row["input_ids"]) for row in dataset] == [4, 5]
    assert caplog.messages == []


def test_longer_samples_are_cut_and_counted(caplog):
    dataset = encode_rows(rows_of_lengths(4, 9, 7), character_tokenizer(), 5)
    assert [len(row["input_ids"]) for row in dataset] == [4, 5, 5]
    assert caplog.messages == ["2 of 3 samples are longer than 5 tokens: cut."]


def test_longer_samples_may_be_dropped(caplog):
    dataset = encode_rows(rows_of_lengths(4, 9, 7), character_tokenizer(), 5, too_long="drop")
    assert [len(row["input_ids"]) for row in dataset] == [4]
    assert caplog.messages == ["2 of 3 samples are longer than 5 tokens: dropped."]


def test_longer_samples_may_be_refused():
    with pytest.raises(
        UserError, match=r"2 of 3 samples are longer than 5 tokens \(the first is sample 2 with 9\)"
    ):
        encode_rows(rows_of_lengths(4, 9, 7), character_tokenizer(), 5, too_long="error")


def test_a_sample_whose_answer_is_cut_off_is_dropped_and_counted(caplog):
    rows = [{"prompt": "a" * 9, "completion": "b"}, {"prompt": "a", "completion": "b"}]
    with caplog.at_level(logging.WARNING):
        dataset = encode_rows(rows, character_tokenizer(), 5)
    assert len(dataset) == 1
    assert "1 of 2 samples have no token to learn within 5 tokens: dropped." in caplog.messages


def test_a_conversation_of_which_only_the_header_fits_is_nothing_to_learn():
    with pytest.raises(UserError, match="none of 1 samples has a token to learn"):
        encode_rows([{"messages": [QUESTION, TWO_TURNS[1]]}], chatml_tokenizer(), 4)


def test_a_text_of_one_token_is_nothing_to_learn():
    tokenizer = character_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="none of 1 samples has a token to learn"):
        encode_rows([{"text": "a"}], tokenizer, 8)


# Bad input


@pytest.mark.parametrize("too_long", ["truncate", "drop"])
def test_data_of_which_nothing_is_left_are_refused(too_long):
    rows = [{"prompt": "a" * 9, "completion": "b"}]
    with pytest.raises(
        UserError, match=r"none of 1 samples has a token to learn within 5 tokens \(1 are longer\)"
    ):
        encode_rows(rows, character_tokenizer(), 5, too_long=too_long)


def test_empty_data_are_refused():
    with pytest.raises(UserError, match="the data hold no rows"):
        encode_rows([], character_tokenizer(), 5)


def test_a_row_that_is_not_understood_is_named_by_its_number():
    with pytest.raises(UserError, match="sample 2 has no assistant turn"):
        encode_rows([{"messages": TWO_TURNS}, {"messages": [QUESTION]}], chatml_tokenizer(), 512)


def test_a_tokenizer_without_a_chat_template_says_the_two_things_to_do():
    with pytest.raises(
        UserError, match=r"no chat template.*choose an instruct model, or pass --chat-template open-instruct"
    ):
        encode_rows([{"messages": TWO_TURNS}], character_tokenizer(), 512)


def test_text_needs_no_chat_template():
    assert len(encode_rows([{"text": "ab"}], character_tokenizer(), 512)) == 1


def test_a_template_that_refuses_a_conversation_is_quoted():
    tokenizer = chatml_tokenizer()
    system = {"role": "system", "content": "Be brief."}
    refusal = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    )
    tokenizer.chat_template = refusal + CHATML
    with pytest.raises(
        UserError, match="sample 1 cannot be written with the chat template: no system turns here"
    ):
        encode_rows([{"messages": [system, *TWO_TURNS]}], tokenizer, 512)


def test_conversations_that_all_begin_with_the_assistant_are_refused():
    with pytest.raises(UserError, match="sample 1 begins with an assistant turn"):
        encode_rows([{"messages": TWO_TURNS[1:]}], chatml_tokenizer(), 512)


def test_a_sample_whose_turns_cannot_be_told_apart_is_refused():
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = CHATML.replace(
        "message['content'] +",
        "(message['content'] if loop.last else message['content'] | replace('secret', '')) +",
    )
    messages = [QUESTION, {"role": "assistant", "content": "secret No."}, *TWO_TURNS[2:]]
    with pytest.raises(
        UserError, match="sample 1: the chat template writes message 2 otherwise when more follows"
    ):
        encode_rows([{"messages": messages}], tokenizer, 512)


def test_spans_in_an_answer_that_the_template_changes_are_refused():
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = CHATML.replace(
        "message['content']", "message['content'] | replace('Yes', 'yes')"
    )
    rows = [{"messages": TWO_TURNS, "spans": [{"start": 0, "end": 3, "class": "x"}]}]
    with pytest.raises(
        UserError, match="sample 1: the chat template changes the answer, so its spans cannot be placed"
    ):
        encode_rows(rows, tokenizer, 512)


def test_token_weights_of_another_length_are_refused():
    with pytest.raises(UserError, match="sample 2 has 3 tokens but 2 token_weights: give one per token"):
        encode_rows([{"text": "a"}, {"text": "ab", "token_weights": [1, 1]}], character_tokenizer(), 8)


@pytest.mark.parametrize(
    "row",
    [
        {"text": "ab", "weight": 0},
        {"text": "ab", "token_weights": [1, 0, 0]},
        {"prompt": "a", "completion": "b", "token_weights": [1, 0, 0]},
    ],
)
def test_weights_that_leave_nothing_to_learn_are_refused(row):
    with pytest.raises(
        UserError, match="every weight of a token to learn is 0: there is nothing to learn from"
    ):
        encode_rows([row], character_tokenizer(), 8)
    assert len(encode_rows([row, {"text": "ab"}], character_tokenizer(), 8)) == 2


def test_a_conversation_all_of_whose_turns_have_weight_0_is_nothing_to_learn():
    messages = [QUESTION, {**TWO_TURNS[1], "weight": 0}]
    with pytest.raises(UserError, match="none of 1 samples has a token to learn"):
        encode_rows([{"messages": messages}], chatml_tokenizer(), 512)
    assert encode_with_notes(
        [{"messages": messages}, {"messages": TWO_TURNS}], chatml_tokenizer(), 512
    ).numbers == (2,)


def test_rows_may_be_called_by_other_names_than_their_number():
    with pytest.raises(UserError, match=r"sample 9 of a.jsonl has 2 tokens but 1 token_weights"):
        encode_with_notes(
            [{"text": "a", "token_weights": [1]}], character_tokenizer(), 8, numbers=["9 of a.jsonl"]
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 1}, "max_length must be at least 2 tokens, got 1"),
        ({"too_long": "wrap"}, "too_long must be truncate, drop or error, got 'wrap'"),
    ],
)
def test_an_option_out_of_range_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        encode_one({"text": "ab"}, character_tokenizer(), **options)
