import json
from pathlib import Path

import datasets
import pytest

from tokenry.core.errors import UserError
from tokenry.finetuning.rows import Span, read_rows, to_sample

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
        ("a.json", '{\n "text": "a"\n}', r"a.json, line 1 is not valid JSON"),
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
        ("a.txt", "hello", r"is of no known kind: the name must end in .csv, .json, .jsonl, .parquet"),
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
        ({"question": "q", "answer": "answer"}, "q"),
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
    ],
)
def test_a_row_that_cannot_be_learned_from_is_refused_with_its_number(row, words):
    with pytest.raises(UserError, match=words):
        to_sample(row, 7)
