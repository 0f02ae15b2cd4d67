"""What `tokenry compress vision` is asked to do, and the settings that this means: checked before a model is loaded."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from tokenry.compression.vision.flops import LayerCost, layer_costs
from tokenry.compression.vision.reducer import TokenReducer
from tokenry.compression.vision.registry import REDUCERS, make_reducer, named_options
from tokenry.core.errors import UserError
from tokenry.core.patching import Encoder
from tokenry.core.settings import of_kind, parse_yaml
from tokenry.runs.vision.sweep import SHARES, Shape, options_at

# Any model will do to see whether the options of a sweep can be used.
_ANY_SHAPE = Shape([LayerCost(4 * 384**2, 8 * 384**2, 384)] * 12, 197, 1)


@dataclass(frozen=True)
class VisionPlan:
    """A model, images, and how to reduce.

    Attributes:
        model: a folder or a hub name.
        images: a folder.
        methods: `name` or `name:option=value,...`; in a sweep none means all.
        r: for the methods that have it and do not say their own: a number, or numbers with commas.
        ratio: the same.
        schedule: the same: a file, or a published schedule such as `deit-small@2.9`.
        labels: a CSV file with the columns file and label.
        sweep: try the methods at several shares of the FLOPs.
        every_layer: keep pictures after every layer, not only the last.
        pictures: how many images to draw.
        limit: how many images to look at; None for all.
        batch_size: images per forward; None for 8 on a CPU and 64 on an accelerator.
        rounds: of the timing; None for 5, in a sweep 3.
        dtype: of the model; None is bfloat16 where the hardware has it.
        restore_length: give the head all tokens again; None where it reads patches.
        mean: of the colours, three numbers with commas; with `std` in place of an image processor.
        std: the same for the standard deviation.
    """

    model: str
    images: Path
    methods: Sequence[str] = ()
    r: str | None = None
    ratio: float | None = None
    schedule: str | None = None
    labels: Path | None = None
    sweep: bool = False
    every_layer: bool = False
    pictures: int = 8
    limit: int | None = None
    batch_size: int | None = None
    rounds: int | None = None
    dtype: str | None = None
    restore_length: bool | None = None
    mean: str | None = None
    std: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("rounds", 2), ("pictures", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}, got {value}.")

    @property
    def timed_rounds(self) -> int:
        """Rounds of the timing."""
        return self.rounds or (3 if self.sweep else 5)

    def as_settings(self) -> dict[str, Any]:
        """What was asked for, as plain values."""
        values = {
            name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()
        }
        return values | {"methods": list(self.methods)}


@dataclass(frozen=True)
class Setting:
    """One method at one setting.

    Attributes:
        name: as a person would say it.
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
        """Everything it was made with, as plain values."""
        made: dict[str, Any] = (
            asdict(self.reducer) if is_dataclass(self.reducer) and not isinstance(self.reducer, type) else {}
        )
        plain: dict[str, Any] = json.loads(json.dumps(made))
        return plain


def check_methods(plan: VisionPlan) -> None:
    """Refuse methods and options that cannot work, whatever the model.

    Raises:
        UserError: an unknown method, an option that it does not have, or one that is out of range.
    """
    if not plan.sweep:
        _asked(plan)
        return
    given = [option for option in ("r", "ratio", "schedule") if getattr(plan, option) is not None]
    if given:
        raise UserError(f"a sweep sets itself how much each method reduces: leave {' and '.join(given)} out.")
    for description in plan.methods:
        method, _ = named_options(description)
        make_reducer(description, **options_at(method, SHARES[0], _ANY_SHAPE))


def settings_of(plan: VisionPlan, encoder: Encoder, tokens: int) -> tuple[list[Setting], list[str]]:
    """Make the settings of a plan for a model.

    Args:
        plan: what is asked for.
        encoder: of the model.
        tokens: that enter its first layer.

    Returns:
        The settings, and what had to be left out of a sweep over all methods, in words.

    Raises:
        UserError: a method that was asked for does not fit the model.
    """
    if not plan.sweep:
        settings = _asked(plan)
        for setting in settings:
            setting.reducer.layer_reducers(encoder)
        return settings, []
    shape = Shape(layer_costs(encoder), tokens, encoder.special_tokens)
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
    """Read `0.5,0.5,0.5`.

    Raises:
        UserError: these are no numbers.
    """
    if written is None:
        return None
    return of_kind(list[float], written.split(","), what)


def _asked(plan: VisionPlan) -> list[Setting]:
    r = None if plan.r is None else parse_yaml(f"[{plan.r}]" if "," in plan.r else plan.r, "r")
    shared = {"r": r, "ratio": plan.ratio, "schedule": plan.schedule}
    shared = {option: value for option, value in shared.items() if value is not None}
    settings: list[Setting] = []
    unused = set(shared)
    for description in plan.methods or ("pitome",):
        method, own = named_options(description)
        options = REDUCERS[method].kinds()
        more = {option: value for option, value in shared.items() if option in options and option not in own}
        unused -= more.keys()
        said = ", ".join(f"{option}={_short(value)}" for option, value in (own | more).items())
        settings.append(Setting(f"{method} {said}".strip(), method, make_reducer(description, **more)))
    for option in unused:
        raise UserError(
            f"{option} is given, but {_none_of([setting.method for setting in settings])} no such option: leave it out."
        )
    names = [setting.name for setting in settings]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} is asked for twice: once is enough.")
    return settings


def _swept(description: str, shape: Shape, encoder: Encoder) -> list[Setting]:
    method, own = named_options(description)
    label = ", ".join([method, *(f"{option}={_short(value)}" for option, value in own.items())])
    settings = []
    for share in SHARES:
        reducer = make_reducer(description, **options_at(method, share, shape))
        reducer.layer_reducers(encoder)
        pictured = share == SHARES[len(SHARES) // 2]
        settings.append(Setting(f"{label} at {share:.0%}", label, reducer, pictured))
    return settings


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _none_of(methods: Sequence[str]) -> str:
    return f"{methods[0]} has" if len(methods) == 1 else f"none of {', '.join(methods)} has"
