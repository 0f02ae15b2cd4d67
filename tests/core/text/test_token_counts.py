import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import PreTrainedTokenizerFast

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.core.text.token_counts import (
    byte_premium,
    corpus_token_count,
    dispersion,
    dispersion_intervals,
    premium_intervals,
    segment_token_counts,
    token_premiums,
)
from tokenry.tokenization.training.byte_level_training import GPT2_PATTERN, train_bpe

GOLDEN = golden("premiums")
SIZES = GOLDEN["vocab_sizes"]
TEXTS = ["the cat sat on the mat", "the dog sat on the log"]


def counts_at(place: int) -> dict[str, int]:
    return {language: counts[place] for language, counts in GOLDEN["ctc"].items()}


@pytest.mark.parametrize("language", GOLDEN["languages"])
def test_corpus_token_counts_are_those_of_the_reference(language):
    for size, count in zip(SIZES, GOLDEN["ctc"][language], strict=True):
        tokenizer = train_bpe(GOLDEN["train"][language], size, GPT2_PATTERN)
        assert corpus_token_count(tokenizer, GOLDEN["eval"][language]) == count


def test_premiums_are_those_of_the_reference():
    for place in range(len(SIZES)):
        premiums = token_premiums(counts_at(place), "eng")
        for language, premium in premiums.items():
            assert premium == pytest.approx(GOLDEN["premium_vs_eng"][language][place], rel=1e-12)


def test_byte_premiums_are_those_of_the_reference():
    for language, texts in GOLDEN["eval"].items():
        premium = byte_premium(texts, GOLDEN["eval"]["eng"])
        assert premium == pytest.approx(GOLDEN["byte_premium_vs_eng"][language], rel=1e-12)


@pytest.mark.parametrize("place", range(len(SIZES)))
def test_the_spread_is_that_of_the_reference(place):
    found, expected = dispersion(counts_at(place)), GOLDEN["dispersion"][str(SIZES[place])]
    names = {"std_ddof1": "std", "max_over_min": "max_min"}
    for name, value in expected.items():
        assert getattr(found, names.get(name, name)) == pytest.approx(value, rel=1e-9), name


def test_a_segment_counts_the_tokens_of_its_texts_each_encoded_alone():
    tokenizer = train_bpe(TEXTS, 280)
    alone = [corpus_token_count(tokenizer, [text]) for text in TEXTS]
    assert segment_token_counts(tokenizer, [TEXTS, [], [TEXTS[0]]]).tolist() == [sum(alone), 0, alone[0]]


def test_special_tokens_are_not_counted():
    tokenizer = train_bpe(TEXTS, 280, special_tokens=["<s>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    wrapped.add_bos_token = True
    assert corpus_token_count(wrapped, TEXTS) == corpus_token_count(tokenizer, TEXTS)


def parallel(languages: int, segments: int):
    counts = arrays(np.int64, (languages, segments), elements=st.integers(1, 500))
    return counts.map(lambda each: {f"l{number}": row for number, row in enumerate(each)})


@settings(max_examples=25, deadline=None)
@given(parallel(4, 12))
def test_the_premium_of_a_language_against_itself_is_one_without_a_width(counts):
    for language in counts:
        own = premium_intervals(counts, language, samples=50)[language]
        assert (own.value, own.low, own.high) == (1.0, 1.0, 1.0)


@settings(max_examples=25, deadline=None)
@given(parallel(3, 10))
def test_the_order_of_the_segments_does_not_matter_to_any_figure(counts):
    turned = {language: each[::-1].copy() for language, each in counts.items()}
    ours, theirs = premium_intervals(counts, "l0", samples=20), premium_intervals(turned, "l0", samples=20)
    assert {name: each.value for name, each in ours.items()} == {
        name: each.value for name, each in theirs.items()
    }


def test_an_interval_holds_the_true_premium_about_as_often_as_it_says():
    generator, held = np.random.default_rng(0), 0
    for seed in range(200):
        base = generator.gamma(4, 25, size=40)
        counts = {
            "ref": np.rint(base).astype(np.int64) + 1,
            "other": np.rint(2 * base * generator.uniform(0.8, 1.2, size=40)).astype(np.int64) + 1,
        }
        found = premium_intervals(counts, "ref", samples=300, seed=seed)["other"]
        held += found.low <= 2.0 <= found.high
    assert 0.87 < held / 200 < 0.99


def test_texts_that_tell_the_same_story_share_their_draws():
    counts = {"a": np.array([10, 100, 30]), "b": np.array([20, 200, 60])}
    assert premium_intervals(counts, "a")["b"].high == pytest.approx(2.0, abs=1e-12)


def test_the_spread_has_intervals_around_its_figures():
    generator = np.random.default_rng(0)
    counts = {f"l{number}": generator.integers(20, 60 + 20 * number, 30) for number in range(6)}
    found = dispersion_intervals(counts)
    assert set(found) == {"mean", "std", "cv", "max_min"}
    assert all(each.low < each.high for each in found.values())
    assert found["mean"].low < found["mean"].value < found["mean"].high


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: corpus_token_count(train_bpe(TEXTS, 260), ["", ""]), "the evaluation text is empty"),
        (lambda: segment_token_counts(train_bpe(TEXTS, 260), [[]]), "the evaluation text is empty"),
        (
            lambda: token_premiums({"deu": 3}, "eng"),
            "the reference language 'eng' is not among the languages (deu)",
        ),
        (lambda: token_premiums({"deu": 3, "eng": 0}, "eng"), "the evaluation text of eng is empty"),
        (lambda: byte_premium(["a"], []), "the evaluation text of the reference language is empty"),
        (lambda: dispersion({"eng": 1.0}), "1 language has no spread"),
        (lambda: dispersion({"eng": 1.0, "deu": 0.0}), "the evaluation text of deu is empty"),
        (
            lambda: premium_intervals({"eng": np.array([1, 2]), "deu": np.array([1])}, "eng"),
            "the texts are not parallel: eng has 2 segments and deu has 1",
        ),
        (lambda: train_bpe(TEXTS, 256, special_tokens=["<s>"]), "ask for at least 257"),
        (lambda: train_bpe(TEXTS, 300, "(("), "is not a valid regular expression"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
