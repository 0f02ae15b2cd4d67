"""The report of a race: its first sentence, its rungs, seeds, answers, and its tables as CSV."""

import csv
import io

import pytest

from tests.verbs.check_verb import in_terminal, too_wide
from tokenry.core.stats import Estimate, Paired
from tokenry.report.blocks import Table
from tokenry.report.html import page
from tokenry.report.tables import tables_as_csv
from tokenry.verbs._tune.records import Answer, Comparison, Heat, Judgement, Race, Retained, Seeds
from tokenry.verbs.tune import lay_out

from .conftest import run

WINNER = "token-cleaning dropped_weight=0.1 after step 33"


def judgement(name, difference, out=""):
    found = Estimate(difference, 0.01, 24)
    return Judgement(name=name, nll=Estimate(0.3 + difference, 0.02, 24), mean=found, trimmed=found, out=out)


@pytest.fixture
def raced() -> Comparison:
    paired = Paired(to="full", difference=-0.0526, standard_error=0.0072, samples=90)
    forgotten = Paired(to="before training", difference=0.031, standard_error=0.004, samples=24)
    retained = Retained(
        name="Python's documentation",
        before=Estimate(3.1, 0.1, 24),
        after=Estimate(3.131, 0.1, 24),
        paired=forgotten,
    )
    answers = [
        Answer(question="2 + 2?", answer="The answer is 4.", right=True),
        Answer(question="=1+1", answer="3", right=False),
    ]
    wrong = [
        Answer(question="2 + 2?", answer="The answer is 5.", right=False),
        Answer(question="=1+1", answer="3", right=False),
    ]
    heat = Heat(
        step=37,
        decay=1,
        leader=WINNER,
        disagreeing="full",
        judged=[
            judgement(WINNER, 0.0),
            judgement("full", 0.02),
            judgement("random", 0.2, "worse"),
            judgement("small-loss", 0.01, "no seat"),
        ],
    )
    return Comparison(
        model="SmolLM2-135M-Instruct",
        data="demo",
        created="2026-11-24",
        settings={},
        environment={},
        runs=[
            run("full", held_out_nll=Estimate(0.2, 0.01, 90), retained=[retained], answers=wrong),
            run(
                WINNER,
                held_out_nll=Estimate(0.15, 0.01, 90),
                paired=paired,
                retained=[retained],
                answers=answers,
            ),
        ],
        race=Race(
            entries={
                "full": "AllTokens()",
                WINNER: "TokenCleaning()",
                "random": "RandomTokens()",
                "small-loss": "SmallLoss()",
            },
            left_out=["rho1"],
            begins=33,
            validation=24,
            robust=True,
            price=2.45,
            spent=2.31,
            heats=[heat],
            winner=WINNER,
            control="full",
            final=judgement(WINNER, -0.05),
        ),
    )


def first_line(comparison):
    return " ".join(in_terminal(lay_out(comparison.model_dump()), 1000).splitlines()[0].split())


def test_the_first_sentence_says_who_won_by_how_much_and_what_was_forgotten(raced):
    assert first_line(raced) == (
        f"{WINNER} won: −0.053 ± 0.007 nats per held-out token against plain fine-tuning (shown), over 1 seed. "
        "Forgotten: +0.031 nats per token on Python's documentation. "
        "Its model: token-cleaning-dropped-weight=0.1-after-step-33/model."
    )


def test_several_seeds_carry_the_sentence(raced):
    differences = [
        Paired(to="full", difference=value, standard_error=0.007, samples=90) for value in (-0.05, 0.05)
    ]
    raced.seeds = Seeds(
        name=WINNER, to="full", seeds=[42, 43], paired=differences, estimate=Estimate(0.0, 0.05, 2)
    )
    assert (
        "0.000 ± 0.050 nats per held-out token against plain fine-tuning (not shown), over 2 seeds"
        in first_line(raced)
    )
    assert "over 2 seeds" in in_terminal(lay_out(raced.model_dump()), 100)


