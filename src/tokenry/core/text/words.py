"""The words of a text, the tokens that each is made of, and the parts of a text that must stay whole.

    words = words_of(tokenizer, "cost: $3.50")         spans (0, 4) cost, (4, 5) :, (6, 7) $, (7, 11) 3.50
    words.of_token                                     word of every token, -1 for special tokens
    words.total(token_scores)                          one score per word
    parts_of(text, words.spans, kept)                  what is left of the text where only some words are kept

A word is a run of letters and digits, a number with its point, or one sign; of scripts without spaces, one character. Words that share a
token are one word, so every token belongs to exactly one. A text is cut by the spans of its words, never joined from pieces.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_one_of

Span = tuple[int, int]

# Scripts without spaces: kana, Han, Thai, Lao, Khmer, Burmese; each character stands alone.
_ALONE = r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
# Combining marks, such as the vowel signs of Hindi, belong to the letter before them; `\w` holds none.
_MARKS = "".join(
    chr(code) for code in range(0x300, 0x3000) if unicodedata.category(chr(code)).startswith("M")
)
_LETTER = rf"(?!{_ALONE})[\w{_MARKS}]"
_WORD = re.compile(
    rf"{_ALONE}[{_MARKS}]*|\d+(?:[.,]\d+)*(?![\w{_MARKS}])|(?:{_LETTER}|['’])+|[^\w\s][{_MARKS}]*"
)
_RUNS_ON = re.compile(_LETTER)
_WHITE_SPACE = re.compile(r"\s+")

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
        spans: characters of every word, from start to end.
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
        return word_scores(scores, self.of_token, reduce, len(self.spans))

    def inside(self, spans: Iterable[Span]) -> Bool[Tensor, "words"]:
        """The words that have a character in one of the spans."""
        return touched(self.spans, spans)


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
    joined = _joined([*word_spans(text), *(span for span in offsets if span and span[0] < span[1])])
    ends = [end for _, end in joined]
    of_token = torch.tensor([_word_at(ends, span) for span in offsets], dtype=torch.long)
    return Words(text, tuple(joined), torch.tensor(encoded["input_ids"], dtype=torch.long), of_token)


def word_spans(text: str) -> list[Span]:
    """The words of a text that no tokenizer has read."""
    return [match.span() for match in _WORD.finditer(text)]


def word_scores(
    piece_scores: Float[Tensor, "seq"],
    word_ids: Int[Tensor, "seq"] | Sequence[int | None],
    reduce: str = "sum",
    words: int | None = None,
) -> Float[Tensor, "words"]:
    """One score per word from those of its tokens.

    Args:
        word_ids: word of every token; None or -1 for special tokens, which count for none.
        reduce: `sum`, `mean` or `max`.
        words: number of words; by default up to the last one that has a token.
    """
    require_one_of(reduce, ("sum", "mean", "max"), "reduce")
    word = torch.as_tensor([-1 if number is None else int(number) for number in word_ids]).to(
        piece_scores.device
    )
    own = word >= 0
    number = words if words is not None else int(word.max()) + 1 if len(word) else 0
    kind = {"max": "amax"}.get(reduce, reduce)
    return piece_scores.new_zeros(number).scatter_reduce(
        0, word[own], piece_scores[own], kind, include_self=False
    )


def touched(words: Sequence[Span], spans: Iterable[Span]) -> Bool[Tensor, "words"]:
    """The words that have a character in one of the spans."""
    covered = sorted(spans)
    starts = [since for since, _ in covered]
    reach = list(accumulate((until for _, until in covered), max))
    # The spans that begin before the end of a word are the first ones; one of them must reach beyond its start.
    before = [bisect_left(starts, end) for _, end in words]
    return torch.tensor(
        [number > 0 and reach[number - 1] > start for number, (start, _) in zip(before, words, strict=True)],
        dtype=torch.bool,
    )


def parts_of(text: str, spans: Sequence[Span], kept: Bool[Tensor, "words"]) -> list[Span]:
    """The parts of a text that hold the kept words, in order: joined, they are the text without the other words.

    Between words that were neighbours, everything stays. Of what stood between others, one white space stays, the one with the most line
    breaks; it stays if it breaks a line, if white space stood on both sides, or if two words would otherwise be one. Two words with no
    white space between them keep a sign that was there: without `-`, 3-4 would be 34.
    """
    numbers = kept.nonzero()[:, 0].tolist()
    if not numbers:
        return []
    parts = [(0 if numbers[0] == 0 else spans[numbers[0]][0], spans[numbers[0]][1])]
    for before, after in pairwise(numbers):
        (_, end), (start, until) = spans[before], spans[after]
        parts += [(end, start)] if after == before + 1 else _joint(text, end, start)
        parts.append((start, until))
    if numbers[-1] == len(spans) - 1:
        parts.append((parts[-1][1], len(text)))
    return [(start, end) for start, end in parts if start < end]


def _joint(text: str, end: int, start: int) -> list[Span]:
    """What stays between two kept words that were no neighbours."""
    gap = text[end:start]
    blanks = list(_WHITE_SPACE.finditer(gap))
    breaks = [blank.group().count("\n") for blank in blanks]
    run_on = end > 0 and bool(_RUNS_ON.match(text, end - 1)) and bool(_RUNS_ON.match(text, start))
    if any(breaks):
        first, last = blanks[breaks.index(max(breaks))].span()
    elif blanks and (run_on or (gap[0].isspace() and gap[-1].isspace())):
        first, last = blanks[-1].span()
    elif run_on:
        first = next((place for place in range(len(gap)) if not _RUNS_ON.match(gap, place)), 0)
        last = first + 1
    else:
        return []
    return [(end + first, end + last)]


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


def _word_at(ends: Sequence[int], token: Span | None) -> int:
    """The word of a token, by where words end: white space belongs to the word after it, at the end of the text to the last one."""
    return -1 if token is None or not ends else min(bisect_right(ends, token[0]), len(ends) - 1)
