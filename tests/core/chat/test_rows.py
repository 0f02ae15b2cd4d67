import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from tokenry.core.chat.rows import Span, read_rows, to_sample
from tokenry.core.errors import UserError

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": 'c, "d"\n', "completion": "é"}]
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "answer"}]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Reading


def test_json_lines_are_read_row_by_row_and_blank_lines_are_skipped(tmp_path):
    lines = "\n".join(map(json.dumps, ROWS))
    assert read_rows(written(tmp_path / "a.jsonl", f"\n{lines}\n\n")) == ROWS


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path):
    content = b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, ROWS)).encode()
    assert read_rows(written(tmp_path / "a.jsonl", content)) == ROWS


def test_a_line_separator_inside_a_text_does_not_end_the_row(tmp_path):
    row = {"text": "one\u2028two"}
    assert read_rows(written(tmp_path / "a.jsonl", json.dumps(row, ensure_ascii=False))) == [row]
    assert read_rows(written(tmp_path / "a.csv", "text\none\u2028two\n")) == [row]


def test_a_json_file_may_hold_a_list_or_json_lines(tmp_path):
    assert read_rows(written(tmp_path / "a.json", json.dumps(ROWS, indent=2))) == ROWS
    assert read_rows(written(tmp_path / "b.json", "\n".join(map(json.dumps, ROWS)))) == ROWS


def test_csv_parquet_and_saved_data_sets_give_the_same_rows(tmp_path):
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.to_csv(tmp_path / "a.csv")
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": dataset.select([0]), "test": dataset}).save_to_disk(tmp_path / "splits")
    assert read_rows(tmp_path / "a.csv") == ROWS
    assert read_rows(str(tmp_path / "a.parquet")) == ROWS
    assert read_rows(tmp_path / "saved") == ROWS
    assert read_rows(tmp_path / "splits") == ROWS[:1]
    assert read_rows(tmp_path / "splits", split="test") == ROWS


def test_structured_columns_of_a_csv_file_hold_json(tmp_path):
    content = 'text,weight,spans\nhello,0.5,"[{""start"": 0, ""end"": 1, ""class"": ""x""}]"\nworld,,\n'
    first, second = read_rows(written(tmp_path / "a.csv", content))
    assert first == {"text": "hello", "weight": 0.5, "spans": [{"start": 0, "end": 1, "class": "x"}]}
    assert second == {"text": "world", "weight": None, "spans": None}


def test_a_csv_cell_may_be_long(tmp_path):
    assert read_rows(written(tmp_path / "a.csv", f"text,b\n{'x' * 200_000},y\n"))[0]["text"] == "x" * 200_000


def test_a_file_of_json_lines_may_be_one_list(tmp_path):
    assert read_rows(written(tmp_path / "a.jsonl", json.dumps(ROWS, indent=1))) == ROWS


def test_nulls_that_pad_structs_are_left_out_at_every_depth(tmp_path):
    def row(name, properties, **arguments):
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        schema = {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}
        messages = [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        return {"messages": messages, "tools": [schema], "chat_template_kwargs": {name: True}}

    rows = [
        row("weather", {"city": {"type": "string"}}, city="Oslo"),
        row("convert", {"amount": {"type": "number", "range": {"low": 0}}}, amount=3, to={"unit": "km"}),
    ]
    dataset = datasets.Dataset.from_list(rows)
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    plain = [
        {**row, "messages": [{k: v for k, v in m.items() if v is not None} for m in row["messages"]]}
        for row in rows
    ]
    assert read_rows(tmp_path / "a.parquet") == plain
    assert read_rows(tmp_path / "saved") == plain


def test_a_null_that_someone_wrote_into_json_stays(tmp_path):
    call = {"function": {"name": "f", "arguments": {"city": None}}}
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]}
    (read,) = read_rows(written(tmp_path / "a.jsonl", json.dumps(row)))
    assert to_sample(read, 1).messages[1]["tool_calls"] == [call]


