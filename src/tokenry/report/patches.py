"""Pictures of tokens: an image with the patches that a model still carries, merged groups in their mean colour, dropped ones dimmed.

All patches that went to one place are one token, and one outline: a group of several is filled with the mean colour of its patches,
a single patch shows the image, a dropped one fades into the page. Geometry is in units of a patch.
"""

import base64
import binascii
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from tokenry.core.errors import UserError
from tokenry.report.blocks import Patches
from tokenry.report.writing import plural

Cell = tuple[int, int]
"""Row and column of a patch."""


@dataclass(frozen=True)
class Group:
    """The patches that are one token now.

    Attributes:
        outline: an SVG path around them; they need not touch.
        fill: their mean colour.
        patches: how many they are.
    """

    outline: str
    fill: str
    patches: int

    @property
    def words(self) -> str:
        """The token in words."""
        return "one patch, as it was" if self.patches == 1 else f"one token made of {self.patches:,} patches"


@dataclass(frozen=True)
class PanelView:
    """What one setting left of one image, ready to be drawn.

    Attributes:
        caption: name of the setting or layer.
        groups: the tokens that are left.
        dropped: an SVG path around the dropped patches; empty where none was.
        words: what is to be seen, in words.
    """

    caption: str
    groups: list[Group]
    dropped: str
    words: str


def panel_views(picture: Patches) -> list[PanelView]:
    """The panels of an image ready to be drawn.

    Raises:
        UserError: the block holds no image, or places for another number of patches.
    """
    colours = _patch_colours(picture)
    return [_panel_view(caption, places, picture, colours) for caption, places in picture.panels]


def outline(cells: Iterable[Cell]) -> str:
    """Draw an SVG path around cells of a grid: every edge between one of them and another cell, chained into closed loops.

    Loops run clockwise around cells and anticlockwise around holes, so that a fill leaves holes out.
    """
    inside = set(cells)
    ahead: dict[Cell, list[Cell]] = {}
    for row, column in sorted(inside):
        corners = ((row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column))
        neighbours = ((row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1))
        for side, neighbour in enumerate(neighbours):
            if neighbour not in inside:
                ahead.setdefault(corners[side], []).append(corners[(side + 1) % 4])
    return "".join(_loops(ahead))


def _loops(ahead: dict[Cell, list[Cell]]) -> Iterable[str]:
    while ahead:
        start = here = next(iter(ahead))
        corners: list[Cell] = []
        while not corners or here != start:
            there = ahead[here].pop()
            if not ahead[here]:
                del ahead[here]
            corners.append(here)
            here = there
        yield _path(corners)


def _path(corners: Sequence[Cell]) -> str:
    """Write a closed loop, with one command per straight side."""
    turns = [
        corner
        for before, corner, after in zip(
            [corners[-1], *corners[:-1]], corners, [*corners[1:], corners[0]], strict=True
        )
        if (before[0] == corner[0]) != (corner[0] == after[0])
    ]
    (row, column), *others = turns
    written = f"M{column} {row}"
    for next_row, next_column in others:
        written += f"H{next_column}" if next_row == row else f"V{next_row}"
        row = next_row
    return written + "z"


def _panel_view(
    caption: str, places: Sequence[int], picture: Patches, colours: Float[ndarray, "rows columns 3"]
) -> PanelView:
    if len(places) != picture.rows * picture.columns:
        raise UserError(
            f"the picture of {picture.title} has places for {len(places)} patches, not for its {picture.rows} × {picture.columns}."
        )
    members: dict[int, list[Cell]] = {}
    for patch, place in enumerate(places):
        members.setdefault(place, []).append(divmod(patch, picture.columns))
    dropped = members.pop(-1, [])
    # Large groups first: where outlines cross, the small ones stay whole.
    groups = [
        Group(outline(cells), _hex(np.mean([colours[cell] for cell in cells], axis=0)), len(cells))
        for cells in sorted(members.values(), key=len, reverse=True)
    ]
    return PanelView(caption, groups, outline(dropped), _words(groups, len(dropped)))


def _words(groups: Sequence[Group], dropped: int) -> str:
    merged = [group for group in groups if group.patches > 1]
    of_these = sum(group.patches for group in merged)
    parts = [plural(len(groups), "token")]
    parts += [f"{len(merged):,} of them merged from {of_these:,} patches"] if merged else []
    parts += [f"{plural(dropped, 'patch', 'patches')} dropped"] if dropped else []
    return ", ".join(parts)


def _patch_colours(picture: Patches) -> Float[ndarray, "rows columns 3"]:
    try:
        content = base64.b64decode(picture.image, validate=True)
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)
    except (binascii.Error, UnidentifiedImageError, OSError) as error:
        raise UserError(f"the picture of {picture.title} holds no image ({error}).") from error
    rows = np.array_split(pixels, picture.rows, axis=0)
    return np.array(
        [[patch.mean(axis=(0, 1)) for patch in np.array_split(row, picture.columns, axis=1)] for row in rows]
    )


def _hex(colour: Float[ndarray, "3"]) -> str:
    red, green, blue = colour.round().astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"
