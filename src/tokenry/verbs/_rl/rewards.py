"""The reward of a response: whether the verifier of its question calls it right, or what a function of the user's says.

A function is written as for TRL's GRPOTrainer: `reward(prompts, completions, **columns) -> list of numbers`, one per completion, and
so are the columns of the data, each a list. A completion is a list with one message of the assistant.
"""

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import nearest
from tokenry.evaluation.verifiers import is_right
from tokenry.verbs._rl.questions import VERIFIERS, Question

Messages = Sequence[dict[str, Any]]


class Reward:
    """A reward as TRL calls it, which answers for what it returns.

    Args:
        name: `exact`, `number`, `module:function`, or None for the verifiers of the questions.

    Attributes:
        prompts: the prompts that were rewarded last.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name or "verifier"
        self.__name__ = self.name.rpartition(":")[2]  # TRL names metrics after it
        self._function = _verified if name is None or name in VERIFIERS else _imported(name)
        self.prompts: Sequence[Messages] = ()

    def __call__(
        self, *, prompts: Sequence[Messages], completions: Sequence[Messages], **columns: Any
    ) -> list[float]:
        """One finite number per completion."""
        self.prompts = prompts
        try:
            values = self._function(prompts=prompts, completions=completions, **columns)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the reward {self.name} failed ({type(error).__name__}: {error}).") from error
        if values is None:
            raise UserError(
                f"the reward {self.name} returned None: it must return a list of one number per completion."
            )
        rewards = list(values)
        if len(rewards) != len(completions):
            raise UserError(
                f"the reward {self.name} returned {len(rewards)} numbers for {len(completions)} completions: it must return one for each."
            )
        for place, value in enumerate(rewards):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(
                    f"the reward {self.name} returned {value!r} for completion {place}: it must be a finite number."
                )
        return [float(value) for value in rewards]

    def of_texts(self, questions: Sequence[Question], texts: Sequence[str]) -> list[float]:
        """The rewards of one answer to each question."""
        names = dict.fromkeys(name for question in questions for name in question if name != "prompt")
        return self(
            prompts=[question["prompt"] for question in questions],
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            completion_ids=[[] for _ in texts],
            trainer_state=None,
            log_extra=lambda *_: None,
            log_metric=lambda *_: None,
            **{name: [question.get(name) for question in questions] for name in names},
        )


def _verified(
    *, completions: Sequence[Messages], verifier: Sequence[dict[str, Any]], **_: Any
) -> list[float]:
    return [
        float(is_right(completion[-1]["content"], check))
        for completion, check in zip(completions, verifier, strict=True)
    ]


def _imported(name: str) -> Callable[..., Any]:
    """Import `module:function`, the module from where the user stands or from what is installed."""
    module, colon, function = name.partition(":")
    if not (colon and module and function):
        raise UserError(
            f"there is no reward {name!r}{nearest(name, VERIFIERS)}: give {', '.join(VERIFIERS)}, or module:function."
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the reward {name}: there is no module {error.name!r} here or among what is installed."
        ) from error
    except Exception as error:
        raise UserError(
            f"the reward {name}: {module} cannot be imported ({type(error).__name__}: {error})."
        ) from error
    finally:
        sys.path.remove(here)
    if found is None:
        there = [known for known, value in vars(sys.modules[module]).items() if callable(value)]
        raise UserError(
            f"the reward {name}: {module} has no function {function!r}{nearest(function, there)}."
        )
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise UserError(f"the reward {name} must be a function that returns a list of numbers at once.")
    return found
