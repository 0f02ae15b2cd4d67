"""Logged answers, which rules are fitted on: from a file, or from two models that answer verified prompts.

One object per prompt, as JSON lines, JSON or Parquet:

    {"logprobs": [-0.1, -0.7], "small": 0, "large": 1}

    logprobs    of the tokens of the small model's answer, in nats
    small       quality of its answer                        large          of the large model's answer
    small_seconds, large_seconds, prompt_tokens, large_tokens, each of them optional: for the costs
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import option
from tokenry.verbs._chats import ANSWER_TOKENS, DEMO, verified_prompts
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import text_model

if TYPE_CHECKING:
    from numpy import ndarray

    from tokenry.decoding.deferral_rules import Examples
    from tokenry.models.identity import ModelIdentity
    from tokenry.models.text_model import Generated, TextModel

Axis = Literal["rate", "flops", "seconds"]

AXES = {"rate": "share of the prompts deferred", "flops": "FLOPs per prompt", "seconds": "seconds per prompt"}
_NUMBERS = ("small_seconds", "large_seconds", "prompt_tokens", "large_tokens")


@dataclass(frozen=True)
class AnswerSource:
    """Answers of both models to the same prompts: written now, or logged before.

    Attributes:
        small: small model: `embedded`, a folder, a hub name, or an endpoint as URL#MODEL.
        large: large model, likewise.
        data: prompts with verifiers that the models answer: `demo`, or a file, folder or hub name as for `tokenry tune`.
        logged: file of logged answers instead: per line logprobs, and the qualities small and large.
        quality: file of the qualities small and large, if they stand in a file of their own; one line per logged answer.
        items: maximum number of prompts that the models answer.
        max_new_tokens: maximum number of tokens of an answer.
        small_parameters: parameters of the small model, for the FLOPs of logged answers.
        large_parameters: parameters of the large model, likewise.
    """

    small: str | None = option(None, metavar="MODEL")
    large: str | None = option(None, metavar="MODEL")
    data: str = DEMO
    logged: Path | None = option(None, metavar="FILE")
    quality: Path | None = option(None, metavar="FILE")
    items: int = 200
    max_new_tokens: int = ANSWER_TOKENS
    small_parameters: float | None = None
    large_parameters: float | None = None

    def __post_init__(self) -> None:
        require_at_least(1, items=self.items, max_new_tokens=self.max_new_tokens)
        require_at_least(1, small_parameters=self.small_parameters, large_parameters=self.large_parameters)

    def require(self) -> None:
        """Raise `UserError` unless the options name one source."""
        if self.logged is None and (self.small is None or self.large is None):
            raise UserError(
                "a cascade has two models: give --small and --large, or --logged with their answers."
            )
        if self.quality is not None and self.logged is None:
            raise UserError("--quality goes with --logged: models that answer now are verified.")

    def answers(self, hardware: Hardware, seed: int, progress: Progress) -> "LoggedAnswers":
        """Read the answers, or let both models write them."""
        if self.logged is not None:
            return read_answers(self)
        return written_answers(self, hardware, seed, progress)


NO_SOURCE = AnswerSource()


@dataclass(frozen=True)
class LoggedAnswers:
    """Answers with what they cost.

    Attributes:
        examples: log-probabilities and qualities.
        rows: the answers as they are logged.
        name: where they are from.
        small: the small model.
        large: the large model.
        parameters: parameters of both; nan where unknown.
        missing: prompts that a model failed to answer, which are left out.
    """

    examples: "Examples"
    rows: Sequence[dict[str, Any]]
    name: str
    small: "ModelIdentity"
    large: "ModelIdentity"
    parameters: tuple[float, float]
    missing: int = 0

    def costs(self, axis: Axis, first: int | None = None) -> "tuple[ndarray, ndarray, ndarray]":
        """Cost of the small model's answers, of the large model's, and of the small model's wasted work on what is deferred."""
        import numpy as np

        tokens = self.examples.lengths
        seen = np.minimum(tokens, first or math.inf)
        if axis == "seconds":
            small, large = self._column("small_seconds"), self._column("large_seconds")
            return small, large, small * seen / np.maximum(tokens, 1)
        if math.isnan(sum(self.parameters)):
            raise UserError(
                "FLOPs need the size of both models: give --small-parameters and --large-parameters."
            )
        per_token = [2 * size for size in self.parameters]
        prompt, written = self._column("prompt_tokens"), self._column("large_tokens")
        return (
            per_token[0] * (prompt + tokens),
            per_token[1] * (prompt + written),
            per_token[0] * (prompt + seen),
        )

    def _column(self, name: str) -> "ndarray":
        import numpy as np

        values = [row.get(name) for row in self.rows]
        if None in values:
            raise UserError(
                f"{self.name} has no {name} for answer {values.index(None) + 1}, which this axis needs."
            )
        return np.array(values, dtype=float)

    @property
    def lines(self) -> str:
        """The answers as JSON lines."""
        return "".join(json.dumps(row) + "\n" for row in self.rows)


# --- from a file -------------------------------------------------------------------------------------------------------