def test_messages_in_a_csv_file_are_json(tmp_path):
    quoted = [json.dumps(part).replace('"', '""') for part in (CHAT[:1], CHAT[1:])]
    (row,) = read_rows(written(tmp_path / "a.csv", f'prompt,completion\n"{quoted[0]}","{quoted[1]}"\n'))
    assert to_sample(row, 1).messages == CHAT
    (row,) = read_rows(written(tmp_path / "b.csv", f'prompt,completion\n"{quoted[0]}",answer\n'))
    assert to_sample(row, 1).messages == CHAT


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "b"\n',
            r"a.jsonl, line 2 is not valid JSON: Expecting ',' delimiter at character",
        ),
        ("a.jsonl", '{"text": "a"}\n\n[1]\n', r"a.jsonl, line 3 is a list, not an object"),
        (
            "a.json",
            '[{"text": "a"},\n {"text": }]',
            r"a.json is not valid JSON: Expecting value at line 2, character 11",
        ),
        ("a.json", '[{"text": "a"}, 3]', r"a.json, item 2 is a number, not an object"),
        (
            "a.json",
            '{\n "text": "a"\n}',
            r"a.json, line 1 is not valid JSON.*the file writes an object \(text\) over several lines: put each row on one line",
        ),
        (
            "a.json",
            '{\n "data": [\n  {"text": "a"}\n ]\n}\n',
            r"the file is one object whose rows stand under 'data': save that list alone \(jq .data a.json > rows.json\)",
        ),
        (
            "a.json",
            '{\n "version": 1,\n "train": [{"text": "a"}],\n "test": [{"text": "b"}]}',
            r"whose rows stand under 'train'",
        ),
        (
            "a.jsonl",
            '{\n "messages": [{"role": "user", "content": "q"}]\n}\n{\n "messages": []\n}',
            r"the file writes an object \(messages\) over several lines",
        ),
        (
            "a.jsonl",
            '{"text": "a"},\n{"text": "b"}\n',
            r"line 1 is not valid JSON: Extra data.*need no comma between them: remove the commas",
        ),
        (
            "a.json",
            '[{"text": "a"},\n]',
            r"a.json is not valid JSON.*there is a comma too many before the last bracket",
        ),
        (
            "a.json",
            '{"data": {\n "train": [{"text": "a"}]}}',
            r"one object whose rows stand under 'data.train'",
        ),
        (
            "a.json",
            '{"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "1": "d"}}',
            r"is written column by column, as pandas does by default: write one row per line \(to_json",
        ),
        ("a.json", '{"prompt": ["a", "b"], "completion": ["c", "d"]}', r"is written column by column"),
        ("a.csv", "prompt;completion\na;b\n", r"a.csv separates its columns by ';': separate them by commas"),
        ("a.csv", "prompt\tcompletion\na\tb\n", r"a.csv separates its columns by '\\t'"),
        ("a.jsonl", '[{"text": "a"}]\n[1]', r"a.jsonl, line 1 is a list, not an object"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "a", "text": "b"}',
            r"a.jsonl, line 2: the key 'text' stands twice in one object, so one of its values would be lost",
        ),
        ("a.json", '[{"text": "a", "text": "b"}]', r"a.json: the key 'text' stands twice in one object"),
        ("a.csv", "text,text\na,b\n", r"has the column text twice, so one would be lost: rename one of them"),
        (
            "a.csv",
            "messages\n\"[{'role': 'user', 'content': 'q'}]\"\n",
            r"line 2: the column messages holds a list as Python prints it, not JSON.*JSON lines or Parquet",
        ),
        ("a.csv", "text,tools\na,[{]\n", r"line 2: the column tools must hold JSON"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xe9"}\n',
            r"is not UTF-8: byte 24 \(line 2\) is 0xe9; save the file as UTF-8",
        ),
        ("a.csv", b"text\n\xff\n", r"is not UTF-8: byte 5 \(line 2\) is 0xff"),
        (
            "a.csv",
            "prompt,completion\na,b,c\n",
            r"line 2 has 3 cells for 2 columns: put text that holds commas",
        ),
        ("a.csv", "prompt,completion\na,b\nc\n", r"line 3 has 1 cells for 2 columns"),
        ("a.csv", 'prompt,completion\na,"b', r"is not valid CSV: unexpected end of data"),
        ("a.csv", "text,weight\na,much\n", r"line 2: the column weight must hold JSON"),
        ("a.jsonl", "", r"a.jsonl holds no rows"),
        ("a.json", "[]", r"a.json holds no rows"),
        ("a.csv", "text\n", r"a.csv holds no rows"),
        (
            "a.txt",
            "hello",
            r"is of no known kind: the name must end in .csv, .json, .jsonl, .ndjson, .parquet",
        ),
        ("a.parquet", b"PAR1 and then nothing", r"cannot be read as Parquet: it is cut off, damaged"),
    ],
)
def test_a_malformed_file_is_refused_with_the_place_and_the_reason(tmp_path, name, content, words):
    with pytest.raises(UserError, match=words):
        read_rows(written(tmp_path / name, content))


