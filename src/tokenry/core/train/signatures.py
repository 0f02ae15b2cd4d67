"""The signature of a trainer that takes everything its parent takes, and a few options more."""

import inspect
from collections.abc import Callable


def with_parameters_of(parent: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let `inspect.signature` show the parameters of `parent` in place of `*args` and `**kwargs`."""

    def shown(init: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(init).parameters.values()
        named = [parameter for parameter in own if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
        theirs = inspect.signature(parent).parameters.values()
        setattr(init, "__signature__", inspect.Signature([*theirs, *named]))  # noqa: B010  (mypy knows no __signature__)
        return init

    return shown
