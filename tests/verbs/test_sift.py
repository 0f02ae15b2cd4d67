"""`tokenry sift`: answers of a local model and of an endpoint, marked and beside voting, and what is refused."""

import math

import pytest

from tests.tiny.chats import write_model, write_rows
from tests.tiny.server import tiny_server
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tests.verbs.test_cascade import served

SMALL = ("--max-new-tokens", 4, "--dtype", "float32", "--device", "cpu")
QUESTIONS = ("Ann has 3 pears and finds 2. How many pears has she?", "Bob has 4 figs. How many figs has he?")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("\n\n".join(QUESTIONS))
    return path


def test_questions_are_answered_with_their_course_and_their_cost(model, questions, tmp_path):
    saved = check_verb("sift", questions, "--model", model, "--typed", *SMALL, output=tmp_path / "sift")
    assert [answer["question"] for answer in saved["answers"]] == list(QUESTIONS)
    for answer in saved["answers"]:
        assert answer["right"] is None
        assert answer["calls"][0] == "SG"
        assert answer["tokens_written"] <= 4 * len(answer["calls"])
    calls = [name.rstrip("123") for answer in saved["answers"] for name in answer["calls"]]
    assert {role["role"]: role["calls"] for role in saved["roles"]} == {
        name: calls.count(name) for name in calls
    }
    assert sum(role["tokens_read"] for role in saved["roles"]) == sum(answer["tokens_read"] for answer in saved["answers"])  # fmt: skip
    shown = " ".join(tokenry("report", tmp_path / "sift").stdout.split())
    assert "stickers have no headings, so their raw text was used" in shown


def test_answers_are_marked_beside_votes_with_as_many_calls(model, tmp_path):
    rows = [
        {"question": QUESTIONS[0], "answer": 5},
        {"prompt": QUESTIONS[1], "verifier": {"kind": "number", "answer": "4"}},
        {"messages": [{"role": "user", "content": "Say 1."}], "answer": "1"},
    ]
    more = ("--control", "--max-stage", 2, "--repeats", "2,1", *SMALL)
    path = write_rows(tmp_path / "questions.jsonl", rows)
    saved = check_verb("sift", path, "--model", model, *more, output=tmp_path / "sift")
    assert {answer["right"] for answer in saved["answers"]} <= {True, False}
    sift, votes = ([len(answer["calls"]) for answer in saved[name]] for name in ("answers", "control"))
    assert set(votes) == {math.ceil(sum(sift) / 3)}
    assert {name for answer in saved["control"] for name in answer["calls"]} == {"P_Q"}


def test_an_endpoint_answers_until_the_cap(questions, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with tiny_server(served()) as server:
        arguments = ("--endpoint", f"{server.address}#one", "--max-calls", 5, "--max-new-tokens", 4)
        saved = check_verb("sift", questions, *arguments, output=tmp_path / "sift")
        assert len(server.requests) == 5
        assert all("messages" in request for request in server.requests)
    assert sum(len(answer["calls"]) for answer in saved["answers"]) == 5
    assert "the cap of 5 calls is reached" in saved["answers"][1]["failure"]


def test_samples_are_voted_on(model, questions, tmp_path):
    options = ("--consistency", "prediction", "--samples", 2, "--temperature", 1, "--max-stage", 1)
    saved = check_verb("sift", questions, "--model", model, *options, *SMALL, output=tmp_path / "sift")
    assert {answer["calls"].count("P_QS1") for answer in saved["answers"]} <= {0, 2}


@pytest.mark.parametrize(("arguments", "words"), [
    (("--model", "m", "--endpoint", "http://localhost:1/v1#m"), "--model names a local model and --endpoint a server: give one"),
    (("--endpoint", "http://localhost:1/v1"), "an endpoint is given as URL#MODEL"),
    (("--max-stage", 4), "--max-stage must be 1, 2 or 3, got 4"),
    (("--repeats", "1"), "--repeats must be two numbers of at least 1"),
    (("--max-new-tokens", 0), "--max-new-tokens must be at least 1, got 0"),
    (("--max-calls", 0), "--max-calls must be at least 1, got 0"),
    (("--control",), "--control compares how often answers are right"),
])  # fmt: skip
def test_options_that_cannot_be_are_refused(arguments, words, questions):
    check_refused("sift", questions, *arguments, words=words)


def test_votes_need_a_temperature(model, questions):
    check_refused(
        "sift", questions, "--model", model, "--consistency", "sift", *SMALL, words="raise the temperature"
    )


@pytest.mark.parametrize(("name", "text", "words"), [
    ("q.txt", "\n \n", "holds no questions: give one per line"),
    ("q.jsonl", '{"query": "Hi"}', "row 1 has no question"),
    ("q.jsonl", '{"question": " "}', "row 1 has no question"),
])  # fmt: skip
def test_files_without_questions_are_refused(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    check_refused("sift", tmp_path / name, words=words)
