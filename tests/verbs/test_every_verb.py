"""What holds for every verb without running it: options are documented, help fits and loads nothing heavy."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.verbs.check_verb import tokenry, too_wide
from tokenry.core.plans import plan_options, summary
from tokenry.verbs._catalogue import all_verbs, verb_of


@pytest.mark.parametrize("verb", all_verbs())
def test_every_option_is_documented_and_the_help_fits(verb):
    plan = importlib.import_module(all_verbs()[verb]).Plan
    shown = tokenry(verb, "--help").stdout
    assert too_wide(shown) == []
    assert summary(plan).endswith(".")
    for option in plan_options(plan):
        assert ((option.positional and option.metavar) or option.flag) in shown
        assert option.help.endswith(".")
        assert option.help[0].isupper() or not option.help[0].isalpha()


@pytest.mark.parametrize("verb", all_verbs())
def test_the_report_of_every_result_is_drawn_by_its_verb(verb):
    module = importlib.import_module(all_verbs()[verb])
    of_results = r'"kind": "([a-z -]+)"(?!, "answer")'  # the other kinds are those of verifiers
    kinds = re.findall(of_results, Path(module.__file__).read_text(encoding="utf-8"))
    saves = any(option.name in ("output", "output_folder") for option in plan_options(module.Plan))
    assert not saves or verb == "report" or callable(module.lay_out)
    for kind in kinds:
        assert kind == "report" or verb_of(kind) is module


@pytest.mark.parametrize("no_colour", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_where_there_is_no_colour_the_numbers_of_every_token_are_printed(no_colour, monkeypatch, tmp_path):
    for name, value in no_colour.items():
        monkeypatch.setenv(name, value)
    tokens = [
        {"text": text, "learnable": True, "weight": None, "token_class": None, "signals": {"nll": nll}}
        for text, nll in (("The", 3.25), (" cat", 7.125))
    ]
    stored = {"kind": "score", "model": "m", "examples": [{"title": "sample 1", "tokens": tokens}]}
    (tmp_path / "result.json").write_text(json.dumps(stored))
    printed = tokenry("report", tmp_path).stdout
    assert "The·cat" in printed
    assert {"3.250", "7.125"} <= set(printed.split())


def test_no_verb_loads_a_model_library_for_its_help():
    loaded = f"import sys, {', '.join(all_verbs().values())}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets", "pandas"} & set(modules.stdout.split())
