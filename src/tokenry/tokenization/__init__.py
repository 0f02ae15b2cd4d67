"""Tokenizers, measured and improved: their cost in each language, their training, and their replacement in a model.

premiums      token counts with intervals, vocabulary curves, a vocabulary for each language
training      BPE, Unigram, and tokens that span words
numbers       groups of digits
transplant    another tokenizer for a model, without training
zett          another tokenizer for a model, by a hypernetwork
equal_info    text as windows of equal information: lossless codes by a byte model
segmentation  the same text cut by several tokenizers, side by side

The most used names are here, all others in their packages.
"""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.core.text.bits_per_byte import text_loss
    from tokenry.core.text.byte_level import ByteVocabulary
    from tokenry.core.text.digit_groups import format_number, group_digits
    from tokenry.tokenization.equal_info import (
        ArithmeticCodec,
        CausalWindowModel,
        EqualInfoCodec,
        NextByteWindows,
        WittenBellModel,
        flops_per_byte,
        quantize_pmf,
    )
    from tokenry.tokenization.numbers import number_pieces, number_pre_tokenizer, retokenize_numbers
    from tokenry.tokenization.premiums import (
        GridConfig,
        PowerLaw,
        allocate_budget,
        byte_premium,
        corpus_token_count,
        ctc_curve,
        dispersion,
        equal_cost,
        factor_report,
        fit_vocab_curve,
        load_parallel_folder,
        load_udhr,
        measure_premiums,
        optimal_vocab_sizes,
        premium_factors,
        premium_intervals,
        run_grid,
        token_premiums,
    )
    from tokenry.tokenization.segmentation import compare_segmentations
    from tokenry.tokenization.tokenizer_files import load_any_tokenizer
    from tokenry.tokenization.training import (
        BoundlessBPE,
        extend_to_superwords,
        sample_chunks,
        train_boundless_bpe,
        train_bpe,
        train_superbpe,
        train_supertoken_bpe,
        train_unigram,
    )
    from tokenry.tokenization.transfer.transplant import (
        TransplantReport,
        compose,
        global_weights,
        local_weights,
        omp,
        save_transplant,
        transplant_tokenizer,
    )
    from tokenry.tokenization.transfer.zett import (
        EmbeddingHyperNetwork,
        HyperNetworkConfig,
        HyperNetworkTrainer,
        UnigramSampler,
        apply_task_vector,
        identity_loss,
        lexical_loss,
        surface_forms,
        to_byte_level,
        transfer_tokenizer,
        two_stage_schedule,
        unigram_pieces,
    )

__all__ = [
    "ArithmeticCodec",
    "BoundlessBPE",
    "ByteVocabulary",
    "CausalWindowModel",
    "EmbeddingHyperNetwork",
    "EqualInfoCodec",
    "GridConfig",
    "HyperNetworkConfig",
    "HyperNetworkTrainer",
    "NextByteWindows",
    "PowerLaw",
    "TransplantReport",
    "UnigramSampler",
    "WittenBellModel",
    "allocate_budget",
    "apply_task_vector",
    "byte_premium",
    "compare_segmentations",
    "compose",
    "corpus_token_count",
    "ctc_curve",
    "dispersion",
    "equal_cost",
    "extend_to_superwords",
    "factor_report",
    "fit_vocab_curve",
    "flops_per_byte",
    "format_number",
    "global_weights",
    "group_digits",
    "identity_loss",
    "lexical_loss",
    "load_any_tokenizer",
    "load_parallel_folder",
    "load_udhr",
    "local_weights",
    "measure_premiums",
    "number_pieces",
    "number_pre_tokenizer",
    "omp",
    "optimal_vocab_sizes",
    "premium_factors",
    "premium_intervals",
    "quantize_pmf",
    "retokenize_numbers",
    "run_grid",
    "sample_chunks",
    "save_transplant",
    "surface_forms",
    "text_loss",
    "to_byte_level",
    "token_premiums",
    "train_boundless_bpe",
    "train_bpe",
    "train_superbpe",
    "train_supertoken_bpe",
    "train_unigram",
    "transfer_tokenizer",
    "transplant_tokenizer",
    "two_stage_schedule",
    "unigram_pieces",
]

export_lazily(__name__)
