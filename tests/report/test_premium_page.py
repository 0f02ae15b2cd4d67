import re

import pytest

from tokenry.core.stats import Estimate
from tokenry.report.premium_charts import premium_plots
from tokenry.report.premium_page import render_premiums
from tokenry.tokenization.premiums.premium_table import LanguageCost, PremiumTable

from .hostile import HOSTILE
from .page_reader import Page

FIGURE = Estimate(2.0, 0.25, 10, 1.5, 2.5)


def table(name: str, premiums: dict[str, float], group: str = "") -> PremiumTable:
    rows = tuple(
        LanguageCost(
            language,
            round(100 * premium),
            Estimate(premium, 0.05 * premium, 10, 0.9 * premium, 1.1 * premium),
            1.5,
            4.0,
        )
        for language, premium in sorted(premiums.items(), key=lambda item: -item[1])
    )
    return PremiumTable(group, name, rows, dict.fromkeys(("mean", "std", "cv", "max_min"), FIGURE))


PREMIUMS = {"eng": 1.0, "mya": 4.0, "deu": 1.3, "cmn": 0.8}


def test_the_dearest_language_stands_on_top_and_furthest_right():
    (plot,) = premium_plots([table("A", PREMIUMS)], {"mya": "Burmese"})
    assert [row.name for row in plot.rows] == ["Burmese", "deu", "eng", "cmn"]
    dots = [row.dots[0].x for row in plot.rows]
    assert dots == sorted(dots, reverse=True)
    assert [row.y for row in plot.rows] == sorted(row.y for row in plot.rows)


def test_a_dot_lies_inside_its_interval_and_one_on_its_line():
    (plot,) = premium_plots([table("A", PREMIUMS)], {})
    for row in plot.rows:
        assert row.dots[0].low < row.dots[0].x < row.dots[0].high
    assert [row.dots[0].x for row in plot.rows if row.name == "eng"] == [plot.one]


def test_equal_ratios_are_equal_distances():
    (plot,) = premium_plots([table("A", {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0})], {})
    places = [row.dots[0].x for row in plot.rows]
    assert places[0] - places[1] == pytest.approx(places[2] - places[3], abs=0.2)


def test_groups_are_drawn_apart_on_one_axis():
    tables = [
        table("V = 1", PREMIUMS, "bpe"),
        table("V = 2", PREMIUMS, "bpe"),
        table("V = 1", PREMIUMS, "unigram"),
    ]
    bpe, unigram = premium_plots(tables, {})
    assert (bpe.title, bpe.series, unigram.series) == ("bpe", ["V = 1", "V = 2"], ["V = 1"])
    assert [len(row.dots) for row in bpe.rows] == [2] * 4
    assert bpe.one == unigram.one


@pytest.mark.parametrize("premiums", [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 60.0}, {"a": 1.0, "b": 0.02}])
def test_any_spread_can_be_drawn(premiums):
    (plot,) = premium_plots([table("A", premiums)], {})
    assert plot.x_ticks
    assert len(plot.x_ticks) < 12


def test_the_page_shows_every_figure():
    page = Page(
        render_premiums([table("A", PREMIUMS)], "eng", 30, {"mya": "Burmese", "eng": "English"}, {"seed": 0})
    )
    assert "relative to English" in page.text
    assert "4 languages, 30 parallel segments" in page.text
    assert "4.00" in page.text
    assert "3.60 to 4.40" in page.text
    assert len([svg for svg in page.find("svg") if svg.attributes.get("role") == "img"]) == 1


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_names_from_data_stay_text(text):
    source = render_premiums(
        [table(text, {"eng": 1.0, text: 2.0}, text)], "eng", 3, {text: text, "eng": text}, {text: text}
    )
    page = Page(source)
    assert len(page.find("script")) == 1
    assert not page.find("img")
    assert not any(name.startswith("on") for element in page.elements for name in element.attributes)
    assert not re.search("[\x00-\x08\ud800-\udfff\u202e]", source)
    source.encode()
