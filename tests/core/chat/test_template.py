import pytest
import torch

from tests.tiny.tokenizers import (
    CHATML,
    character_tokenizer,
    chatml_tokenizer,
    punctuation_tokenizer,
)
from tokenry.core.chat.template import (
    OPEN_INSTRUCT_TEMPLATE,
    answer_start,
    content_mask,
    render,
    template_pieces,
    training_template,
)
from tokenry.core.errors import UserError

CONVERSATION = [
    {"role": "user", "content": "What is the answer?"},
    {"role": "assistant", "content": "42, of course!"},
    {"role": "user", "content": "Yes or no?\n"},
    {"role": "assistant", "content": "Yes."},
]


def content_text(messages, tokenizer, template=None):
    """The content tokens of a conversation as text, one string per run of them."""
    ids = tokenizer(
        render(messages, template or tokenizer.chat_template, tokenizer), add_special_tokens=False
    )["input_ids"]
    content = content_mask(torch.tensor([ids]), template_pieces(tokenizer))[0].tolist()
    runs, before = [], False
    for token, is_content in zip(ids, content, strict=True):
        if is_content:
            runs = [*runs[:-1], [*runs[-1], token]] if before else [*runs, [token]]
        before = is_content
    return [tokenizer.decode(run) for run in runs]


# Content


def test_content_is_what_people_wrote_and_not_the_template_nor_its_own_system_prompt():
    assert content_text(CONVERSATION, chatml_tokenizer()) == [message["content"] for message in CONVERSATION]


def test_a_system_prompt_that_the_user_wrote_is_content():
    system = {"role": "system", "content": "First line."}
    assert content_text([system, *CONVERSATION], chatml_tokenizer())[0] == "First line."


def test_words_of_the_template_inside_a_content_stay_content():
    messages = [{"role": "user", "content": "user assistant system\n\nBe kind."}]
    assert content_text(messages, chatml_tokenizer()) == ["user assistant system\n\nBe kind."]


def test_a_template_without_special_tokens_is_recognised_beside_punctuation():
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = OPEN_INSTRUCT_TEMPLATE
    assert [run.strip("\n") for run in content_text(CONVERSATION, tokenizer)] == [
        message["content"].strip() for message in CONVERSATION
    ]


def test_a_line_break_that_joins_the_punctuation_before_it_does_not_hide_the_template():
    tokenizer = punctuation_tokenizer()
    tokenizer.chat_template = OPEN_INSTRUCT_TEMPLATE
    messages = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi"}]
    text = render(messages, OPEN_INSTRUCT_TEMPLATE, tokenizer)
    assert "?\n" in tokenizer.tokenize(text)
    assert content_text(messages, tokenizer) == ["Hi?\n", "Hi"]


def test_without_a_chat_template_only_special_tokens_are_not_content():
    tokenizer = character_tokenizer()
    ids = tokenizer("<s>a b</s>", add_special_tokens=False)["input_ids"]
    mask = content_mask(torch.tensor([ids]), template_pieces(tokenizer))
    assert mask.tolist() == [[False, True, True, True, False]]


def test_every_row_is_looked_at_by_itself_wherever_its_padding_is():
    tokenizer = chatml_tokenizer()
    pieces = template_pieces(tokenizer)
    ids = [
        tokenizer(render(CONVERSATION[:length], CHATML, tokenizer), add_special_tokens=False)["input_ids"]
        for length in (2, 4)
    ]
    width = len(ids[1]) + 3
    left = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in ids])
    right = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in ids])
    for number, row in enumerate(ids):
        alone = content_mask(torch.tensor([row]), pieces)[0]
        assert content_mask(left, pieces)[number, width - len(row) :].equal(alone)
        assert content_mask(right, pieces)[number, : len(row)].equal(alone)
        assert not content_mask(right, pieces)[number, len(row) :].any()


def test_rows_shorter_than_a_piece_and_empty_pieces_are_no_trouble():
    ids = torch.tensor([[5, 6]])
    assert content_mask(ids, ((5, 6, 7), (6,))).tolist() == [[True, False]]
    assert content_mask(ids, ()).tolist() == [[True, True]]


