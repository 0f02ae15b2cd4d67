"""Carry fewer tokens of a text: of a prompt, of code, of a long document."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.compression.text.code_merge import (
        CodeMergeCollator,
        GroupedCode,
        MemberScorer,
        Merged,
        SubwordMerging,
        flops_saved,
        merge_flops,
        merge_tokens,
        unmerge,
    )
    from tokenry.compression.text.code_units import Unit, group_tokens, semantic_units
    from tokenry.compression.text.frugal_prompt import Compressed, PromptCompressor
    from tokenry.compression.text.gradual_search import (
        SearchResult,
        SearchTrial,
        TrialLedger,
        gradual_search,
        optuna_search,
    )
    from tokenry.compression.text.keep_curve import AnswerLikelihood, KeepCurve, LabelKept, keep_curve
    from tokenry.compression.text.lexrank import lexrank, lexrank_similarity, released_idf, sentence_words
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
    from tokenry.compression.text.released_words import keep_words, merge_pieces, released_word_scores
    from tokenry.compression.text.scorers import (
        AttributionScorer,
        BottomScorer,
        PromptScorer,
        RandomScorer,
        ScoredText,
        SelfInformation,
        TokenClassifierScorer,
        TokenScorer,
        decompx_scorer,
        globenc_scorer,
        released_decompx_scorer,
    )
    from tokenry.compression.text.window_trials import (
        NEWS,
        ClassifiedTexts,
        TextSplits,
        WindowTrial,
        window_trial,
    )
    from tokenry.core.text.truncation import encode_window, truncate_ids
    from tokenry.core.text.words import word_scores

__all__ = [
    "HACKS",
    "KEPT",
    "NEWS",
    "AnswerLikelihood",
    "AttributionScorer",
    "BottomScorer",
    "ClassifiedTexts",
    "CodeMergeCollator",
    "Compressed",
    "GroupedCode",
    "HackReport",
    "KeepCurve",
    "LabelKept",
    "MemberScorer",
    "Merged",
    "PromptCompressor",
    "PromptScorer",
    "RandomScorer",
    "ScoredText",
    "SearchResult",
    "SearchTrial",
    "SelfInformation",
    "SubwordMerging",
    "TextHacks",
    "TextSplits",
    "TokenClassifierScorer",
    "TokenScorer",
    "TokenizerLengths",
    "TrialLedger",
    "Unit",
    "WindowTrial",
    "decompx_scorer",
    "encode_window",
    "flops_saved",
    "globenc_scorer",
    "gradual_search",
    "group_tokens",
    "keep_curve",
    "keep_words",
    "lexrank",
    "lexrank_similarity",
    "merge_flops",
    "merge_pieces",
    "merge_tokens",
    "optuna_search",
    "released_decompx_scorer",
    "released_idf",
    "released_word_scores",
    "semantic_units",
    "sentence_words",
    "stopword_list",
    "tokenizer_length_report",
    "truncate_ids",
    "unmerge",
    "window_trial",
    "word_counts",
    "word_scores",
    "word_tokens",
]

export_lazily(__name__)
