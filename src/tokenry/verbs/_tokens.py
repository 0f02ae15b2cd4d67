"""Texts token by token, as results hold them: a title, and for every token its text, its fate and its signals."""

from collections.abc import Mapping
from typing import Any

from tokenry.report.blocks import Token
from tokenry.report.token_maps import token_state


def example_tokens(example: Mapping[str, Any]) -> list[Token]:
    """The tokens of an example, ready to be drawn."""
    return [
        Token(
            text=token["text"],
            state=token_state(token["learnable"], token.get("weight")),
            signals=token.get("signals", {}),
            weight=token.get("weight"),
            token_class=token.get("token_class"),
        )
        for token in example["tokens"]
    ]