def test_a_truncated_parquet_file_is_refused(tmp_path):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_rows(written(tmp_path / "a.parquet", content[: len(content) // 2]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.jsonl", r"the file .*missing.jsonl does not exist"),
        (
            "some-org/some-data",
            r"some-org/some-data is neither a file or folder here nor in the cache of the Hugging Face hub",
        ),
    ],
)
def test_a_source_that_is_not_there_is_named(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        read_rows(name)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a data set that datasets' save_to_disk wrote"):
        read_rows(tmp_path)


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    with pytest.raises(UserError, match="has no split validation: it has train"):
        read_rows(tmp_path / "splits", split="validation")


# Understanding


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"messages": CHAT}, "q"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "answer"}]}, "q"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "q"),
        ({"prompt": "q", "completion": CHAT[1:]}, "q"),
        ({"prompt": CHAT[:1], "completion": "answer"}, "q"),
        ({"instruction": "q", "output": "answer"}, "q"),
        ({"instruction": "q", "input": "", "response": "answer"}, "q"),
        ({"instruction": "q", "input": "more", "output": "answer"}, "q\n\nmore"),
        ({"instruction": "q", "context": "more", "response": "answer", "category": "closed_qa"}, "q\n\nmore"),
        ({"question": "q", "answer": "answer"}, "q"),
        ({"question": "q", "context": "more", "answer": "answer"}, "q\n\nmore"),
        ({"messages": json.dumps(CHAT)}, "q"),
        ({"messages": np.array(CHAT, dtype=object)}, "q"),
        ({"messages": tuple(CHAT)}, "q"),
        ({"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])}, "q"),
        (
            {"prompt": [{"from": "human", "value": "q"}], "completion": [{"from": "gpt", "value": "answer"}]},
            "q",
        ),
        ({"messages": [{"from": "user", "value": "q"}, {"from": "model", "value": "answer"}]}, "q"),
        ({"messages": [{**CHAT[0], "content": [{"type": "text", "text": "q"}]}, CHAT[1]]}, "q"),
        (
            {
                "messages": [
                    CHAT[0],
                    {**CHAT[1], "content": [{"text": "ans"}, {"type": "output_text", "text": "wer"}]},
                ]
            },
            "q",
        ),
        ({"messages": CHAT, "system": "", "history": [], "tools": "[]", "documents": None}, "q"),
        ({"messages": CHAT, "images": [], "reasoning": None}, "q"),
    ],
)
def test_every_chat_format_becomes_the_same_messages(row, question):
    assert to_sample(row, 1).messages == [{"role": "user", "content": question}, CHAT[1]]


def test_prompt_and_completion_as_text_stay_text():
    sample = to_sample({"prompt": "a", "completion": "b"}, 1)
    assert (sample.prompt, sample.completion, sample.messages) == ("a", "b", None)


def test_text_is_a_completion_without_a_prompt():
    sample = to_sample({"text": "hello", "messages": None}, 1)
    assert (sample.prompt, sample.completion, sample.messages) == ("", "hello", None)


def test_keys_that_parquet_fills_with_none_are_left_out():
    messages = [{**message, "tool_calls": None, "name": None} for message in CHAT]
    assert to_sample({"messages": messages}, 1).messages == CHAT


