"""The tests' own check of signatures: what it catches, in functions with shapes and without, and in functions inside functions."""

import importlib
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from tests import signatures

SOURCE = """
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Count:
    number: int

    @classmethod
    def of(cls, number: int) -> "Count":
        return cls(number)

    @property
    def doubled(self) -> str:
        return 2 * self.number


def text(number: int) -> str:
    return number if number else "none"


def summed(left: Float[Tensor, "n"], right: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return left + right


def returning(value):
    def inner(number: int) -> int:
        return value

    return inner


def adding(value):
    def inner(left: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return left + value

    return inner
"""


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A module whose signatures are checked."""
    folder, finders = tmp_path_factory.mktemp("signed"), [*sys.meta_path]
    (folder / "signed_module.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        signatures.install("signed_module")
        yield importlib.import_module("signed_module")
        del sys.modules["signed_module"]
    sys.meta_path[:] = finders


@pytest.mark.parametrize(
    "call",
    [
        lambda module: module.Count("1"),
        lambda module: module.Count.of("1"),
        lambda module: module.Count(1).doubled,
        lambda module: module.text("1"),
        lambda module: module.text(1),
        lambda module: module.summed(torch.ones(2), torch.ones(1)),
        lambda module: module.returning(1)("1"),
        lambda module: module.returning("1")(1),
        lambda module: module.adding(1)(torch.ones(2, 2)),
        lambda module: module.adding(torch.ones(2))(torch.ones(1)),
    ],
)
def test_a_value_that_the_signature_does_not_allow_is_an_error(signed, call):
    with pytest.raises(TypeCheckError):
        call(signed)


def test_what_the_signature_allows_passes(signed):
    assert signed.Count.of(2) == signed.Count(2)
    assert signed.text(0) == "none"
    assert signed.summed(torch.ones(2), torch.ones(2)).tolist() == [2, 2]
    assert signed.adding(1)(torch.ones(2)).tolist() == [2, 2]


def test_functions_of_one_definition_are_told_apart(signed):
    first, second = signed.returning(1), signed.returning(2)
    assert [first(0), second(0), first(0)] == [1, 2, 1]
    with pytest.raises(TypeCheckError):
        second("0")
    assert first(0) == 1
