"""The check of signatures under which every test runs: shapes by jaxtyping, everything else by beartype.

jaxtyping's import hook decorates all functions with `jaxtyping.jaxtyped`, which binds the arguments and checks them twice, compiles
a function in a function anew with every call of the outer one, and writes its checks when a module is imported. `checked` takes its
place: a check is written when its function is first called (most functions of a module are not, in one process of tests), every `def`
has one check, and names of axes are compared within a call by beartype's own check.
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
_one_call = jaxtyping.jaxtyped("context")
"""Entered for each call: equal names of axes are equal sizes until it is left."""


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
    check: Callable[..., Any] | None = None

    @functools.wraps(function)
    def check_and_call(*args, **kwargs):
        nonlocal check
        if check is None:
            check = function  # writing a check imports, and what finds modules may be the function itself
            check = _check_of(function)
        return check(*args, **kwargs)

    return check_and_call


def _check_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that checks, calls, and checks what comes back."""
    try:
        shapes = [shape for hint in get_type_hints(function).values() for shape in _shapes(hint)]
    except NameError:
        # A name that is imported for type checkers only; jaxtyping leaves it unchecked.
        return _jaxtyped(function)
    if any("{" in shape.dim_str for shape in shapes) or inspect.isgeneratorfunction(inspect.unwrap(function)):
        return _jaxtyped(
            function
        )  # it knows the values of arguments, and that a generator runs on after its call
    return _within_one_call(_beartyped(function)) if shapes else _beartyped(function)


def _within_one_call(check: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args, **kwargs):
        with _one_call:
            return check(*args, **kwargs)

    return call


class _InnerFunction(threading.local):
    """All functions that one `def` in a function makes: one check, and the function whose call is being checked."""

    called: Callable[..., Any]

    def __init__(self, first: Callable[..., Any]) -> None:
        self.check = _check_of(functools.wraps(first)(lambda *args, **kwargs: self.called(*args, **kwargs)))


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


def _shapes(hint: Any) -> list[type]:
    """The array types in a type hint."""
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return [hint]
    return [shape for part in get_args(hint) for shape in _shapes(part)]
