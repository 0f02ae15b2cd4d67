import pytest
from rich.console import Console

from tokenry.core.records import Paired
from tokenry.core.stats import Estimate
from tokenry.report import comparison_table, findings
from tokenry.report.table import comparison_columns, verdict

from .conftest import run


def paired(difference: float, error: float, samples: int = 90) -> Paired:
    return Paired(to="full", difference=difference, standard_error=error, samples=samples)


def printed(table: object, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize(
    ("difference", "error", "words"),
    [
        (-0.0526, 0.0072, "lower than full by 0.053 ± 0.007: shown"),
        (0.2093, 0.0171, "higher than full by 0.209 ± 0.017: shown"),
        (0.0073, 0.0061, "no difference to full can be told (+0.007 ± 0.006)"),
        (-0.0073, 0.0061, "no difference to full can be told (−0.007 ± 0.006)"),
        (0.0, 0.0, "no difference to full can be told (0.000 ± 0.000)"),
    ],
)
def test_a_verdict_says_in_words_what_the_difference_shows(difference, error, words):
    assert verdict(paired(difference, error)) == words


def test_few_items_need_a_larger_difference_and_very_few_say_nothing():
    assert paired(-0.022, 0.01, samples=90).verdict == "shown"
    assert paired(-0.022, 0.01, samples=9).verdict == "not shown"
    assert {paired(-9.0, 0.01, samples=n).verdict for n in (7, 1)} == {"too few"}
    words = "too few held-out items to say whether it differs from full (−9.000 ± 0.010, n = 7)"
    assert verdict(paired(-9.0, 0.01, samples=7)) == words


def test_a_difference_that_is_not_a_number_is_never_shown():
    assert paired(float("nan"), 0.1).verdict == paired(0.1, float("nan")).verdict == "not shown"


def test_only_compared_runs_have_a_finding(comparison):
    assert [name for name, _ in findings(comparison)] == ["cleaned", "random"]


def test_a_column_that_no_run_has_is_left_out(comparison, least):
    assert "accuracy" in [column.title for column in comparison_columns(comparison)]
    assert [column.title for column in comparison_columns(least)] == [
        "learned from",
        "share kept",
        "steps",
        "time per step",
    ]


def test_a_column_has_as_many_decimals_as_its_smallest_error_needs(least):
    least.runs = [
        run("a", held_out_nll=Estimate(value=0.5, standard_error=0.02, samples=9)),
        run("b", held_out_nll=Estimate(value=0.5, standard_error=0.0004, samples=9)),
    ]
    (column, *_) = comparison_columns(least)
    assert [cell.value for cell in column.cells] == ["0.5000 ± 0.0200", "0.5000 ± 0.0004"]


def test_the_control_is_named_where_its_difference_would_stand(comparison):
    (column,) = [c for c in comparison_columns(comparison) if c.title == "difference to the control"]
    assert [cell.note for cell in column.cells] == [
        "",
        "the control",
        "lower: shown, n = 89",
        "cannot be told, n = 88",
    ]


def test_the_terminal_table_holds_every_measure_and_the_findings(comparison):
    text = printed(comparison_table(comparison))
    for words in ("0.334 ± 0.017", "31.1 ± 6.9", "6,312", "61.3", "2,561", "0.139", "1.27", "n = 45"):
        assert words in text
    assert "cleaned: lower than full by 0.053 ± 0.007: shown" in text
    assert "before training: held-out NLL 2.165 ± 0.064, n = 90" in text


def test_three_runs_fit_a_terminal_of_eighty_columns(comparison):
    assert "…" not in printed(comparison_table(comparison), width=80)


def test_names_in_the_terminal_are_never_read_as_markup_or_escapes(least):
    least.runs = [run("[red]\x1b[31m")]
    text = printed(comparison_table(least))
    assert "[red]␛[31m" in text


def test_a_table_and_its_findings_say_too_few(least):
    least.runs = [run("full"), run("random", paired=paired(-0.5, 0.001, samples=3))]
    (column,) = [c for c in comparison_columns(least) if c.title == "difference to the control"]
    assert column.cells[1].note == "too few to say, n = 3"
    assert "random: too few held-out items" in printed(comparison_table(least))
