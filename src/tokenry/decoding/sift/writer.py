"""The model behind SIFT, and what it may still write: counts calls and tokens, keeps to the caps, and says why a text is missing.

A text that cannot be written stands in its place as failed, and the others are kept. Before the first text it is an error instead: then
nothing would be lost.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenry.core.errors import UserError
from tokenry.decoding.sift.prompts import ROLES, Role
from tokenry.models.text_model import GREEDY, Generated, LocalText, Prompt, Sampling, TextModel

Backend = TextModel | Callable[[list[str]], list[str]]


class Ask(NamedTuple):
    """A text that a question waits for."""

    question: int
    role: Role
    prompt: Prompt


class Writer:
    """A text model with its caps.

    Args:
        backend: text model, or a function from texts to as many texts.
        max_calls: number of texts after which nothing is asked any more.
        max_tokens: number of tokens, prompts included, likewise.

    Attributes:
        calls: texts written so far.
        tokens: tokens read and written so far.
    """

    def __init__(self, backend: Backend, max_calls: int | None = None, max_tokens: int | None = None) -> None:
        self._model: TextModel = backend if isinstance(backend, TextModel) else _FunctionText(backend)
        self._max_calls, self._max_tokens = max_calls, max_tokens
        self.calls = self.tokens = 0

    def write(self, asks: Sequence[Ask], sampling: Sampling) -> list[list[Generated]]:
        """`sampling.samples` texts for each ask.

        Raises:
            UserError: the backend returns another number of texts, or no text was written yet and none can be.
        """
        refused = {place: self._too_long(ask, sampling) for place, ask in enumerate(asks)}
        fitting = [place for place, reason in refused.items() if not reason]
        affordable, cap = self._affordable(sampling)
        refused |= dict.fromkeys(fitting[affordable:], cap)
        written = dict.fromkeys(fitting[:affordable])
        hopeless = next((reason for reason in refused.values() if reason), "")
        if hopeless and not self.calls and (len(fitting) < len(asks) or not written):
            raise UserError(hopeless)
        found = iter(self._generate([asks[place].prompt for place in written], sampling))
        return [
            [next(found) if place in written else _failed(reason) for _ in range(sampling.samples)]
            for place, reason in refused.items()
        ]

    def _generate(self, prompts: list[Prompt], sampling: Sampling) -> list[Generated]:
        wanted = len(prompts) * sampling.samples
        try:
            texts = self._model.generate(prompts, sampling) if prompts else []
        except UserError as error:
            if not self.calls:
                raise
            texts = [_failed(str(error))] * wanted
        if len(texts) != wanted:
            raise UserError(f"{self._model.name} returned {len(texts)} texts, and {wanted} were asked for.")
        self.calls += sum(not text.failure for text in texts)
        self.tokens += sum(text.prompt_tokens + text.completion_tokens for text in texts)
        return texts

    def _affordable(self, sampling: Sampling) -> tuple[int | None, str]:
        """How many asks the caps leave room for, None for all, and the sentence about the others."""
        room: list[tuple[int, str]] = []
        if self._max_calls is not None:
            said = f"the cap of {self._max_calls} calls is reached: raise max_calls to go on."
            room.append(((self._max_calls - self.calls) // sampling.samples, said))
        if self._max_tokens is not None:
            most = sampling.max_new_tokens * sampling.samples
            said = (
                f"the cap of {self._max_tokens} tokens would be passed ({self.tokens} are spent, and a call may take {most}): "
                "raise max_tokens to go on."
            )
            room.append((max(0, self._max_tokens - self.tokens) // most, said))
        return min(room, default=(None, ""))

    def _too_long(self, ask: Ask, sampling: Sampling) -> str:
        """Why a prompt does not fit into a model with a table of positions; empty if it does."""
        if not isinstance(self._model, LocalText) or math.isinf(positions := self._model.positions):
            return ""
        tokens = self._model.prompt_tokens(ask.prompt)
        if tokens + sampling.max_new_tokens - 1 <= positions:
            return ""
        return (
            f"the prompt for {ROLES[ask.role]} ({ask.role}) of question {ask.question} has {tokens} tokens, and {self._model.name} has "
            f"{positions:g} positions for it and the {sampling.max_new_tokens} tokens of its answer: shorten the question, lower "
            "max_new_tokens, or take a model with more positions."
        )


class _FunctionText:
    """A function from texts to texts as a text model; where it raises on a batch, each text is asked for alone."""

    def __init__(self, function: Callable[[list[str]], list[str]]) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        self._function = function

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY) -> list[Generated]:
        texts = [prompt if isinstance(prompt, str) else str(prompt[-1]["content"]) for prompt in prompts]
        asked = [text for text in texts for _ in range(sampling.samples)]
        try:
            return [Generated(text, None, 0, 0) for text in self._function(asked)]
        except Exception:
            return [self._alone(text) for text in asked]

    def _alone(self, text: str) -> Generated:
        try:
            (written,) = self._function([text])
        except Exception as error:
            return _failed(f"{self.name} raised {type(error).__name__}: {error}")
        return Generated(written, None, 0, 0)


def _failed(reason: str) -> Generated:
    return Generated("", None, 0, 0, "failed", reason)
