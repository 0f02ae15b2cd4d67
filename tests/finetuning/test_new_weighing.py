"""A new weighing is one file, wherever it stands: with its options on the command line, in errors, and its row in the matrix."""

import importlib
import sys
from types import SimpleNamespace

import pytest

from tests.capabilities import CAPABILITIES, CapabilityMatrix
from tests.desk import desk
from tests.finetuning.check_weighing import SETUPS, check_weighing
from tests.tiny.chats import QUICK
from tests.verbs.check_verb import check_refused
from tokenry.core.io.files import read_json
from tokenry.finetuning.weighing import WEIGHINGS, make_weighing
from tokenry.verbs._tune.records import read_comparison

__all__ = ["desk"]

SOURCE = '''
"""Learn from the tokens whose loss is near a target."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tokenry.core.errors import require_at_least
from tokenry.finetuning import Signals, TokenWeighing
from tokenry.finetuning.weighing import WEIGHINGS


@WEIGHINGS.register("near")
@dataclass(frozen=True, kw_only=True)
class NearTokens(TokenWeighing):
    """Keep the tokens whose loss is nearest to `target` nats."""

    target: float | int = 1.0

    needs = frozenset({"nll"})

    def __post_init__(self) -> None:
        require_at_least(0, target=self.target)
        super().__post_init__()

    def score(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        return -(signals["nll"] - self.target).abs()
'''


@pytest.fixture
def near(tmp_path, monkeypatch):
    """The class, from a file of its own."""
    monkeypatch.setattr(WEIGHINGS, "_entries", dict(WEIGHINGS.items()))
    (tmp_path / "near_tokens.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("near_tokens").NearTokens
    del sys.modules["near_tokens"]


def test_it_passes_what_every_weighing_passes(near, tmp_path):
    check_weighing(near(share=0.5), tmp_path)


def test_it_is_made_from_its_description(near):
    assert make_weighing("near:target=0.5,share=0.25") == near(target=0.5, share=0.25)
    assert near(target=0.5).describe() == "NearTokens(target=0.5)"


def test_it_is_trained_and_recorded_by_the_command_line(near, desk, tmp_path):
    given = (desk.model, desk.data, "--held-out", desk.held_out, *QUICK)
    result = desk.tokenry("tune", *given, "--weighing", "near:target=0.5", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    record = read_comparison(read_json(tmp_path / "out/result.json"))
    assert "NearTokens(target=0.5)" in [run.weighing for run in record.runs]


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("nearr", "there is no weighing 'nearr' (did you mean 'near'?)"),
        ("near:targe=1", "near has no option 'targe' (did you mean 'target'?)"),
        ("near:target=-1", "target must be at least 0, got -1"),
    ],
)
def test_a_mistake_in_its_description_is_explained(near, desk, description, words):
    check_refused("tune", desk.model, desk.data, "--weighing", description, words=words)


def test_it_has_a_row_in_the_capability_matrix(near):
    matrix = CapabilityMatrix()
    for setup in SETUPS:
        found = [("capability", ["NearTokens", setup])]
        matrix.pytest_runtest_logreport(
            SimpleNamespace(user_properties=found, when="call", passed=setup != "packing", nodeid=setup)
        )
    rows = matrix.rows()
    assert [row["capability"] for row in rows] == [name for name in CAPABILITIES if name in SETUPS]
    assert {row["weighing"] for row in rows} == {"NearTokens"}
    assert [row["capability"] for row in rows if row["status"] == "no"] == ["packing"]
