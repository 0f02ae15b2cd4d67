"""Language models that read and write something other than the tokens of a tokenizer."""

from tokenry.architectures.flat_baselines import FlatConfig, FlatLM, collate_flat, flat_units
from tokenry.architectures.released_weights import released_weights
from tokenry.architectures.word_generation import WordSampling, generate_words, spell_words
from tokenry.architectures.word_metrics import (
    FrequencyBin,
    ScoredWords,
    WordModel,
    accuracy_by_frequency,
    by_frequency,
    next_word_accuracy,
    score_text,
    score_texts,
    unit_accuracy,
    word_loss,
)
from tokenry.architectures.word_pooled import WordPooledConfig, WordPooledLM, WordPooledOutput
from tokenry.architectures.words import (
    ByteSpelling,
    CharacterSpelling,
    Spelling,
    SubwordSpelling,
    WholeWordSpelling,
    Word,
    WordCoder,
    WordSplitter,
    collate_words,
    lossless,
    pad_words,
)

__all__ = [
    "ByteSpelling",
    "CharacterSpelling",
    "FlatConfig",
    "FlatLM",
    "FrequencyBin",
    "ScoredWords",
    "Spelling",
    "SubwordSpelling",
    "WholeWordSpelling",
    "Word",
    "WordCoder",
    "WordModel",
    "WordPooledConfig",
    "WordPooledLM",
    "WordPooledOutput",
    "WordSampling",
    "WordSplitter",
    "accuracy_by_frequency",
    "by_frequency",
    "collate_flat",
    "collate_words",
    "flat_units",
    "generate_words",
    "lossless",
    "next_word_accuracy",
    "pad_words",
    "released_weights",
    "score_text",
    "score_texts",
    "spell_words",
    "unit_accuracy",
    "word_loss",
]
