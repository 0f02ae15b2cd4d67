"""The words of a text, the tokens that each is made of, and the parts of a text that must stay whole.

    words = words_of(tokenizer, "cost: $3.50")         spans (0, 4) cost, (4, 5) :, (6, 7) $, (7, 11) 3.50
    words.of_token                                     word of every token, -1 for special tokens
    words.total(token_scores)                          one score per word

A word is a run of letters and digits, a number with its point, or one sign; of scripts without spaces, one character. Words that share a
token are one word, so every token belongs to exactly one. A text is cut by the spans of its words, never joined from pieces.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_one_of

Span = tuple[int, int]

# Scripts without spaces: kana, Han, Thai, Lao, Khmer, Burmese; each character stands alone.
_ALONE = r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
_WORD = re.compile(rf"{_ALONE}|\d+(?:[.,]\d+)*(?!\w)|(?:(?!{_ALONE})[\w'’])+|[^\w\s]")

PROTECTED = {
    "numbers": r"-?[\d,]*\.?\d+",
    "code": r"```[\s\S]*?```|`[^`\n]+`",
    "quotes": r"\"[^\"\n]+\"|“[^”\n]+”|«[^»\n]+»",
    "json-keys": r"\"[^\"\n]+\"(?=\s*:)",
}
"""What can be protected by name; any other regular expression can be given in its place."""

SCRIPTS_WITHOUT_BLANKS = _ALONE
"""Regular expression of one character of a script that is written without blanks."""


@dataclass(frozen=True)
class Words:
    """The words of one text as a tokenizer reads it.

    Attributes:
        text: the text.
        spans: characters of every word, from start to end.
        input_ids: the tokens.
        of_token: word of every token; -1 for special tokens.
    """

    text: str
    spans: tuple[Span, ...]
    input_ids: Int[Tensor, "seq"]
    of_token: Int[Tensor, "seq"]

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, number: int) -> str:
        """The characters of a word."""
        start, end = self.spans[number]
        return self.text[start:end]

    def total(self, scores: Float[Tensor, "seq"], reduce: str = "sum") -> Float[Tensor, "words"]:
        """One score per word: the `sum`, `mean` or `max` of its tokens'; special tokens count for none."""
        require_one_of(reduce, ("sum", "mean", "max"), "reduce")
        own = self.of_token >= 0
        total = scores.new_zeros(len(self.spans))
        kind = {"max": "amax"}.get(reduce, reduce)
        return total.scatter_reduce(0, self.of_token[own], scores[own], kind, include_self=False)

    def inside(self, spans: Iterable[Span]) -> Bool[Tensor, "words"]:
        """The words that have a character in one of the spans."""
        covered = list(spans)
        return torch.tensor(
            [any(start < until and since < end for since, until in covered) for start, end in self.spans],
            dtype=torch.bool,
        )


def words_of(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool = True) -> Words:
    """Read a text into words, and find the tokens of each by their offsets.

    Raises:
        UserError: the tokenizer has no offsets.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer without offsets, so its tokens have no words: load it with use_fast=True."
        )
    encoded = tokenizer(
        text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False
    )
    offsets = [_visible(text, *offset) for offset in encoded["offset_mapping"]]
    spans = [match.span() for match in _WORD.finditer(text)]
    joined = _joined([*spans, *(span for span in offsets if span and span[0] < span[1])])
    of_token = torch.tensor([_word_at(joined, span) for span in offsets], dtype=torch.long)
    return Words(text, tuple(joined), torch.tensor(encoded["input_ids"], dtype=torch.long), of_token)


def protected_spans(text: str, what: Sequence[str]) -> list[Span]:
    """The spans of a text that must stay: names in `PROTECTED`, or regular expressions.

    Raises:
        UserError: what is neither a name nor a regular expression.
    """
    found: list[Span] = []
    for named in what:
        try:
            pattern = re.compile(PROTECTED.get(named, named))
        except re.error as error:
            raise UserError(
                f"protect takes {', '.join(PROTECTED)} or a regular expression; {named!r} is none: {error}."
            ) from error
        found += [match.span() for match in pattern.finditer(text) if match.group()]
    return sorted(found)


def _visible(text: str, start: int, end: int) -> Span | None:
    """The span of a token without white space around it, empty for white space alone; None for a special token."""
    whole = text[start:end]
    return (
        (end - len(whole.lstrip()), start + len(whole.rstrip()))
        if whole.strip()
        else (end, end)
        if whole
        else None
    )


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that overlap as one.

    Example: words (0, 1) and (1, 3) and a token (0, 3) give one word (0, 3).
    """
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _word_at(words: Sequence[Span], token: Span | None) -> int:
    """The word of a token: white space belongs to the word after it, at the end of the text to the last one."""
    if token is None or not words:
        return -1
    return min(bisect_right(words, token[0], key=lambda word: word[1]), len(words) - 1)
