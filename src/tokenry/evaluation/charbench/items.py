"""The items: four questions about single words, with answers that follow from the word alone.

    count_unique_chars         len(set(word))
    count_character_frequency  word.count(character)
    find_first_occurrence      word.index(character)      from 0
    find_last_occurrence       word.rindex(character)     from 0

Characters are code points, and cases differ. Random numbers are drawn in the order of the released generator: buckets of equal length
are shuffled from the shortest words to the longest, then one place of the word is drawn per item, task by task, bucket by bucket. Each
task takes the next quarter of every bucket, so no word is asked about twice.

Source: CharBench (arXiv 2508.02591), section 3; omriuz/CharBench, benchmark.py.
"""

import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from pandas import DataFrame, RangeIndex, Series

from tokenry.core.errors import UserError, require_at_least

COUNTING_TASKS = ("count_unique_chars", "count_character_frequency")
INDEX_TASKS = ("find_first_occurrence", "find_last_occurrence")
TASKS = COUNTING_TASKS + INDEX_TASKS
COLUMNS = ("question", "answer", "word", "character", "task")

_FIRST_LETTER_ASKED = 1  # of TASKS: the first one asks about no particular character
_TEMPLATES = {
    "count_unique_chars": "How many unique characters appear in the string '{word}'?",
    "count_character_frequency": "How many times does the character '{character}' appear in the string '{word}'?",
    "find_first_occurrence": "What is the index of the first occurrence of the character '{character}' in the string '{word}'?\n"
    "Start counting from 0.",
    "find_last_occurrence": "What is the index of the last occurrence of the character '{character}' in the string '{word}'?\n"
    "Start counting from 0.",
}
_ANSWERS: Mapping[str, Callable[[str, str], int]] = {
    "count_unique_chars": lambda word, character: len(set(word)),
    "count_character_frequency": str.count,
    "find_first_occurrence": str.index,
    "find_last_occurrence": str.rindex,
}


def build_charbench(
    words: Sequence[str], per_length: int = 25_000, seed: int = 42, lengths: Sequence[int] | None = None
) -> DataFrame:
    """Build the benchmark: of each length the first `per_length` words, a quarter of them for each task.

    Args:
        words: words, of which the first of each length are taken; repeated words are left out.
        per_length: number of words of each length; what a multiple of 4 leaves over is asked nothing.
        seed: random seed of the order of the items and of the characters asked about.
        lengths: lengths of the words in characters; None for all that occur.

    Returns:
        One row per item, with the columns question, answer (text of an integer), word, character (None where none is asked about) and
        task. Its index numbers the items from 0.
    """
    require_at_least(len(TASKS), per_length=per_length)
    if left := per_length % len(TASKS):
        warnings.warn(
            f"per_length is no multiple of {len(TASKS)}, one share for each task, got {per_length}: {left} of the words of each length are "
            "asked nothing.",
            stacklevel=2,
        )
    buckets = _buckets(words, per_length, lengths)
    draws = random.Random(seed)
    for bucket in buckets:
        draws.shuffle(bucket)
    share = per_length // len(TASKS)
    asked = [bucket[place * share : (place + 1) * share] for place in range(len(TASKS)) for bucket in buckets]
    first = len(buckets) * _FIRST_LETTER_ASKED
    without, about = list(chain(*asked[:first])), list(chain(*asked[first:]))
    characters = [None] * len(without) + list(map(draws.choice, about))
    tasks = [task for task in TASKS for _ in range(share * len(buckets))]
    return _table(tasks, without + about, characters)


def items_of(tasks: Sequence[str], words: Sequence[str], characters: Sequence[str | None]) -> DataFrame:
    """Ask any questions: one item per task, word and character.

    Args:
        tasks: task of each item, one of `TASKS`.
        characters: character of each item; None for count_unique_chars.

    Returns:
        A table as of `build_charbench`.
    """
    if not len(tasks) == len(words) == len(characters):
        raise UserError(
            f"{len(tasks)} tasks, {len(words)} words and {len(characters)} characters: give one of each per item."
        )
    _check(range(len(tasks)), tasks, words, characters)
    return _table(tasks, words, characters)


