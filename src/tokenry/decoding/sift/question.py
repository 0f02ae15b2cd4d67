"""One question on its way through the stages of SIFT: a program that asks for texts and waits for them (a generator).

    for request in question.follow():        the texts of the request are sent back; what is returned at the end is the result

All questions run such a program side by side, and what they wait for is written turn by turn: (stage, repeat, place in the stage).
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple

from tokenry.decoding.sift.config import SIFTConfig
from tokenry.decoding.sift.prompts import Role, SIFTPrompts
from tokenry.decoding.sift.results import Answered, AnswerReading, Prediction, SIFTCall, SIFTResult
from tokenry.decoding.sift.stickers import Sticker, clean_sticker, parse_sticker
from tokenry.decoding.sift.typed_stickers import missing_numbers
from tokenry.decoding.sift.writer import Ask
from tokenry.models.text_model import Generated

PLAIN = 4
"""The turn of plain answers: after the last stage."""
_PLACES: dict[Role, int] = {"SG": 0, "IG": 0, "FO": 1, "P_S": 2, "P_QS": 2, "P_Q": 3}


class StagePlace(NamedTuple):
    """When something is asked; what comes first in this order is written first, for all questions that wait for it."""

    stage: int
    repeat: int
    place: int


class Request(NamedTuple):
    """What a question waits for: `samples` texts for each ask."""

    turn: StagePlace
    asks: list[Ask]
    samples: int


class _FailedCallError(Exception):
    """A text is missing; the message says why."""


Texts = Generator[Request, list[Generated], list[str]]
Accepted = Generator[Request, list[Generated], Prediction | None]


class QuestionCourse:
    """The program of one question.

    Args:
        number: its place among the questions.
        config: how far it goes.
        prompts: what is asked in each role.
        reading: how answers are found and compared.
    """

    def __init__(
        self, number: int, query: str, config: SIFTConfig, prompts: SIFTPrompts, reading: AnswerReading
    ) -> None:
        self._number, self._query = number, query
        self._config, self._prompts, self._reading = config, prompts, reading
        self._stickers: list[Sticker] = []
        self._predictions: list[Prediction] = []
        self._reasoning: list[str] = []
        self._calls: list[SIFTCall] = []

    def follow(self) -> Generator[Request, list[Generated], SIFTResult]:
        """Go through the stages, and answer plainly where none of them accepts or a text is missing."""
        failure, accepted = "", None
        try:
            accepted = yield from self._stages()
        except _FailedCallError as failed:
            failure = str(failed)
        if accepted is not None:
            return self._result(accepted.beside, accepted.stage)
        try:
            (text,) = yield from self._ask(StagePlace(PLAIN, 0, 0), ["P_Q"])
        except _FailedCallError as failed:
            return self._result(Answered(None, ""), 0, failure or str(failed))
        return self._result(self._reading.majority([text]), 0, failure)

    def _result(self, answered: Answered, stage: int, failure: str = "") -> SIFTResult:
        stickers, predictions = tuple(self._stickers), tuple(self._predictions)
        return SIFTResult(*answered, stage, stickers, predictions, tuple(self._calls), failure)

    def _stages(self) -> Accepted:
        several = self._config.samples if self._config.consistency == "sticker" else 1
        texts = yield from self._ask(_turn("SG", 1), ["SG"], samples=several)
        accepted = yield from self._try(texts, 1)
        repeats = dict(zip((2, 3), self._config.repeats, strict=True))
        for stage in range(2, self._config.max_stage + 1):
            for repeat in range(repeats[stage]):
                if accepted:
                    return accepted
                if stage == 3:
                    if not self._reasoning:  # no sticker was fit to be tried, so nothing can be inverted
                        return None
                    texts = yield from self._ask(_turn("IG", stage, repeat), ["IG"], self._reasoning)
                stickers = [clean_sticker(text) for text in texts]
                texts = yield from self._ask(_turn("FO", stage, repeat), ["FO"], stickers)
                accepted = yield from self._try(texts, stage, repeat)
        return accepted

    def _try(self, texts: Sequence[str], stage: int, repeat: int = 0) -> Accepted:
        """Predict from the stickers that are fit for it; returns the prediction if its sides are equal."""
        stickers = [parse_sticker(text) for text in texts]
        self._stickers += stickers
        fit = [sticker.text for sticker in stickers if self._is_fit(sticker.text)]
        if not fit:
            return None
        several = self._config.samples if self._config.consistency == "prediction" else 1
        written = yield from self._ask(_turn("P_S", stage, repeat), ["P_S", "P_QS"], fit, several)
        half = len(written) // 2
        alone, beside = map(self._reading.majority, (written[:half], written[half:]))
        is_equal = self._reading.equivalent(alone.answer, beside.answer)
        self._predictions.append(Prediction(stage, alone, beside, is_equal))
        self._reasoning = written[half:] if len(stickers) > 1 else [beside.text]
        return self._predictions[-1] if is_equal else None

    def _is_fit(self, sticker: str) -> bool:
        lacks_numbers = self._config.typed and missing_numbers(self._query, sticker)
        return bool(sticker.strip()) and not lacks_numbers

    def _ask(
        self, turn: StagePlace, roles: Sequence[Role], about: Sequence[str] = ("",), samples: int = 1
    ) -> Texts:
        """Ask for texts in each role about each sticker; IG, about each prediction."""
        pairs = [(role, text) for role in roles for text in about]
        asks = [
            Ask(self._number, role, self._prompts.prompt(role, self._query, text)) for role, text in pairs
        ]
        written = yield Request(turn, asks, samples)
        asked_for = [role for role, _ in pairs for _ in range(samples)]
        self._calls += [
            SIFTCall(role, turn.stage % PLAIN, text.prompt_tokens, text.completion_tokens)
            for role, text in zip(asked_for, written, strict=True)
            if not text.failure
        ]
        if failure := next((text.failure for text in written if text.failure), ""):
            raise _FailedCallError(failure)
        return [text.text for text in written]


def _turn(role: Role, stage: int, repeat: int = 0) -> StagePlace:
    return StagePlace(stage, repeat, _PLACES[role])
