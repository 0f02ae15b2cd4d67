"""Texts token by token, as results hold them: a title, and for every token its text, its fate and its signals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenry.report.blocks import Token
from tokenry.report.token_maps import token_state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def token_texts(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Decode token by token, so that the pieces together are the text.

    A character cut into several tokens is shown at the last of them.
    """
    texts = []
    for end in range(1, len(ids) + 1):
        now = tokenizer.decode(ids[max(0, end - 8) : end], skip_special_tokens=False)
        before = tokenizer.decode(ids[max(0, end - 8) : end - 1], skip_special_tokens=False)
        piece = now[len(before) :] if now.startswith(before) else now[len(before.rstrip("\ufffd")) :]
        texts.append("" if piece.endswith("\ufffd") else piece)
    return texts
