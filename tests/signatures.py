"""The check of signatures under which every test runs: shapes by jaxtyping, everything else by beartype.

jaxtyping's import hook decorates all functions with `jaxtyping.jaxtyped`, which binds the arguments and checks them twice, and compiles
a function in a function anew with every call of the outer one. `checked` takes its place: it binds only where an annotation has a shape,
and compiles every `def` once.
"""

import dataclasses
import functools
import inspect
import threading
import types
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped = functools.partial(jaxtyping.jaxtyped, typechecker=beartype)
_beartyped = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def install(package: str) -> None:
    """Check the signatures of a package that is not imported yet."""
    jaxtyping.jaxtyped = lambda *, typechecker: checked
    jaxtyping.install_import_hook(package, "beartype.beartype")


def checked(thing: Any) -> Any:
    """A function or the constructor of a dataclass, with its arguments and results checked."""
    if not inspect.isclass(thing):
        return _checked_inner(thing) if "<locals>" in thing.__qualname__ else _checked(thing)
    if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
        thing.__init__ = _checked(thing.__init__)
    return thing


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    return (_jaxtyped if _has_shapes(function) else _beartyped)(function)


class _InnerFunction(threading.local):
    """All functions that one `def` in a function makes: one check, and the function whose call is being checked."""

    called: Callable[..., Any]

    def __init__(self, first: Callable[..., Any]) -> None:
        self.check = _checked(functools.wraps(first)(lambda *args, **kwargs: self.called(*args, **kwargs)))


_inner: dict[types.CodeType, _InnerFunction] = {}
_CHECKED = "__beartype_func"
"""The argument under which what beartype writes holds the function that it checks."""


def _checked_inner(function: types.FunctionType) -> Callable[..., Any]:
    inner = _inner.get(function.__code__) or _inner.setdefault(function.__code__, _InnerFunction(function))
    is_generator = inspect.isgeneratorfunction(function)
    if not is_generator and _CHECKED in (getattr(inner.check, "__kwdefaults__", None) or ()):
        return _around(inner.check, function)

    @functools.wraps(function)
    def check_and_call(*args, **kwargs):
        inner.called = function
        return inner.check(*args, **kwargs)

    @functools.wraps(function)
    def check_and_generate(*args, **kwargs):
        yield from check_and_call(*args, **kwargs)

    # Who is handed a function, such as gradio, may ask whether it is a generator.
    return check_and_generate if is_generator else check_and_call


def _around(check: Any, function: types.FunctionType) -> types.FunctionType:
    """The check that was written for one function of a `def`, around another: half as much time a call as through a third."""
    around = types.FunctionType(check.__code__, check.__globals__, function.__name__, check.__defaults__)
    around.__kwdefaults__ = {**check.__kwdefaults__, _CHECKED: function}
    around.__qualname__, around.__doc__ = function.__qualname__, function.__doc__
    around.__annotations__, around.__wrapped__ = function.__annotations__, function
    return around


def _has_shapes(function: Callable[..., Any]) -> bool:
    try:
        return any(map(_is_shaped, get_type_hints(function).values()))
    except NameError:
        # A name that is imported for type checkers only; jaxtyping leaves it unchecked.
        return True


def _is_shaped(hint: Any) -> bool:
    shaped = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return shaped or any(map(_is_shaped, get_args(hint)))
