"""The recipe on a tiny model that has learned nothing: what it compares, and how it judges."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.recipes.check_recipe import check_recipe
from tokenry.compression.vision.zero_tprune import ZeroTPruneConfig, token_trace
from tokenry.recipes.testbeds.reduction_trial import Classifier, ReductionTrial
from tokenry.recipes.zero_tprune import (
    CLASS,
    EIR,
    EIR_S,
    MERGED,
    RANDOM,
    VHF,
    WPR,
    PruningStrength,
    Subject,
    compare,
    judge,
    votes_and_ink,
    without_s_stage,
)

CONFIG = ZeroTPruneConfig(layers=(1, 2), keep_rates=(0.9, 0.7), r=(3, 2), iterations=(4, 1))


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    images = torch.randn(12, 1, 24, 24)
    ink = torch.rand(12, 36)
    schedules = {"mild": PruningStrength(CONFIG, over_random=10.0)}
    model = tiny.vit_classifier(image_size=24, num_labels=4, attn_implementation="eager")
    return Subject(Classifier(model, images, torch.arange(12) // 3, 3), schedules, ink)


def right(*values):
    return ReductionTrial((37, 9), 0.5, torch.tensor(values))


def test_every_method_runs_at_the_same_token_counts_and_flops(subject):
    dense, table = compare(subject, lambda what, share: None)
    assert dense.counts == (37, 37, 37, 37)
    row = table["mild"]
    assert {each.counts for each in row.values()} == {token_trace(CONFIG, 37, 3)}
    assert len({each.flops for each in row.values()}) == 1
    assert {RANDOM, CLASS, WPR, EIR, VHF, EIR_S, MERGED} < set(row)


def test_without_the_s_stage_the_i_stage_removes_as_many():
    counts = token_trace(CONFIG, 37, 3)
    alone = without_s_stage(CONFIG, counts, 1)
    assert alone.r == (0, 0)
    assert token_trace(alone, 37, 3) == counts


def scattered(centre):
    return right(*(centre + 0.5 * number for number in range(-6, 6)))


@pytest.mark.parametrize(("votes", "verdict"), [(70.0, "shown"), (55.0, "not shown"), (40.0, "opposite")])
def test_votes_must_beat_chance_by_what_the_claim_asks_for(subject, votes, verdict):
    row = {RANDOM: scattered(50.0), WPR: scattered(votes), EIR: scattered(60.0), EIR_S: scattered(60.0), VHF: scattered(60.0)}  # fmt: skip
    claims = list(judge(subject, {"mild": row}))
    assert claims[0].claim.startswith("mild (9 of 37 tokens left): votes beat random drop by at least 10")
    assert claims[0].verdict == verdict
    assert [claim.verdict for claim in claims[1:2]] == ["not shown"]


def test_a_part_of_the_method_must_help_at_every_schedule(subject):
    both = replace(subject, schedules={"mild": PruningStrength(CONFIG), "hard": PruningStrength(CONFIG)})
    row = {RANDOM: scattered(50.0), WPR: scattered(60.0), EIR: scattered(62.0), EIR_S: scattered(64.0), VHF: scattered(61.0)}  # fmt: skip
    found = [claim.verdict for claim in judge(both, {"mild": row, "hard": row})]
    assert found == ["shown", "shown", "shown", "shown", "opposite"]
    other = row | {EIR_S: scattered(62.0)}
    assert [claim.verdict for claim in judge(both, {"mild": row, "hard": other})][2] == "not shown"


def test_votes_that_follow_the_ink_correlate_with_it(subject):
    with torch.no_grad():
        attention = subject.classifier.model(subject.classifier.images, output_attentions=True).attentions[0]
    votes = attention.mean(dim=2)[:, :, 1:].square().mean(dim=1).sqrt()
    first = votes_and_ink(subject.classifier.model, subject.classifier.images, votes, iterations=1)[0]
    assert first == pytest.approx(1.0, abs=1e-5)
    assert votes_and_ink(subject.classifier.model, subject.classifier.images, -votes, iterations=1)[
        0
    ] == pytest.approx(-1.0, abs=1e-5)


def test_a_run_ends_with_claims_settings_and_a_picture(subject, tmp_path):
    reproduction = check_recipe("zero-tprune", lambda progress: subject, tmp_path)
    assert len(reproduction.claims) == 4
    assert all("%" in claim.paper for claim in reproduction.claims)
    assert len(reproduction.settings["votes_and_ink"]) == 3
