import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokenry.core.errors import UserError
from tokenry.report.blocks import Patches
from tokenry.report.patches import outline, panel_views

CELLS = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1)


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def loops(path):
    """The corners of each closed loop of a path, as (x, y)."""
    for loop in path.split("z")[:-1]:
        x, y, corners = 0, 0, []
        for command, first, second in re.findall(r"([MHV])(\d+)(?: (\d+))?", loop):
            x = int(first) if command in "MH" else x
            y = int(second) if command == "M" else int(first) if command == "V" else y
            corners.append((x, y))
        yield corners


def area(corners):
    """Signed: positive where the loop runs clockwise on a page."""
    ahead = zip(corners, corners[1:] + corners[:1], strict=True)
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in ahead) / 2


@given(CELLS)
@settings(max_examples=25, deadline=None)
def test_an_outline_encloses_exactly_its_cells(cells):
    assert sum(area(corners) for corners in loops(outline(cells))) == len(cells)


@given(CELLS)
@settings(max_examples=25, deadline=None)
def test_an_outline_is_as_long_as_the_edges_to_other_cells(cells):
    neighbours = [
        (row + a, column + b) for row, column in cells for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))
    ]
    length = sum(
        abs(x0 - x1) + abs(y0 - y1)
        for corners in loops(outline(cells))
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True)
    )
    assert length == sum(neighbour not in cells for neighbour in neighbours)


def test_a_straight_side_is_one_command():
    assert outline([(0, 0), (0, 1), (0, 2)]) == "M0 0H3V1H0z"


def test_nothing_has_no_outline():
    assert outline([]) == ""


def picture(places, **fields):
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4, :4], pixels[:4, 4:], pixels[4:] = (255, 0, 0), (0, 0, 255), (10, 20, 30)
    made = {
        "title": "a.jpg",
        "image": encoded(pixels),
        "rows": 2,
        "columns": 2,
        "panels": [("tome r=1", places)],
    }
    return Patches(**made | fields)


def test_a_group_has_the_mean_colour_of_its_patches():
    (panel,) = panel_views(picture([1, 1, 2, 3]))
    merged, *single = panel.groups
    assert (merged.patches, merged.fill, merged.outline) == (2, "#800080", "M0 0H2V1H0z")
    assert [group.fill for group in single] == ["#0a141e", "#0a141e"]
    assert panel.words == "3 tokens, 1 of them merged from 2 patches"


def test_dropped_patches_belong_to_no_group():
    (panel,) = panel_views(picture([-1, 1, -1, 1]))
    assert panel.dropped == "M0 0H1V2H0z"
    assert [group.patches for group in panel.groups] == [2]
    assert panel.words == "1 token, 1 of them merged from 2 patches, 2 patches dropped"


def test_a_picture_that_does_not_fit_its_record_is_refused():
    with pytest.raises(UserError, match="places for 3 patches, not for its 2 × 2"):
        panel_views(picture([0, 1, 2]))
    for damaged in ("no base64!", "bm8gaW1hZ2U="):
        with pytest.raises(UserError, match=r"the picture of a\.jpg holds no image"):
            panel_views(picture([0, 1, 2, 3], image=damaged))
