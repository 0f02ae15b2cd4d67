"""One result, three renderers: the same blocks in a terminal, on a page, in the documentation."""

import io
import math
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.report.hostile import HOSTILE
from tokenry.core.stats import Estimate
from tokenry.report.blocks import (
    Cell,
    Column,
    Figure,
    Findings,
    Heatmap,
    Piece,
    Section,
    Segmentation,
    Series,
    Table,
    Text,
    Token,
)
from tokenry.report.html import page
from tokenry.report.markdown import markdown
from tokenry.report.plots import inline_svg
from tokenry.report.result import Result
from tokenry.report.terminal import terminal_blocks
from tokenry.report.writing import plural, written_rows

RUNS = Table(
    "Held-out loss",
    ("run", Column("NLL", "nats per token"), Column("accuracy", "%"), "steps"),
    [
        ("full", Cell(Estimate(0.158, 0.010, 45), "n = 45"), Estimate(0.47, 0.07, 45), 1321),
        ("ssToken", Estimate(0.358, 0.0222, 45), None, 1321),
    ],
    notes=("A value ± its standard error.",),
)
CURVE = Figure("training loss", "lines", [Series("full", [0, 1, 2], [1.0, None, 0.5])], "step", "nats")


def in_terminal(blocks, width=100):
    console = Console(file=io.StringIO(), width=width)
    for renderable in terminal_blocks(blocks, width):
        console.print(renderable)
    return console.file.getvalue()


def test_numbers_are_written_with_as_many_decimals_as_the_smallest_error_needs():
    assert [row[1][0] for row in written_rows(RUNS)] == ["0.158 ± 0.010", "0.358 ± 0.022"]
    fine = Table("", ("run", "NLL"), [("a", Estimate(0.5, 0.00042, 9)), ("b", Estimate(-0.25, 0.1, 9))])
    assert [row[1][0] for row in written_rows(fine)] == ["0.5000 ± 0.0004", "−0.2500 ± 0.1000"]


def test_a_percentage_is_written_from_a_fraction_and_nothing_is_a_dash():
    assert [row[2][0] for row in written_rows(RUNS)] == ["47.0 ± 7.0", "–"]


def test_an_estimate_without_error_and_what_is_not_finite_say_so():
    table = Table("", ("run", "NLL"), [("a", Estimate(0.5, math.nan, 1)), ("b", math.inf)])
    assert [row[1][0] for row in written_rows(table)] == ["0.500", "not finite"]


