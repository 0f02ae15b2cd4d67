import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.finetuning.tiny_tokenizers import CHATML, character_tokenizer, chatml_tokenizer
from tokenry.core.errors import UserError
from tokenry.finetuning.conversations import class_names, encode_rows

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "01-sstoken" / "dev-chat.json").read_text())

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


def test_a_conversation_that_begins_with_the_assistant_is_refused():
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
    ("options", "words"),
    [
        ({"max_length": 1}, "max_length must be at least 2 tokens, got 1"),
        ({"too_long": "wrap"}, "too_long must be truncate, drop or error, got 'wrap'"),
    ],
)
def test_an_option_out_of_range_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        encode_one({"text": "ab"}, character_tokenizer(), **options)
