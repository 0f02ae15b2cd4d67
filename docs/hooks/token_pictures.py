"""Pictures of tokens from stored runs, as SVG: a noisy training sample, and one response under several credit rules.

The colours, the marks and their meaning are those of the reports; the letters are a fixed width apart, so that every viewer draws the
same lines.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tokenry.report.blocks import Token
from tokenry.report.text import visible
from tokenry.report.token_maps import SignalScale, signal_scales, token_colour
from tokenry.verbs._tokens import example_tokens

WIDTH, MARGIN, LINE, LETTER = 480, 12, 30, 8.4
RUN, SAMPLE, SIGNAL = "token-cleaning dropped_weight=0.1", 0, "base_minus_reference"
_STRIKE, _NOISE = "#1b1d20", "#b02a56"


@dataclass(frozen=True)
class Drawing:
    """What has been drawn of a picture, and where the next line goes."""

    marks: tuple[str, ...]
    height: float


def sample_picture(stored: Path) -> str:
    """Draw the answer of a training sample of a stored comparison, as the run of TokenCleaning saw it."""
    runs = json.loads(stored.read_text(encoding="utf-8"))["runs"]
    example = next(run for run in runs if run["name"].startswith(RUN))["examples"][SAMPLE]
    answer = [token for token in example_tokens(example) if token.state != "prompt"]
    tokens = [
        Token(token.text, token.state, {SIGNAL: token.signals[SIGNAL]}, token_class=token.token_class)
        for token in answer[:-2]  # without the end of the turn
    ]
    left, right, first, second = MARGIN, WIDTH // 2, 36, 58
    legend = (
        *_colours("worth learning", "not worth learning", first),
        _stroke(left, second + 7, 14, _STRIKE, 1.5),
        _words("learned at weight 0.1", left + 20, second + 12),
        _stroke(right, second + 12, 14, _NOISE, 3),
        _words("noise put in by the demo", right + 20, second + 12),
    )
    drawing = _tokens(tokens, signal_scales([tokens])[0], Drawing(legend, 92))
    kept = sum(token.state == "kept" for token in tokens)
    noise = [token for token in tokens if token.token_class != "clean"]
    lowered = sum(token.state != "kept" for token in noise)
    return _svg(
        "What was learned from in one noisy sample",
        f"An answer of {len(tokens)} tokens, {kept} of them kept; {lowered} of {len(noise)} noise tokens "
        "are learned from at a tenth of the weight",
        drawing,
    )


def rollout_picture(stored: Path) -> str:
    """Draw the best and the worst response of a stored `tokenry rl`, coloured by the advantages of every credit rule."""
    runs = json.loads(stored.read_text(encoding="utf-8"))["runs"]
    rollouts = next(run["rollouts"] for run in runs if run["rollouts"])
    responses = sorted(rollouts["responses"], key=lambda response: -response["reward"])
    texts = {
        f"reward {response['reward']:.3g}, credited by {credited['name']}": [
            Token(text, signals={"advantage": value})
            for text, value in zip(response["tokens"], credited["values"], strict=True)
        ]
        for response in (responses[0], responses[-1])
        for credited in response["advantages"]
    }
    (scale,) = signal_scales(texts.values())
    drawing = Drawing(_colours("becomes more likely", "becomes less likely", 36), 58)
    for name, tokens in texts.items():
        heading = _words(name, MARGIN, drawing.height + 15, "bold")
        drawing = _tokens(tokens, scale, Drawing((*drawing.marks, heading), drawing.height + 24))
    rules = ", ".join(credited["name"] for credited in responses[0]["advantages"])
    return _svg(
        "Two responses to one question, token by token",
        f"Two responses to the same question, credited by {rules}: the colour of a token is its advantage",
        drawing,
    )


def _tokens(tokens: Sequence[Token], scale: SignalScale, above: Drawing) -> Drawing:
    """Add a text in lines of the picture's width; the next line begins below it."""
    x, y, marks = float(MARGIN), above.height, list(above.marks)
    for token in tokens:
        width = LETTER * len(_text(token))
        if x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LINE
        marks.append(_token(token, x, y, width, token_colour(scale.level(token.signals[scale.name]))))
        x += width
    return Drawing(tuple(marks), y + LINE)


def _svg(title: str, words: str, drawing: Drawing) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" viewBox="0 0 {WIDTH} {drawing.height:g}" role="img" '
        f'aria-label="{escape(words)}">\n'
        f'<rect width="100%" height="100%" rx="6" fill="#fff"/>\n'
        f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" fill="#1b1d20">\n'
        f"{_words(title, MARGIN, 22, 'bold')}\n" + "\n".join(drawing.marks) + "\n</g>\n</svg>\n"
    )


def _colours(warm: str, cool: str, y: float) -> tuple[str, ...]:
    """The legend of both ends of the scale."""
    return tuple(
        f'<rect x="{x}" y="{y:g}" width="14" height="14" fill="{token_colour(level)}"/>'
        + _words(words, x + 20, y + 12)
        for x, level, words in ((MARGIN, 1.0, warm), (WIDTH // 2, -1.0, cool))
    )


def _token(token: Token, x: float, y: float, width: float, colour: str) -> str:
    text = escape(_text(token))
    marks = f'<rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="20" fill="{colour}"/>'
    marks += f'<text x="{x:.1f}" y="{y + 15:g}" textLength="{width:.1f}" xml:space="preserve">{text}</text>'
    if token.state in ("lowered", "dropped"):
        marks += _stroke(x, y + 10, width, _STRIKE, 1.5)
    if token.token_class not in (None, "clean"):
        marks += _stroke(x, y + 22, width, _NOISE, 3)
    return marks


def _text(token: Token) -> str:
    """What is written of a token: a line break is a sign, and breaks no line."""
    return visible(token.text).replace("\n", "")


def _stroke(x: float, y: float, width: float, colour: str, thickness: float) -> str:
    return f'<path d="M{x:.5g} {y:g}h{width:.5g}" stroke="{colour}" stroke-width="{thickness:g}"/>'


def _words(words: str, x: float, y: float, weight: str = "normal") -> str:
    bold = ' font-weight="bold"' if weight == "bold" else ""
    return f'<text x="{x:g}" y="{y:g}"{bold}>{escape(words)}</text>'
