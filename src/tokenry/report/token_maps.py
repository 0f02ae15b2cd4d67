"""Token heat-maps: every token coloured by a signal, and marked as kept or dropped without colour.

A signal at a token is drawn between the 2nd and the 98th percentile of all tokens shown, so that one outlier does not
bleach the rest; a signal with both signs is drawn around zero, in two hues.
level = (value − lowest) / (highest − lowest), or value / highest when signed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.text import Text

from tokenry.core.errors import UserError
from tokenry.report.blocks import Heatmap, Token
from tokenry.report.text import label, visible
from tokenry.report.writing import plural

STATES = {
    "kept": "kept",
    "lowered": "dropped to a lower weight",
    "dropped": "dropped",
    "prompt": "prompt, not learned from",
    "large": "written by the large model",
}
_WARM = ((255, 244, 230), (240, 140, 50))
_COOL = ((232, 242, 252), (90, 155, 220))
_STYLES = {
    "kept": "bold underline",
    "lowered": "underline",
    "dropped": "strike",
    "prompt": "dim",
    "large": "bold underline",
    "open": "",
}


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


def signal_values(texts: Iterable[Sequence[Token]]) -> dict[str, np.ndarray]:
    """The finite values of every signal over all tokens, in the order in which signals first appear."""
    values: dict[str, list[float]] = {}
    for tokens in texts:
        for token in tokens:
            for name, value in token.signals.items():
                if math.isfinite(value):
                    values.setdefault(name, []).append(value)
    return {name: np.asarray(finite) for name, finite in values.items()}


def signal_scales(texts: Iterable[Sequence[Token]]) -> list[SignalScale]:
    """One scale per signal, fitted over all tokens of all texts."""
    return [_scale(name, values) for name, values in signal_values(texts).items()]


def token_state(
    learnable: bool, weight: float | None
) -> Literal["kept", "lowered", "dropped", "prompt", "open"]:
    """What became of a token: prompt, kept (weight 1 or more), lowered, dropped (weight 0) or open (no weight)."""
    if not learnable and not weight:
        return "prompt"
    if weight is None:
        return "open"
    if weight >= 1:
        return "kept"
    return "lowered" if weight > 0 else "dropped"


def shown_states(heatmaps: Iterable[Heatmap]) -> list[tuple[str, str]]:
    """The states that occur in the heat-maps, in words, for the legend of a page."""
    present = {token.state for heatmap in heatmaps for _, tokens in heatmap.maps for token in tokens}
    return [(state, words) for state, words in STATES.items() if state in present]


def map_view(run: str, tokens: Sequence[Token], scales: Sequence[SignalScale]) -> MapView:
    """One text as one run saw it, ready to be drawn on a page."""
    views = [_token_view(token, scales) for token in tokens]
    return MapView(run, _summary(views), views)


def terminal_heatmap(tokens: Sequence[Token], signal: str | None = None) -> Text:
    """Draw one text for a terminal: background by `signal`, kept bold and underlined, dropped struck through.

    Args:
        signal: what colours it; None for the first signal that its tokens have.

    Raises:
        UserError: no token has this signal.
    """
    scales = {scale.name: scale for scale in signal_scales([tokens])}
    if signal is not None and signal not in scales:
        known = ", ".join(scales) or "none"
        raise UserError(f"signal {signal!r} is not known for this example: choose one of {known}.")
    shown = scales[signal] if signal else next(iter(scales.values()), None)
    heatmap = Text()
    for token in tokens:
        style = _STYLES[token.state]
        value = token.signals.get(shown.name, np.nan) if shown else np.nan
        if shown and token.state != "prompt" and np.isfinite(value):
            style = f"{style} black on {token_colour(shown.level(value))}"
        heatmap.append(visible(token.text), style=style.strip())
    return heatmap


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
    said = plural(len(tokens), "token")
    if not chosen:
        return said
    kept = sum(token.state == "kept" for token in chosen)
    return f"{said}, {kept:,} of {len(chosen):,} kept ({kept / len(chosen):.0%})"


def _token_view(token: Token, scales: Sequence[SignalScale]) -> TokenView:
    values = ((index, token.signals.get(scale.name)) for index, scale in enumerate(scales))
    return TokenView(
        text=visible(token.text),
        state=token.state,
        style=";".join(
            f"--{i}:{value:.3g}" for i, value in values if value is not None and np.isfinite(value)
        ),
        weight="" if token.weight in (None, 0, 1) else f"{token.weight:.3g}",
        token_class=token.token_class,
        after_space=token.text[:1].isspace(),
    )


def token_colour(level: float | int) -> str:
    """The colour of a token at a level of its scale."""
    pale, full = _WARM if level >= 0 else _COOL
    red, green, blue = (round(low + abs(level) * (high - low)) for low, high in zip(pale, full, strict=True))
    return f"rgb({red},{green},{blue})"
