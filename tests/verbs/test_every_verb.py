"""What holds for every verb without running it: options are documented, help fits and loads nothing heavy."""

import importlib
import subprocess
import sys

import pytest

from tests.verbs.check_verb import tokenry, too_wide
from tokenry.core.plans import plan_options, summary
from tokenry.verbs._catalogue import verb_modules


@pytest.mark.parametrize("verb", verb_modules())
def test_every_option_is_documented_and_the_help_fits(verb):
    plan = importlib.import_module(verb_modules()[verb]).Plan
    shown = tokenry(verb, "--help").stdout
    assert too_wide(shown) == []
    assert summary(plan).endswith(".")
    for option in plan_options(plan):
        assert ((option.positional and option.metavar) or option.flag) in shown
        assert option.help.endswith(".")
        assert option.help[0].isupper() or not option.help[0].isalpha()


def test_no_verb_loads_a_model_library_for_its_help():
    loaded = f"import sys, {', '.join(verb_modules().values())}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets", "pandas"} & set(modules.stdout.split())
