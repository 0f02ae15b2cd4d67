import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.chat.conversations import class_names, encode_rows
from tokenry.core.errors import UserError
from tokenry.evaluation import is_right
from tokenry.evaluation.noisy_tasks import NoiseLevel, noisy_tasks

pytest.importorskip("reasoning_gym")

few_seeds = settings(max_examples=15, deadline=None)
seeds = st.integers(min_value=0, max_value=2**40)


def response(row):
    return row["messages"][-1]["content"]


def small(seed, noise="strong"):
    return noisy_tasks(samples=12, trusted=3, held_out=6, seed=seed, noise=noise)


def pieces(row):
    """The response as (text, class) in order; class None is clean."""
    text, end = response(row), 0
    for span in row["spans"]:
        yield text[end : span["start"]], None
        yield text[span["start"] : span["end"]], span["class"]
        end = span["end"]
    yield text[end:], None


def without_fragments(row):
    """The response as it was before off-topic text was put in, with "?" for what is wrong."""
    kept = [(text, token_class) for text, token_class in pieces(row) if token_class != "fragment"]
    return [(text, "?") if token_class == "wrong" else (text, None) for text, token_class in kept]


@few_seeds
@given(seeds)
def test_spans_lie_within_the_text_in_order_and_apart(seed):
    for row in small(seed).train:
        end = 0
        for span in row["spans"]:
            assert end <= span["start"] <= span["end"] <= len(response(row))
            end = span["end"]


@few_seeds
@given(seeds)
def test_clean_answers_are_right_by_their_own_verifier(seed):
    tasks = small(seed, noise="none")
    for row in [*tasks.train, *tasks.trusted, *tasks.held_out]:
        assert is_right(response(row), row["verifier"]), response(row)
        assert row["spans"] == []


@few_seeds
@given(seeds)
def test_noise_is_all_that_differs_from_the_clean_answer_and_it_does_differ(seed):
    """Walk through the clean answer beside the noisy one: clean pieces are equal, wrong ones are not."""
    for noisy, clean in zip(small(seed).train, small(seed, noise="none").train, strict=True):
        assert noisy["messages"][0] == clean["messages"][0]
        rest = response(clean)
        for text, mark in without_fragments(noisy):
            was = text if mark is None else re.match(r"-?\w[\w'-]*", rest)[0]
            assert rest.startswith(was)
            assert mark is None or text != was
            rest = rest[len(was) :]
        truncated = noisy["spans"] and noisy["spans"][-1]["class"] == "truncated"
        assert bool(rest) == bool(truncated)


@few_seeds
@given(seeds)
def test_no_question_is_asked_twice(seed):
    tasks = noisy_tasks(samples=60, trusted=24, held_out=30, seed=seed, noise="none")
    questions = [row["messages"][0]["content"] for row in [*tasks.train, *tasks.trusted, *tasks.held_out]]
    assert len(set(questions)) == len(questions) == 114


@few_seeds
@given(seeds)
def test_the_same_seed_gives_the_same_data(seed):
    assert small(seed) == small(seed)
    assert small(seed) != small(seed + 1)


def test_more_training_samples_change_neither_the_held_out_nor_the_first_ones():
    few, many = small(3), noisy_tasks(samples=30, trusted=3, held_out=6, seed=3)
    assert (few.held_out, few.trusted) == (many.held_out, many.trusted)
    assert few.train == many.train[:12]


def test_every_fragment_is_used_once():
    fragments = [
        text for row in noisy_tasks(seed=1).train for text, kind in pieces(row) if kind == "fragment"
    ]
    assert len(fragments) > 100
    assert len(set(fragments)) == len(fragments)


def test_a_truncated_response_breaks_off_before_its_answer():
    truncated = [
        row for row in noisy_tasks(seed=2).train if row["spans"] and row["spans"][-1]["class"] == "truncated"
    ]
    assert 5 <= len(truncated) <= 30
    assert not any("The answer is" in response(row) for row in truncated)


def test_strong_noise_is_more_than_moderate_and_none_is_none():
    strong, moderate, none = (
        noisy_tasks(seed=0, noise=level).character_shares() for level in ("strong", "moderate", "none")
    )
    assert sum(strong.values()) == pytest.approx(1.0)
    assert strong["fragment"] > moderate["fragment"] > 0.2
    assert 0.01 < moderate["wrong"] < strong["wrong"] < 0.05
    assert none == {"clean": 1.0}


def test_rows_encode_and_every_kind_of_noise_is_found_in_the_tokens(tokenizer):
    tasks = noisy_tasks(seed=0)
    encoded = encode_rows(tasks.train, tokenizer, max_length=512)
    names = class_names(encoded)
    assert len(encoded) == 150
    assert set(names) == {"clean", "wrong", "fragment", "truncated"}
    for row, tokens in zip(tasks.train, encoded, strict=True):
        for kind in ("wrong", "fragment"):
            said = tokenizer.decode(
                [
                    token
                    for token, number in zip(tokens["input_ids"], tokens["token_class"], strict=True)
                    if number == names.index(kind)
                ]
            )
            marked = "".join(text for text, span_class in pieces(row) if span_class == kind)
            assert marked.replace(" ", "") in said.replace(" ", "")


def test_the_end_token_of_a_truncated_response_is_noise_and_of_no_other(tokenizer):
    tasks = noisy_tasks(seed=2)
    encoded = encode_rows(tasks.train, tokenizer, max_length=512)
    truncated = class_names(encoded).index("truncated")
    for row, tokens in zip(tasks.train, encoded, strict=True):
        breaks_off = "The answer is" not in response(row)
        ends = [
            number
            for token, number in zip(tokens["input_ids"], tokens["token_class"], strict=True)
            if number >= 0 and token == tokenizer.eos_token_id
        ]
        assert ends == [truncated if breaks_off else 0]


def test_shares_of_tokens_sum_to_one_and_clean_data_is_clean(tokenizer):
    assert sum(noisy_tasks(seed=0).token_shares(tokenizer).values()) == pytest.approx(1.0)
    assert noisy_tasks(samples=6, noise="none").token_shares(tokenizer) == {"clean": 1.0}


def test_tasks_come_in_equal_parts():
    for split in (lambda tasks: tasks.train, lambda tasks: tasks.trusted, lambda tasks: tasks.held_out):
        names = [row["task"] for row in split(noisy_tasks(seed=0))]
        assert {names.count(name) * 3 for name in set(names)} == {len(names)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": "loud"}, "noise is one of strong, moderate, none, got 'loud'"),
        ({"samples": -1}, "samples must not be negative"),
        ({"samples": 2000}, "sentences to be used once: ask for fewer"),
        ({"samples": 40_000, "noise": "none"}, "no more different questions"),
    ],
)
def test_impossible_wishes_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        noisy_tasks(**arguments)


def test_a_noise_level_is_made_of_probabilities():
    with pytest.raises(UserError, match="wrong must be in"):
        NoiseLevel(wrong=1.2, fragment=0.0, truncated=0.0)
