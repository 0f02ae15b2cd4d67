"""What is put on a model and taken off again: hooks, a replaced method, layers with another `forward`.

    with apply_token_reduction(model, ToMe(r=13)) as reduction:
        model(pixels)
        print(reduction)      # <TokenReduction: ToMe(r=13, proportional_attention=True) on ViTModel, 12 layers, 197 to 41 tokens>
    print(reduction)          # <TokenReduction: ToMe(r=13, proportional_attention=True) removed from ViTModel>

Each step is recorded together with its undoing; `remove()` undoes them in reverse order, so the model is bit for bit what it was.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from torch import nn

AnyHandle = TypeVar("AnyHandle", bound="Handle")


class Handle:
    """Something on a model until `remove()`; also a context manager that removes it at the end.

    A subclass puts things on the model in its `__init__` and hands the undoing of each to `_on_removal`: a bound method or a partial,
    never a closure, so that `copy.deepcopy((model, handle))` gives the copied model a handle of its own.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._undoing: list[Callable[[], object]] = []

    def _on_removal(self, *undo: Callable[[], object]) -> None:
        self._undoing += undo

    def remove(self) -> None:
        """Restore the model bit for bit; a second call does nothing."""
        while self._undoing:
            self._undoing.pop()()

    def __enter__(self: AnyHandle) -> AnyHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _method(self) -> str:
        """What is on the model, for `repr`."""
        raise NotImplementedError

    def _details(self) -> Iterable[str]:
        """Where it is and what it did last, for `repr`."""
        return ()

    def __repr__(self) -> str:
        name, model = type(self).__name__, type(self._model).__name__
        if not self._undoing:
            return f"<{name}: {self._method()} removed from {model}>"
        return f"<{name}: {', '.join([f'{self._method()} on {model}', *self._details()])}>"


def replaced(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute of one instance over that of its class, and return what restores it.

    Restoring does nothing once somebody else has replaced the attribute in turn: theirs calls ours, which by then does nothing.
    """
    before = {name: vars(owner)[name]} if name in vars(owner) else {}
    setattr(owner, name, value)
    return partial(_put_back, owner, name, value, before)


def _put_back(owner: Any, name: str, value: Any, before: dict[str, Any]) -> None:
    if vars(owner).get(name) == value:
        delattr(owner, name)
        vars(owner).update(before)
