"""From a corpus to the documents that are kept: a sample to measure, a threshold, the filter, and what it gained and lost.

    sample      of the most frequent domains, some documents each; without domains, as many of the whole corpus
    filter      documents with score >= τ
    report      documents and characters kept, by domain and by length

Everything reads batch by batch: memory holds the sample, and of a corpus its most frequent domains.

Source: PreSelect (arXiv 2503.00808), section 3: 3,000 domains, 300 documents each; the best tenth by characters.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from tokenry.core.errors import UserError
from tokenry.core.io.corpus import Fields, ShardBatch, open_shard, read_shard
from tokenry.data.scorers import TextScorer
from tokenry.data.selection_settings import SampleConfig
from tokenry.data.thresholds import length_weighted_threshold

_MOST_DOMAINS = 10_000
_COUNTED = ("lengths", "kept_lengths", "domains", "kept_domains")


@dataclass(frozen=True)
class Document:
    """A document of a sample."""

    text: str
    domain: str = ""


def sample_documents(read: Callable[[], Iterable[ShardBatch]], config: SampleConfig) -> list[Document]:
    """Draw documents of the most frequent domains, each document of a domain with the same probability; empty ones are left out.

    Args:
        read: reads the corpus from its beginning; called twice.
        config: how many.

    Raises:
        UserError: the corpus has no text.
    """
    counts: Counter[str] = Counter()
    for batch in read():
        counts.update(domain for text, domain in _with_text(batch))
        _trim(counts, max(_MOST_DOMAINS, 10 * config.domains))
    if not counts:
        raise UserError("the corpus holds no text: every document is empty, or there is none.")
    chosen = [domain for domain, _ in counts.most_common(config.domains)]
    most = config.per_domain * (1 if len(chosen) > 1 else config.domains)
    drawn: dict[str, list[str]] = {domain: [] for domain in chosen}
    seen: Counter[str] = Counter()
    draw = random.Random(config.seed)
    for text, domain in chain.from_iterable(map(_with_text, read())):
        if domain in drawn:
            seen[domain] += 1
            place = len(drawn[domain]) if seen[domain] <= most else draw.randrange(seen[domain])
            if place < most:
                drawn[domain][place : place + 1] = [text]
    return [Document(text, domain) for domain, texts in drawn.items() for text in texts]


@dataclass
class Selection:
    """What was read and what was kept.

    Attributes:
        characters: of all documents.
        kept_characters: of those that were kept.
        lengths: documents by the power of 2 that their length in characters reaches.
        kept_lengths: the same of those that were kept.
        domains: documents by domain, of the most frequent ones.
        kept_domains: the same of those that were kept.
    """

    characters: int = 0
    kept_characters: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    kept_lengths: Counter[int] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)
    kept_domains: Counter[str] = field(default_factory=Counter)

    @property
    def documents(self) -> int:
        """Number of documents that were read."""
        return self.lengths.total()

    @property
    def kept_documents(self) -> int:
        """Number of documents that were kept."""
        return self.kept_lengths.total()

    def add(self, batch: ShardBatch, kept: Bool[ndarray, "rows"]) -> None:
        """Count a batch."""
        for text, domain, keep in zip(batch.texts, batch.domains, kept.tolist(), strict=True):
            length = len(text)
            power = max(0, length.bit_length() - 1)
            self.characters += length
            self.lengths[power] += 1
            self.domains[domain] += 1
            if keep:
                self.kept_characters += length
                self.kept_lengths[power] += 1
                self.kept_domains[domain] += 1
        self._trim()

    def merge(self, other: "Selection") -> None:
        """Count what was counted elsewhere."""
        self.characters += other.characters
        self.kept_characters += other.kept_characters
        for name in _COUNTED:
            getattr(self, name).update(getattr(other, name))
        self._trim()

    def _trim(self) -> None:
        if _trim(self.domains, _MOST_DOMAINS):
            self.kept_domains = Counter({name: self.kept_domains[name] for name in self.domains})

    def as_json(self) -> dict[str, Any]:
        """What a record of a shard holds."""
        counted = {name: dict(getattr(self, name)) for name in _COUNTED}
        return {"characters": self.characters, "kept_characters": self.kept_characters, **counted}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Selection":
        """The counts of a record; JSON writes whole numbers as names."""
        found = cls(record["characters"], record["kept_characters"])
        for name in _COUNTED:
            key = int if name.endswith("lengths") else str
            getattr(found, name).update({key(what): count for what, count in record[name].items()})
        return found


def filter_documents(
    scorer: TextScorer, batches: Iterable[ShardBatch], threshold: float | int
) -> Iterator[tuple[ShardBatch, Bool[ndarray, "rows"]]]:
    """Yield batches with what is kept of them: documents with a score of at least the threshold."""
    for batch in batches:
        yield batch, scorer.score(batch.texts) >= threshold


def filter_shard(
    scorer: TextScorer, batches: Iterable[ShardBatch], threshold: float | int, source: Path, target: Path
) -> Selection:
    """Write the documents of a shard that are kept, whole rows, into a new shard of the same kind.

    Args:
        scorer: scores the texts.
        batches: the documents of the shard.
        threshold: lowest score that is kept.
        source: the shard.
        target: the new shard, there only when it is whole.
    """
    counted = Selection()
    with open_shard(target, like=source) as write:
        for batch, kept in filter_documents(scorer, batches, threshold):
            counted.add(batch, kept)
            write(batch, kept)
    return counted


def threshold_of(scorer: TextScorer, batches: Iterable[ShardBatch], keep: float) -> float:
    """The score from which on a share of the characters of these documents is kept."""
    scores, lengths = [], []
    for batch in batches:
        scores.append(scorer.score(batch.texts))
        lengths.append(np.array([len(text) for text in batch.texts], dtype=np.int64))
    if not scores:
        raise UserError("the corpus holds no documents: there is nothing to keep.")
    return length_weighted_threshold(np.concatenate(scores), np.concatenate(lengths), keep)


def beginnings(shards: Iterable[Path], fields: Fields, documents: int) -> Iterator[ShardBatch]:
    """The first documents of every shard, as many of each, about `documents` together."""
    paths = list(shards)
    each = max(1, documents // len(paths))
    size = min(1000, each)
    return chain.from_iterable(islice(read_shard(path, fields, size), -(-each // size)) for path in paths)


def _with_text(batch: ShardBatch) -> Iterator[tuple[str, str]]:
    return ((text, domain) for text, domain in zip(batch.texts, batch.domains, strict=True) if text.strip())


def _trim(counts: Counter[str], most: int) -> bool:
    """Forget the rarest where there are more than twice as many as wanted."""
    if len(counts) <= 2 * most:
        return False
    kept = counts.most_common(most)
    counts.clear()
    counts.update(dict(kept))
    return True
