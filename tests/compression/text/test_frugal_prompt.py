"""Prompt compression: shares, budgets that are never exceeded, protected parts, cuts by spans, and what is refused."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny.tokenizers import byte_level, chatml_tokenizer, sentencepiece, word_piece
from tokenry.compression.text import PromptCompressor, RandomScorer, ScoredText, keep_words, merge_pieces
from tokenry.compression.text.frugal_prompt import cut_text
from tokenry.core.errors import UserError
from tokenry.core.text.token_counts import text_token_counts
from tokenry.core.text.words import parts_of, protected_spans, word_scores, word_spans

TARGETS = {
    "chat": chatml_tokenizer(),
    "bytes": byte_level(),
    "pieces": sentencepiece(),
    "wordpiece": word_piece(),
}
WRITTEN = st.lists(
    st.sampled_from(["cat", "on", "3.50", "$", "-4", ",", ".", "(", ")", "東京", "नमस्ते", '"a b"', "`x = 1`", "naïve", "\n\n"]),
    max_size=25,
)  # fmt: skip
GLUE = st.sampled_from([" ", "", "  "])
random = partial(PromptCompressor, RandomScorer())


def kept_text(text, *words):
    """The text of which these words, by number, are kept."""
    spans = tuple(word_spans(text))
    kept = torch.tensor([number in words for number in range(len(spans))])
    return cut_text(ScoredText(text, spans, torch.zeros(len(spans))), kept)


@pytest.mark.parametrize(
    ("text", "words", "left"),
    [
        ("one two three", (0, 2), "one three"),
        ("costs $3.50 here", (0, 1, 2), "costs $3.50"),
        ("really bad. So", (0, 2, 3), "really. So"),
        ("good, nice", (0, 2), "good nice"),
        ("(foo bar)", (0, 2, 3), "(bar)"),
        ("3-4", (0, 2), "3-4"),
        ("foo(bar)", (0, 2), "foo(bar"),
        ("First line.\n\nSecond one", (0, 1, 4), "First line\n\none"),
        ("a\nb c\n\nd", (0, 3), "a\n\nd"),
        ("東京大阪", (0, 2), "東大"),
        ("  all of it \n", (0, 1, 2), "  all of it \n"),
        ("  not all", (1,), "all"),
        ("nothing", (), ""),
    ],
)
def test_what_stands_between_the_kept_words(text, words, left):
    assert kept_text(text, *words) == left


@settings(deadline=None, max_examples=60)
@given(
    pieces=WRITTEN,
    glue=GLUE,
    target=st.sampled_from(sorted(TARGETS)),
    tokens=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_a_budget_is_never_exceeded_and_what_is_left_stands_in_the_prompt(pieces, glue, target, tokens, seed):
    text, tokenizer = glue.join(pieces), TARGETS[target]
    found = PromptCompressor(RandomScorer(seed), tokens=tokens, tokenizer=tokenizer, min_keep=0).compress(
        text
    )
    assert found.tokens == int(text_token_counts(tokenizer, [found.text])[0]) <= tokens
    parts = parts_of(text, found.scored.spans, found.kept)
    ends = [place for part in parts for place in part]
    assert ends == sorted(ends)
    assert "".join(text[start:end] for start, end in parts) == found.text
    assert all(any(a <= start and end <= b for a, b in parts) for start, end in found.kept_spans)
    if found.original_tokens <= tokens and word_spans(text):
        assert found.text == text


@settings(deadline=None, max_examples=40)
@given(pieces=WRITTEN, glue=GLUE, keep=st.sampled_from([0.2, 0.5, 0.8, 1.0]), seed=st.integers(0, 9))
def test_a_share_is_rounded_half_to_even_and_at_least_one_word_stays(pieces, glue, keep, seed):
    text = glue.join(pieces)
    found = PromptCompressor(RandomScorer(seed), keep=keep).compress(text)
    number = len(found.scored)
    assert int(found.kept.sum()) == min(number, max(1, round(round(keep * number, 9))))
    assert found.ratio == (int(found.kept.sum()) / number if number else 1)
    best = found.scored.scores[found.kept].tolist()
    assert not best or min(best) >= max(found.scored.scores[~found.kept].tolist(), default=-1)
    if keep == 1 and number:
        assert found.text == text


@settings(deadline=None, max_examples=40)
@given(pieces=WRITTEN, what=st.sampled_from(["numbers", "code", "quotes", "cat"]), seed=st.integers(0, 9))
def test_protected_parts_survive_as_they_stood(pieces, what, seed):
    text, tokenizer = " ".join(pieces), TARGETS["bytes"]
    spans = protected_spans(text, [what])
    everything = PromptCompressor(RandomScorer(seed), keep=1.0, protect=what).compress(text)
    share = (int(everything.protected.sum()) + 1) / (len(everything.protected) + 1)
    found = PromptCompressor(RandomScorer(seed), keep=min(1.0, share + 0.05), protect=(what,)).compress(text)
    for start, end in spans:
        assert text[start:end] in found.text
    needed = int(text_token_counts(tokenizer, [cut_text(found.scored, found.protected)])[0])
    if needed:
        budget = PromptCompressor(
            RandomScorer(seed), tokens=needed, tokenizer=tokenizer, protect=what, min_keep=0
        )
        assert all(text[start:end] in budget.compress(text).text for start, end in spans)
        if needed > 1:
            with pytest.raises(
                UserError, match=f"alone need {needed}; use tokens={needed} or more, or protect less"
            ):
                PromptCompressor(
                    RandomScorer(seed), tokens=needed - 1, tokenizer=tokenizer, protect=what
                ).compress(text)


def test_words_that_still_fit_fill_the_budget():
    spans = tuple(word_spans("cat unforeseeable dog mat"))
    scored = ScoredText("cat unforeseeable dog mat", spans, torch.tensor([4.0, 3.0, 2.0, 1.0]))
    tokenizer = TARGETS["bytes"]
    costs = [int(text_token_counts(tokenizer, [text])[0]) for text in ("cat", "cat dog", "cat unforeseeable")]
    assert costs[0] < costs[1] < costs[2]
    found = random(tokens=costs[1], tokenizer=tokenizer).cut(scored)
    assert (found.text, found.tokens) == ("cat dog", costs[1])


def test_words_of_every_sentence_compete_alone():
    text = "one two three four. five six seven eight."
    found = random(keep=0.4, per="sentence").compress(text)
    first = text.index("five")
    assert [
        sum(start < first for start, _ in found.kept_spans),
        sum(start >= first for start, _ in found.kept_spans),
    ] == [2, 2]


def test_equal_scores_keep_the_earlier_words():
    spans = tuple(word_spans("a b c d"))
    assert random(keep=0.5).cut(ScoredText("a b c d", spans, torch.ones(4))).text == "a b"


def test_spans_can_be_protected():
    found = random(keep=0.4, protect=[(4, 6)]).compress("one two three four five")
    assert "two" in found.text


@pytest.mark.parametrize(
    ("text", "min_keep", "left"), [("", 1, ""), ("   ", 1, ""), ("word", 1, "word"), ("word", 0, "")]
)
def test_empty_and_tiny_prompts(text, min_keep, left):
    found = random(keep=0.5, min_keep=min_keep).compress(text)
    assert (found.text, found.ratio) == (left, 1.0 if not text.strip() or left else 0.0)


def test_the_order_of_a_batch_changes_nothing():
    texts = ["one two three four", "five six seven", ""]
    compressor = random(keep=0.5)
    assert [found.text for found in compressor.compress_all(texts)] == [
        compressor.compress(text).text for text in texts
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0.0}, "keep must be in (0, 1], got 0.0: it is a share of the words"),
        ({"keep": 80}, "keep must be in (0, 1], got 80"),
        ({"keep": 0.5, "tokens": 9}, "give keep=0.5 or tokens=9, not both"),
        ({"tokens": 0, "tokenizer": TARGETS["bytes"]}, "tokens must be at least 1, got 0"),
        ({"tokens": 9}, "give its tokenizer as tokenizer="),
        (
            {"tokens": 9, "tokenizer": TARGETS["bytes"], "per": "sentence"},
            "tokens is a budget of the whole text",
        ),
        ({"per": "line"}, "per must be one of text, sentence, got 'line'"),
        ({"min_keep": -1}, "min_keep must be at least 0, got -1"),
        (
            {"protect": "("},
            "protect takes numbers, code, quotes, json-keys or a regular expression; '(' is none",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(options, words):
    with pytest.raises(UserError) as refused:
        random(**options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("compress", "words"),
    [
        (lambda: random().compress_all([]), "there are no prompts: give at least one"),
        (lambda: random(keep=0.3, protect="numbers").compress("1 2 3 four"), "keep=0.3 keeps 1 of 4 words, and 3 are protected: use keep=0.75"),
        (lambda: random(tokens=1, tokenizer=TARGETS["bytes"]).compress("naïve"), "the highest word alone need"),
        (lambda: random().cut(ScoredText("a", ((0, 1),), torch.tensor([torch.nan]))), "1 of 1 words have no finite score"),
        (lambda: merge_pieces(["a"], torch.ones(1), "bpe"), "scheme must be one of wordpiece, sentencepiece"),
        (lambda: keep_words(["a"], torch.ones(1), 0.5, min_keep=-1), "min_keep must be at least 0"),
        (lambda: word_scores(torch.ones(1), [0], "median"), "reduce must be one of sum, mean, max"),
    ],
)  # fmt: skip
def test_what_cannot_be_shortened_is_refused(compress, words):
    with pytest.raises(UserError) as refused:
        compress()
    assert words in str(refused.value)


def test_word_scores_by_the_word_ids_of_a_tokenizer():
    scores = torch.tensor([9.0, 1.0, 2.0, 4.0, 9.0])
    assert word_scores(scores, [None, 0, 0, 1, None]).tolist() == [3, 4]
    assert word_scores(scores, [None, 0, 0, 1, None], "mean").tolist() == [1.5, 4]
    assert word_scores(scores, [None, 0, 0, 1, None], "max").tolist() == [2, 4]
