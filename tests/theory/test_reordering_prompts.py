"""The task in words: every layout asks about the same lists, a model that knows the answer is right, and what is no task is refused."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.models.text_model import Generated
from tokenry.theory import ReorderingTask, exact_matches, reorder_by_text


class Solver:
    """Puts the letters at their places, or copies them as they stand."""

    name = "solver"

    def __init__(self, solves=True):
        self.solves = solves

    def generate(self, prompts, sampling):
        return [Generated(f" {self._answer(prompt)}", None, 1, 1) for prompt in prompts]

    def _answer(self, prompt):
        said = [line for line in prompt.splitlines() if line.startswith(("Places", "Letters"))][-2:]
        places, letters = (line.partition(": ")[2].split() for line in said)
        if not self.solves:
            return " ".join(letters)
        return ", ".join(letter for _, letter in sorted(zip(map(int, places), letters, strict=True)))


@given(n=st.integers(2, 26), layout=st.sampled_from(["plain", "filler", "repeated"]), seed=st.integers(0, 99))
def test_whoever_follows_the_places_is_right_in_every_layout(n, layout, seed):
    assert reorder_by_text(Solver(), ReorderingTask(n, layout, examples=1), 3, seed).all()


def test_whoever_copies_is_right_where_nothing_was_moved():
    task = ReorderingTask(3)
    prompts, answers = task.sample(60, seed=1)
    unmoved = [
        prompt.endswith(f"Places: 1 2 3\nLetters: {answer}\nIn order:")
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    assert reorder_by_text(Solver(solves=False), task, 60, seed=1).tolist() == unmoved
    assert 0 < sum(unmoved) < 30


def test_layouts_ask_about_the_same_lists_and_differ_before_the_answer_alone():
    plain, filler, repeated = (
        ReorderingTask(4, layout, examples=0).sample(5, seed=3) for layout in ("plain", "filler", "repeated")
    )
    assert plain[1] == filler[1] == repeated[1]
    for without, with_dots, twice in zip(plain[0], filler[0], repeated[0], strict=True):
        assert with_dots.replace(". . . .\n", "") == without
        assert twice.count("Places") == 2
        assert set(twice.splitlines()) == set(without.splitlines())
    assert all(set(answer.split()) <= set(string.ascii_lowercase) for answer in plain[1])


def test_the_first_line_counts_without_commas():
    assert exact_matches([" a, b\nand more", "b a", "", "a b c"], ["a b"] * 4).tolist() == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 1}, "n must be at least 2, got 1"),
        ({"n": 27}, "there are 26 letters to put in order, got n=27: give fewer."),
        ({"layout": "dots"}, "layout must be one of plain, filler, repeated, got 'dots'"),
        ({"examples": -1}, "examples must be at least 0, got -1"),
    ],
)
def test_what_is_no_task_is_refused(options, words):
    with pytest.raises(UserError) as error:
        ReorderingTask(**options)
    assert words in str(error.value)
