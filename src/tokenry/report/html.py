"""Blocks as one self-contained HTML page, in light, dark and print.

Nothing on a page comes from elsewhere, and its own content security policy forbids that anything does: the policy names the hash of
the one inline script. Everything from data is escaped by jinja2; `harmless` then takes out what no page may hold.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tokenry.report.blocks import Block, Heatmap, Patches, Section
from tokenry.report.patches import panel_views
from tokenry.report.plots import inline_svg
from tokenry.report.text import harmless, visible
from tokenry.report.token_maps import map_view, shown_states, signal_scales
from tokenry.report.writing import is_number, setting_pairs, written_rows


def page(kind: str, title: str, blocks: Sequence[Block], settings: Mapping[str, Any]) -> str:
    """Draw blocks as a page.

    Args:
        kind: the verb that measured what is shown.
        title: heading of the page.
        blocks: what is shown; sections become the page's navigation.
        settings: everything it was measured with, folded at the head of the page.
    """
    heatmaps = list(_heatmaps(blocks))
    scales = signal_scales(tokens for heatmap in heatmaps for _, tokens in heatmap.maps)
    drawn = (
        _environment()
        .get_template("page.html.j2")
        .render(
            kind=kind,
            title=title,
            blocks=blocks,
            sections=[(_anchor(block), block.title) for block in blocks if isinstance(block, Section)],
            settings=setting_pairs(dict(settings)),
            scales=scales,
            states=shown_states(heatmaps),
        )
    )
    return harmless(drawn)


def _heatmaps(blocks: Sequence[Block]) -> Iterator[Heatmap]:
    for block in blocks:
        if isinstance(block, Section):
            yield from _heatmaps(block.blocks)
        elif isinstance(block, Heatmap):
            yield block


def _anchor(section: Section) -> str:
    return re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")


def _image_id(picture: Patches) -> str:
    """What the panels of a picture refer to its image by: titles may be alike but for what an anchor leaves out."""
    return (
        "image-"
        + hashlib.sha256(f"{picture.title}\0{picture.image}".encode(errors="replace")).hexdigest()[:12]
    )


def _kind(block: Block) -> str:
    return type(block).__name__.lower()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tokenry.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = (_source(environment, name) for name in ("script.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        script=Markup(script),
        style=Markup(style),
        script_hash=f"sha256-{digest}",
        anchor=_anchor,
        image_id=_image_id,
        is_number=is_number,
        kind_of=_kind,
        map_view=map_view,
        panel_views=panel_views,
        svg=lambda figure: Markup(inline_svg(figure)),
        visible=visible,
        written_rows=written_rows,
    )
    return environment


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
