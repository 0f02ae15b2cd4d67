"""Carry fewer tokens of a text: of a prompt, of code, of a long document."""

from tokenry.compression.text.frugal_prompt import Compressed, PromptCompressor
from tokenry.compression.text.keep_curve import AnswerLikelihood, KeepCurve, LabelKept, keep_curve
from tokenry.compression.text.lexrank import lexrank, lexrank_similarity, released_idf, sentence_words
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
from tokenry.core.text.words import word_scores

__all__ = [
    "AnswerLikelihood",
    "AttributionScorer",
    "BottomScorer",
    "Compressed",
    "KeepCurve",
    "LabelKept",
    "PromptCompressor",
    "PromptScorer",
    "RandomScorer",
    "ScoredText",
    "SelfInformation",
    "TokenClassifierScorer",
    "TokenScorer",
    "decompx_scorer",
    "globenc_scorer",
    "keep_curve",
    "keep_words",
    "lexrank",
    "lexrank_similarity",
    "merge_pieces",
    "released_decompx_scorer",
    "released_idf",
    "released_word_scores",
    "sentence_words",
    "word_scores",
]
