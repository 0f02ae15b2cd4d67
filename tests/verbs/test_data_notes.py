"""What of the data is cut, skipped or not read stands wherever the result stands."""

import json

import pytest

from tests.tiny.chats import QUICK, sums, write_rows
from tests.verbs.tune.record import load

ANSWER = {"role": "assistant", "content": "The answer is 42."}
QUESTION = {"role": "user", "content": "What is the answer?"}


@pytest.fixture(scope="module")
def data(desk):
    """Sums; one row begins with the assistant, one has an answer that is not to be learned, all have a source."""
    rows = [{**row, "source": "web"} for row in sums(10)]
    rows += [{"messages": [ANSWER, QUESTION, ANSWER]}]
    rows += [{"messages": [QUESTION, {**ANSWER, "weight": 0}, QUESTION, ANSWER]}]
    return write_rows(desk.folder / "mixed.jsonl", rows)


BEGINS = "1 of 12 samples begin with an assistant turn, which the chat template cannot write (the first is sample 11"
SILENT = "1 of 14 assistant turns have a weight of 0: given, not learned from."
UNREAD = "columns that are not read: source (10 of 12)."


def test_notes_of_tune_stand_in_its_table_record_and_page(desk, data):
    output = desk.folder / "noted"
    options = ("--weighing", "full", "--compare", "", "--held-out", desk.held_out, "--output", output)
    result = desk.tokenry("tune", desk.model, data, *QUICK, *options)
    assert result.exit_code == 0, result.stderr
    notes = load(output / "result.json").notes
    assert notes[0].startswith(f"training data: {BEGINS} of {data})")
    assert notes[1:] == [f"training data: {SILENT}", f"training data: {UNREAD}"]
    page = (output / "report.html").read_text()
    table = "".join(result.stdout.split())
    for note in notes:
        assert f"note: {note}" in result.stderr
        assert note in page
        assert "".join(note.split()) in table
    again = desk.tokenry("report", output)
    assert "".join(notes[1].split()) in "".join(again.stdout.split())


def test_notes_of_evaluate_stand_in_its_table_and_json(desk, data):
    as_json = desk.tokenry("evaluate", desk.model, data, "--answers", "0", "--json")
    assert as_json.exit_code == 0, as_json.stderr
    notes = json.loads(as_json.stdout)["notes"]
    assert notes[0].startswith(BEGINS)
    assert notes[1:] == [SILENT, UNREAD]
    table = "".join(desk.tokenry("evaluate", desk.model, data, "--answers", "0").stdout.split())
    assert all("".join(note.split()) in table for note in notes)


def test_notes_of_score_stand_in_its_table_and_page_and_samples_keep_their_numbers(desk, data):
    output = desk.folder / "scored"
    result = desk.tokenry("score", data, "--model", desk.model, "--output", output)
    assert result.exit_code == 0, result.stderr
    assert "".join(SILENT.split()) in "".join(result.stdout.split())
    assert SILENT in (output / "report.html").read_text()
    titles = [example["title"] for example in json.loads((output / "scores.json").read_text())]
    assert titles == [f"sample {number}" for number in (*range(1, 11), 12)]


def test_an_error_names_the_row_in_the_file_that_it_was_read_from(desk):
    thinks = {"messages": [QUESTION, {**ANSWER, "reasoning_content": "Six times seven."}]}
    data = write_rows(desk.folder / "thinking.jsonl", [*sums(30), thinks])
    result = desk.tokenry("tune", desk.model, data, *QUICK, "--output", desk.folder / "refused")
    assert result.exit_code == 2
    assert "leaves out the reasoning of the assistant in 1 of" in result.stderr
    assert f"sample 31 of {data}, message 2" in result.stderr


def test_weights_that_no_weighing_learns_by_are_noted(desk):
    data = write_rows(desk.folder / "weighted.jsonl", [{**row, "weight": 0.5} for row in sums(12)])
    options = ("--weighing", "full", "--compare", "", "--output", desk.folder / "weighted")
    result = desk.tokenry("tune", desk.model, data, *QUICK, *options, "--json")
    assert result.exit_code == 0, result.stderr
    (note,) = json.loads(result.stdout)["notes"]
    assert note == "training data: it has weights, which only the weighing dataset-weights learns by."


def test_a_rehearsal_takes_samples_that_have_a_weight(desk):
    rows = [{**row, "weight": float(number == 9)} for number, row in enumerate(sums(10))]
    data = write_rows(desk.folder / "late.jsonl", rows)
    options = ("--weighing", "dataset-weights", "--compare", "", "--held-out", desk.held_out)
    result = desk.tokenry(
        "tune", desk.model, data, *QUICK, *options, "--output", desk.folder / "late", "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["notes"] == []


def test_training_data_of_weight_0_are_refused_where_weights_are_learned_by(desk):
    data = write_rows(desk.folder / "nothing.jsonl", [{**row, "weight": 0} for row in sums(12)])
    options = (
        "--weighing",
        "dataset-weights",
        "--held-out",
        desk.held_out,
        "--output",
        desk.folder / "nothing",
    )
    result = desk.tokenry("tune", desk.model, data, *QUICK, *options)
    assert result.exit_code == 2
    assert (
        "every weight of a token to learn is 0 in the training data: there is nothing to learn from"
        in result.stderr
    )


def test_the_prompt_of_an_answer_is_all_that_stands_before_it(desk):
    rows = [{**row, "system": "Be kind."} for row in sums(6)]
    tools = [{"type": "function", "function": {"name": "add"}}]
    template = desk.folder / "tools.jinja"
    template.write_text(
        "{{ tools or '' }}{% for m in messages %}{{ m.role + m.content }}{% endfor %}{{ 'assistant' if add_generation_prompt }}"
    )
    rows = [*rows, {**rows[0], "tools": tools}]
    data = write_rows(desk.folder / "prompts.jsonl", rows)
    result = desk.tokenry("evaluate", desk.model, data, "--chat-template", template, "--json")
    assert result.exit_code == 0, result.stderr
    samples = {row["measure"]: row["samples"] for row in json.loads(result.stdout)["measures"]}
    assert samples["accuracy"] == 6
    assert samples["nll per token, nats"] == 7
