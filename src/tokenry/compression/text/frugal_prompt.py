"""FrugalPrompt: shorten a prompt to its most important words, in their order, before a language model reads it.

    keep = 0.8      the round(0.8 · words) words with the highest scores, half to even; protected words first
    tokens = 500    as many of the highest words as the target model reads as at most 500 tokens, then lower ones that still fit

The scores come from any scorer (`scorers`). The text itself is cut by the spans of its words: nothing is joined from pieces, so that what
is kept stands as it stood, `$3.50` too. How many tokens a text has is counted anew for each candidate, with the target's own tokenizer.

Source: FrugalPrompt (arXiv 2510.16439). The budget in tokens and protected words are ours; `released_words` holds the rules of its code.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.compression.text.scorers import PromptScorer, ScoredText
from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.tensors.choices import kept_counts
from tokenry.core.text.sentences import sentences
from tokenry.core.text.token_counts import AnyTokenizer, text_token_counts
from tokenry.core.text.words import Span, parts_of, protected_spans, touched

KEEP = 0.8
_TRIES = 16


@dataclass(frozen=True)
class Compressed:
    """A shortened prompt.

    Attributes:
        scored: the words of the prompt with their scores.
        kept: which of them are kept.
        protected: which of them had to be.
        text: what is left.
        tokens: its tokens, as the target model reads it; None without a tokenizer.
        original_tokens: those of the whole prompt.
    """

    scored: ScoredText
    kept: Bool[Tensor, "words"]
    protected: Bool[Tensor, "words"]
    text: str
    tokens: int | None
    original_tokens: int | None

    @property
    def kept_spans(self) -> tuple[Span, ...]:
        """Characters of every kept word in the prompt."""
        return tuple(self.scored.spans[number] for number in self.kept.nonzero()[:, 0].tolist())

    @property
    def kept_words(self) -> tuple[str, ...]:
        """The kept words."""
        return tuple(self.scored.text[start:end] for start, end in self.kept_spans)

    @property
    def scores(self) -> Float[Tensor, "kept"]:
        """Score of every kept word."""
        return self.scored.scores[self.kept]

    @property
    def ratio(self) -> float:
        """Share of the words that is kept; 1 for a text without words."""
        return float(self.kept.double().mean()) if len(self.kept) else 1.0


@dataclass(frozen=True)
class PromptCompressor:
    """Shortens prompts: to a share of their words, or to a number of the target model's tokens.

    Attributes:
        scorer: says what each word is worth.
        keep: share of the words; None without `tokens`: 0.8, what the paper recommends.
        tokens: maximum number of tokens of the target model, special tokens aside; exclusive with `keep`.
        tokenizer: of the target model; needed for `tokens`.
        protect: what must stay: `numbers`, `code`, `quotes`, `json-keys`, regular expressions, or spans of characters.
        per: whether the words of the whole `text` compete, or those of each `sentence`.
        min_keep: number of words that are kept at least, of a text or of each sentence.
    """

    scorer: PromptScorer
    keep: float | int | None = None
    tokens: int | None = None
    tokenizer: AnyTokenizer | None = None
    protect: str | Sequence[str | Span] = ()
    per: str = "text"
    min_keep: int = 1

    def __post_init__(self) -> None:
        if self.keep is not None and self.tokens is not None:
            raise UserError(
                f"give keep={self.keep} or tokens={self.tokens}, not both: a share of the words, or a number of tokens."
            )
        if not 0.0 < self.share <= 1.0:
            raise UserError(
                f"keep must be in (0, 1], got {self.keep}: it is a share of the words, 80 % of them are keep=0.8."
            )
        require_at_least(1, tokens=self.tokens)
        require_at_least(0, min_keep=self.min_keep)
        require_one_of(self.per, ("text", "sentence"), "per")
        if self.tokens is not None and self.tokenizer is None:
            raise UserError(
                f"tokens={self.tokens} are those of the model that reads the prompt: give its tokenizer as tokenizer=."
            )
        if self.tokens is not None and self.per == "sentence":
            raise UserError("tokens is a budget of the whole text: use per=text, or keep=.")
        protected_spans("", [named for named in self._protect if isinstance(named, str)])

    @property
    def share(self) -> float:
        """The share of the words that is kept, where no number of tokens is given."""
        return KEEP if self.keep is None else float(self.keep)

    @property
    def _protect(self) -> Sequence[str | Span]:
        return (self.protect,) if isinstance(self.protect, str) else self.protect

    def compress(self, text: str) -> Compressed:
        """Shorten one prompt.

        Raises:
            UserError: less may stay than must.
        """
        return self.compress_all([text])[0]

    def compress_all(self, texts: Sequence[str]) -> list[Compressed]:
        """Shorten several prompts, each on its own."""
        if not texts:
            raise UserError("there are no prompts: give at least one.")
        return [self.cut(scored) for scored in self.scorer.score(list(texts))]

    def cut(self, scored: ScoredText) -> Compressed:
        """Shorten a prompt whose words are scored."""
        broken = int((~scored.scores.isfinite()).sum())
        if broken:
            raise UserError(
                f"{broken} of {len(scored)} words have no finite score, so they cannot be ranked: look for overflow in the scorer's model."
            )
        protected = self._protected(scored)
        if self.tokens is not None:
            kept = self._within_budget(scored, protected, self.tokens)
        else:
            kept = self._of_share(scored, protected)
        text = cut_text(scored, kept)
        counts = (
            (None, None) if self.tokenizer is None else text_token_counts(self.tokenizer, [text, scored.text])
        )
        tokens, original = (None if count is None else int(count) for count in counts)
        return Compressed(scored, kept, protected, text, tokens, original)

    def _protected(self, scored: ScoredText) -> Bool[Tensor, "words"]:
        named = [named for named in self._protect if isinstance(named, str)]
        spans = [span for span in self._protect if not isinstance(span, str)]
        return touched(scored.spans, [*protected_spans(scored.text, named), *spans])

    def _of_share(self, scored: ScoredText, protected: Bool[Tensor, "words"]) -> Bool[Tensor, "words"]:
        kept = torch.zeros_like(protected)
        for words in self._groups(scored):
            wanted = int(kept_counts(torch.tensor([words.numel()]), self.share, "half_even"))
            number, needed = min(max(wanted, self.min_keep), words.numel()), int(protected[words].sum())
            if needed > number:
                raise UserError(
                    f"keep={self.share:g} keeps {number} of {words.numel()} words, and {needed} are protected: use keep={needed / words.numel():.2f} "
                    "or more, or protect less."
                )
            kept[words[_ranking(scored.scores[words], protected[words])[:number]]] = True
        return kept

    def _groups(self, scored: ScoredText) -> list[Tensor]:
        """The words that compete: all, or those of each sentence."""
        if self.per == "text":
            return [torch.arange(len(scored))]
        starts, place = [], 0
        for sentence in sentences(scored.text):
            starts.append(place)
            place += len(sentence)
        of_word = torch.tensor([bisect_right(starts, start) for start, _ in scored.spans], dtype=torch.long)
        return [(of_word == number).nonzero()[:, 0] for number in of_word.unique()]

    def _within_budget(
        self, scored: ScoredText, protected: Bool[Tensor, "words"], tokens: int
    ) -> Bool[Tensor, "words"]:
        """The most of the highest words that fit, found by a search, and lower ones that fill what is left."""
        order = _ranking(scored.scores, protected)
        kept = torch.zeros_like(protected)
        must = min(max(int(protected.sum()), self.min_keep), len(order))
        kept[order[:must]] = True
        if (used := self._count(scored, kept)) > tokens:
            what = "protected" if bool(protected.any()) else "highest"
            raise UserError(
                f"tokens={tokens} is too few: the {what} {'word' if must == 1 else f'{must} words'} alone need {used}; use tokens={used} "
                f"or more, {'or protect less' if what == 'protected' else 'or min_keep=0'}."
            )
        fits, too_many, over = must, len(order) + 1, 0
        for turn in count():
            if too_many - fits <= 1:
                break
            # All words first; then by turns where the budget lies on a straight line, and in the middle, which cannot stall.
            step = (tokens - used) / (over - used) if over and turn % 2 else 0.5
            probe = (
                fits + min(max(int(step * (too_many - fits)), 1), too_many - fits - 1) if turn else len(order)
            )
            candidate = torch.zeros_like(kept)
            candidate[order[:probe]] = True
            if (found := self._count(scored, candidate)) <= tokens:
                fits, kept, used = probe, candidate, found
            else:
                too_many, over = probe, found
        for word in self._short_words(scored, order[fits:].tolist(), tokens - used):
            if used == tokens:
                break
            kept[word] = True
            if (found := self._count(scored, kept)) <= tokens:
                used = found
            else:
                kept[word] = False
        return kept

    def _count(self, scored: ScoredText, kept: Bool[Tensor, "words"]) -> int:
        assert self.tokenizer is not None
        return int(text_token_counts(self.tokenizer, [cut_text(scored, kept)])[0])

    def _short_words(self, scored: ScoredText, words: Sequence[int], tokens: int) -> list[int]:
        """The first of some words that may fit into so many tokens, taken alone."""
        assert self.tokenizer is not None
        if not words or not tokens:
            return []
        spans = [scored.spans[word] for word in words]
        costs = text_token_counts(self.tokenizer, [f" {scored.text[start:end]}" for start, end in spans])
        return [word for word, cost in zip(words, costs, strict=True) if cost <= tokens][:_TRIES]


def _ranking(scores: Float[Tensor, "words"], protected: Bool[Tensor, "words"]) -> Int[Tensor, "words"]:
    """The words, protected ones first, then by score; of equals the first."""
    return scores.double().masked_fill(protected, torch.inf).argsort(descending=True, stable=True)


def cut_text(scored: ScoredText, kept: Bool[Tensor, "words"]) -> str:
    """The text of the kept words, cut from the prompt."""
    return "".join(scored.text[start:end] for start, end in parts_of(scored.text, scored.spans, kept))
