"""Several processes that do one job (`accelerate launch`): the first one writes, and all go by what it finds.

    @by_first
    def save(path, data): ...      saved once, and there when the others go on

The variables are those that torchrun and accelerate set; without them there is one process.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def rank() -> int:
    """The number of this process, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def processes() -> int:
    """The number of processes that do the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def by_first(act: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """Let the first process act while the others wait, and give all of them what came of it, be it an error; all must call it."""

    @functools.wraps(act)
    def acted(*args: _Given.args, **options: _Given.kwargs) -> _Found:
        if processes() == 1:
            return act(*args, **options)
        import torch.distributed

        told: list[Any] = [None, None]
        if is_first():
            try:
                told[0] = act(*args, **options)
            except Exception as error:
                told[1] = error
        torch.distributed.broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        found: _Found = told[0]
        return found

    return acted
