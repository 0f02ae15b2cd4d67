"""A sticker: what a question states and asks, noted by a model as numbered conditions and one question.

    **Conditions:**
    1. Mara buys 3 boxes of candles.
    2. Each box holds 12 candles.

    **Question:**
    How many candles does Mara have?

Source: zhijie-group/SIFT at 5b28463, from which the rule that cuts a sticker out of a text is taken.
"""

import re
from dataclasses import dataclass

from tokenry.decoding.sift.prompts import CONDITIONS, QUESTION

_FENCE = "```"
_MARK = re.compile(r"^\s*(?:\d+[.)]|[-*])\s+")


@dataclass(frozen=True)
class Sticker:
    """What a question states and asks.

    Attributes:
        conditions: the conditions without their numbers.
        question: what is asked.
        raw: the text that the model wrote.
    """

    conditions: tuple[str, ...]
    question: str
    raw: str

    @property
    def text(self) -> str:
        """What prompts show of it."""
        return clean_sticker(self.raw)

    @property
    def is_complete(self) -> bool:
        """Whether conditions and question stand under their headings; where they do not, prompts show the raw text."""
        return bool(self.conditions and self.question)


def clean_sticker(text: str) -> str:
    """Cut a sticker out of what a model wrote: from the heading of the conditions to a second one, or to a code fence.

    White space around it is cut only where a fence is. A text without the heading stays as it is.
    """
    if CONDITIONS not in text:
        return text
    sticker = CONDITIONS + text.split(CONDITIONS)[1]
    return sticker.split(_FENCE)[0].strip() if _FENCE in sticker else sticker


def parse_sticker(text: str) -> Sticker:
    """Read conditions and question; both are empty where a heading is missing."""
    conditions, heading, question = clean_sticker(text).partition(QUESTION)
    if CONDITIONS not in conditions or not heading:
        return Sticker((), "", text)
    lines = conditions.removeprefix(CONDITIONS).splitlines()
    return Sticker(
        tuple(filter(None, (_MARK.sub("", line).strip() for line in lines))), question.strip(), text
    )
