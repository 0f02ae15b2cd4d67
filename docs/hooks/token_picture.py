"""The picture of the token report: one training sample of the stored demo, token by token, as SVG.

The colours, the marks and their meaning are those of the report; the letters are a fixed width apart, so that every viewer draws the
same lines.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tokenry.report.blocks import Token
from tokenry.report.text import visible
from tokenry.report.token_maps import signal_scales, token_colour
from tokenry.verbs._tokens import example_tokens

WIDTH, MARGIN, LINE, LETTER = 480, 12, 30, 8.4
RUN, SAMPLE, SIGNAL = "token-cleaning dropped_weight=0.1", 0, "base_minus_reference"
_STRIKE, _NOISE = "#1b1d20", "#b02a56"


def token_picture(stored: Path) -> str:
    """Draw the answer of a training sample of a stored comparison, as the run of TokenCleaning saw it."""
    runs = json.loads(stored.read_text(encoding="utf-8"))["runs"]
    example = next(run for run in runs if run["name"] == RUN)["examples"][SAMPLE]
    answer = [token for token in example_tokens(example) if token.state != "prompt"]
    return _svg(answer[:-2])  # without the end of the turn


def _svg(tokens: Sequence[Token]) -> str:
    (scale,) = signal_scales(
        [[Token(token.text, signals={SIGNAL: token.signals[SIGNAL]}) for token in tokens]]
    )
    x, y, drawn = float(MARGIN), 92.0, []
    for token in tokens:
        width = LETTER * len(visible(token.text))
        if x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LINE
        colour = token_colour(scale.level(token.signals[SIGNAL]))
        drawn.append(_drawn(token, x, y, width, colour))
        x += width
    kept = sum(token.state == "kept" for token in tokens)
    noise = [token for token in tokens if token.token_class != "clean"]
    lowered = sum(token.state != "kept" for token in noise)
    words = (
        f"An answer of {len(tokens)} tokens, {kept} of them kept; {lowered} of {len(noise)} noise tokens "
        "are learned from at a tenth of the weight"
    )
    height = y + LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{words}">\n'
        f'<rect width="100%" height="100%" rx="6" fill="#fff"/>\n'
        f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" fill="#1b1d20">\n'
        f"{_legend()}\n" + "\n".join(drawn) + "\n</g>\n</svg>\n"
    )


def _legend() -> str:
    left, right, first, second = MARGIN, WIDTH // 2, 36, 58
    strike, underline = (
        f'<path d="M{x} {y}h14" stroke="{colour}" stroke-width="{width}"/>'
        for x, y, colour, width in ((left, second + 7, _STRIKE, 1.5), (right, second + 12, _NOISE, 3))
    )
    warm, cool = (
        f'<rect x="{x}" y="{first}" width="14" height="14" fill="{token_colour(level)}"/>'
        for x, level in ((left, 1.0), (right, -1.0))
    )
    entries = (
        (left, first, warm, "worth learning"),
        (right, first, cool, "not worth learning"),
        (left, second, strike, "learned at weight 0.1"),
        (right, second, underline, "noise put in by the demo"),
    )
    title = f'<text x="{MARGIN}" y="22" font-weight="bold">What was learned from in one noisy sample</text>'
    return title + "".join(
        f'{mark}<text x="{x + 20}" y="{y + 12}">{words}</text>' for x, y, mark, words in entries
    )


def _drawn(token: Token, x: float, y: float, width: float, colour: str) -> str:
    text = escape(visible(token.text))
    marks = f'<rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="20" fill="{colour}"/>'
    marks += f'<text x="{x:.1f}" y="{y + 15:g}" textLength="{width:.1f}" xml:space="preserve">{text}</text>'
    if token.state != "kept":
        marks += f'<path d="M{x:.1f} {y + 10:g}h{width:.1f}" stroke="{_STRIKE}" stroke-width="1.5"/>'
    if token.token_class != "clean":
        marks += f'<path d="M{x:.1f} {y + 22:g}h{width:.1f}" stroke="{_NOISE}" stroke-width="3"/>'
    return marks
