"""Conversations as verbs read them: rows that are understood, what was noted about them, prompts that can be answered."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.reading import read_text

if TYPE_CHECKING:
    from tokenry.core.chat.rows import Message, Sample

Rows = list[dict[str, Any]]

DEMO = "demo"
"""The name of the data that tokenry makes itself."""
ANSWER_TOKENS = 48
NOTED = "Notes on the data and on what was left out"

logger = logging.getLogger(__name__)


def say(notes: Iterable[str]) -> None:
    """Log what a reader of the data noted, before a long wait."""
    for note in notes:
        logger.warning("%s", note)


def lines_or_rows(path: Path, column: str) -> list[tuple[str, dict[str, Any]]]:
    """Read rows with their places; each line of a text file that holds something is one, under `column`."""
    if path.suffix.lower() in ("", ".txt"):
        rows: Iterable[dict[str, Any]] = [
            {column: line} for line in read_text(path).splitlines() if line.strip()
        ]
    else:
        from tokenry.core.chat.reading import read_rows

        rows = read_rows(str(path))
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1)]


def answerable(rows: Rows, most: int) -> "tuple[Rows, list[list[Message]]]":
    """Choose rows whose answers can be generated and verified, two at least or none, with their prompts.

    Rows with tools or options of their own for the template are left out: their prompts are more than messages.
    """
    from tokenry.core.chat.rows import to_sample

    samples = [
        (row, to_sample(row, number)) for number, row in enumerate(rows, start=1) if row.get("verifier")
    ]
    chats = [(row, sample) for row, sample in samples if sample.messages and not sample.template_options][
        :most
    ]
    if len(chats) < 2:
        return [], []
    return [row for row, _ in chats], [_prompt(sample) for _, sample in chats]


def verified_prompts(source: str, most: int, seed: int) -> "tuple[Rows, list[list[Message]]]":
    """Rows with verifiers of the demo or of a source, and their prompts."""
    from tokenry.evaluation.noisy_tasks import noisy_tasks

    rows = noisy_tasks(seed=seed).held_out if source == DEMO else read_checked(source)
    items, prompts = answerable(rows, most)
    if not items:
        raise UserError(
            f"{source} has no prompts with verifiers, so nothing says whether an answer is right: see `tokenry tune`."
        )
    return items, prompts


def _prompt(sample: "Sample") -> "list[Message]":
    """The conversation before its last answer."""
    messages = sample.messages or []
    last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
    return messages[:last]


def read_checked(source: str) -> Rows:
    """Read rows and understand every one, so that what is wrong is said with its place in the source."""
    from tokenry.core.chat.rows import read_rows, to_sample

    rows = read_rows(source)
    try:
        for number, row in enumerate(rows, start=1):
            to_sample(row, number)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return rows