def read_answers(source: AnswerSource) -> LoggedAnswers:
    """Read logged answers."""
    from tokenry.core.chat.reading import read_rows
    from tokenry.models.identity import ModelIdentity

    assert source.logged is not None
    rows = read_rows(str(source.logged))
    if source.quality is not None:
        qualities = read_rows(str(source.quality))
        if len(qualities) != len(rows):
            raise UserError(
                f"{source.quality} has {len(qualities)} qualities for the {len(rows)} answers in {source.logged}: "
                "give one line per answer, in the same order."
            )
        rows = [
            row | {name: quality.get(name) for name in ("small", "large")}
            for row, quality in zip(rows, qualities, strict=True)
        ]
    checked = [_checked(row, f"{source.logged}, answer {number}") for number, row in enumerate(rows, start=1)]
    parameters = source.small_parameters or math.nan, source.large_parameters or math.nan
    models = ModelIdentity(source.small or "small"), ModelIdentity(source.large or "large")
    return _logged(checked, str(source.logged), models, parameters)


def _checked(row: dict[str, Any], where: str) -> dict[str, Any]:
    logprobs = row.get("logprobs")
    if not isinstance(logprobs, list) or not all(_is_number(value) for value in logprobs):
        raise UserError(
            f"{where} has no list of numbers under logprobs: a rule is fitted on the log-probabilities of the small model's tokens."
        )
    for name in ("small", "large", *(name for name in _NUMBERS if row.get(name) is not None)):
        if not _is_number(row.get(name)):
            raise UserError(f"{where} has no number under {name}, got {row.get(name)!r}.")
    return {
        name: row[name] for name in ("logprobs", "small", "large", *_NUMBERS) if row.get(name) is not None
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _logged(
    rows: Sequence[dict[str, Any]],
    name: str,
    models: "tuple[ModelIdentity, ModelIdentity]",
    parameters: tuple[float, float],
    missing: int = 0,
) -> LoggedAnswers:
    import numpy as np

    from tokenry.decoding.cascades import chow_score, pad_logprobs
    from tokenry.decoding.deferral_rules import Examples

    outputs = pad_logprobs([row["logprobs"] for row in rows])
    chow_score(*outputs, empty="defer")  # what is no log-probability is refused before anything is fitted
    qualities = (np.array([row[name] for row in rows], dtype=float) for name in ("small", "large"))
    return LoggedAnswers(Examples(*outputs, *qualities), rows, name, *models, parameters, missing)


# --- from two models ---------------------------------------------------------------------------------------------------


def written_answers(source: AnswerSource, hardware: Hardware, seed: int, progress: Progress) -> LoggedAnswers:
    """Let both models answer prompts and verify the answers."""
    from tokenry.evaluation.verifiers import is_right
    from tokenry.models.identity import ModelIdentity
    from tokenry.models.text_model import Sampling

    items, prompts = verified_prompts(source.data, source.items, seed)
    sampling = Sampling(max_new_tokens=source.max_new_tokens)
    found: dict[str, tuple[list[Generated], float]] = {}
    models: dict[str, TextModel] = {}
    for number, role in enumerate(("small", "large")):
        progress(f"the {role} model answers", number / 2)
        models[role] = text_model(getattr(source, role), hardware)
        started = time.perf_counter()
        found[role] = models[role].generate(prompts, sampling), time.perf_counter() - started
    kept = [place for place in range(len(items)) if not any(found[role][0][place].failure for role in found)]
    if not kept:
        raise UserError(
            f"no prompt was answered by both models: {found['small'][0][0].failure or found['large'][0][0].failure}"
        )
    logged = []
    for place in kept:
        small, large = (found[role][0][place] for role in ("small", "large"))
        if small.log_probs is None:
            raise UserError(
                f"{source.small} gives no log-probabilities of its tokens, so its answers have no score: use another small model."
            )
        verifier = items[place]["verifier"]
        logged.append({
            "logprobs": list(small.log_probs),
            "small": int(is_right(small.text.strip(), verifier)),
            "large": int(is_right(large.text.strip(), verifier)),
            "prompt_tokens": small.prompt_tokens,
            "large_tokens": large.completion_tokens,
            **{f"{role}_seconds": _share(*found[role], place) for role in ("small", "large")},
        })  # fmt: skip
    parameters = (
        _parameters(models["small"], source.small_parameters),
        _parameters(models["large"], source.large_parameters),
    )
    identities = ModelIdentity.of(models["small"]), ModelIdentity.of(models["large"])
    name = f"{source.small} and {source.large} on {source.data}"
    return _logged(logged, name, identities, parameters, len(items) - len(kept))


def _share(answers: "Sequence[Generated]", seconds: float, place: int) -> float:
    """Seconds of one answer: of a batch, the share of its tokens."""
    total = sum(answer.completion_tokens for answer in answers)
    return seconds * answers[place].completion_tokens / max(1, total)


def _parameters(model: "TextModel", given: float | None) -> float:
    count: Callable[[], int] | None = getattr(getattr(model, "model", None), "num_parameters", None)
    return given if given is not None else float(count()) if count else math.nan
