"""The recipe of subword merging: functions of the library, groups of the same sizes, and verdicts that follow the measurements."""

from dataclasses import replace

import numpy as np

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.compression.text import GroupedCode
from tokenry.core.stats import estimate_of_mean
from tokenry.core.train.classifier import ClassifierConfig
from tokenry.recipes.code_merge import (
    EARLY,
    IDENTIFIERS,
    LATE,
    LEARNED,
    MIDDLE,
    NEIGHBOURS,
    NONE,
    MergeMeasures,
    MergeSizes,
    TimedMerge,
    claims,
)
from tokenry.recipes.testbeds.code_functions import (
    FunctionSetting,
    functions_of,
    library_task,
    shuffled_groups,
)
from tokenry.recipes.testbeds.tiny_encoder import EncoderSizes

ENCODER = EncoderSizes(layers=2, width=16, heads=2, feed_forward=16, positions=40)
SMALL = MergeSizes(
    task=lambda: library_task(
        FunctionSetting(("logging", "json"), train=8, test=8, vocab_size=400, encoder=ENCODER)
    ),
    layers=2,
    training=ClassifierConfig(epochs=1, batch_size=8),
    seeds=1,
    timed=replace(ENCODER, positions=64),
    lengths=(32, 64),
    timed_texts=2,
    rounds=2,
)


def right(share, functions=2000):
    return (np.arange(functions) % 100 < 100 * share).astype(float)


SHOWN = MergeMeasures(
    tokens={"without merging": 80.0, "merged": 66.0},
    savings={EARLY: 0.2, MIDDLE: 0.1, LATE: 0.05, LEARNED: 0.1},
    right={
        NONE: right(0.64),
        MIDDLE: right(0.64),
        LEARNED: right(0.68),
        EARLY: right(0.6),
        LATE: right(0.66),
        IDENTIFIERS: right(0.6),
        NEIGHBOURS: right(0.5),
    },
    timed=[TimedMerge(256, 0.2, estimate_of_mean([1.22, 1.23, 1.24]))],
)


def judged(**changed):
    changed["right"] = {**SHOWN.right, **changed.get("right", {})}
    return [claim.verdict for claim in claims(replace(SHOWN, **changed))]


def test_claims_can_be_shown_and_can_fail():
    slow = [TimedMerge(256, 0.2, estimate_of_mean([1.1, 1.11, 1.12]))]
    check_verdicts(
        judged,
        [
            ({}, set()),
            ({"savings": SHOWN.savings | {MIDDLE: 0.07}}, {0}),
            ({"right": {MIDDLE: right(0.61)}}, {0}),
            ({"right": {LEARNED: right(0.64)}}, {1}),
            ({"right": {EARLY: right(0.66)}}, {2}),
            ({"right": {NEIGHBOURS: right(0.6)}}, {3}),
            ({"timed": slow}, {4}),
        ],
    )


def test_random_neighbours_are_as_many_groups_of_the_same_sizes():
    code = GroupedCode(np.arange(12), np.array([0, 1, 1, 1, 2, 3, 4, 5, 5, 6, 7, 8]))
    other = shuffled_groups(code, 3)
    assert other.merged_length == code.merged_length
    assert sorted(np.bincount(other.group_ids)) == sorted(np.bincount(code.group_ids))
    assert (other.group_ids[0], other.group_ids[-1]) == (0, 8)
    assert not np.array_equal(other.group_ids, code.group_ids)


def test_functions_are_whole_and_none_is_in_both_parts():
    assert all(source.startswith(("def ", "async def ", "@")) for source in functions_of("json"))
    task = library_task(
        FunctionSetting(("logging", "json"), train=8, test=8, vocab_size=400, encoder=ENCODER)
    )
    assert len(task.train.sources) == len(task.test.sources) == 16
    assert not set(task.train.sources) & set(task.test.sources)


def test_the_recipe_runs(tmp_path):
    result = check_recipe("code-merge", SMALL, tmp_path)
    assert len(result.claims) == 5
    assert result.settings["tokens"]["merged"] < result.settings["tokens"]["without merging"]
