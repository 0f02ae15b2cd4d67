"""*Papers*: the forty papers with their verdicts, and their recipes, to be run here."""

from tokenry.app.fields import OneOf
from tokenry.app.forms import Form, Tab
from tokenry.papers import catalogue

RECIPES = tuple(
    (f"{paper.number:02d} · {paper.title}", paper.slug) for paper in catalogue() if paper.available
)

TAB = Tab(
    "Papers",
    "What do forty papers on tokens claim, and what is shown on this machine?",
    (
        Form("papers", title="All papers", button="List", at_once=True),
        Form(
            "reproduce",
            (
                OneOf(
                    "slug",
                    "Paper",
                    "Takes up to five minutes on two cores.",
                    choices=RECIPES,
                    value=RECIPES[0][1],
                ),
            ),
            title="Run here",
            button="Run here",
        ),
    ),
)
