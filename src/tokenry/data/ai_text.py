"""Decide whether a text was written by a machine, with a bounded rate of human texts that are called so.

A detector scores texts; calibrated on human texts like those it will judge, it decides. With h the scores of N human texts and
c = number of human texts that score at least as high as the text:

    p value       (c + 1) / (N + 1)
    machine       p value <= rate                      a new human text is called machine with at most this probability (conformal)
    human         lower end of the exact 95 % interval of c / N > rate: the score is ordinary among human texts
    undecidable   all else, texts of fewer than 50 tokens, and texts without a score

"Human" says that nothing unusual was found, not that a human wrote the text: how many machine texts are found stands beside it only where
machine texts were given. The bound holds for texts like those of the calibration: same kind, language, length, writers.

Sources: the three outcomes are ours; Vovk et al., Algorithmic Learning in a Random World (2005), for the p value.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import atomic_write
from tokenry.core.io.records import read_record
from tokenry.core.io.schema import SCHEMA
from tokenry.core.io.workspace import fingerprint
from tokenry.core.stats import clopper_pearson
from tokenry.data.attacks import normalize_text
from tokenry.data.decisions import Calibrator, MonotoneCurve, SigmoidCurve, require_rate
from tokenry.models.identity import ModelIdentity

Conclusion = Literal["human", "machine", "undecidable"]

KIND = "calibration of a detector"
SHORTEST = 50
_ROUNDING = 1e-12


class TextScores(NamedTuple):
    """Scores of texts.

    Attributes:
        scores: by name, the deciding one first; nan for a text without a score.
        tokens: length of each text.
    """

    scores: Mapping[str, Float[ndarray, "texts"]]
    tokens: Int[ndarray, "texts"]


class Detector(ABC):
    """Scores texts: higher for text that looks more like a machine's.

    Attributes:
        names: names of its scores, the first of which decides.
        max_tokens: length of the windows in which a longer text is read.
        normalise: whether texts are normalised first.
    """

    names: tuple[str, ...]
    max_tokens: int
    normalise: bool

    @property
    @abstractmethod
    def models(self) -> tuple[ModelIdentity, ...]:
        """The models behind the scores."""

    @abstractmethod
    def measure(self, texts: Sequence[str]) -> TextScores:
        """Score texts; a text with nothing to score has nan."""

    @abstractmethod
    def spans(self, text: str) -> list[tuple[str, float]]:
        """Cut a text into pieces that join to it, each with the score of the passage around it."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on beside the models."""
        return {"max_tokens": self.max_tokens, "normalise": self.normalise}

    def score(self, texts: Sequence[str]) -> dict[str, Float[ndarray, "texts"]]:
        """Score texts; by name, the deciding score first."""
        return dict(self.measure(texts).scores)

    def clean(self, text: str) -> str:
        """The text as it is scored."""
        return normalize_text(text) if self.normalise else text

    def calibrate(
        self,
        human_texts: Sequence[str],
        fpr: float = 0.01,
        *,
        machine_texts: Sequence[str] = (),
        method: str = "platt",
        shortest: int = SHORTEST,
        forced: bool = False,
    ) -> "CalibratedDetector":
        """Calibrate on human texts like those that will be judged.

        Args:
            human_texts: texts that humans wrote; those too short to be judged are left out.
            fpr: largest probability that such a text is called a machine's.
            machine_texts: texts that machines wrote, for the share that is found and for probabilities.
            method: curve of the probabilities, as in `Calibrator`.
            shortest: length in tokens below which nothing is said.
            forced: calibrate on fewer texts than the rate can be measured on; only texts above all of them are then called machine.

        Raises:
            UserError: too few human texts that are long enough.
        """
        require_rate(fpr)
        require_at_least(1, shortest=shortest)
        human, left_out = self._usable(human_texts, shortest)
        needed = math.ceil(1 / fpr - _ROUNDING)
        if len(human) < (1 if forced else needed):
            raise UserError(
                f"a false-positive rate of {fpr:g} cannot be measured on {len(human)} human texts of at least {shortest} tokens "
                f"({left_out} of those given are shorter or have no score): at least {needed} are needed."
            )
        machine, _ = self._usable(machine_texts, shortest)
        curve = None
        if len(machine):
            labels = np.repeat([0, 1], [len(human), len(machine)])
            curve = Calibrator(method).fit(np.concatenate([human, machine]), labels)
        calibration = Calibration(
            score=self.names[0],
            models=self.models,
            settings=self.settings,
            fpr=fpr,
            shortest=shortest,
            human_scores=tuple(human.tolist()),
            machine_scores=tuple(machine.tolist()),
            left_out=left_out,
            curve=curve,
            data=fingerprint(*sorted(human_texts), length=24),
        )
        return CalibratedDetector(self, calibration)

    def _usable(self, texts: Sequence[str], shortest: int) -> tuple[Float[ndarray, "texts"], int]:
        """The scores of the texts that can be judged, the highest first, and the number of others."""
        measured = self.measure(texts)
        scores = measured.scores[self.names[0]]
        kept = np.sort(scores[~np.isnan(scores) & (measured.tokens >= shortest)])[::-1]
        return kept, len(texts) - len(kept)


