"""Methods register themselves, and are made from `name:option=value,...`."""

import sys
from dataclasses import dataclass

import pytest

from tokenry.core.errors import UserError
from tokenry.core.io.registry import Registry


@pytest.fixture
def dances(tmp_path, monkeypatch):
    """A registry whose package has one method in a file of its own."""
    package = tmp_path / "dances"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "waltz.py").write_text("import tests_dances\ntests_dances.register()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("dance", "dances", first=("polka",))

    @dataclass(frozen=True)
    class Waltz:
        beats: int = 3
        steps: tuple[int, float] | int = 1

    class Module:
        @staticmethod
        def register():
            registry.register("waltz")(Waltz)

    monkeypatch.setitem(sys.modules, "tests_dances", Module)
    yield registry
    for name in ("dances", "dances.waltz"):
        sys.modules.pop(name, None)


def test_the_files_of_the_package_register_themselves(dances):
    assert list(dances) == ["waltz"]
    assert dances.make("waltz:beats=6").beats == 6


def test_a_method_from_elsewhere_registers_itself_and_named_ones_come_first(dances):
    @dances.register("polka")
    @dataclass(frozen=True)
    class Polka:
        fast: bool = False

    assert list(dances) == ["polka", "waltz"]
    assert dances.make("polka:fast=true") == Polka(fast=True)
    assert dances.name_of(Polka()) == "polka"


def test_a_method_may_be_made_from_the_options_of_another_dataclass(dances):
    @dataclass(frozen=True)
    class Config:
        tempo: float = 1.0

    @dances.register("tango", options=Config, make=lambda **options: Tango(Config(**options)))
    @dataclass(frozen=True)
    class Tango:
        config: Config

    assert dances.make("tango", tempo=2.0) == Tango(Config(2.0))


def test_a_pair_in_brackets_is_a_pair(dances):
    assert dances.make("waltz:steps=[13,-1.0]").steps == (13, -1.0)


@pytest.mark.parametrize(
    ("description", "options", "words"),
    [
        ("walz", {}, r"there is no dance 'walz' \(did you mean 'waltz'\?\); there are waltz"),
        ("waltz:beat=3", {}, r"waltz has no option 'beat' \(did you mean 'beats'\?\); it has beats, steps"),
        ("waltz:beats", {}, "'beats' in 'waltz:beats' is not option=value"),
        ("waltz:beats=three", {}, "waltz:beats cannot be 'three'"),
        ("waltz:beats=3", {"beats": 4}, "beats is given twice"),
        ("waltz", {"tempo": 4}, "waltz has no option 'tempo'"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(dances, description, options, words):
    with pytest.raises(UserError, match=words):
        dances.make(description, **options)
