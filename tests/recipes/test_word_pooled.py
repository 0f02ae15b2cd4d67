"""The recipe of word-pooled models runs small, its testbeds are what they say, and its verdicts follow the measurements."""

import random

import numpy as np

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.words import flat_lm, word_pooled
from tokenry.architectures import ByteSpelling, WholeWordSpelling
from tokenry.recipes.testbeds.docstring_words import DocstringWords, WholeWordReader, mistype
from tokenry.recipes.testbeds.repeated_words import RepeatedWords, first_units
from tokenry.recipes.word_pooled import BARE, FLAT, POOLED, SHORT, WHOLE, WordRuns, WordSizes, claims

SMALL = WordSizes((0,), 3, 2, 3, 8, 16, 2, 2, 16, 1, 2, 8)


def test_it_runs_small(tmp_path):
    result = check_recipe("word-pooled", SMALL, tmp_path)
    assert len(result.claims) == 6
    assert set(result.settings["steps"]["docstrings"]) == {POOLED, FLAT, WHOLE}


def test_a_list_is_repeated_and_the_last_word_is_in_it():
    task = RepeatedWords(3)
    text = task.text(7)
    assert text[:5] == text[5:10]
    assert text[-1] == text[1]
    assert text == RepeatedWords(3).text(7) != task.text(8)
    assert all(2 <= len(word) <= 5 for word in task.words)
    assert len(set(task.words)) == 16
    short = first_units(text, 24)
    assert sum(len(word) + 1 for word in short) <= 24 < sum(len(word) + 1 for word in text[: len(short) + 1])


def test_a_model_of_whole_words_reads_the_words_that_the_others_read():
    spelling = WholeWordSpelling(("the", "cat"))
    reader = WholeWordReader(flat_lm(vocab_size=spelling.size, whole_words=2), spelling)
    window = [tuple(ByteSpelling().encode(word)) for word in ("the", "cat", "is")]
    spelled = [1, 2, 3 + ord("i"), 3 + ord("s"), 0]
    assert reader.collate([window])["input_ids"].tolist() == [spelled]
    (nll, right), (known, _) = (
        *reader.score_words([window]),
        *reader.model.score_words([[(1,), (2,), tuple(spelled[2:4])]]),
    )
    assert nll.tolist() == known.tolist()
    assert len(right) == 2


def test_mistyped_words_keep_their_letters():
    word, draw = tuple(range(10)), random.Random(0)
    found = [mistype(word, draw) for _ in range(400)]
    assert all(sorted(other) == sorted(word) for other in found)
    assert 0.1 < np.mean([other != word for other in found]) < 0.3
    assert mistype((1,), random.Random(0)) == (1,)


def test_held_out_words_of_docstrings_are_new_windows_of_bytes():
    text = DocstringWords(0, length=10, windows=5)
    assert [len(window) for window in text.held_out] == [10] * 5
    assert len(text.seen()) == 5 * 9
    assert max(len(word) for word in text.streams[0]) <= 20
    reader = word_pooled(vocab_size=259, max_word_len=21)
    assert np.abs(text.typo_cost(reader)).max() > 0.1, "mistyped words before it change the last word"
    assert text.word_bits(reader).shape == text.seen().shape


SIZES = WordSizes()


def judged(
    pooled=0.99, flat=0.5, later=0.8, bare=0.3, short=0.2, fewer=4.5, rare=-0.2, whole=0.3, typos=-1.0
):
    def texts(share):
        return np.array([number < share * 200 for number in range(200)], dtype=float)

    spread = np.linspace(-0.1, 0.1, 60)
    runs = WordRuns(
        right={
            (POOLED, SIZES.pooled_steps): texts(pooled),
            (FLAT, SIZES.flat_steps): texts(flat),
            (FLAT, SIZES.later_steps): texts(later),
            (BARE, SIZES.later_steps): texts(bare),
            (SHORT, SIZES.pooled_steps): texts(short),
        },
        positions={POOLED: 12.0, FLAT: 12.0 * fewer},
        bits={POOLED: 3 + rare + spread, FLAT: 3 + 0 * spread, WHOLE: 3 + whole + 0 * spread},
        typos={POOLED: 2 + typos + spread, FLAT: 0 * spread, WHOLE: 2 + 0 * spread},
        rare=np.arange(60) < 40,
    )
    return [claim.verdict for claim in claims(runs, SIZES)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        judged,
        [
            ({}, set()),
            ({"flat": 1.0}, {0}),
            ({"bare": 0.6}, {1}),
            ({"short": 1.0}, {2}),
            ({"pooled": 0.8}, {3}),
            ({"fewer": 3.5}, {3}),
            ({"rare": 0.1}, {4}),
            ({"whole": -0.3}, {4}),
            ({"typos": 0.5}, {5}),
        ],
    )
