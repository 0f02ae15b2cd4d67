import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.evaluation.charbench import TASKS, answer_of, build_charbench, items_of, sample_items
from tokenry.evaluation.charbench.items import COUNTING_TASKS, check_items

from .golden import golden

WORDS = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=12).filter(
    lambda word: word.split() == [word]
)


@pytest.fixture(scope="module")
def items():
    return build_charbench(some_words(60), per_length=40, seed=3)


def some_words(each: int, lengths=(4, 5, 6)) -> list[str]:
    draws = random.Random(0)
    found: list[str] = []
    for length in lengths:
        of_length: set[str] = set()
        while len(of_length) < each:
            of_length.add("".join(draws.choices(string.ascii_letters, k=length)))
        found += sorted(of_length)
    return found


def test_the_items_are_those_of_the_reference_in_their_order():
    built = build_charbench(golden()["word_list"], golden()["per_bucket"], golden()["seed"])
    assert built.to_dict("records") == golden()["items"]


def test_each_reference_answer_follows_from_task_word_and_character():
    for item in golden()["items"]:
        assert str(answer_of(item["task"], item["word"], item["character"])) == item["answer"]


@settings(max_examples=25, deadline=None)
@given(word=WORDS, data=st.data())
def test_answers_are_right_for_any_word(word, data):
    character = data.draw(st.sampled_from(word))
    places = [place for place, each in enumerate(word) if each == character]
    built = items_of(TASKS, [word] * 4, [None, character, character, character])
    expected = [len({*word}), len(places), places[0], places[-1]]
    assert built["answer"].tolist() == list(map(str, expected))
    assert all(f"'{word}'" in question for question in built["question"])


def test_no_word_is_asked_about_twice(items):
    assert items["word"].is_unique
    assert items.groupby("task").size().tolist() == [30] * 4
    assert items.groupby(["task", items["word"].str.len()]).size().eq(10).all()


def test_the_same_seed_makes_the_same_items_and_another_one_others(items):
    words = some_words(60)
    assert build_charbench(words, 40, seed=3).equals(items)
    assert not build_charbench(words, 40, seed=4).equals(items)


def test_only_the_first_words_of_each_length_are_taken():
    words = some_words(60)
    first = {word for length in (4, 5, 6) for word in [w for w in words if len(w) == length][:40]}
    assert set(build_charbench(words, 40)["word"]) == first


def test_a_word_that_comes_again_is_left_out():
    words = some_words(60)
    assert build_charbench([*words[:30], *words], 40).equals(build_charbench(words, 40))


def test_any_range_of_lengths_can_be_asked_about():
    words = [*"abcd", *some_words(8, (2, 15))]
    assert set(build_charbench(words, 4)["word"].str.len()) == {1, 2, 15}
    assert set(build_charbench(words, 8, lengths=[2, 15])["word"].str.len()) == {2, 15}


def test_one_letter_words_have_one_answer_each():
    built = build_charbench([*"abcd"], 4)
    assert dict(zip(built["task"], built["answer"], strict=True)) == dict(zip(TASKS, "1100", strict=True))


def test_repeated_letters_are_counted_and_found_first_and_last():
    built = items_of(TASKS, ["banana"] * 4, [None, "a", "a", "a"])
    assert built["answer"].tolist() == ["3", "3", "1", "5"]


def test_lower_and_upper_case_are_different_characters():
    assert answer_of("count_character_frequency", "Abracadabra", "a") == 4
    assert answer_of("count_unique_chars", "Aa") == 2


def test_words_of_other_scripts_are_counted_in_code_points():
    assert answer_of("find_last_occurrence", "नमस्ते", "त") == 4
    assert answer_of("count_unique_chars", "e\u0301") == 2
    assert answer_of("count_unique_chars", "é") == 1


def test_no_character_is_none_and_not_a_number(items):
    assert items.loc[items["task"] == TASKS[0], "character"].map(lambda each: each is None).all()


