"""Bars and notices of libraries are off while tokenry runs, as they were afterwards, and no library is imported for that."""

import json
import os
import subprocess
import sys

import datasets
import pytest
from transformers.utils import logging
from typer.testing import CliRunner

from tokenry.cli import main
from tokenry.cli.commands import plan_app
from tokenry.core.io.quiet import ENVIRONMENT, quiet_libraries
from tokenry.report.result import Result
from tokenry.verbs.theory.reach import Plan


def shown():
    """The level and the bars of either library."""
    levels = logging.get_verbosity(), datasets.logging.get_verbosity()
    return *levels, logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()


SILENT = (logging.ERROR, datasets.logging.ERROR, False, False)


@pytest.fixture(autouse=True)
def loud():
    before = shown()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    datasets.logging.set_verbosity_info()
    datasets.enable_progress_bars()
    yield shown()
    logging.set_verbosity(before[0])
    datasets.logging.set_verbosity(before[1])
    if not before[2]:
        logging.disable_progress_bar()
    if not before[3]:
        datasets.disable_progress_bars()


def test_libraries_are_silent_meanwhile_and_as_before_afterwards(loud):
    with quiet_libraries():
        assert shown() == SILENT
        with quiet_libraries():
            pass
        assert shown() == SILENT
    assert shown() == loud


def test_every_verb_runs_in_silence(loud):
    seen = []

    def run(plan, progress):
        seen.append(shown())
        return Result("silence", {"kind": "theory reach"}, [])

    result = CliRunner().invoke(plan_app("reach", Plan, run), ["--help"])
    assert (result.exit_code, seen) == (0, [])
    result = CliRunner().invoke(plan_app("reach", Plan, run), ["64"])
    assert (result.exit_code, seen, shown()) == (0, [SILENT], loud), result.output


def test_a_verb_that_loads_no_model_loads_no_library_to_silence_it():
    code = "import sys, tokenry.cli as cli; cli.app(['papers', '--json'], standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)
    assert not {"torch", "transformers", "datasets"} & set(ran.stderr.split())


def test_what_is_imported_later_reads_the_environment_and_the_users_goes_first(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATASETS_VERBOSITY", "info")
    monkeypatch.setattr("tokenry.cli.app", lambda: None)
    main()
    assert {name: os.environ[name] for name in ENVIRONMENT} == {**ENVIRONMENT, "DATASETS_VERBOSITY": "info"}
