"""Blocks as Markdown, for the documentation: tables with all their numbers, figures as inline SVG, what is folded folded."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from tokenry.report.blocks import Block, Figure, Findings, Section, Table, Text
from tokenry.report.plots import inline_svg
from tokenry.report.writing import is_number, setting_pairs, written_rows


def markdown(blocks: Iterable[Block], level: int = 4) -> str:
    """Write blocks as Markdown; sections get headings of `level`. Pictures of tokens stay on the page of their result."""
    return "\n".join(_written(blocks, level))


def markdown_table(table: Table) -> str:
    """Write a table as Markdown."""
    headings = table.headings
    heads = [escape(f"{column.name}, {column.unit}" if column.unit else column.name) for column in headings]
    ruler = [
        "---:" if place and is_number(column, [row[place] for row in table.rows]) else "---"
        for place, column in enumerate(headings)
    ]
    rows = (
        ["<br>".join(escape(part, quote=False) for part in cell if part) for cell in row]
        for row in written_rows(table)
    )
    lines = (
        "| " + " | ".join(part.replace("|", "\\|") for part in line) + " |" for line in (heads, ruler, *rows)
    )
    return "\n".join(lines) + "\n" + "".join(f"\n{escape(note, quote=False)}\n" for note in table.notes)


def folded(title: str, text: str) -> str:
    """Fold away what most readers skip."""
    indented = "\n".join(f"    {line}" for line in text.splitlines())
    return f'\n??? note "{escape(title)}"\n{indented}\n'


def appendix(title: str, text: str) -> str:
    """Fold away what nobody searches for: the search of the site leaves it out."""
    return f'\n<details class="note" data-search-exclude markdown="1">\n<summary>{escape(title)}</summary>\n\n{text}\n\n</details>\n'


def markdown_settings(settings: Mapping[str, Any]) -> str:
    """Fold away settings, one per line."""
    lines = (f"- {escape(name)}: `{value}`" for name, value in setting_pairs(dict(settings)))
    return appendix("Settings", "\n".join(lines))


def _heading(table: Table) -> str:
    return f"**{escape(table.title, quote=False)}**\n\n" if table.title else ""


def _written(blocks: Iterable[Block], level: int) -> Iterator[str]:
    for block in blocks:
        match block:
            case Section():
                inside = markdown(block.blocks, level + 1)
                yield (
                    folded(block.title, inside)
                    if block.folded
                    else f"\n{'#' * level} {block.title}\n\n{inside}"
                )
            case Text():
                yield f"\n{escape(block.text, quote=False)}\n"
            case Findings():
                yield "\n" + "".join(
                    f"- {escape(f'{name}: {sentence}' if name else sentence, quote=False)}\n"
                    for name, sentence in block.sentences
                )
            case Table():
                text = markdown_table(block)
                yield folded(block.title, text) if block.folded else f"\n{_heading(block)}{text}"
            case Figure():
                text = f'<figure class="chart">{inline_svg(block)}</figure>\n'
                yield folded(block.title, text) if block.folded else f"\n{text}"
