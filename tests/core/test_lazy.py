"""Packages whose names are imported when they are asked for."""

import importlib
import subprocess
import sys

import pytest

LAZY = ["tokenization", "tokenization.transplant", "tokenization.zett"]


@pytest.mark.parametrize("family", LAZY)
def test_every_public_name_is_there_and_is_no_module(family):
    module = importlib.import_module(f"tokenry.{family}")
    for name in module.__all__:
        assert callable(getattr(module, name)), name
        assert name in dir(module)


def test_a_config_is_read_without_torch():
    code = "import sys; from tokenry.tokenization.transfer.transplant import TransplantSettings; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


def test_a_function_keeps_its_name_when_the_module_of_that_name_is_imported():
    code = (
        "import tokenry.tokenization.transfer.zett.surface_forms; from tokenry.tokenization.transfer.zett import surface_forms; "
        "from tokenry.tokenization.transfer.zett.surface_forms import mask_id; print(surface_forms.__name__, callable(surface_forms))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "surface_forms True\n"


def test_an_unknown_name_is_an_attribute_error():
    family = importlib.import_module("tokenry.tokenization")
    with pytest.raises(AttributeError, match=r"module 'tokenry\.tokenization' has no attribute 'nothing'"):
        _ = family.nothing