def test_an_assistant_turn_may_be_a_tool_call_without_words():
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    messages = [
        CHAT[0],
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "3"},
        CHAT[1],
    ]
    assert to_sample({"messages": messages}, 1).messages == messages


def test_the_columns_system_and_history_are_turns_before_the_conversation():
    system, earlier = {"role": "system", "content": "Be brief."}, [["q1", "a1"], ("q2", "a2")]
    before = [
        system,
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "a2"},
    ]
    beside = {"system": "Be brief.", "history": earlier}
    for row in (
        {"messages": CHAT},
        {"instruction": "q", "output": "answer"},
        {"question": "q", "answer": "answer"},
    ):
        assert to_sample({**row, **beside}, 1).messages == [*before, *CHAT]
        assert to_sample({**row, **beside, "history": json.dumps(earlier)}, 1).messages == [*before, *CHAT]
    split = to_sample({"prompt": CHAT[:1], "completion": CHAT[1:], **beside}, 1)
    assert (list(split.prompt), list(split.completion)) == ([*before, CHAT[0]], [CHAT[1]])
    assert to_sample({"messages": [system, *CHAT], "system": "Be brief. "}, 1).messages == [system, *CHAT]


@pytest.mark.parametrize("as_written", [lambda value: value, json.dumps])
def test_tools_documents_and_options_are_for_the_template(as_written):
    tools, documents = [{"type": "function", "function": {"name": "f"}}], [{"title": "t", "text": "x"}]
    row = {
        "messages": CHAT,
        "tools": as_written(tools),
        "documents": as_written(documents),
        "chat_template_kwargs": as_written({"enable_thinking": False, "date": None}),
    }
    options = {"tools": tools, "documents": documents, "enable_thinking": False}
    assert to_sample(row, 1).template_options == options
    inside = {"messages": CHAT, "chat_template_kwargs": {"tools": tools, "documents": documents}}
    assert to_sample(inside, 1).template_options == {"tools": tools, "documents": documents}


def test_calls_of_functions_become_tool_calls_in_every_convention():
    call = {"name": "f", "arguments": {"a": 1}}
    wanted = [
        CHAT[0],
        {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "3"},
        CHAT[1],
    ]
    shared = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "answer"},
    ]
    assert to_sample({"conversations": shared}, 1).messages == wanted
    shared[1]["value"] = json.dumps([call])
    assert to_sample({"conversations": shared}, 1).messages == wanted
    legacy = [
        CHAT[0],
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "content": "3"},
        CHAT[1],
    ]
    assert to_sample({"messages": legacy}, 1).messages == wanted
    wanted[1] = {"role": "assistant", "tool_calls": [call]}
    flat = [
        CHAT[0],
        {"role": "assistant", "tool_calls": json.dumps([call])},
        {"role": "tool", "content": "3"},
        CHAT[1],
    ]
    assert to_sample({"messages": flat}, 1).messages == wanted


def test_a_tool_may_have_nothing_to_report():
    call = {"function": {"name": "f", "arguments": "{}"}}
    messages = [
        CHAT[0],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": ""},
        CHAT[1],
    ]
    assert to_sample({"messages": messages}, 1).messages == messages


@pytest.mark.parametrize(
    ("key", "value", "weight"),
    [
        ("weight", 0, 0.0),
        ("weight", 0.5, 0.5),
        ("weight", None, None),
        ("loss_scale", 2, 2.0),
        ("train", False, 0.0),
        ("training", True, 1.0),
        ("loss_mask", 1, 1.0),
        ("loss", np.int64(0), 0.0),
        ("trainable", 0.0, 0.0),
    ],
)
def test_keys_that_weigh_a_turn_are_not_for_the_template(key, value, weight):
    for row in (
        {"messages": [CHAT[0], {**CHAT[1], key: value}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "answer", key: value}]},
    ):
        sample = to_sample(row, 1)
        assert (sample.messages, sample.turn_weights) == (CHAT, (None, weight))


def test_two_keys_that_weigh_a_turn_are_multiplied():
    sample = to_sample({"messages": [CHAT[0], {**CHAT[1], "weight": 2, "train": False}]}, 1)
    assert sample.turn_weights == (None, 0.0)


