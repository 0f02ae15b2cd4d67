"""The recipe of ssToken: its verdicts follow the measurements, in both directions."""

import pytest

from tokenry.core.records import Estimate, Paired, Run
from tokenry.recipes import load_recipe
from tokenry.recipes.sstoken import _attention_claims, _end_to_end_claim, _plot, _toy_claims, toy_weighings
from tokenry.recipes.toys.selection_toy import ToyRun


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


def test_the_recipe_bears_the_names_of_the_catalogue():
    assert load_recipe("sstoken").slug == "sstoken"


def test_equal_runs_show_nothing():
    assert {claim.verdict for claim in _toy_claims(_runs())} == {"not shown"}


def test_a_clearly_better_run_is_shown_and_a_worse_one_is_not():
    runs = _runs(progress=0.1, ssToken=0.9)
    verdicts = {
        claim.claim.split(" learns")[0]: claim.verdict
        for claim in _toy_claims(runs)
        if "learns" in claim.claim
    }
    assert verdicts["toy: progress alone"] == "shown"
    assert verdicts["toy: ssToken (balance 0.5)"] == "not shown"


@pytest.mark.parametrize(("published", "aware", "verdicts"), [
    (0.43, 0.97, ["not shown", "shown"]),
    (0.70, 0.97, ["shown", "not shown"]),
    (0.40, 0.80, ["not shown", "not shown"]),
])  # fmt: skip
def test_attention_is_judged_against_chance_and_against_the_papers_form(published, aware, verdicts):
    auroc = {"prompt, last layer": published, "content, deep layers": aware}
    assert [claim.verdict for claim in _attention_claims(auroc)] == verdicts


@pytest.mark.parametrize(
    ("difference", "verdict"), [(-0.1, "shown"), (-0.01, "not shown"), (0.2, "not shown")]
)
def test_end_to_end_is_judged_by_the_paired_difference(difference, verdict):
    paired = Paired(to="full", difference=difference, standard_error=0.01, samples=9)
    assert _end_to_end_claim(_run("full", 0.3), _run("sstoken", 0.3 + difference, paired)).verdict == verdict


def test_the_plot_is_drawn(tmp_path):
    path = _plot({"prompt, last layer": 0.4, "content, deep layers": 0.9}, _runs(), tmp_path)
    assert (tmp_path / path).stat().st_size > 1000
