"""Carry fewer tokens of a text: of a prompt, of code, of a long document."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.compression.text.gradual_search import (
        SearchResult,
        SearchTrial,
        TrialLedger,
        gradual_search,
        optuna_search,
    )
    from tokenry.compression.text.long_text import (
        HACKS,
        KEPT,
        HackReport,
        TextHacks,
        TokenizerLengths,
        stopword_list,
        tokenizer_length_report,
        word_counts,
        word_tokens,
    )
    from tokenry.compression.text.window_trials import (
        NEWS,
        ClassifiedTexts,
        TextSplits,
        WindowTrial,
        window_trial,
    )
    from tokenry.core.text.truncation import encode_window, truncate_ids

__all__ = [
    "HACKS",
    "KEPT",
    "NEWS",
    "ClassifiedTexts",
    "HackReport",
    "SearchResult",
    "SearchTrial",
    "TextHacks",
    "TextSplits",
    "TokenizerLengths",
    "TrialLedger",
    "WindowTrial",
    "encode_window",
    "gradual_search",
    "optuna_search",
    "stopword_list",
    "tokenizer_length_report",
    "truncate_ids",
    "window_trial",
    "word_counts",
    "word_tokens",
]

export_lazily(__name__)