@dataclass(frozen=True)
class Calibration:
    """What a detector learned from human texts; kept in one file, for the models it was made with.

    Attributes:
        score: name of the deciding score.
        models: the models behind it.
        settings: what else it depends on.
        fpr: largest probability that a human text is called a machine's.
        shortest: length in tokens below which nothing is said.
        human_scores: scores of the human texts, the highest first.
        machine_scores: scores of machine texts, where there were any, the highest first.
        left_out: number of human texts that were too short.
        curve: from scores to probabilities; None without machine texts.
        data: fingerprint of the human texts.
    """

    score: str
    models: tuple[ModelIdentity, ...]
    settings: dict[str, Any]
    fpr: float
    shortest: int
    human_scores: tuple[float, ...]
    machine_scores: tuple[float, ...] = ()
    left_out: int = 0
    curve: SigmoidCurve | MonotoneCurve | None = None
    data: str = ""

    @property
    def texts(self) -> int:
        """Number of human texts."""
        return len(self.human_scores)

    @property
    def allowed(self) -> int:
        """Number of human texts that may score above the threshold; 0 where the calibration was forced."""
        return max(0, math.floor(self.fpr * (self.texts + 1) + _ROUNDING) - 1)

    @property
    def machine_above(self) -> float:
        """Score above which a text is called a machine's."""
        return self.human_scores[self.allowed]

    @property
    def human_up_to(self) -> float:
        """Score up to which a text is called human; −inf where the human texts are too few to say so."""
        certain = (
            count for count in range(1, self.texts + 1) if clopper_pearson(count, self.texts)[0] > self.fpr
        )
        return next((self.human_scores[count - 1] for count in certain), -math.inf)

    @property
    def false_positives(self) -> tuple[int, float]:
        """Number of the human texts above the threshold, and the upper end of the exact 95 % interval of its rate among new ones.

        That the threshold was chosen on the same texts does not loosen the bound: the rate above the (k + 1)-th highest of N scores has
        the distribution Beta(k + 1, N − k), from which the interval of k in N takes its upper end.
        """
        above = sum(score > self.machine_above for score in self.human_scores)
        return above, clopper_pearson(self.allowed, self.texts)[1]

    @property
    def found(self) -> float | None:
        """Share of the machine texts above the threshold; None without machine texts."""
        above = [score > self.machine_above for score in self.machine_scores]
        return sum(above) / len(above) if above else None

    def p_values(self, scores: Float[ndarray, "texts"]) -> Float[ndarray, "texts"]:
        """The p value of each score; nan where there is none."""
        lower = np.searchsorted(np.sort(self.human_scores), scores)
        return np.where(np.isnan(scores), math.nan, (self.texts - lower + 1) / (self.texts + 1))

    def conclude(self, scores: Float[ndarray, "texts"], tokens: Int[ndarray, "texts"]) -> list[Conclusion]:
        """Decide about texts from their scores and lengths."""
        human_up_to, machine_above = self.human_up_to, self.machine_above
        return [
            "undecidable"
            if math.isnan(score) or length < self.shortest
            else "machine"
            if score > machine_above
            else "human"
            if score <= human_up_to
            else "undecidable"
            for score, length in zip(scores.tolist(), tokens.tolist(), strict=True)
        ]

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {"schema": SCHEMA, "kind": KIND, **asdict(self)}

    def text(self) -> str:
        """The file as text."""
        return json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n"

    def save(self, path: Path) -> None:
        """Write the file."""
        with atomic_write(path) as partial:
            partial.write_text(self.text(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read a file.

        Raises:
            UserError: it holds no calibration, or a damaged one.
        """
        return read_record(path, cls, KIND, "calibration of a detector", "tokenry detect calibrate")


@dataclass(frozen=True)
class Decision:
    """What is said about one text.

    Attributes:
        outcome: human, machine or undecidable.
        score: the deciding score; nan where there is none.
        p_value: share of human texts that score as high, the text itself counted; nan without a score.
        probability: that the text is a machine's, where the calibration knew machine texts in the shares it had of both; else None.
        tokens: length of the text.
    """

    outcome: Conclusion
    score: float
    p_value: float
    probability: float | None
    tokens: int


@dataclass(frozen=True)
class CalibratedDetector:
    """A detector with its calibration: what decides.

    Attributes:
        detector: what scores texts.
        calibration: what was learned from human texts, for the same models and settings.
    """

    detector: Detector
    calibration: Calibration

    def __post_init__(self) -> None:
        made = "the calibration was made"
        if self.calibration.score != self.detector.names[0]:
            raise UserError(
                f"the score {self.detector.names[0]} decides here, but {made} for {self.calibration.score}: calibrate for this score."
            )
        if len(self.calibration.models) != len(self.detector.models):
            raise UserError(
                f"{made} with {len(self.calibration.models)} models and {len(self.detector.models)} are given: calibrate for these models."
            )
        for then, now in zip(self.calibration.models, self.detector.models, strict=True):
            then.require(now, "the model", made, "calibrate")
        if self.calibration.settings != self.detector.settings:
            raise UserError(
                f"{made} with {self.calibration.settings} and the detector has {self.detector.settings}: calibrate for these settings."
            )

    def judge(self, texts: Sequence[str]) -> list[Decision]:
        """Decide about texts."""
        measured = self.detector.measure(texts)
        scores = measured.scores[self.calibration.score]
        p_values, curve = self.calibration.p_values(scores), self.calibration.curve
        known = [None] * len(scores) if curve is None else curve.probability(scores).tolist()
        conclusions = self.calibration.conclude(scores, measured.tokens)
        return [
            Decision(conclusion, score, p_value, None if math.isnan(score) else probability, length)
            for conclusion, score, p_value, probability, length in zip(
                conclusions, scores.tolist(), p_values.tolist(), known, measured.tokens.tolist(), strict=True
            )
        ]
