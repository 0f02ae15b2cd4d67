"""The recipe of ssToken: its verdicts follow the measurements, in both directions."""

from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from tests.recipes.check_recipe import check_recipe
from tokenry.core.stats import Estimate, Paired
from tokenry.recipes import sstoken
from tokenry.recipes.sstoken import (
    SSTokenSizes,
    attention_claim,
    draw,
    end_to_end_claim,
    toy_claims,
    toy_weighings,
)
from tokenry.recipes.testbeds.attention_probe import AttentionAuroc
from tokenry.recipes.testbeds.selection_toy import ToyRun
from tokenry.verbs._tune.records import Run


def _runs(**nll):
    """Three seeds per weighing, scattered a little around the given NLL."""
    return {
        name: [ToyRun(value + noise, value + noise, 1.0, value / 2) for noise in (0.0, 0.01, 0.02)]
        for name, value in {**dict.fromkeys(toy_weighings(), 0.4), **nll}.items()
    }


def _run(name, nll, paired=None):
    return Run(
        name=name, weighing=name, tokens_learned=1, share_kept=1, steps=1, seconds_per_step=1,
        held_out_nll=Estimate(value=nll, standard_error=0.01, samples=9), paired=paired,
    )  # fmt: skip


def test_equal_runs_show_nothing():
    assert {claim.verdict for claim in toy_claims(_runs())} == {"not shown"}


def test_a_clearly_better_run_is_shown_and_a_worse_one_the_other_way_round():
    runs = _runs(progress=0.1, ssToken=0.9)
    verdicts = {claim.claim.split(" learns")[0]: claim.verdict for claim in toy_claims(runs)}
    assert verdicts["toy: progress alone"] == "shown"
    assert verdicts["toy: ssToken (balance 0.5)"] == "opposite"


def test_one_seed_is_too_few():
    one = {name: of_seeds[:1] for name, of_seeds in _runs(progress=0.1).items()}
    assert {claim.verdict for claim in toy_claims(one)} == {"too few"}


@pytest.mark.parametrize(("centre", "verdict"), [(0.7, "shown"), (0.51, "not shown"), (0.4, "opposite")])
def test_attention_is_judged_against_chance_conversation_by_conversation(centre, verdict):
    scattered = tuple(centre + 0.01 * number for number in range(-6, 6))
    assert attention_claim(AttentionAuroc(centre, scattered)).verdict == verdict
    assert attention_claim(AttentionAuroc(centre, scattered[:6])).verdict == "too few"


@pytest.mark.parametrize(
    ("difference", "verdict"), [(-0.1, "shown"), (-0.01, "not shown"), (0.2, "opposite")]
)
def test_end_to_end_is_judged_by_the_paired_difference(difference, verdict):
    paired = Paired(to="full", difference=difference, standard_error=0.01, samples=9)
    claim = end_to_end_claim(_run("full", 0.3), _run("sstoken", 0.3 + difference, paired))
    assert claim.verdict == verdict


def test_a_run_puts_the_headline_first_and_keeps_what_was_measured(tmp_path, monkeypatch):
    paired = Paired(to="full", difference=-0.1, standard_error=0.01, samples=9)
    comparison = SimpleNamespace(runs=[_run("full", 0.3), _run("sstoken", 0.2, paired)])
    attention = AttentionAuroc(0.6, tuple(0.6 + 0.01 * number for number in range(12)))
    monkeypatch.setattr(sstoken, "load_model", lambda: None)
    monkeypatch.setattr(sstoken, "load_tokenizer", lambda: None)
    monkeypatch.setattr(sstoken, "probe_attention", lambda model, tokenizer: {sstoken.PUBLISHED: attention})
    monkeypatch.setattr(sstoken, "run_toys", lambda seeds, progress: _runs(ssToken=0.1))
    monkeypatch.setattr(sstoken, "compare", lambda plan, folder, progress: comparison)
    result = check_recipe("sstoken", SSTokenSizes((0, 1, 2), {"demo_samples": 4}), tmp_path)
    assert result.headline.claim.startswith("end to end")
    assert (result.verdict, len(result.claims)) == ("shown", 6)
    assert result.settings["auroc"] == {sstoken.PUBLISHED: 0.6}
    assert result.settings["end_to_end"]["demo_samples"] == 4


def test_the_plot_is_drawn():
    figure = Figure()
    draw(figure, {"prompt, last layer": AttentionAuroc(0.4, ())}, _runs())
    assert len(figure.axes) == 2
