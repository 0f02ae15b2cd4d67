"""Train a byte-level tokenizer: BPE, Unigram, and tokens that span words (SuperBPE, BoundlessBPE, supertokens)."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.tokenization.training.boundless_bpe import BoundlessBPE
    from tokenry.tokenization.training.boundless_training import train_boundless_bpe
    from tokenry.tokenization.training.byte_level_training import (
        PATTERN,
        byte_level_pieces,
        train_bpe,
        train_unigram,
    )
    from tokenry.tokenization.training.merge_lists import smaller_bpe
    from tokenry.tokenization.training.settings import SuperBPEConfig, TrainingPlan
    from tokenry.tokenization.training.superbpe import (
        choose_transition,
        extend_to_superwords,
        train_superbpe,
    )
    from tokenry.tokenization.training.supertokens import (
        RELEASED_LENGTHS,
        chunk_lengths,
        length_law,
        parse_lengths,
        sample_chunks,
        train_supertoken_bpe,
    )
    from tokenry.tokenization.training.train_any import train_any

__all__ = [
    "PATTERN",
    "RELEASED_LENGTHS",
    "BoundlessBPE",
    "SuperBPEConfig",
    "TrainingPlan",
    "byte_level_pieces",
    "choose_transition",
    "chunk_lengths",
    "extend_to_superwords",
    "length_law",
    "parse_lengths",
    "sample_chunks",
    "smaller_bpe",
    "train_any",
    "train_boundless_bpe",
    "train_bpe",
    "train_superbpe",
    "train_supertoken_bpe",
    "train_unigram",
]

export_lazily(__name__)
