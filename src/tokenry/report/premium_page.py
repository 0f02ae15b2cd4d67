"""The page of `tokenry tokenizer premiums`: what the same text costs in each language, as a picture and as tables.

Like the other pages it is one self-contained file, drawn from what was measured and nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenry.report.premium_charts import premium_plots
from tokenry.report.rendering import render_template, setting_pairs
from tokenry.tokenization.premiums.premium_table import PremiumTable


def render_premiums(
    tables: Sequence[PremiumTable],
    reference: str,
    segments: int,
    names: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Draw premium tables as one self-contained HTML page.

    Args:
        tables: at least one.
        reference: the language that premiums are relative to.
        segments: of the parallel text.
        names: of languages, where they are known.
        settings: shown at the head of the page.
    """
    known = dict(names or {})
    return render_template(
        "premiums.html.j2",
        kind="premiums",
        title="Token premiums",
        reference=known.get(reference, reference),
        languages=len(tables[0].languages),
        segments=segments,
        plots=premium_plots(tables, known),
        tables=tables,
        names=known,
        settings=setting_pairs(settings or {}),
    )