def check_items(items: DataFrame) -> None:
    """Raise `UserError` unless a table of items is complete, numbered uniquely, and every question has an answer."""
    missing = [name for name in COLUMNS if name not in items]
    if missing:
        raise UserError(f"items need the columns {', '.join(COLUMNS)}; {', '.join(missing)} is missing.")
    if not len(items):
        raise UserError("there are no items: give at least one.")
    if not items.index.is_unique:
        twice = items.index[items.index.duplicated()][0]
        raise UserError(f"item {twice} is there twice: number the items uniquely (items.reset_index).")
    _check(items.index, items["task"], items["word"], characters_of(items))


def characters_of(items: DataFrame) -> list[str | None]:
    """The characters asked about; None for none, however the table spells that (a file gives nan)."""
    return [character if isinstance(character, str) else None for character in items["character"]]


def answer_of(task: str, word: str, character: str | None = None) -> int:
    """Compute the answer."""
    _check([0], [task], [word], [character])
    return _ANSWERS[task](word, character or "")


def question_of(task: str, word: str, character: str | None = None) -> str:
    """Write the question, unchecked."""
    return _TEMPLATES[task].format(word=word, character=character)


def sample_items(items: DataFrame, limit: int, seed: int = 0) -> DataFrame:
    """Draw `limit` items, evenly from every task and word length; they keep their numbers and order."""
    require_at_least(1, limit=limit)
    if limit >= len(items):
        return items
    groups = items.groupby([items["task"], items["word"].str.len()]).indices
    draws = random.Random(seed)
    queues = [draws.sample(places.tolist(), len(places)) for _, places in sorted(groups.items())]
    draws.shuffle(queues)
    by_turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return items.iloc[sorted(by_turns[:limit])]


def _table(tasks: Sequence[str], words: Sequence[str], characters: Sequence[str | None]) -> DataFrame:
    rows = list(zip(tasks, words, characters, strict=True))
    questions = [question_of(*row) for row in rows]
    answers = [str(_ANSWERS[task](word, character or "")) for task, word, character in rows]
    # Text columns turn None into nan unless they are columns of objects.
    columns = dict(zip(COLUMNS, (questions, answers, words, characters, tasks), strict=True))
    return DataFrame(
        {name: Series(values, dtype=object) for name, values in columns.items()},
        index=RangeIndex(len(rows), name="item"),
    )


def _buckets(words: Sequence[str], per_length: int, lengths: Sequence[int] | None) -> list[list[str]]:
    if not words:
        raise UserError("the word list is empty: give words.")
    by_length: dict[int, list[str]] = {}
    for word in dict.fromkeys(words):
        by_length.setdefault(len(word), []).append(word)
    chosen = sorted(set(by_length if lengths is None else lengths))
    if not chosen:
        raise UserError("lengths is empty: name at least one word length, or None for all that occur.")
    for length in chosen:
        have = len(by_length.get(length, ()))
        if have < per_length:
            raise UserError(
                f"there are {have:,} words of length {length} and {per_length:,} are needed: give more words, a smaller per_length, "
                "or lengths without it."
            )
    kept = [by_length[length][:per_length] for length in chosen]
    for bucket in kept:
        _check_words(bucket)
    return kept


def _check(
    numbers: Iterable[object],
    tasks: Iterable[str],
    words: Iterable[str],
    characters: Iterable[str | None],
) -> None:
    words = list(words)
    _check_words(words)
    for number, task, word, character in zip(numbers, tasks, words, characters, strict=True):
        if task not in _TEMPLATES:
            raise UserError(f"item {number}: the task must be one of {', '.join(TASKS)}, got {task!r}.")
        if task == TASKS[0]:
            continue
        if character is None or len(character) != 1 or character not in word:
            raise UserError(
                f"item {number}: {task} asks about one character that is in the word, got {character!r} for {word!r}."
            )


def _check_words(words: Sequence[str]) -> None:
    # All words are checked at once; each by itself only if one is wrong.
    if all(isinstance(word, str) for word in words) and len(" ".join(words).split()) == len(words):
        return
    for word in words:
        if not isinstance(word, str) or word.split() != [word]:
            raise UserError(
                f"a word is a text without white space, got {word!r}: give single words, none of them empty."
            )
