import json
import logging
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass

import pytest
import typer
from typer.testing import CliRunner

from tokenry.cli import app
from tokenry.cli.commands import plan_app
from tokenry.cli.console import command, print_json, show_blocks
from tokenry.cli.progress import _Lines, progress
from tokenry.core.errors import UserError
from tokenry.report.blocks import Table, Text
from tokenry.report.result import Result


def run(function, *arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command(function))
    return CliRunner().invoke(app, arguments)


def mistaken() -> None:
    raise UserError("share must be in (0, 1], got 0.0.")


def broken() -> None:
    raise RuntimeError("out of luck")


def test_a_users_mistake_is_one_sentence_on_stderr_and_exit_code_2():
    result = run(mistaken)
    assert result.exit_code == 2
    assert result.stderr == "tokenry: error: share must be in (0, 1], got 0.0.\n"


def test_a_failure_is_one_line_on_stderr_and_exit_code_1():
    result = run(broken)
    assert result.exit_code == 1
    assert result.stderr == "tokenry: failed: RuntimeError: out of luck (--debug shows where)\n"


@pytest.mark.parametrize(("function", "code"), [(mistaken, 2), (broken, 1)])
def test_debug_shows_the_stack_trace_and_keeps_the_exit_code(function, code):
    result = run(function, "--debug")
    assert result.exit_code == code
    assert "Traceback (most recent call last)" in result.stderr


def test_what_is_printed_inside_a_verb_never_reaches_stdout():
    def chatty() -> None:
        print("noise")
        print_json({"answer": 42})

    result = run(chatty)
    assert json.loads(result.stdout) == {"answer": 42}
    assert result.stderr == "noise\n"


@pytest.mark.parametrize(
    ("message", "said"),
    [("", "stopped."), ("stopped after step 3; go on with that.", "stopped after step 3; go on with that.")],
)
def test_ctrl_c_is_news_in_one_sentence_and_exit_code_1(message, said):
    def stopped() -> None:
        raise KeyboardInterrupt(message)

    result = run(stopped)
    assert (result.exit_code, result.stderr) == (1, f"tokenry: {said}\n")


def test_what_tokenry_logs_is_a_note_that_quiet_silences():
    def warned() -> None:
        logging.getLogger("tokenry.somewhere").warning("%d samples are too long", 3)

    assert run(warned).stderr == "note: 3 samples are too long\n"
    assert run(warned, "--quiet").stderr == ""


@pytest.mark.parametrize(("options", "shown"), [((), 0), (("--debug",), 1)])
def test_warnings_of_libraries_are_for_debugging_only(options, shown):
    def deprecated() -> None:
        warnings.warn("this will go away", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run(deprecated, *options)
    assert len(seen) == shown


def test_json_never_holds_nan():
    def undefined() -> None:
        print_json({"nll": float("nan")})

    result = run(undefined)
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_tables_cells_are_data_and_never_markup():
    def table() -> None:
        show_blocks([Table("[bold]title", ("column",), [("[red]cell[/red]",)])])

    assert "[red]cell[/red]" in run(table).stdout


def test_an_unknown_verb_is_bad_usage_and_names_the_nearest():
    result = CliRunner().invoke(app, ["reprodce"])
    assert result.exit_code == 2
    assert "reproduce" in result.stderr


def test_an_unknown_option_is_bad_usage():
    assert CliRunner().invoke(app, ["papers", "--jsn"]).exit_code == 2


def test_the_version_is_the_packages():
    from tokenry import __version__

    assert CliRunner().invoke(app, ["--version"]).stdout == f"tokenry {__version__}\n"


def test_the_command_line_starts_without_torch_so_that_help_is_instant():
    check = "import sys, tokenry.cli, tokenry.papers, tokenry.recipes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_details_of_a_stage_are_no_news_where_there_is_no_bar():
    def told() -> None:
        with progress() as report:
            report("reading", 0.0)
            for step in range(1, 9):
                report(f"training · step {step} of 8, loss 0.1", step / 8)

    lines = run(told).stderr.splitlines()
    stages = ["reading", "training · step 1 of 8, loss 0.1", "done"]
    assert [line.split("%")[1].strip() for line in lines] == stages


def test_a_silent_stage_is_still_heard_of_where_there_is_no_bar(monkeypatch):
    heard, write = threading.Semaphore(0), _Lines._write

    def written(lines: _Lines) -> None:
        write(lines)
        heard.release()

    monkeypatch.setattr("tokenry.cli.progress._SILENCE", 0.05)
    monkeypatch.setattr(_Lines, "_write", written)

    def told() -> None:
        with progress() as report:
            report("reading", 0.0)
            for _ in range(3):
                heard.acquire()

    *lines, last = run(told).stderr.splitlines()
    assert len(lines) >= 3
    assert {line.split(",")[0] for line in lines} == {"  0%  reading"}
    assert last.startswith("100%  done")


def test_quiet_jobs_say_nothing():
    def told() -> None:
        with progress(quiet=True) as report:
            report("reading", 0.0)

    assert run(told).stderr == ""


@dataclass(frozen=True)
class Lossy:
    """Measure something with a tokenizer that is not lossless."""


def warned(plan, progress):
    sentence = "the tokenizer does not give the text back"
    return Result("t", {"kind": "lossy", "notes": [sentence]}, [Text(sentence, "warning")])


@pytest.mark.parametrize(
    ("options", "stdout", "stderr"),
    [
        ((), "Warning: the tokenizer does not give the text back\n", ""),
        (("--quiet",), "Warning: the tokenizer does not give the text back\n", ""),
        (("--json", "--quiet"), None, ""),
        (("--json",), None, "warning: the tokenizer does not give the text back\n"),
    ],
)
def test_a_warning_is_said_once_in_the_result_or_where_only_json_is_printed_on_stderr(
    options, stdout, stderr
):
    result = CliRunner().invoke(plan_app("lossy", Lossy, warned), options)
    assert result.exit_code == 0, result.output
    assert result.stderr == stderr
    if stdout is None:
        assert json.loads(result.stdout)["notes"] == ["the tokenizer does not give the text back"]
    else:
        assert result.stdout == stdout
