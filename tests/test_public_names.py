"""What is public stays: the names of every family, what a method is made of among them, and the fields of results (tests/frozen.py)."""

import importlib

import pytest
import torch

from tests.frozen import FIELDS, NAMES, PUBLISHED, fields_of, frozen, public_names
from tokenry.finetuning import Rho1, Signals, rho1_mask
from tokenry.verbs._catalogue import verb_modules, verb_of


def test_names_are_frozen_for_every_published_module():
    assert tuple(frozen(NAMES)) == PUBLISHED


@pytest.mark.parametrize("module", PUBLISHED)
def test_a_public_name_stays_where_it_is(module):
    gone = set(frozen(NAMES)[module]) - set(public_names(module))
    assert not gone, f"tokenry.{module} lost {', '.join(sorted(gone))} (see tests/frozen.py)"
    package = importlib.import_module(f"tokenry.{module}")
    assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize("kind", frozen(FIELDS))
def test_a_kind_of_result_has_its_verb_and_says_what_it_is(kind):
    assert verb_of(kind)
    assert {"kind", "title", "settings"} <= set(frozen(FIELDS)[kind])


def test_the_fields_of_every_verb_that_measures_are_frozen():
    frozen_verbs = {verb_of(kind).__name__ for kind in frozen(FIELDS)}
    others = {module.removeprefix("tokenry.verbs.") for module in {*verb_modules().values()} - frozen_verbs}
    assert others == {"report", "cache.list_", "cache.clean"}


def test_a_list_has_the_fields_that_all_its_items_have():
    result = {"runs": [{"steps": 1, "loss": {"mean": 2}}, {"loss": {"mean": 3}}], "notes": []}
    assert list(fields_of(result)) == ["runs", "runs[].loss", "runs[].loss.mean", "notes"]


def test_rho1_chooses_within_samples_as_its_weighing_does():
    draw = torch.Generator().manual_seed(0)
    nll, reference = (torch.rand(2, 9, generator=draw) for _ in range(2))
    labels = torch.ones(2, 9, dtype=torch.long)
    segments = torch.tensor([[0] * 5 + [1] * 4, [2] * 9])
    signals = Signals(labels, segments, {"nll": nll, "reference_nll": reference})
    kept = rho1_mask(nll, reference, signals.learnable, 0.5, segments)
    assert torch.equal(kept, Rho1(share=0.5, scope="sample").choose(signals))
