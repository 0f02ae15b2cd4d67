"""Texts that bring out what a tokenizer does to text: spaces, line breaks, digits, scripts, emoji."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tokenry.core.round_trip import comes_back

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


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int] | None:
    """Encode a text without special tokens; None where the tokenizer has no tokens for it."""
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except Exception:  # the tokenizers library raises bare exceptions
        return None
