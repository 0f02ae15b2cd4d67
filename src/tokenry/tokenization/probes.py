"""Texts that bring out what a tokenizer does to text: spaces, line breaks, digits, scripts, emoji."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.round_trip import RoundTrip, comes_back, round_trip

PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "naïve café — “déjà vu”, 100 % œuvre",
    "Быстрая лисица; अनुच्छेद १ सभी; 東京タワー; שלום; สวัสดี",
    "def f(x):\n\treturn  x ** 2    # 3.14159\n\n\n",
    "👩‍👩‍👧 🤷🏽 ∑ᵢ αᵢ ≠ ½",
)
"""Scripts, digits, white space and line breaks: where a tokenizer loses something, it loses it here."""


def round_trip_failures(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] = PROBES) -> tuple[str, ...]:
    """List the texts that do not come back when they are encoded and decoded."""
    return tuple(text for text, same in zip(texts, comes_back(tokenizer, texts), strict=True) if not same)


def texts_back(
    tokenizers: Mapping[str, PreTrainedTokenizerBase], texts: Sequence[str] | None
) -> tuple[dict[str, RoundTrip], list[str]]:
    """Whether tokenizers (`old`, `new`) give texts back, and a sentence for each that does not; None stands for the sample texts."""
    called = "sample texts" if texts is None else "texts"
    found = {
        which: back
        for which, tokenizer in tokenizers.items()
        if (back := round_trip(tokenizer, PROBES if texts is None else texts)) is not None
    }
    return found, [
        back.sentence(f"the {which} tokenizer", called)
        for which, back in found.items()
        if not back.gives_back
    ]


def require_encodable(tokenizers: Mapping[str, PreTrainedTokenizerBase], texts: Sequence[str]) -> None:
    """Raise `UserError` unless each tokenizer (`old`, `new`) can encode all texts."""
    for which, tokenizer in tokenizers.items():
        for text in texts:
            if encoded(tokenizer, text) is None:
                raise UserError(
                    f"the {which} tokenizer cannot encode {text[:40]!r}: it has no token for some of it and no unknown token; give it one, or "
                    "leave the text out."
                )


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int] | None:
    """Encode a text without special tokens; None where the tokenizer has no tokens for it."""
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except Exception:  # the tokenizers library raises bare exceptions
        return None
