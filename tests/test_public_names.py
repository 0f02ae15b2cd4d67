"""What is public stays: the names of every family, the options of verbs and the fields of results (tests/public_api.txt)."""

import importlib

import pytest
import torch

from tests.frozen import PUBLISHED, fields_of, frozen, options, public_names
from tokenry.finetuning import Rho1, Signals, rho1_mask
from tokenry.verbs._catalogue import verb_modules, verb_of


def test_names_are_frozen_for_every_published_module():
    assert set(frozen("import")) == {f"tokenry.{module}" for module in PUBLISHED}


@pytest.mark.parametrize("module", frozen("import"))
def test_a_public_name_stays_where_it_is(module):
    package = importlib.import_module(module)
    gone = frozen("import")[module] - set(package.__all__)
    assert not gone, f"{module} lost {', '.join(sorted(gone))} (see tests/frozen.py)"
    assert all(hasattr(package, name) for name in package.__all__)


def test_an_option_stays_with_its_verb():
    today = options()
    gone = {
        f"{verb} {flag}"
        for verb, flags in frozen("option").items()
        for flag in flags - today.get(verb, set())
    }
    assert not gone, f"lost: {', '.join(sorted(gone))} (see tests/frozen.py)"


def test_what_came_to_the_public_interface_is_written_down(pytestconfig):
    if pytestconfig.getoption("--store-names"):
        pytest.skip("it is written down at the end of this run")
    came = [
        f"{holder} {name}"
        for what, today in (("import", public_names()), ("option", options()))
        for holder, names in today.items()
        for name in sorted(names - frozen(what).get(holder, set()))
    ]
    assert not came, (
        f"run pytest tests/test_public_names.py --store-names: {came[0]} and {len(came) - 1} more"
    )


@pytest.mark.parametrize("kind", frozen("field"))
def test_a_kind_of_result_has_its_verb_and_says_what_it_is(kind):
    assert verb_of(kind)
    assert {"schema", "kind", "title", "settings"} <= frozen("field")[kind]


def test_the_fields_of_every_verb_that_measures_are_frozen():
    frozen_verbs = {verb_of(kind).__name__ for kind in frozen("field")}
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
