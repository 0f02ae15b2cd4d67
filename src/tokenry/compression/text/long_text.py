r"""Long documents for a short window: what carries little is dropped before a text is tokenised, and the report says what still overflows.

    1 stopwords        words of a list                                       2 punctuation   what holds no letter or digit
    3 low frequency    words with count < min_count in the training texts    4 recurring     all but the first occurrence in a document

Any of them can be chosen; they are applied in this order. A word is `\w+(?:[-'’]\w+)*`, every other visible character is punctuation;
words are compared casefolded, and joined by one blank in their order. Low frequency is fitted on the training texts alone.

    hacks = TextHacks(stopwords=stopword_list("english")).fit(train)
    short = hacks.transform(texts, tokenizer, max_length=512)
    hacks.report()

Source: Simple Hack for Transformers against Heavy Long-Text Classification (arXiv 2403.12563); the definitions are ours.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.io.reading import read_text
from tokenry.core.text.token_counts import AnyTokenizer, text_token_counts
from tokenry.core.text.token_statistics import TokenStats, stats_of_counts
from tokenry.core.text.words import SCRIPTS_WITHOUT_BLANKS

KEPT = "kept"
HACKS = ("stopwords", "punctuation", "low-frequency", "recurring")
Splitter = Callable[[str], Sequence[str]]
"""Cuts a text into words and punctuation."""

_TOKENS = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
_WORD, _ALONE = re.compile(r"\w"), re.compile(SCRIPTS_WITHOUT_BLANKS)
_MANY_ALONE = 0.1


def word_tokens(text: str) -> list[str]:
    """The words and the punctuation of a text; words with hyphens or apostrophes are one."""
    return _TOKENS.findall(text)


def word_counts(
    texts: Iterable[str], splitter: Splitter = word_tokens, by_documents: bool = False
) -> Counter[str]:
    """How often each word stands in the texts, or in how many of them, by casefolded word."""
    counts: Counter[str] = Counter()
    if by_documents:
        for text in texts:
            counts.update({word.casefold() for word in splitter(text) if _WORD.search(word)})
        return counts
    for word, count in Counter(chain.from_iterable(map(splitter, texts))).items():
        if _WORD.search(word):
            counts[word.casefold()] += count
    return counts


@dataclass(frozen=True)
class HackReport:
    """What the hacks did to the texts.

    Attributes:
        documents: number of texts.
        words_before: words and punctuation of all texts.
        words_after: those that are left.
        dropped: number of them that each hack dropped, by its name.
        emptied: texts of which nothing was left.
        fell_back: texts that were kept as they were for that reason.
        left_alone: texts that fit in the window and were kept as they were (`only_if_longer`).
        without_blanks: share of the different words in scripts that are written without blanks.
        tokens_before: tokens of the texts as they were; None without a tokenizer.
        tokens_after: tokens of the texts as they are now.
    """

    documents: int
    words_before: int
    words_after: int
    dropped: Mapping[str, int]
    emptied: int
    fell_back: int
    left_alone: int
    without_blanks: float
    tokens_before: TokenStats | None = None
    tokens_after: TokenStats | None = None

    @property
    def warnings(self) -> list[str]:
        """What must not be missed."""
        found = []
        if self.without_blanks > _MANY_ALONE:
            found.append(
                f"{self.without_blanks:.0%} of the words are in scripts without blanks, where a run of characters is no word: "
                "give a word splitter of the language."
            )
        if self.fell_back:
            found.append(
                f"{self.fell_back} of {self.documents} texts were kept as they were: the hacks leave nothing of them."
            )
        elif self.emptied:
            found.append(f"the hacks leave nothing of {self.emptied} of {self.documents} texts.")
        return found


@dataclass
class TextHacks:
    """Hacks that shorten documents.

    Attributes:
        stopwords: words to drop; any collection.
        punctuation: drop punctuation.
        min_count: drop words that stand less often in the training texts, words that they do not have too; None keeps all.
        recurring: drop all but the first occurrence of a word in a document.
        splitter: cuts a text into words and punctuation; None for languages with blanks.
        by_documents: `min_count` counts documents that have the word, not its occurrences.
        keep_empty: leave a document empty of which the hacks leave nothing, instead of keeping it as it was.
        only_if_longer: leave documents alone that fit in the window.
        counts: how often each word stands in the training texts, from `fit`.
    """

    stopwords: Any = ()
    punctuation: bool = False
    min_count: int | None = None
    recurring: bool = False
    splitter: Splitter | None = None
    by_documents: bool = False
    keep_empty: bool = False
    only_if_longer: bool = False
    counts: Counter[str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        require_at_least(1, min_count=self.min_count)
        words = self.stopwords
        if isinstance(words, str | bytes | Mapping) or not isinstance(words, Iterable):
            raise UserError(
                f"stopwords must be a list or set of words, got {type(words).__name__} {words!r}: for one word, give [word]."
            )
        self.stopwords = frozenset(words)
        if wrong := [word for word in self.stopwords if not isinstance(word, str)]:
            raise UserError(
                f"stopwords must be words, got {wrong[0]!r} ({type(wrong[0]).__name__}) among them."
            )
        self._report: HackReport | None = None

    @classmethod
    def named(
        cls, hacks: Iterable[str], stopwords: Any = (), min_count: int = 2, **options: Any
    ) -> "TextHacks":
        """The hacks with these names, of `HACKS`; `stopwords` and `min_count` count where their hack is named."""
        chosen = list(hacks)
        for hack in chosen:
            require_one_of(hack, HACKS, "hack")
        return cls(
            stopwords=stopwords if "stopwords" in chosen else (),
            punctuation="punctuation" in chosen,
            min_count=min_count if "low-frequency" in chosen else None,
            recurring="recurring" in chosen,
            **options,
        )

    def fit(self, texts: Iterable[str]) -> "TextHacks":
        """Count the words of the training texts."""
        self.counts = word_counts(_checked(texts), self._split, self.by_documents)
        return self

    def judged(self, text: str) -> list[tuple[str, str]]:
        """The words and the punctuation of a text, each with `kept` or the hack that drops it."""
        tokens = self._split(text)
        return list(zip(tokens, self._verdicts().of(tokens), strict=True))

    def words(self, text: str) -> list[str]:
        """The words and the punctuation that the hacks leave of a text."""
        return [token for token, verdict in self.judged(text) if verdict is KEPT]

    def transform(
        self, texts: Iterable[str], tokenizer: AnyTokenizer | None = None, max_length: int | None = None
    ) -> list[str]:
        """Shorten texts.

        Args:
            tokenizer: the tokenizer of the classifier; the report then counts tokens too.
            max_length: its window in tokens, special ones included.
        """
        given, verdicts = _checked(texts), self._verdicts()
        if (tokenizer is None) != (max_length is None):
            raise UserError("give tokenizer and max_length together, or neither of them.")
        if self.only_if_longer and tokenizer is None:
            raise UserError(
                "only_if_longer needs the tokenizer and its window: call transform(texts, tokenizer, max_length)."
            )
        counts = self._counts(given, tokenizer)
        fits = [self.only_if_longer and count <= (max_length or 0) for count in counts.tolist()]
        told: Counter[str] = Counter()
        short = [
            text if fit else self._shortened(text, verdicts, told)
            for text, fit in zip(given, fits, strict=True)
        ]
        self._report = HackReport(
            documents=len(given),
            words_before=sum(told[name] for name in (KEPT, *HACKS)),
            words_after=told[KEPT],
            dropped={hack: told[hack] for hack in HACKS},
            emptied=told["emptied"],
            fell_back=0 if self.keep_empty else told["emptied"],
            left_alone=sum(fits),
            without_blanks=verdicts.without_blanks,
            tokens_before=self._stats(given, counts, max_length),
            tokens_after=self._stats(short, self._counts(short, tokenizer), max_length),
        )
        return short

    def report(self) -> HackReport:
        """What the last `transform` did."""
        if self._report is None:
            raise UserError("there is nothing to report yet: transform texts first.")
        return self._report

    @property
    def _split(self) -> Splitter:
        return self.splitter or word_tokens

    def _verdicts(self) -> "_Verdicts":
        if self.min_count is not None and self.counts is None:
            raise UserError(
                "the hack low-frequency (min_count) needs the words of the training texts: call fit(train_texts) first."
            )
        return _Verdicts(self)

    def _shortened(self, text: str, verdicts: "_Verdicts", told: Counter[str]) -> str:
        tokens = self._split(text)
        became = verdicts.of(tokens)
        told.update(became)
        left = [token for token, verdict in zip(tokens, became, strict=True) if verdict is KEPT]
        if left or not tokens:
            return " ".join(left)
        told["emptied"] += 1
        return "" if self.keep_empty else text

    def _counts(self, texts: Sequence[str], tokenizer: AnyTokenizer | None) -> Int[ndarray, "texts"]:
        if tokenizer is None:
            return np.zeros(len(texts), dtype=np.int64)
        return text_token_counts(tokenizer, texts, special_tokens=True)

    def _stats(
        self, texts: Sequence[str], counts: Int[ndarray, "texts"], max_length: int | None
    ) -> TokenStats | None:
        return _token_stats(texts, counts, max_length, self._split) if texts and max_length else None


class _Verdicts(dict[str, str]):
    """What becomes of a token in any document: `kept`, or the hack that drops it. Each different token is judged once."""

    def __init__(self, hacks: TextHacks) -> None:
        super().__init__()
        self._hacks, self._counts = hacks, hacks.counts or Counter()
        self._stop = {word.casefold() for word in hacks.stopwords}
        self._keys: dict[str, str] = {}
        self._alone = 0

    def __missing__(self, token: str) -> str:
        self[token] = verdict = self._judged(token)
        return verdict

    def _judged(self, token: str) -> str:
        if not _WORD.search(token):
            return "punctuation" if self._hacks.punctuation else KEPT
        key = self._keys[token] = token.casefold()
        self._alone += bool(_ALONE.search(token))
        if key in self._stop:
            return "stopwords"
        least = self._hacks.min_count
        return "low-frequency" if least is not None and self._counts[key] < least else KEPT

    def of(self, tokens: Sequence[str]) -> list[str]:
        """What becomes of each token of one document."""
        became = [self[token] for token in tokens]
        if self._hacks.recurring:
            seen: set[str] = set()
            for place, token in enumerate(tokens):
                key = self._keys.get(token)
                if key is not None and became[place] is KEPT:
                    if key in seen:
                        became[place] = "recurring"
                    seen.add(key)
        return became

    @property
    def without_blanks(self) -> float:
        """Share of the different words in scripts that are written without blanks."""
        return self._alone / len(self._keys) if self._keys else 0.0


@dataclass(frozen=True)
class TokenizerLengths:
    """How long documents are for one tokenizer, special tokens included.

    Attributes:
        tokens: statistics of the tokens; `truncated` is the share over the longest window.
        over: share of the documents over each window.
    """

    name: str
    tokens: TokenStats
    over: Mapping[int, float]


def tokenizer_length_report(
    tokenizers: Mapping[str, AnyTokenizer],
    texts: Sequence[str],
    max_lengths: Sequence[int] = (128, 256, 512),
    splitter: Splitter = word_tokens,
) -> list[TokenizerLengths]:
    """Compare tokenizers on the training texts, the one with the fewest tokens first: the paper takes its model.

    Args:
        max_lengths: windows in tokens.
        splitter: cuts a text into words, for the tokens per word.
    """
    if not tokenizers or not max_lengths:
        raise UserError("a length report needs at least one tokenizer and one window.")
    rows = []
    for name, tokenizer in tokenizers.items():
        counts = text_token_counts(tokenizer, texts, special_tokens=True)
        stats = _token_stats(texts, counts, max(max_lengths), splitter)
        rows.append(
            TokenizerLengths(name, stats, {window: float((counts > window).mean()) for window in max_lengths})
        )
    return sorted(rows, key=lambda row: row.tokens.mean)


def stopword_list(name: str) -> frozenset[str]:
    """Stopwords by name: a file with one word per line, `english` (scikit-learn's), or `CODE:N`, the N commonest words of a language.

    Raises:
        UserError: the name is none of them, or wordfreq, which knows the commonest words, is not installed.
    """
    code, _, number = name.partition(":")
    if number.isdigit():
        try:
            import wordfreq
        except ImportError as error:
            raise UserError("the package wordfreq is not installed: pip install 'tokenry[words]'.") from error
        try:
            return frozenset(wordfreq.top_n_list(code, int(number)))
        except LookupError as error:
            raise UserError(
                f"wordfreq knows no words of the language {code!r}: give a file of stopwords."
            ) from error
    if name == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return frozenset(ENGLISH_STOP_WORDS)
    if not Path(name).is_file():
        raise UserError(
            f"stopwords must be a file with one word per line, english, or a language with a number such as id:100, got {name!r}."
        )
    return frozenset(line.strip() for line in read_text(Path(name)).splitlines() if line.strip())


def _token_stats(
    texts: Sequence[str], counts: Int[ndarray, "texts"], max_length: int, splitter: Splitter
) -> TokenStats:
    words, characters = sum(len(splitter(text)) for text in texts), sum(map(len, texts))
    return stats_of_counts(counts, characters=characters, words=words, max_length=max_length, batch_size=16)


def _checked(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise UserError("texts must be a list of texts, got one text: give [text].")
    given = list(texts)
    if wrong := [text for text in given if not isinstance(text, str)]:
        raise UserError(f"texts must be texts, got {wrong[0]!r} ({type(wrong[0]).__name__}) among them.")
    return given