def test_the_same_numbers_stand_in_terminal_page_and_documentation():
    drawn = in_terminal([RUNS]), page("tune", "t", [RUNS], {}), markdown([RUNS])
    for text in drawn:
        for number in (
            "0.158 ± 0.010",
            "0.358 ± 0.022",
            "47.0 ± 7.0",
            "1,321",
            "n = 45",
            "A value ± its standard error.",
        ):
            assert number in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_table_fits_its_terminal_and_breaks_no_word(width):
    wide = Table(
        "Wide",
        ("run", *(f"measure{number}" for number in range(12))),
        [("a name of several words", *range(1_000_000, 1_000_012))],
    )
    text = in_terminal([wide], width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("measure0", "measure11", "1,000,011"):
        assert word in text


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_text_is_folded_between_words_and_numbers_stay_whole(width):
    claims = Table(
        "Claims",
        ("claim", "measured", "control", Column("n")),
        [
            (
                "merging keeps more accuracy than dropping at the same number of tokens " * 3,
                "0.377 ± 0.021 (paired)",
                "0.324",
                90,
            ),
            ("x" * 300, "not shown", "the same samples without any selection of tokens at all", 1_234_567),
        ],
    )
    text = in_terminal([claims], width)
    assert max(map(len, text.splitlines())) <= width
    assert {"merging", "dropping", "selection", "1,234,567", "(paired)"} <= set(text.split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("nasty", HOSTILE)
def test_a_terminal_holds_any_text_in_any_place(nasty, width):
    table = Table(nasty, (nasty, Column("NLL", nasty), nasty), [(nasty, 0.125, Cell(nasty, nasty))], (nasty,))
    text = in_terminal([table, Text(nasty, "warning"), Findings([(nasty, nasty)])], width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "0.125" in text
    assert not {"\x1b", "\x00", "\u202e"} & set(text)


def test_what_is_folded_is_left_out_of_the_terminal_and_folded_elsewhere():
    hidden = Table("All of it", ("what", "found"), [("rows", 3)], folded=True)
    assert in_terminal([hidden]) == ""
    assert "<details><summary>All of it</summary>" in page("k", "t", [hidden], {})
    assert '??? note "All of it"' in markdown([hidden])


def test_sections_become_headings_and_the_navigation():
    blocks = [Section("Loss & cost", [RUNS]), Section("Curves", [CURVE])]
    html = page("tune", "t", blocks, {})
    assert '<section id="loss-cost">' in html
    assert '<a href="#curves">Curves</a>' in html
    assert "#### Loss &amp; cost" in markdown(blocks).replace("Loss & cost", "Loss &amp; cost")


def test_findings_and_warnings_are_said_everywhere():
    blocks = [Findings([("ssToken", "lower: shown")]), Text("texts do not come back", "warning")]
    assert "ssToken: lower: shown\nWarning: texts do not come back" in in_terminal(blocks)
    html = page("tune", "t", blocks, {})
    assert "<b>ssToken</b> lower: shown" in html
    assert '<p class="warning">texts do not come back</p>' in html


def test_everything_from_data_is_escaped():
    nasty = "<script>alert(1)</script>\u202e"
    blocks = [
        Text(nasty),
        Findings([(nasty, nasty)]),
        Table(nasty, (nasty,), [(nasty,)], notes=(nasty,)),
        Figure(nasty, "intervals", [Series(nasty, [nasty], [1.0], [0.5], [2.0])], nasty, summary=nasty),
        Heatmap(nasty, [(nasty, [Token(nasty, "kept", {"nll": 1.0})])]),
        Segmentation(nasty, nasty, [(nasty, nasty, [Piece(nasty, 1)])]),
    ]
    html = page(nasty, nasty, blocks, {nasty: nasty})
    assert "alert(1)</script>" not in html
    assert "\u202e" not in html
    assert "<script>alert" not in markdown(blocks)


def test_a_chart_follows_the_colours_of_the_page_and_is_the_same_every_time():
    svg = inline_svg(CURVE)
    assert svg == inline_svg(CURVE)
    assert {"var(--s0)", "var(--ink)", "var(--rule)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert "<text" in svg
    assert 'aria-label="training loss"' in svg


def test_charts_of_one_page_share_no_identifiers():
    marked = [
        Figure(title, "intervals", [Series("a", ["x"], [1.0], [0.5], [2.0])]) for title in ("one", "two")
    ]
    first, second = (set(re.findall(r' id="([^"]+)"', inline_svg(figure))) for figure in marked)
    assert not {name for name in first & second if re.fullmatch(r"[a-z0-9]{11,}", name)}


def test_text_of_a_chart_is_legible_on_a_phone():
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:\d+ )?([\d.]+)px", inline_svg(CURVE))]
    assert sizes
    assert min(sizes) >= 10


def test_a_heatmap_is_coloured_in_the_terminal_and_tells_its_signals_on_the_page():
    tokens = [Token("The", "prompt", {"nll": 0.1}), Token(" answer", "kept", {"nll": 2.0}, 1.0)]
    html = page("score", "t", [Section("Examples", [Heatmap("one", [("full", tokens)])])], {})
    assert 'class="kept"' in html
    assert "--0:2" in html
    assert "2 tokens, 1 of 1 kept" in html
    assert "The·answer" in in_terminal([Heatmap("one", [("full", tokens)])])


def test_a_result_is_saved_as_json_and_page(tmp_path):
    result = Result("m on d", {"kind": "tune", "settings": {"steps": 3, "dtype": None}}, [RUNS])
    written = result.save(tmp_path / "out")
    assert [path.name for path in written] == ["result.json", "report.html"]
    html = written[1].read_text(encoding="utf-8")
    assert "<dt>steps</dt><dd>3</dd>" in html
    assert "dtype" not in html


def test_a_result_is_saved_as_json_alone_where_a_file_is_named(tmp_path):
    result = Result("m", {"kind": "bytes"}, [])
    assert result.save(tmp_path / "one.json") == [tmp_path / "one.json"]
    assert not (tmp_path / "report.html").exists()


def test_plurals():
    assert plural(1, "sample") == "1 sample"
    assert plural(1200, "sample") == "1,200 samples"
    assert plural(2, "index", "indices") == "2 indices"


def test_a_line_may_look_alike_in_charts_that_lack_others():
    third = Series("random", [0, 1], [1.0, 2.0], look=2)
    assert "var(--s2)" in inline_svg(Figure("one", "lines", [third]))
    assert "var(--s2)" not in inline_svg(CURVE)
