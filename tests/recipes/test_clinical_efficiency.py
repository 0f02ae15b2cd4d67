"""The recipe of the encoder comparison: documents whose headings are gone, and verdicts that follow the measurements."""

from dataclasses import replace

import pytest

from tests.recipes.check_recipe import check_recipe
from tokenry.core.stats import estimate_of_mean, paired_share_difference
from tokenry.core.train.classifier import ClassifierConfig
from tokenry.recipes.clinical_efficiency import ClinicalMeasures, ClinicalSizes, claims
from tokenry.recipes.testbeds.docstring_sections import SECTIONS, SectionSetting, without_headings
from tokenry.recipes.testbeds.tiny_encoder import EncoderSizes

DOCUMENTS = SectionSetting(
    packages=("sklearn.utils",), outside=("networkx.utils",), longest=1500, train=16, validation=4, test=8
)
SMALL = ClinicalSizes(
    documents=DOCUMENTS,
    vocabularies=(300, 400),
    encoder=EncoderSizes(layers=1, width=16, heads=2, feed_forward=16, positions=1600),
    training=ClassifierConfig(epochs=1, batch_size=8),
    rounds=1,
    timed_texts=4,
    draws=10,
)
SHOWN = ClinicalMeasures(
    faster=estimate_of_mean([1.7, 1.72, 1.68]),
    training=1.5,
    reduction=0.4,
    match={"test": (0.7, 0.71), "external": (0.6, 0.5)},
    difference={
        "test": paired_share_difference(60, 53, 700),
        "external": paired_share_difference(40, 110, 700),
    },
    p=0.6,
)


def verdicts(**changed):
    return [claim.verdict for claim in claims(replace(SHOWN, **changed))]


def test_claims_about_measurements_can_be_shown_and_can_fail():
    even = paired_share_difference(60, 60, 700)
    worse = paired_share_difference(60, 160, 700)
    for changed, failing in (
        ({}, set()),
        ({"faster": estimate_of_mean([1.2, 1.21, 1.2])}, {0}),
        ({"difference": SHOWN.difference | {"test": worse}}, {0, 3}),
        ({"training": 1.1}, {1}),
        ({"p": 0.01}, {2}),
        ({"difference": {"test": even, "external": even}}, {3}),
    ):
        found = {number for number, verdict in enumerate(verdicts(**changed)) if verdict != "shown"}
        assert found == failing, changed


def test_the_headings_are_gone_and_the_labels_say_which_there_were():
    text, labels = without_headings(
        "Fit.\n\nParameters\n----------\nx : int\n\nSee Also\n--------\nother\n\nReturns nothing."
    )
    assert text == "Fit.\n\nx : int\n\nother\n\nReturns nothing."
    assert [name for name, there in zip(SECTIONS, labels, strict=True) if there] == ["Parameters", "See Also"]


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_heading_at_the_end_is_gone_too(ending):
    assert without_headings(f"Fit.\n\nNotes\n-----{ending}")[0] == "Fit.\n\n"


@pytest.mark.newer("transformers")
def test_it_runs_small(tmp_path):
    result = check_recipe("clinical-efficiency", SMALL, tmp_path)
    assert len(result.claims) == 6
    assert [claim.verdict for claim in result.claims[4:]] == ["shown", "shown"]
