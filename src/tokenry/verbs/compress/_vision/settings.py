"""The methods of a plan at their settings: checked before a model is loaded."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from tokenry.compression.flops import LayerCost, layer_costs
from tokenry.compression.reducer import REDUCERS, TokenReducer
from tokenry.compression.vision.shares import EncoderShape
from tokenry.core.errors import UserError
from tokenry.core.io.settings import of_kind, parse_yaml
from tokenry.core.tensors.patching import Encoder
from tokenry.verbs.compress.vision import Plan

SHARES = (0.8, 0.65, 0.5, 0.35)
"""Shares of the dense FLOPs at which a sweep compares the methods."""

# Any shape will do to check the options of a sweep.
_ANY_SHAPE = EncoderShape([LayerCost(4 * 384**2, 8 * 384**2, 384)] * 12, 197, 1)


@dataclass(frozen=True)
class Setting:
    """One method at one setting.

    Attributes:
        name: method and setting as a person would write them.
        method: its name on the command line.
        reducer: the method, ready for use.
        pictured: whether pictures of it are drawn.
    """

    name: str
    method: str
    reducer: TokenReducer
    pictured: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """All options of the method, as plain values."""
        if not is_dataclass(self.reducer) or isinstance(self.reducer, type):
            return {}
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self.reducer)))
        return plain


def check_methods(plan: Plan) -> None:
    """Refuse methods and options that cannot work with any model."""
    if not plan.sweep:
        _asked(plan)
        return
    options = {"r": plan.r, "ratio": plan.ratio, "schedule": plan.schedule}
    given = [f"{option}={value}" for option, value in options.items() if value is not None]
    if given:
        raise UserError(f"a sweep sets itself how much each method reduces: leave {' and '.join(given)} out.")
    for description in plan.methods:
        _at_share(description, SHARES[0], _ANY_SHAPE)


def settings_of(plan: Plan, encoder: Encoder, tokens: int) -> tuple[list[Setting], list[str]]:
    """Make the settings of a plan for a model.

    Args:
        plan: the methods and options asked for.
        encoder: the model's.
        tokens: number of tokens that enter its first layer.

    Returns:
        The settings, and in words what had to be left out of a sweep over all methods.
    """
    if not plan.sweep:
        settings = _asked(plan)
        for setting in settings:
            setting.reducer.layer_reducers(encoder)
        return settings, []
    shape = EncoderShape(layer_costs(encoder), tokens, encoder.special_tokens)
    settings, left_out = [], []
    for description in plan.methods or REDUCERS:
        try:
            settings += _swept(description, shape, encoder)
        except UserError as error:
            if plan.methods:
                raise
            left_out.append(f"{description} is left out: {error}")
    return settings, left_out


def parse_colours(written: str | None, what: str) -> list[float] | None:
    """Read `0.5,0.5,0.5`; None where nothing is written."""
    return None if written is None else of_kind(list[float], written.split(","), what)


def _asked(plan: Plan) -> list[Setting]:
    r = None if plan.r is None else parse_yaml(f"[{plan.r}]" if "," in plan.r else plan.r, "r")
    shared = {"r": r, "ratio": plan.ratio, "schedule": plan.schedule}
    shared = {option: value for option, value in shared.items() if value is not None}
    settings: list[Setting] = []
    unused = set(shared)
    for description in plan.methods or ("pitome",):
        method, own = REDUCERS.parse(description)
        options = REDUCERS[method].kinds()
        more = {option: value for option, value in shared.items() if option in options and option not in own}
        unused -= more.keys()
        name = f"{method} {', '.join(_written(own | more))}".strip()
        settings.append(Setting(name, method, REDUCERS.make(description, **more)))
    for option in sorted(unused):
        methods = [setting.method for setting in settings]
        none_has = f"{methods[0]} has" if len(methods) == 1 else f"none of {', '.join(methods)} has"
        raise UserError(
            f"{_written({option: shared[option]})[0]} is given, but {none_has} no such option: leave it out."
        )
    names = [setting.name for setting in settings]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} is asked for twice: once is enough.")
    return settings


def _swept(description: str, shape: EncoderShape, encoder: Encoder) -> list[Setting]:
    method, own = REDUCERS.parse(description)
    label = ", ".join([method, *_written(own)])
    settings = []
    for share in SHARES:
        reducer = _at_share(description, share, shape)
        reducer.layer_reducers(encoder)
        pictured = share == SHARES[len(SHARES) // 2]
        settings.append(Setting(f"{label} at {share:.0%}", label, reducer, pictured))
    return settings


def _at_share(description: str, share: float, shape: EncoderShape) -> TokenReducer:
    method, _ = REDUCERS.parse(description)
    at = getattr(REDUCERS[method].method, "at", None)
    if at is None:
        raise UserError(f"{method} has no `at(share, shape)`, which says how it costs a share of the FLOPs.")
    return REDUCERS.make(description, **at(share, shape))


def _written(options: Mapping[str, Any]) -> list[str]:
    """`option=value` as on the command line; a list is written with commas."""
    return [
        f"{option}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for option, value in options.items()
    ]