def test_the_size_of_the_paper():
    built = build_charbench(some_words(25_000, range(4, 11)))
    assert len(built) == 175_000
    assert built.groupby("task").size().eq(43_750).all()


def test_a_sample_is_even_over_tasks_and_lengths_and_keeps_numbers_and_order(items):
    sample = sample_items(items, 24, seed=1)
    assert sample.groupby(["task", sample["word"].str.len()]).size().eq(2).all()
    assert sample.index.is_monotonic_increasing
    assert sample.equals(items.loc[sample.index])
    assert sample_items(items, 10**6) is items


def test_a_sample_of_nothing_is_refused(items):
    with pytest.raises(UserError, match="limit must be at least 1, got 0"):
        sample_items(items, 0)


def test_shares_are_rounded_down_and_that_is_said():
    with pytest.warns(UserWarning, match="no multiple of 4, .* got 7: 3 of the words of each length"):
        items = build_charbench(some_words(9, (4, 5)), 7)
    assert len(items) == 2 * 4
    bucket = some_words(9, (4,))[:7]
    random.Random(42).shuffle(bucket)
    assert items["word"].iloc[::2].tolist() == bucket[:4]


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ([], {}, "the word list is empty"),
        (some_words(7, (4, 5)), {"per_length": 8}, "7 words of length 4 and 8 are needed"),
        (some_words(8, (4,)), {"per_length": 8, "lengths": [4, 9]}, "0 words of length 9 and 8 are needed"),
        (some_words(8, (4,)), {"per_length": 8, "lengths": []}, "lengths is empty"),
        (some_words(8, (4,)), {"per_length": 3}, "per_length must be at least 4, got 3"),
        (["a b", "c\td", "efg", "hij"], {"per_length": 4}, "a word is a text without white space, got 'a b'"),
        (
            ["", *"abcd"],
            {"per_length": 4, "lengths": [1, 0]},
            "1,* *words of length 0 and 4 are needed|white space",
        ),
    ],
)
def test_words_of_which_no_benchmark_can_be_made_are_refused(words, options, message):
    with pytest.raises(UserError, match=message):
        build_charbench(words, **options)


@pytest.mark.parametrize(
    ("task", "word", "character", "message"),
    [
        ("spell", "word", "w", "item 0: the task must be one of count_unique_chars, .* got 'spell'"),
        (
            "find_first_occurrence",
            "word",
            "x",
            "asks about one character that is in the word, got 'x' for 'word'",
        ),
        ("find_first_occurrence", "word", "or", "asks about one character"),
        ("count_character_frequency", "word", None, "asks about one character .* got None"),
        ("count_unique_chars", "two words", None, "white space, got 'two words'"),
        ("count_unique_chars", "", None, "white space, got ''"),
    ],
)
def test_questions_without_an_answer_are_refused(task, word, character, message):
    with pytest.raises(UserError, match=message):
        items_of([task], [word], [character])
    with pytest.raises(UserError, match=message):
        answer_of(task, word, character)


def test_lists_of_unequal_lengths_are_refused():
    with pytest.raises(UserError, match="2 tasks, 1 words and 1 characters"):
        items_of(TASKS[:2], ["a"], ["a"])


def test_a_table_from_elsewhere_is_checked(items):
    check_items(items)
    check_items(items.where(items.notna(), float("nan")))  # as read from a CSV file
    with pytest.raises(UserError, match="word, character is missing"):
        check_items(items.drop(columns=["word", "character"]))
    with pytest.raises(UserError, match="there are no items"):
        check_items(items[:0])
    with pytest.raises(UserError, match="item 0 is there twice"):
        check_items(items.iloc[[0, 0]])
    with pytest.raises(UserError, match=r"item \d+: the task must be one of"):
        check_items(items.assign(task="spell"))


def test_counting_comes_before_finding():
    assert TASKS[:2] == COUNTING_TASKS
