"""Text from data, made visible and harmless: whitespace, control characters, lone surrogates, direction marks.

What a reader must see is shown as a sign (`·` space, `⏎` line break); what could change the page or the terminal around
it (escape sequences, direction overrides) is shown as its code point instead of being obeyed.
"""

import re

_SPACES = {" ": "·", "\t": "⇥", "\r": "␍", "\n": "⏎\n"}
# Control characters, lone surrogates, non-characters, and every mark that reorders or hides the text beside it.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff"
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)
_INVISIBLE = re.compile("[\\s\u200c\u200d\ufe00-\ufe0f]")


def harmless(text: str) -> str:
    """Replace what must not reach a page or a terminal by a sign for it; the result always encodes as UTF-8."""
    return _HARMFUL.sub(_sign, text)


def visible(text: str) -> str:
    """Show the text of one token with its whitespace as signs; a line break is its sign and then a line break."""
    shown = "".join(_SPACES.get(c) or (_code_point(c) if c.isspace() else c) for c in text)
    if shown and not _INVISIBLE.sub("", shown):
        shown = "".join(map(_code_point, shown))
    return harmless(shown) or "∅"


def label(name: str) -> str:
    """Turn a field's name into words: `history_nll` reads `history NLL`."""
    return " ".join("NLL" if word == "nll" else word for word in name.split("_"))


def _sign(match: re.Match[str]) -> str:
    character = match.group()
    if character < " ":
        return chr(0x2400 + ord(character))
    if "\ud800" <= character <= "\udfff":
        return "\ufffd"
    return _code_point(character)


def _code_point(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"
