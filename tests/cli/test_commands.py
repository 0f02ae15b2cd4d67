"""A verb's file is a command: its plan is the options, its result is printed and saved, its errors are sentences."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokenry.cli.commands import plan_app
from tokenry.cli.tree import Verbs
from tokenry.core.errors import UserError
from tokenry.core.plans import argument, option
from tokenry.report.blocks import Table
from tokenry.report.result import Result
from tokenry.verbs._catalogue import verb_modules, verb_of


@dataclass(frozen=True)
class Plan:
    """Count words.

    Attributes:
        text: what is counted.
        least: letters of the shortest word.
        names: words that are left out; can be repeated.
        sizes: numbers with commas.
        upper: count capitals.
        output: folder of the result.
    """

    text: str = argument()
    least: int = 1
    names: tuple[str, ...] = option((), flag="--name")
    sizes: tuple[int, ...] = option((1, 2), metavar="1,2", commas=True)
    upper: bool = True
    output: Path | None = None


def run(plan, progress):
    progress("counting", 0.5)
    if plan.least < 1:
        raise UserError(f"least must be at least 1, got {plan.least}.")
    if plan.text == "break":
        raise RuntimeError("broken")
    words = [word for word in plan.text.split() if len(word) >= plan.least and word not in plan.names]
    data = {
        "kind": "count",
        "settings": {"least": plan.least, "upper": plan.upper, "sizes": plan.sizes},
        "words": len(words),
    }
    return Result("Words", data, [Table("Words", ("what", "count"), [("words", len(words))])], ok=bool(words))


@pytest.fixture
def call():
    def invoke(*arguments):
        return CliRunner().invoke(plan_app("count", Plan, run), [str(one) for one in arguments])

    return invoke


def test_fields_are_arguments_and_options(call):
    result = call("some words here", "--least", 5, "--name", "words", "--json")
    assert result.exit_code == 1  # nothing is left: the result says that it failed
    assert json.loads(result.stdout)["words"] == 0


def test_a_result_is_drawn_in_the_terminal(call):
    result = call("some words here")
    assert result.exit_code == 0
    assert "words" in result.stdout
    assert "3" in result.stdout


def test_a_result_is_saved_where_the_plan_says(call, tmp_path):
    result = call("some words", "--output", tmp_path / "run")
    assert "written:" in result.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["words"] == 2
    assert (tmp_path / "run" / "report.html").is_file()


def test_values_may_be_typed_with_commas(call, tmp_path):
    (tmp_path / "plan.yaml").write_text("sizes: [5, 6]\n")
    for options, sizes in (
        ((), [1, 2]),
        (("--sizes", "3,4"), [3, 4]),
        (("--config", tmp_path / "plan.yaml"), [5, 6]),
        (("--config", tmp_path / "plan.yaml", "--sizes", "7"), [7]),
    ):
        assert json.loads(call("a b", *options, "--json").stdout)["settings"]["sizes"] == sizes
    refused = call("a b", "--sizes", "3,x")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--sizes takes whole numbers separated by commas, such as 1,2, got '3,x'." in refused.stderr


def test_flags_have_a_no_form(call):
    assert json.loads(call("a b", "--no-upper", "--json").stdout)["settings"]["upper"] is False


def test_a_settings_file_gives_defaults_that_the_command_line_overrides(call, tmp_path):
    config = tmp_path / "settings.yaml"
    config.write_text("text: one three\nleast: 4\nname: [three]\n")
    assert json.loads(call("--config", config, "--json").stdout)["words"] == 0
    assert json.loads(call("--config", config, "--least", 1, "--json").stdout)["words"] == 1


def test_a_failure_is_one_sentence_and_code_1(call):
    result = call("break")
    assert result.exit_code == 1
    assert "failed: RuntimeError: broken (--debug shows where)" in result.stderr


def test_a_log_file_holds_what_is_logged(call, tmp_path):
    log = tmp_path / "logs" / "run.log"
    assert call("a b", "--log-file", log).exit_code == 0
    assert log.is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a", "--least", "0"), "--least must be at least 1, got 0"),
        (("a", "--least", "x"), "--least"),
        (("--least", "1"), "TEXT"),
        (("a", "--unknown"), "--unknown"),
        (("a", "--config", "nowhere.yaml"), "nowhere.yaml cannot be read"),
        (("a", "--output", "/dev/null/there"), "cannot be written (/dev/null is a file)"),
        (("a", "--log-file", "/dev/null/x.log"), "cannot be written (/dev/null is a file)"),
    ],
)
def test_a_users_mistake_is_code_2_and_names_the_option_as_typed(call, arguments, words):
    result = call(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())


def test_every_file_in_verbs_is_a_command_with_a_line_of_help():
    group = Verbs("tokenry.verbs", name="tokenry")
    for path, module in verb_modules().items():
        command = group
        for word in path.split():
            command = command.get_command(None, word)
        assert command.module == module
        assert command.help.endswith(".")


def test_the_help_imports_no_verb():
    code = "import sys; from tokenry.cli.tree import Verbs; Verbs('tokenry.verbs').main(['--help'])"
    shown = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert "evaluate" in shown.stdout
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert not imported & {*verb_modules().values(), "torch", "numpy"}


def test_a_kind_of_result_names_its_verb():
    assert verb_of("arithmetic").__name__ == "tokenry.verbs.evaluate.arithmetic"


def test_an_unknown_kind_of_result_is_refused():
    with pytest.raises(UserError, match="results of the kind 'dance' are not known"):
        verb_of("dance")


@pytest.mark.parametrize("group", ["", "compress", "cache"])
def test_help_shows_no_value_beside_a_flag(group):
    from tokenry.cli import app

    shown = CliRunner().invoke(app, [*group.split(), "--help"]).output
    assert "--help" in shown
    assert "<bool>" not in shown
