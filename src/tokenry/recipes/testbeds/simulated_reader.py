"""A simulated reader: four facts per problem, each misread at a known rate, a part of it in the same way whenever the same wording is read.

    query `#7`, note and solution `7:0,0,4,0`, in which the third fact is wrong; right facts are 0

It tests the mechanism of SIFT, and says nothing about real models.

Source: the rates are those of the sheet of SIFT (arXiv 2502.14922); the difficulty of a problem is 4 Beta(1, 3), 1 on average.
"""

from collections.abc import Sequence
from random import Random

from tokenry.models import Generated, Sampling
from tokenry.models.text_model import GREEDY, Prompt

QUERY, STICKER, NOTE = 0.09, 0.05, 0.08
"""Rates at which a fact is misread in a query of difficulty 1, misread in a note, and written down wrongly."""
REPAIRED, REPAIRED_BESIDE = 0.6, 0.7
"""Rates at which a wrong fact of a note is corrected, and is not followed beside the query."""


class SimulatedReader:
    """A text model for the prompts of `testbeds.fact_reader`.

    Args:
        problems: number of problems, `#0` and on.
        systematic: share of the misreadings that come back whenever the same wording is read.
    """

    name = "simulated reader"

    def __init__(self, problems: int, systematic: float, seed: int) -> None:
        self.systematic, self.seed = systematic, seed
        self._draws = Random(seed)
        self._difficulty = [4 * self._draws.betavariate(1, 3) for _ in range(problems)]
        self._fixed: dict[tuple[str, int], tuple[float, int, bool]] = {}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY) -> list[Generated]:
        """Read each prompt anew for each sample."""
        return [
            Generated(self._read(str(prompt)), None, 1, 1)
            for prompt in prompts
            for _ in range(sampling.samples)
        ]

    def _read(self, prompt: str) -> str:
        role, *parts = prompt.split()
        query = next((part for part in parts if part.startswith("#")), "")
        noted = next((part for part in parts if ":" in part), "")
        number = query[1:] or noted.partition(":")[0]
        rate = QUERY * self._difficulty[int(number)]
        facts = [int(fact) for fact in noted.partition(":")[2].split(",")] if noted else [0] * 4
        if role == "note":
            facts = [self._seen(prompt, place, fact, NOTE) for place, fact in enumerate(facts)]
        elif role == "correct":
            facts = [0 if fact and self._draws.random() < REPAIRED else fact for fact in facts]
        elif not query:
            facts = [self._seen(noted, place, fact, STICKER) for place, fact in enumerate(facts)]
        elif not noted:
            facts = [self._seen(query, place, fact, rate) for place, fact in enumerate(facts)]
        else:
            facts = [self._beside(query, noted, place, fact, rate) for place, fact in enumerate(facts)]
        return f"{number}:{','.join(map(str, facts))}"

    def _beside(self, query: str, noted: str, place: int, fact: int, rate: float) -> int:
        """A fact that stands in both wordings: misread where both are, and often repaired where the note is wrong."""
        if fact:
            return 0 if self._draws.random() < REPAIRED_BESIDE else fact
        from_query, from_note = self._seen(query, place, 0, rate), self._seen(noted, place, 0, STICKER)
        return from_query if from_note else 0

    def _seen(self, wording: str, place: int, fact: int, rate: float) -> int:
        """A fact of a wording, or another one in its place."""
        if (wording, place) not in self._fixed:
            is_systematic = self._draws.random() < self.systematic
            self._fixed[wording, place] = (self._draws.random(), self._draws.randint(1, 999), is_systematic)
        draw, other, is_systematic = self._fixed[wording, place]
        if not is_systematic:
            draw, other = self._draws.random(), self._draws.randint(1, 999)
        return other if draw < rate else fact