def test_overlapping_and_repeated_pieces_are_all_covered():
    ids = torch.tensor([[1, 2, 1, 2, 1, 3], [3, 1, 2, 3, 3, 1]])
    mask = content_mask(ids, ((1, 2, 1), (2, 3)))
    assert mask.tolist() == [
        [False, False, False, False, False, True],
        [True, True, False, False, True, True],
    ]


def test_pieces_come_longest_first_and_hold_every_special_token_alone():
    pieces = template_pieces(chatml_tokenizer())
    lengths = [len(piece) for piece in pieces]
    assert lengths == sorted(lengths, reverse=True)
    assert {(0,), (1,), (2,)} <= set(pieces)


# The template of a training run


def test_the_tokenizer_s_own_template_is_used_unless_another_is_given(tmp_path):
    tokenizer = chatml_tokenizer()
    (tmp_path / "own.jinja").write_text(OPEN_INSTRUCT_TEMPLATE)
    assert training_template(tokenizer) == CHATML
    assert training_template(tokenizer, "open-instruct") == OPEN_INSTRUCT_TEMPLATE
    assert training_template(tokenizer, str(tmp_path / "own.jinja")) == OPEN_INSTRUCT_TEMPLATE
    assert training_template(tokenizer, CHATML + "{# x #}") == CHATML + "{# x #}"


def test_open_instruct_prompts_end_where_the_answer_begins():
    text = render(CONVERSATION[:1], OPEN_INSTRUCT_TEMPLATE, chatml_tokenizer(), add_generation_prompt=True)
    assert text == "<|user|>\nWhat is the answer?\n<|assistant|>\n"
    after = render(CONVERSATION[:3], OPEN_INSTRUCT_TEMPLATE, chatml_tokenizer(), add_generation_prompt=True)
    assert after == f"{text}42, of course!<|im_end|>\n<|user|>\nYes or no?\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("before", "prompted", "through", "start"),
    [
        ("u1", "u1A:", "u1A:yes", 4),
        ("u1", "u1", "u1A:yes", 2),
        ("u1", "u1A:<think>", "u1A:<b>yes", 5),
        ("", "A:", "A:yes", 2),
        ("u1", "u1A:", "U1A:yes", None),
        ("u1.", "u1A:", "u1.A:yes", None),
    ],
)
def test_an_answer_begins_where_the_generation_prompt_ends_or_is_left(before, prompted, through, start):
    assert answer_start(before, prompted, through) == start


def test_the_template_for_tools_is_chosen_where_there_is_one():
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = {"default": CHATML, "tool_use": CHATML + "{# tools #}"}
    assert training_template(tokenizer) == CHATML
    assert training_template(tokenizer, with_tools=True) == CHATML + "{# tools #}"


def test_options_of_the_template_override_its_special_tokens():
    template = "{{ eos_token }}{{ mode }}{{ messages[0].content }}"
    assert render(CONVERSATION[:1], template, chatml_tokenizer(), mode="loud", eos_token="!").startswith(
        "!loudWhat"
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("no/such.jinja", r"no/such.jinja is neither a file nor open-instruct"),
        ("{% for m in messages %}", r"the chat template cannot write a conversation: .*endfor"),
        ("{{ messages[0]['content'] }}", r"does not write the contents of the messages"),
        (
            "{% for m in messages %}{{ m.content[0].text }}{% endfor %}",
            r"cannot write a conversation|does not write the contents",
        ),
        (
            "{% for m in messages %}{{ '>' if loop.last else '' }}{{ m.content }}{% endfor %}",
            r"rewrites earlier turns.*generation %} markers",
        ),
    ],
)
def test_a_template_that_will_not_do_is_refused(template, words):
    with pytest.raises(UserError, match=words):
        training_template(chatml_tokenizer(), template)


def test_a_template_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "a.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(UserError, match="is not a text file in UTF-8"):
        training_template(chatml_tokenizer(), str(tmp_path / "a.jinja"))


def test_a_slow_tokenizer_is_refused(monkeypatch):
    tokenizer = chatml_tokenizer()
    monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
    with pytest.raises(
        UserError, match="cannot tell which characters a token stands for: load the fast tokenizer"
    ):
        template_pieces(tokenizer)
