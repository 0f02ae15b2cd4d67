"""Inverse permutation as text: a language model is told places and letters, and says the letters in order.

    Places: 3 1 2          the place of each letter
    Letters: k b t
    In order: b t k        what is to be written

The answer stands behind the list, so that nothing forbids it to a causal model. Layouts ask whether more room helps all the same: filler
tokens before the answer, or the list a second time.

Source: The Impossibility of Inverse Permutation Learning in Transformer Models (arXiv 2509.24125), which gives scratch tokens to models
that are trained with them.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.models.text_model import Sampling, TextModel, require_generated

PromptLayout = Literal["plain", "filler", "repeated"]
_TASK = "Each letter belongs at the place above it. Write the letters in order.\n\n"
_ANSWER = "In order:"


@dataclass(frozen=True)
class ReorderingTask:
    """The task for lists of n letters.

    Attributes:
        n: letters of a list.
        layout: `plain`, `filler` (n dots before the answer) or `repeated` (the list twice).
        examples: solved lists before the one that is asked for, the same ones in every prompt.
    """

    n: int = 4
    layout: str = "plain"
    examples: int = 4

    def __post_init__(self) -> None:
        require_at_least(2, n=self.n)
        require_at_least(0, examples=self.examples)
        require_one_of(self.layout, get_args(PromptLayout), "layout")
        if self.n > len(string.ascii_lowercase):
            raise UserError(f"there are 26 letters to put in order, got n={self.n}: give fewer.")

    def sample(self, number: int, seed: int = 0) -> tuple[list[str], list[str]]:
        """Draw prompts and their answers; every layout asks about the same lists."""
        require_at_least(1, number=number)
        draw = np.random.default_rng(seed)
        solved = [self._drawn(draw) for _ in range(self.examples)]
        before = _TASK + "".join(f"{question} {answer}\n\n" for question, answer in solved)
        asked = [self._drawn(draw) for _ in range(number)]
        return [before + question for question, _ in asked], [answer for _, answer in asked]

    def _drawn(self, draw: np.random.Generator) -> tuple[str, str]:
        letters = draw.choice(list(string.ascii_lowercase), self.n, replace=False)
        places = draw.permutation(self.n)
        said = (
            f"Places: {' '.join(str(place + 1) for place in places)}\nLetters: {' '.join(letters[places])}\n"
        )
        middle = {"plain": "", "filler": " ".join("." * self.n) + "\n", "repeated": said}[self.layout]
        return said + middle + _ANSWER, " ".join(letters)


def exact_matches(written: Sequence[str], answers: Sequence[str]) -> Bool[ndarray, "prompts"]:
    """Which texts begin with a line that is the answer; spaces and commas are left aside."""
    return np.array(
        [
            text.strip().partition("\n")[0].replace(",", " ").split() == answer.split()
            for text, answer in zip(written, answers, strict=True)
        ],
        dtype=bool,
    )


def reorder_by_text(
    model: TextModel, task: ReorderingTask, number: int, seed: int = 0
) -> Bool[ndarray, "prompts"]:
    """Ask a model, greedily, and find which lists it put in order.

    Raises:
        UserError: a text could not be written.
    """
    prompts, answers = task.sample(number, seed)
    written = model.generate(prompts, Sampling(max_new_tokens=3 * task.n + 2, stop=("\n",)))
    require_generated(written)
    return exact_matches([found.text for found in written], answers)
