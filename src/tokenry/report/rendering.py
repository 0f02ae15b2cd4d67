"""How every page is drawn: one self-contained HTML file in light and dark.

Nothing on a page comes from elsewhere, and its own content security policy forbids that anything does: the policy names
the hash of the one inline script. Everything from data is escaped by jinja2; `harmless` then takes out what no page may hold.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tokenry.report.text import harmless
from tokenry.report.writing import written_setting

# Circle, square, triangle, diamond, cross: drawn around the origin.
MARKERS = (
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0",
    "M-2.9-2.9h5.8v5.8h-5.8z",
    "M0-3.8l3.6 6.4h-7.2z",
    "M0-4l4 4l-4 4l-4-4z",
    "M-3-3l6 6M3-3l-6 6",
)


def render_template(template: str, **parts: Any) -> str:
    """Draw a template of this package; what no page may hold is taken out."""
    return harmless(_environment().get_template(template).render(**parts))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tokenry.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = (_source(environment, name) for name in ("script.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        script=Markup(script), style=Markup(style), script_hash=f"sha256-{digest}", markers=MARKERS
    )
    return environment


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def setting_pairs(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as names and words."""
    return [(name, "not set" if value is None else written_setting(value)) for name, value in mapping.items()]
