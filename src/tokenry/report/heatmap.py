"""Token heat-maps: every token coloured by a signal, and marked as kept or dropped without colour.

A signal at a token is drawn between the 2nd and the 98th percentile of all tokens shown, so that one outlier does not
bleach the rest; a signal with both signs is drawn around zero, in two hues.
level = (value − lowest) / (highest − lowest), or value / highest when signed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tokenry.core.records import Example, ReportToken
from tokenry.report.table import signal_values
from tokenry.report.text import label, visible


@dataclass(frozen=True)
class SignalScale:
    """How one signal becomes a colour: `level` 0 is no colour, 1 the full warm hue, -1 the full cool hue."""

    name: str
    lowest: float
    highest: float
    signed: bool

    @property
    def label(self) -> str:
        """The signal in words."""
        return label(self.name)

    @property
    def ends(self) -> tuple[str, str]:
        """The ends of the scale as they are written beside the ramp."""
        return f"{self.lowest:.2g}".replace("-", "−"), f"{self.highest:.2g}"

    def level(self, value: float) -> float:
        """Place `value` on the scale, in [-1, 1]."""
        low = 0.0 if self.signed else self.lowest
        return float(np.clip((value - low) / (self.highest - low), -1.0 if self.signed else 0.0, 1.0))


@dataclass(frozen=True)
class TokenView:
    """One token ready to be drawn: `style` holds its signals as CSS variables `--0`, `--1`, … in the order of the scales."""

    text: str
    state: str
    style: str
    weight: str
    token_class: str | None
    after_space: bool


@dataclass(frozen=True)
class MapView:
    """One example as one run saw it."""

    run: str
    summary: str
    tokens: list[TokenView]


@dataclass(frozen=True)
class SampleView:
    """One example as all runs saw it, one map below the other."""

    title: str
    maps: list[MapView]

    @property
    def note(self) -> str:
        """The size of the example, and of how many runs it is shown."""
        if len(self.maps) == 1:
            return self.maps[0].summary
        return f"{len(self.maps[0].tokens):,} tokens, {len(self.maps)} runs"


def signal_scales(examples: Iterable[Example]) -> list[SignalScale]:
    """Fit one scale per signal over all tokens of all `examples`."""
    return [_scale(name, values) for name, values in signal_values(examples).items()]


def token_state(token: ReportToken) -> str:
    """Say what became of a token: prompt, kept (weight 1 or more), lowered, dropped (weight 0) or open (no weight)."""
    if not token.learnable and not token.weight:
        return "prompt"
    if token.weight is None:
        return "open"
    if token.weight >= 1:
        return "kept"
    return "lowered" if token.weight > 0 else "dropped"


def map_view(example: Example, scales: Sequence[SignalScale], run: str = "") -> MapView:
    """Prepare the tokens of one example for the page."""
    tokens = [_token_view(token, scales) for token in example.tokens]
    return MapView(run, _summary(tokens), tokens)


def _scale(name: str, values: np.ndarray) -> SignalScale:
    low, high = np.percentile(values, [2, 98])
    signed = bool(low < 0 < high)
    if signed:
        high = np.percentile(np.abs(values), 98)
        low = -high
    elif high <= low:
        high = max(float(values.max()), float(low) + 1.0)
    return SignalScale(name, float(low), float(high), signed)


def _summary(tokens: Sequence[TokenView]) -> str:
    chosen = [token for token in tokens if token.state in ("kept", "lowered", "dropped")]
    said = f"{len(tokens):,} tokens"
    if not chosen:
        return said
    kept = sum(token.state == "kept" for token in chosen)
    return f"{said}, {kept:,} of {len(chosen):,} kept ({kept / len(chosen):.0%})"


def _token_view(token: ReportToken, scales: Sequence[SignalScale]) -> TokenView:
    values = ((index, token.signals.get(scale.name)) for index, scale in enumerate(scales))
    return TokenView(
        text=visible(token.text),
        state=token_state(token),
        style=";".join(
            f"--{i}:{value:.3g}" for i, value in values if value is not None and np.isfinite(value)
        ),
        weight="" if token.weight in (None, 0, 1) else f"{token.weight:.3g}",
        token_class=token.token_class,
        after_space=token.text[:1].isspace(),
    )
