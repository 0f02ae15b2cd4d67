"""What comes of a question in SIFT: answers, predictions, stickers and calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenry.decoding.sift.prompts import ROLES, Role
from tokenry.decoding.sift.stickers import Sticker

Extract = Callable[[str], str | None]
Equivalent = Callable[[str | None, str | None], bool]


class Answered(NamedTuple):
    """An answer, None where there is none, and the text that it was found in."""

    answer: str | None
    text: str


@dataclass(frozen=True)
class Prediction:
    """Both predictions of a stage.

    Attributes:
        stage: 1, 2 or 3.
        alone: P_S, from the sticker alone.
        beside: P_QS, from question and sticker.
        equal: whether their answers are equal, so that the second one is accepted.
    """

    stage: int
    alone: Answered
    beside: Answered
    equal: bool


class SIFTCall(NamedTuple):
    """A text that was written: its role, its stage (0 for plain answers), tokens read and tokens written."""

    role: Role
    stage: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def name(self) -> str:
        """Its role; of predictions with a sticker, with the stage."""
        return f"{self.role}{self.stage}" if self.role in ("P_S", "P_QS") else self.role


@dataclass(frozen=True)
class SIFTResult:
    """The answer to a question, and how it came about.

    Attributes:
        answer: the answer; None where none was found.
        text: the text with the answer; empty where it could not be written.
        stage: the stage at which it was accepted; 0 for a plain answer.
        stickers: all stickers in their order.
        predictions: both predictions of every stage that had some.
        calls: all texts that were written, in their order.
        failure: the reason why a text is missing, in a sentence; empty if none is.
    """

    answer: str | None
    text: str
    stage: int
    stickers: tuple[Sticker, ...]
    predictions: tuple[Prediction, ...]
    calls: tuple[SIFTCall, ...]
    failure: str = ""

    @property
    def tokens(self) -> dict[Role, tuple[int, int]]:
        """Tokens read and written in each role."""
        return {
            role: (sum(call.prompt_tokens for call in calls), sum(call.completion_tokens for call in calls))
            for role in ROLES
            if (calls := [call for call in self.calls if call.role == role])
        }


@dataclass(frozen=True)
class AnswerReading:
    """How answers are found in texts and compared."""

    extract: Extract
    equivalent: Equivalent

    def majority(self, texts: Sequence[str]) -> Answered:
        """The answer of most texts, the first among equals, with the first text that has it; texts without an answer do not vote."""
        groups: list[list[Answered]] = []
        for answered in [Answered(self.extract(text), text) for text in texts]:
            if answered.answer is None:
                continue
            for group in groups:
                if self.equivalent(group[0].answer, answered.answer):
                    group.append(answered)
                    break
            else:
                groups.append([answered])
        return max(groups, key=len)[0] if groups else Answered(None, texts[0])
