"""The gallery: one card a system, with the picture of its stored run, what the run claimed first, what came of it, and the command.

A system without a stored run has no card, and one whose run stored no picture has a card without.
"""

from html import escape
from pathlib import Path
from typing import Any

from tokenry.core.io.files import read_json
from tokenry.papers import Paper, catalogue, outcome

FOLDER = "gallery"
"""Where the site has the pictures."""


def gallery(root: Path) -> str:
    """Every stored reproduction as a card, in the order of the catalogue; empty where none is stored."""
    cards = [
        _card(paper, read_json(path), picture_path(root, paper.slug).exists())
        for paper in catalogue()
        if (path := root / f"docs/results/{paper.slug}.json").exists()
    ]
    return f'<div class="gallery" markdown="0">\n{"".join(cards)}</div>\n' if cards else ""


def pictures(root: Path) -> dict[str, Path]:
    """The pictures that the cards show, by their path in the site."""
    found = ((paper.slug, picture_path(root, paper.slug)) for paper in catalogue())
    return {f"{FOLDER}/{slug}.png": path for slug, path in found if path.exists()}


def picture_path(root: Path, slug: str) -> Path:
    """Where the stored run of a recipe keeps what it drew."""
    return root / f"docs/results/{slug}.png"


def _card(paper: Paper, record: dict[str, Any], drawn: bool) -> str:
    title, slug = escape(paper.title), escape(paper.slug)
    picture = (
        f'<a href="../{FOLDER}/{slug}.png"><img loading="lazy" alt="What tokenry reproduce {slug} drew" src="../{FOLDER}/{slug}.png"></a>\n'
        if drawn
        else ""
    )
    came = outcome(record["verdict"], record["shown"], record["of"])
    return (
        f'<section>\n<h2 id="{slug}"><a href="https://arxiv.org/abs/{paper.arxiv}">{title}</a></h2>\n{picture}'
        f'<p>{escape(record["headline"])}</p>\n<p class="verdict">{escape(came)}</p>\n<p><code>tokenry reproduce {slug}</code></p>\n</section>\n'
    )
