import re

import pytest
from pandas import DataFrame

from tests.evaluation.charbench.golden import golden_features, golden_items, golden_predictions
from tokenry.evaluation.charbench import TASKS, charbench_report
from tokenry.report.charbench_charts import accuracy_charts, correlation_chart
from tokenry.report.charbench_page import render_charbench

from .page_reader import Page
from .test_page import HOSTILE

MODELS = ["A", "B"]


@pytest.fixture(scope="module")
def report():
    return charbench_report(golden_items(), golden_predictions(), golden_features(), draws=100)


def test_each_correlation_lies_inside_its_interval_on_one_axis(report):
    chart = correlation_chart(report.correlations, TASKS[2], MODELS)
    names = [row.name for row in chart.rows]
    assert "length of the token with the character" in names
    for row in chart.rows:
        assert [mark.series for mark in row.marks] == [0, 1]
        assert all(mark.low <= mark.value <= mark.high for mark in row.marks)
    assert [row.y for row in chart.rows] == sorted(row.y for row in chart.rows)


def test_negative_correlations_stand_left_of_zero(report):
    table = report.correlations[report.correlations["task"] == TASKS[2]].dropna(subset="low")
    chart = correlation_chart(table, TASKS[2], MODELS)
    drawn = [mark.value < chart.zero for row in chart.rows for mark in row.marks]
    assert drawn == [
        r < -1e-3
        for r in table.sort_values(
            "property", key=lambda p: p.map(list(dict.fromkeys(p)).index), kind="stable"
        )["r"]
    ]


def test_counting_has_no_curve_over_the_token_of_a_character(report):
    titles = [[chart.title for chart in accuracy_charts(report.curves, task, MODELS)] for task in TASKS]
    assert "length of the token with the character" in titles[2]
    assert "length of the token with the character" not in titles[0]


def test_higher_accuracy_is_drawn_higher(report):
    (chart, *_) = accuracy_charts(report.curves, TASKS[0], MODELS)
    rows = report.curves[(report.curves["task"] == TASKS[0]) & (report.curves["property"] == "word_length")]
    best, worst = rows["accuracy"].argmax(), rows["accuracy"].argmin()
    assert chart.marks[best].value < chart.marks[worst].value
    assert len(chart.marks) == len(rows)


def test_the_page_shows_every_task_and_says_where_the_items_are_from(report):
    page = Page(render_charbench(report, {"mode": "score"}))
    assert "The items are a regeneration from open word lists" in page.text
    assert [section.attributes["id"] for section in page.find("section")] == list(TASKS)
    assert "wrong in both / in either" in page.text
    assert "mode" in page.text
    assert len([svg for svg in page.find("svg") if svg.attributes.get("role") == "img"]) > 8


def test_a_page_without_any_correlation_says_so():
    items = golden_items()
    always = {"A": DataFrame({"prediction": items["answer"].map(int)})}
    page = Page(render_charbench(charbench_report(items, always, golden_features(), draws=5)))
    assert page.text.count("No correlation is defined") == 4
    assert "nan" not in page.text


@pytest.mark.parametrize("text", [text for text in HOSTILE if text and text != "\ud83d"])
def test_names_from_data_stay_text(text):
    predictions = {text: golden_predictions()["A"]}
    features = {text: golden_features()["A"]}
    source = render_charbench(charbench_report(golden_items(), predictions, features, draws=5), {text: text})
    page = Page(source)
    assert len(page.find("script")) == 1
    assert not page.find("img")
    assert not any(name.startswith("on") for element in page.elements for name in element.attributes)
    assert not re.search("[\x00-\x08\ud800-\udfff\u202e]", source)
