"""For the tests of verbs: a tiny chat model with its data; what a verb saves has every field that is promised.

A chart is drawn once: `check_verb` draws every page three times, and that the same chart is the same SVG is shown in `tests/report`.
"""

import pytest

from tests.desk import desk
from tokenry.report import html
from tokenry.report.result import Result

__all__ = ["desk"]


@pytest.fixture(scope="package", autouse=True)
def _every_saved_result_keeps_its_fields(pytestconfig):
    looks, save = pytestconfig.pluginmanager.get_plugin("frozen_fields"), Result.save

    def save_and_look(result, output):
        looks.look_at(result.as_json)
        return save(result, output)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Result, "save", save_and_look)
        yield


@pytest.fixture(scope="package", autouse=True)
def _the_same_chart_is_drawn_once():
    draw, drawn = html.inline_svg, {}

    def draw_once(figure):
        told = repr(figure)
        if told not in drawn:
            drawn[told] = draw(figure)
        return drawn[told]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "inline_svg", draw_once)
        yield
