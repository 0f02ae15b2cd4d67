"""The recipe on a tiny model that has learned nothing: what it compares, and how it judges."""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from tokenry.compression.vision.zero_tprune import ZeroTPruneConfig, token_trace
from tokenry.papers import paper
from tokenry.recipes import zero_tprune
from tokenry.recipes.toys.reduction_trial import Classifier, Measured
from tokenry.recipes.zero_tprune import (
    CLASS,
    EIR,
    EIR_S,
    MERGED,
    RANDOM,
    RECIPE,
    VHF,
    WPR,
    Schedule,
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
    config = ViTConfig(
        image_size=24,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=4,
        attn_implementation="eager",
    )
    images = torch.randn(12, 1, 24, 24)
    ink = torch.rand(12, 36)
    schedules = {"mild": Schedule(CONFIG, over_random=10.0)}
    model = ViTForImageClassification(config).eval()
    return Subject(Classifier(model, images, torch.arange(12) // 3, 3), schedules, ink)


def right(*values):
    return Measured((37, 9), 0.5, torch.tensor(values))


def test_it_bears_the_name_of_its_paper():
    assert RECIPE.title == paper(RECIPE.slug).title


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


def test_a_claim_is_shown_only_if_its_gain_reaches_the_threshold_and_two_standard_errors(subject):
    low, high = right(40.0, 50.0, 60.0, 50.0), right(60.0, 70.0, 81.0, 70.0)
    row = {RANDOM: low, WPR: high, EIR: high, EIR_S: high, VHF: high}
    verdicts = [claim.verdict for claim in judge(subject, {"mild": row})]
    assert verdicts == ["shown", "not shown", "not shown", "not shown"]
    small = right(41.0, 51.0, 61.0, 52.0)
    assert judge(subject, {"mild": {**row, WPR: small}})[0].verdict == "not shown"
    noisy = right(0.0, 100.0, 100.0, 100.0)
    assert judge(subject, {"mild": {**row, WPR: noisy}})[0].verdict == "not shown"


def test_votes_that_follow_the_ink_correlate_with_it(subject):
    with torch.no_grad():
        attention = subject.classifier.model(subject.classifier.images, output_attentions=True).attentions[0]
    votes = attention.mean(dim=2)[:, :, 1:].square().mean(dim=1).sqrt()
    first = votes_and_ink(subject.classifier.model, subject.classifier.images, votes, iterations=1)[0]
    assert first == pytest.approx(1.0, abs=1e-5)
    assert votes_and_ink(subject.classifier.model, subject.classifier.images, -votes, iterations=1)[
        0
    ] == pytest.approx(-1.0, abs=1e-5)


def test_a_run_ends_with_claims_settings_and_a_picture(subject, tmp_path, monkeypatch):
    monkeypatch.setitem(zero_tprune._SUBJECTS, "laptop", lambda progress: subject)
    told = []
    reproduction = RECIPE.run("laptop", tmp_path, lambda what, share: told.append(share))
    assert len(reproduction.claims) == 5
    assert all("%" in claim.paper for claim in reproduction.claims[:-1])
    assert (tmp_path / reproduction.plots[0]).stat().st_size > 10_000
    assert told == sorted(told)
    assert told[-1] < 1
    reproduction.save(tmp_path / "result.json")
