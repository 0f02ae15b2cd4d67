"""What moved is found at its old path, as the same module."""

import importlib
import sys

import pytest

from tokenry._moved import LENT, MOVED, new_path


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_is_the_module_at_the_new_one_and_warns(old):
    with pytest.warns(DeprecationWarning, match=f"tokenry.{old} has moved to {new_path(f'tokenry.{old}')}"):
        found = _fresh(f"tokenry.{old}")
    assert found is importlib.import_module(f"tokenry.{MOVED[old]}")


@pytest.mark.parametrize("published", LENT)
def test_a_published_path_exports_all_that_the_room_exports(published):
    room = importlib.import_module(f"tokenry.{LENT[published]}")
    package = importlib.import_module(f"tokenry.{published}")
    assert package.__all__ == room.__all__
    assert all(getattr(package, name) is getattr(room, name) for name in room.__all__)


def test_a_part_of_a_room_is_found_under_its_published_path():
    with pytest.warns(DeprecationWarning, match="has moved to"):
        found = _fresh("tokenry.tokenization.zett.surface_forms")
    assert found is importlib.import_module("tokenry.tokenization.transfer.zett.surface_forms")


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tokenry.core.nothing")


def _fresh(path):
    sys.modules.pop(path, None)
    return importlib.import_module(path)