def test_plain_fine_tuning_wins_where_nothing_is_shown_to_be_better(raced):
    assert raced.race is not None
    raced.race.winner, raced.race.final = "full", judgement(WINNER, -0.004)
    assert first_line(raced).startswith(
        "Plain fine-tuning won, over 1 seed: no weighing was shown to be better on the validation part. "
        f"The best other one was {WINNER}: -0.004 ± 0.010 there."
    )
    shown = " ".join(in_terminal(lay_out(raced.model_dump()), 300).split())
    assert (
        "24 validation samples cannot tell it from plain fine-tuning; a difference of this size would take about 577"
        in shown
    )


def test_where_plain_fine_tuning_wins_the_seeds_are_those_of_the_runner_up_and_the_model_is_its_own(raced):
    differences = [
        Paired(to="full", difference=value, standard_error=0.007, samples=90) for value in (0.01, 0.02)
    ]
    raced.race.winner, raced.race.final = "full", judgement(WINNER, 0.004)
    raced.seeds = Seeds(
        name=WINNER, to="full", seeds=[42, 43], paired=differences, estimate=Estimate(0.015, 0.04, 2)
    )
    line = first_line(raced)
    assert line.startswith("Plain fine-tuning won, over 2 seeds:")
    assert (
        f"The best other one was {WINNER}: +0.004 ± 0.010 there. Over 2 seeds it is at +0.015 ± 0.040 nats per held-out token "
        "against plain fine-tuning (not shown)."
    ) in line
    assert line.endswith("Its model: full/model.")
    assert raced.chosen == "full"


def test_the_price_and_the_trusted_samples_are_accounted_for(raced):
    raced.race.ahead, raced.race.trusted = 0.4, {"training": 16, "the reference model": 16, "judging": 16}
    shown = page("tune", "t", lay_out(raced.model_dump()), {})
    assert (
        "The price was at most 2.45 plain runs, 0.40 of it for passes of other models over the data, and came to 2.31."
        in shown
    )
    assert "Of the trusted samples, 16 for training, 16 for the reference model, 16 for judging." in shown


def test_the_rungs_say_who_goes_and_why(raced):
    shown = " ".join(in_terminal(lay_out(raced.model_dump()), 300).split())
    for words in (
        "Judged at step 37",
        "goes: worse than the leader",
        "goes: undecided, no room in the price",
        f"the trimmed mean and the mean disagree: {WINNER} leads by the first, which decides, full by the second",
        "rho1: left out",
        "judged on: 24 samples as noisy as the training data, so by the trimmed mean",
        "forgetting: Python's documentation",
    ):
        assert words in shown
    html = page("tune", "t", lay_out(raced.model_dump()), {})
    for words in ("The price was at most 2.45 plain runs, and came to 2.31", "2 + 2?", "The answer is 5."):
        assert words in html


def test_a_race_fits_a_terminal(raced):
    assert too_wide(in_terminal(lay_out(raced.model_dump()))) == []


def test_every_table_is_a_csv_with_numbers_in_full_and_no_formulas(raced):
    files = tables_as_csv(lay_out(raced.model_dump()))
    assert [name.partition("-")[0] for name in files] == [
        f"tables/{number}" for number in range(1, len(files) + 1)
    ]
    tables = {name: list(csv.DictReader(io.StringIO(text))) for name, text in files.items()}
    runs = next(rows for rows in tables.values() if "held-out NLL (nats per token)" in rows[0])
    assert runs[1]["difference to the control (nats per token)"] == "-0.0526"
    assert runs[1]["difference to the control (nats per token): standard error"] == "0.0072"
    assert runs[1]["difference to the control (nats per token): n"] == "90"
    answers = next(rows for name, rows in tables.items() if "answers" in name)
    assert [row["question"] for row in answers] == ["2 + 2?", "'=1+1"]


def test_what_is_not_a_number_is_an_empty_cell():
    (text,) = tables_as_csv([Table("t", ("a", "b"), [("x", float("nan")), ("y", None)])]).values()
    assert text == "a,b\nx,\ny,\n"
