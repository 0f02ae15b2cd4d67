"""Samples, thresholds and the filter: batch by batch, with an account of what was kept."""

import json

import numpy as np
import pytest

from tests.tiny.chats import write_rows
from tokenry.core.errors import UserError
from tokenry.core.io.corpus import Fields, ShardBatch, read_shard
from tokenry.data import SampleConfig, Selection, filter_shard, sample_documents, threshold_of
from tokenry.data.scorers import TextScorer
from tokenry.data.selection import beginnings


class Length(TextScorer):
    """The longer, the better."""

    def score(self, texts):
        return np.array([float(len(text)) for text in texts])

    def word_weights(self):
        return [], np.zeros(0)

    def save(self, path):
        raise NotImplementedError


def batches(*rows, size=3):
    for start in range(0, len(rows), size):
        texts, domains = zip(*rows[start : start + size], strict=True)
        yield ShardBatch([*texts], [*domains], [*texts])


def test_a_sample_has_some_documents_of_the_most_frequent_domains():
    rows = [
        (f"{domain} {number}", domain)
        for domain, count in (("a", 30), ("b", 20), ("c", 2))
        for number in range(count)
    ]
    found = sample_documents(lambda: batches(*rows), SampleConfig(domains=2, per_domain=5))
    assert [document.domain for document in found] == ["a"] * 5 + ["b"] * 5
    assert len({document.text for document in found}) == 10
    assert found == sample_documents(lambda: batches(*rows, size=7), SampleConfig(domains=2, per_domain=5))
    assert found != sample_documents(lambda: batches(*rows), SampleConfig(domains=2, per_domain=5, seed=1))


def test_every_document_of_a_domain_is_drawn_equally_often():
    rows = [(str(number), "") for number in range(10)]
    drawn = [
        int(document.text)
        for seed in range(300)
        for document in sample_documents(lambda: batches(*rows), SampleConfig(2, 1, seed))
    ]
    assert len(drawn) == 600
    assert np.bincount(drawn, minlength=10).min() > 30


def test_without_domains_the_sample_is_of_the_whole_corpus():
    rows = [(str(number), "") for number in range(10)] + [("  ", "")]
    assert len(sample_documents(lambda: batches(*rows), SampleConfig(domains=4, per_domain=2))) == 8
    assert len(sample_documents(lambda: batches(*rows), SampleConfig(domains=9, per_domain=2))) == 10


def test_a_corpus_without_text_is_refused():
    for rows in ([], [("", "a"), (" \n", "b")]):
        with pytest.raises(UserError, match="the corpus holds no text"):
            sample_documents(lambda rows=rows: batches(*rows), SampleConfig())


def test_the_filter_keeps_whole_rows_and_counts_them(tmp_path):
    rows = [
        {"text": "x" * length, "domain": "even" if length % 2 == 0 else "odd", "id": length}
        for length in range(1, 9)
    ]
    source, target = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "kept/rows.jsonl"
    counted = filter_shard(Length(), read_shard(source, size=3), 6, source, target)
    assert [json.loads(line) for line in target.read_text().splitlines()] == rows[5:]
    assert (counted.documents, counted.kept_documents) == (8, 3)
    assert (counted.characters, counted.kept_characters) == (36, 21)
    assert counted.domains == {"even": 4, "odd": 4}
    assert counted.kept_domains == {"even": 2, "odd": 1}
    assert counted.lengths == {0: 1, 1: 2, 2: 4, 3: 1}
    again = Selection.from_json(json.loads(json.dumps(counted.as_json())))
    assert again == counted
    again.merge(counted)
    assert (again.documents, again.kept_characters) == (16, 42)


def test_a_share_of_the_characters_is_kept():
    rows = [("x" * length, "") for length in range(1, 21)]
    threshold = threshold_of(Length(), batches(*rows), keep=0.5)
    kept = sum(len(text) for text, _ in rows if len(text) >= threshold)
    assert 105 <= kept < 105 + 20
    assert threshold_of(Length(), batches(*rows), keep=1.0) == -100.0


def test_the_threshold_is_taken_from_the_beginning_of_every_shard(tmp_path):
    shards = [
        write_rows(tmp_path / f"{name}.jsonl", [{"text": f"{name}{number}"} for number in range(9)])
        for name in "abc"
    ]
    found = [text for batch in beginnings(shards, Fields(), 12) for text in batch.texts]
    assert found == [f"{name}{number}" for name in "abc" for number in range(4)]


def test_no_documents_have_no_threshold():
    with pytest.raises(UserError, match="there is nothing to keep"):
        threshold_of(Length(), [], keep=0.5)


def test_many_domains_are_counted_by_the_most_frequent(monkeypatch):
    monkeypatch.setattr("tokenry.data.selection._MOST_DOMAINS", 2)
    counted = Selection()
    for number in range(6):
        rows = [("text", "frequent")] * 3 + [("text", f"rare {number}")]
        for batch in batches(*rows, size=4):
            counted.add(batch, np.ones(4, dtype=bool))
    assert counted.domains["frequent"] == counted.kept_domains["frequent"] == 18
    assert len(counted.domains) <= 4
    assert counted.documents == 24
