import numpy as np
import pytest

from tokenry.core.records import Histogram, Paired
from tokenry.report.charts import (
    POINTS,
    curve_charts,
    histogram_chart,
    interval_chart,
    signal_span,
)

from .conftest import run


def curve(*losses: float) -> list[dict[str, float]]:
    return [{"step": float(step), "loss": loss} for step, loss in enumerate(losses)]


def test_the_curves_that_matter_come_first():
    point = {"step": 1.0, "epoch": 0.1, "grad_norm": 1.0, "share_kept": 0.6, "nll_dropped": 3.0, "loss": 2.0}
    assert [chart.title for chart in curve_charts([run("a", curves=[point])])] == [
        "training loss",
        "NLL dropped",
        "share kept",
        "grad norm",
    ]


def test_a_lower_value_stands_lower_in_the_chart():
    (chart,) = curve_charts([run("a", curves=curve(3.0, 1.0))])
    (start, end) = (float(pair.split()[1]) for pair in chart.lines[0].path.removeprefix("M").split("L"))
    assert end > start


def test_a_long_run_is_drawn_as_means_of_neighbours():
    (chart,) = curve_charts([run("a", curves=curve(*np.arange(10 * POINTS, dtype=float)))])
    assert chart.averaged == 10
    assert chart.lines[0].path.count("L") == POINTS - 1
    assert "from 4.5 to 794" in chart.summary


def test_a_run_that_did_not_log_a_quantity_is_left_out_of_its_chart():
    charts = curve_charts([run("a", curves=curve(1.0, 2.0)), run("b")])
    assert [[line.name for line in chart.lines] for chart in charts] == [["a"]]


def test_labels_at_the_ends_never_cover_each_other():
    (chart,) = curve_charts([run(str(number), curves=curve(2.0, 1.0 + number / 1e6)) for number in range(8)])
    heights = sorted(line.label_y for line in chart.lines)
    assert np.diff(heights).min() >= 13.9
    assert heights[0] >= 0
    assert heights[-1] <= chart.bottom


def test_a_tiny_change_is_not_blown_up():
    (chart,) = curve_charts([run("a", curves=curve(0.6, 0.601, 0.599))])
    ys = [float(pair.split()[1]) for pair in chart.lines[0].path.removeprefix("M").split("L")]
    assert max(ys) - min(ys) < 0.1 * chart.height


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [5.0, 5.0], [1e-9, 2e-9], [-3.0, 4e7]])
def test_any_curve_can_be_drawn(values):
    (chart,) = curve_charts([run("a", curves=curve(*values))])
    assert "nan" not in chart.lines[0].path
    assert chart.y_ticks


def test_the_area_of_a_bar_is_its_count():
    chart = histogram_chart("NLL", Histogram(edges=[0, 1, 3], kept=[10, 20], dropped=[0, 10]), (0.0, 3.0))
    narrow, wide = chart.bins
    assert wide.up == pytest.approx(narrow.up, abs=0.1)
    assert wide.width == pytest.approx(2 * narrow.width, abs=0.2)
    assert wide.down == pytest.approx(wide.up / 2, abs=0.1)
    assert chart.counts == ["30 kept", "10 dropped"]
    assert wide.text == "1 to 3: 20 kept, 10 dropped"


def test_bins_of_no_width_and_no_tokens_do_no_harm():
    chart = histogram_chart("NLL", Histogram(edges=[1, 1, 2], kept=[4, 0], dropped=[0, 0]), (1.0, 2.0))
    assert [each.text for each in chart.bins] == ["1 to 1: 4 kept, 0 dropped"]


def test_the_runs_of_one_signal_share_an_axis():
    narrow = Histogram(edges=[1, 2], kept=[1], dropped=[0])
    wide = Histogram(edges=[-3, 8], kept=[1], dropped=[0])
    assert signal_span([narrow, wide]) == (-3.0, 8.0)


def test_an_interval_that_leaves_out_zero_does_not_touch_the_line():
    def row(difference: float):
        compared = Paired(to="full", difference=difference, standard_error=0.01, samples=90)
        chart = interval_chart([run("full"), run("a", paired=compared)])
        return chart.rows[0], chart.zero

    shown, zero = row(-0.05)
    assert shown.low < shown.centre < shown.high < zero
    unclear, zero = row(0.01)
    assert unclear.low < zero < unclear.high


def test_without_a_compared_run_there_is_no_interval_chart():
    assert interval_chart([run("a")]) is None