def test_columns_that_are_not_read_are_listed():
    row = {
        "id": 3,
        "source": None,
        "text": "rendered",
        "messages": CHAT,
        "verifier": {},
        "weight": 1,
        "spans": [],
    }
    assert to_sample(row, 1).unread == ("id", "text")


def test_numbers_of_numpy_are_numbers():
    row = {"text": "abc", "weight": np.float32(0.5), "token_weights": np.array([1, 0, 2, 1])}
    row["spans"] = [{"start": np.int64(0), "end": np.int64(1), "class": "x"}]
    sample = to_sample(row, 1)
    assert (sample.weight, sample.token_weights) == (0.5, (1.0, 0.0, 2.0, 1.0))
    assert sample.spans == (Span(0, 1, "x"),)


def test_a_token_weight_that_is_none_is_1():
    assert to_sample({"text": "abc", "token_weights": [0.5, None]}, 1).token_weights == (0.5, 1.0)


def test_a_text_that_is_json_but_no_messages_stays_text():
    for prompt in ("[1, 2]", '{"role": "user"}', '[{"name": "x"}]', "[{'a': 1}]"):
        assert to_sample({"prompt": prompt, "completion": "b"}, 1).prompt == prompt


def test_spans_and_weights_are_carried_on():
    spans = [{"start": 0, "end": 3, "class": "noise"}, {"start": 6, "end": 6, "class": "cut"}]
    sample = to_sample({"messages": CHAT, "spans": spans, "weight": 2, "token_weights": [0, 1.5]}, 1)
    assert sample.spans == (Span(0, 3, "noise"), Span(6, 6, "cut"))
    assert (sample.weight, sample.token_weights) == (2.0, (0.0, 1.5))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"question": "q", "reply": "a"},
            r"sample 7 has no columns that are understood \(found: question, reply\): give messages; or",
        ),
        ({}, r"found: none"),
        ({"messages": CHAT[:1]}, r"sample 7 has no assistant turn, so there is nothing to learn"),
        ({"prompt": CHAT, "completion": CHAT[:1]}, r"sample 7 has no assistant turn"),
        (
            {"messages": []},
            r"sample 7: the messages must be a list of objects with role and content, one at least",
        ),
        ({"messages": "hi"}, r"must be a list of objects"),
        ({"messages": ["hi"]}, r"sample 7, message 1 must be an object with role and content"),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            r"message 1 has the unknown role 'bot': roles are system, user",
        ),
        (
            {"messages": [CHAT[0], {"role": "assistant", "content": " \n"}]},
            r"message 2 has an empty assistant content",
        ),
        ({"messages": [{"role": "user", "content": ""}, CHAT[1]]}, r"message 1 has an empty user content"),
        ({"messages": [CHAT[0], {"role": "assistant"}]}, r"message 2: content must be text, got nothing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            r"message 1: content must be text, got list",
        ),
        ({"conversations": [{"from": "alien", "value": "x"}]}, r"unknown role 'alien'"),
        ({"conversations": ["x"]}, r"conversations must be a list of objects with from and value"),
        ({"prompt": "a", "completion": " "}, r"sample 7 has an empty text to learn"),
        ({"text": 3}, r"sample 7: text must be text, got int"),
        ({"text": "\ud83d"}, r"holds half of a surrogate pair"),
        ({"text": "a", "weight": -1}, r"sample 7: weight must be finite and not negative, got -1"),
        ({"text": "a", "weight": float("nan")}, r"weight must be finite"),
        ({"text": "a", "weight": "2"}, r"weight must be finite and not negative, got '2'"),
        (
            {"text": "a", "token_weights": [1.0, float("inf")]},
            r"token_weights must be finite and not negative, got inf",
        ),
        (
            {"text": "abc", "spans": [{"start": 2, "end": 4, "class": "x"}]},
            r"the span 2 to 4 does not lie in the answer, which has 3",
        ),
        ({"text": "abc", "spans": [{"start": 2, "end": 1, "class": "x"}]}, r"the span 2 to 1 does not lie"),
        (
            {"text": "abc", "spans": [{"start": 0, "end": 1}]},
            r"each span must be an object with start, end and class",
        ),
        (
            {"text": "abc", "spans": [{"start": 0, "end": 1.5, "class": "x"}]},
            r"whole numbers as start and end",
        ),
        ({"text": "abc", "spans": "x"}, r"spans must be a list"),
        (
            {"text": "a", "token_weights": 1.0},
            r"token_weights must be a list of numbers, one per token, got 1.0",
        ),
        ({"text": "a", "token_weights": ["1"]}, r"token_weights must be finite and not negative, got '1'"),
        (
            {"text": "a", "token_weights": [float("nan")]},
            r"token_weights must be finite and not negative, got nan",
        ),
        ({"text": "a", "weight": True}, r"weight must be finite and not negative, got True"),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            r"sample 7 is a preference \(chosen, rejected\), which is not data to learn an answer from: give the chosen answer",
        ),
        (
            {"prompt": "q", "completion": "a", "label": False},
            r"has the column label, so its completion may be a bad one",
        ),
        (
            {"prompt": "q", "completion": "a", "kto_tag": True},
            r"has the column kto_tag, so its completion may be a bad one",
        ),
        ({"data": [{"text": "a"}]}, r"found: data\) \(are the rows inside data\? give that list alone\)"),
        (
            {"text": "a", "system": "Be kind."},
            r"sample 7 has the column system beside text, where no chat template writes it",
        ),
        ({"prompt": "a", "completion": "b", "history": [["q", "a"]]}, r"has the column history beside text"),
        ({"text": "a", "tools": '[{"name": "f"}]'}, r"has the column tools beside text"),
        ({"text": "a", "chat_template_kwargs": {"x": 1}}, r"has the column chat_template_kwargs beside text"),
        ({"messages": CHAT, "system": 3}, r"sample 7: system must be text, got int"),
        (
            {"messages": CHAT, "system": "a", "system_prompt": "b"},
            r"has system and system_prompt, which say different things: leave one of them out",
        ),
        (
            {"messages": [{"role": "system", "content": "a"}, *CHAT], "system": "b"},
            r"has the column system and a system turn, which say different things",
        ),
        (
            {"messages": [{"role": "system", "content": "a"}, *CHAT], "history": [["q", "a"]]},
            r"has the column history before a system turn",
        ),
        (
            {"messages": CHAT, "history": ["q", "a"]},
            r"history must be a list of pairs, a question and its answer",
        ),
        ({"messages": CHAT, "history": [["q"]]}, r"history must be a list of pairs"),
        (
            {"messages": CHAT, "history": [["q", ""]]},
            r"sample 7, history, message 2 has an empty assistant content",
        ),
        ({"messages": CHAT, "tools": {"name": "f"}}, r"tools must be a list of objects, or JSON of one"),
        ({"messages": CHAT, "tools": ["f"]}, r"tools must be a list of objects"),
        ({"messages": CHAT, "tools": "[{"}, r"tools must be a list or object, or JSON \("),
        ({"messages": CHAT, "documents": "a text"}, r"documents must be a list of objects"),
        (
            {"messages": CHAT, "chat_template_kwargs": [1]},
            r"chat_template_kwargs must be an object with the options",
        ),
        (
            {"messages": CHAT, "chat_template_kwargs": {"add_generation_prompt": True}},
            r"chat_template_kwargs must not hold add_generation_prompt, which is no option of the template itself",
        ),
        (
            {"messages": CHAT, "chat_template_kwargs": {"chat_template": "{{ x }}"}},
            r"must not hold chat_template,",
        ),
        (
            {"messages": CHAT, "tools": [{"name": "f"}], "chat_template_kwargs": {"tools": [{"name": "g"}]}},
            r"has the column tools and tools in chat_template_kwargs: leave one of them out",
        ),
        (
            {"messages": CHAT, "functions": [{"name": "f"}]},
            r"has the column functions, which would be lost: give the schemas as tools",
        ),
        (
            {"messages": CHAT, "images": ["x.png"]},
            r"has the column images, which would be lost: only text is learned",
        ),
        ({"text": "a", "image": {"bytes": b""}}, r"has the column image, which would be lost"),
        (
            {"question": "q", "answer": "a", "reasoning_content": "hm"},
            r"has the column reasoning_content, which would be lost: give messages whose assistant turn has reasoning_content",
        ),
        ({"messages": CHAT, "thinking": "hm"}, r"has the column thinking, which would be lost"),
        (
            {"messages": [CHAT[0], {**CHAT[1], "weight": -1}]},
            r"sample 7, message 2: weight must be finite and not negative, got -1",
        ),
        (
            {"messages": [CHAT[0], {**CHAT[1], "weight": "0"}]},
            r"message 2: weight must be finite and not negative, got '0'",
        ),
        (
            {"messages": [CHAT[0], {**CHAT[1], "train": "no"}]},
            r"message 2: train must be true or false \(1 or 0\), got 'no'",
        ),
        (
            {"messages": [CHAT[0], {**CHAT[1], "loss_mask": [0, 1]}]},
            r"loss_mask must be true or false \(1 or 0\), got \[0, 1\]",
        ),
        (
            {"messages": [CHAT[0], {**CHAT[1], "loss": 0.5}]},
            r"loss must be true or false \(1 or 0\), got 0.5",
        ),
        (
            {"messages": [CHAT[0], {**CHAT[1], "train_detail": []}]},
            r"has the key train_detail, which is not followed, as it weighs parts of a turn",
        ),
        (
            {"messages": [CHAT[0], {**CHAT[1], "mask": True}]},
            r"has the key mask, which is not followed, as it may mean",
        ),
        (
            {"messages": [CHAT[0], {**CHAT[1], "refusal": "No."}]},
            r"has the key refusal.*put the words of the refusal into content",
        ),
        (
            {"messages": [CHAT[0], {**CHAT[1], "reasoning_content": 3}]},
            r"message 2: reasoning_content must be text, got int",
        ),
        ({"messages": [{"role": "developer", "content": "x"}, *CHAT]}, r"unknown role 'developer'"),
        ({"messages": [{"role": 1, "content": "x"}, *CHAT]}, r"unknown role 1"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, CHAT[1]]},
            r"content must be text, got list of which part 1 is of type 'image_url': give text parts only",
        ),
        (
            {
                "messages": [
                    CHAT[0],
                    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
                ]
            },
            r"part 1 is of type 'thinking'",
        ),
        ({"messages": [{"role": "user", "content": ["hi"]}, CHAT[1]]}, r"part 1 has no text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": " "}]}, CHAT[1]]},
            r"has an empty user content",
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}]},
            r"message 2: a function_call must be JSON with name and arguments",
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f(1)"}]},
            r"message 2: a function_call must be JSON with name and arguments",
        ),
        (
            {
                "messages": [
                    CHAT[0],
                    {"role": "assistant", "function_call": {"name": "f"}, "tool_calls": [{}]},
                ]
            },
            r"has both function_call and tool_calls",
        ),
        (
            {"messages": [CHAT[0], {"role": "assistant", "tool_calls": ["f"]}]},
            r"tool_calls must be a list of objects with a function",
        ),
        (
            {"messages": [CHAT[0], {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]},
            r"the function of a tool call must be an object with a name and arguments",
        ),
        (
            {
                "messages": [
                    CHAT[0],
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]},
                ]
            },
            r"the arguments of a tool call must be an object or JSON text, got list",
        ),
        (
            {"messages": [{**CHAT[0], "tool_calls": [{"name": "f", "arguments": {}}]}, CHAT[1]]},
            r"message 1 is a user turn with tool_calls: only the assistant calls tools",
        ),
        ({"messages": '[{"role": "user"'}, r"messages must be a list or object, or JSON"),
        (
            {"prompt": "[{'role': 'user', 'content': 'q'}]", "completion": "a"},
            r"the column prompt holds a list as Python prints it, not JSON",
        ),
        (
            {"prompt": '[{"role": "user", "content": "q}]', "completion": "a"},
            r"prompt must be a list or object, or JSON",
        ),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_refused_with_its_number(row, words):
    with pytest.raises(UserError, match=words):
        to_sample(row, 7)
