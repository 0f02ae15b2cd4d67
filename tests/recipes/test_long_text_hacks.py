"""The recipe of long texts: masked documents of packages, and verdicts that follow the measurements."""

from dataclasses import replace

import numpy as np
import pytest

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.core.train.classifier import ClassifierConfig
from tokenry.recipes.long_text_hacks import (
    ALL,
    PUNCTUATION,
    RARE,
    RAW,
    RECURRING,
    STOPWORDS,
    WHOLE,
    LongTextMeasures,
    LongTextSizes,
    claims,
)
from tokenry.recipes.testbeds.package_docstrings import PackageSetting, long_documents, package_texts
from tokenry.recipes.testbeds.tiny_encoder import EncoderSizes

DOCUMENTS = PackageSetting(
    packages=("sklearn.utils", "networkx.utils"), words=60, train=12, validation=4, test=8
)
SMALL = LongTextSizes(
    documents=DOCUMENTS,
    vocabulary=300,
    window=16,
    encoder=EncoderSizes(layers=1, width=16, heads=2, feed_forward=16, positions=16),
    training=ClassifierConfig(epochs=1, batch_size=8, best_by="macro-f1"),
    seeds=(0,),
    learning_rates=(1e-3, 1e-2),
    batch_sizes=(8,),
)


def right_for(share, texts=1000):
    """So many of the texts are right, the others not, in an order of their own."""
    order = np.random.default_rng(round(1000 * share)).permutation(texts)
    return (order < share * texts).astype(float)


SHOWN = LongTextMeasures(
    right={arm: right_for(share) for arm, share in ((RAW, 0.6), (STOPWORDS, 0.8), (PUNCTUATION, 0.7), (RARE, 0.5), (RECURRING, 0.4), (ALL, 0.45), (WHOLE, 0.75))},
    seconds=dict.fromkeys((RAW, STOPWORDS, WHOLE), 1.0),
    searches={"gradual": np.full((12, 3), 0.6) + np.linspace(0, 1e-3, 12)[:, None], "Optuna": np.full((12, 3), 0.6)},
)  # fmt: skip


def verdicts(**changed):
    right = SHOWN.right | {arm: right_for(share) for arm, share in changed.items() if arm in SHOWN.right}
    searches = changed.get("searches", SHOWN.searches)
    return [claim.verdict for claim in claims(replace(SHOWN, right=right, searches=searches), 64)]


def test_claims_about_measurements_can_be_shown_and_can_fail():
    worse = SHOWN.searches | {"gradual": SHOWN.searches["gradual"] - 0.05}
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({WHOLE: 0.85}, {0}),
            ({RAW: 0.82}, {1}),
            ({PUNCTUATION: 0.79}, {2}),
            ({RARE: 0.62}, {3}),
            ({RECURRING: 0.61}, {4}),
            ({"searches": worse}, {5}),
        ],
    )


def test_names_of_packages_are_masked_and_short_documents_left_out():
    texts = ["Use numpy.linalg, np and scikit-learn with PyTorch. " * 2, "short one", "x y z w"]
    found = long_documents(texts, PackageSetting(words=4))
    assert sorted(found) == [
        "Use package.linalg, package and package-learn with package. Use package.linalg, package and package-learn with package. ",
        "x y z w",
    ]


def test_validation_and_test_documents_come_from_files_that_training_does_not_see():
    data = package_texts(DOCUMENTS)
    assert data.names == DOCUMENTS.packages
    assert {len(part.texts) > 4 for part in (data.train, data.validation, data.test)} == {True}
    parts = [part.texts for part in (data.train, data.validation, data.test)]
    assert len(set().union(*parts)) == sum(map(len, parts))


@pytest.mark.newer("transformers")
def test_it_runs_small(tmp_path):
    pytest.importorskip("optuna")
    result = check_recipe("long-text-hacks", SMALL, tmp_path)
    assert len(result.claims) == 6
