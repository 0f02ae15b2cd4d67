"""What the same text costs in each language, why, and how to make it cost the same."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.core.text.token_counts import (
        Dispersion,
        Estimate,
        byte_premium,
        corpus_token_count,
        dispersion,
        dispersion_intervals,
        premium_intervals,
        segment_token_counts,
        token_premiums,
    )
    from tokenry.tokenization.premiums.equal_cost import EqualCost, equal_cost
    from tokenry.tokenization.premiums.grid_config import GridConfig
    from tokenry.tokenization.premiums.many_sizes import counts_by_size, ctc_curve
    from tokenry.tokenization.premiums.parallel_text import (
        load_for_measuring,
        load_parallel_folder,
        load_train_and_parallel,
        load_udhr,
        udhr_segments,
        udhr_split,
    )
    from tokenry.tokenization.premiums.premium_factors import (
        FactorTest,
        TextFeatures,
        factor_report,
        premium_factors,
        trigram_similarity,
    )
    from tokenry.tokenization.premiums.premium_table import (
        LanguageCost,
        PremiumTable,
        grid_premiums,
        measure_premiums,
    )
    from tokenry.tokenization.premiums.tokenizer_grid import Cell, GridCell, counts_of, curves_of, run_grid
    from tokenry.tokenization.premiums.vocabulary_choice import (
        Allocation,
        OptimalSize,
        allocate_budget,
        optimal_vocab_sizes,
    )
    from tokenry.tokenization.premiums.vocabulary_curve import (
        PowerLaw,
        fit_vocab_curve,
    )
    from tokenry.tokenization.training.merge_lists import smaller_bpe

__all__ = [
    "Allocation",
    "Cell",
    "Dispersion",
    "EqualCost",
    "Estimate",
    "FactorTest",
    "GridCell",
    "GridConfig",
    "LanguageCost",
    "OptimalSize",
    "PowerLaw",
    "PremiumTable",
    "TextFeatures",
    "allocate_budget",
    "byte_premium",
    "corpus_token_count",
    "counts_by_size",
    "counts_of",
    "ctc_curve",
    "curves_of",
    "dispersion",
    "dispersion_intervals",
    "equal_cost",
    "factor_report",
    "fit_vocab_curve",
    "grid_premiums",
    "load_for_measuring",
    "load_parallel_folder",
    "load_train_and_parallel",
    "load_udhr",
    "measure_premiums",
    "optimal_vocab_sizes",
    "premium_factors",
    "premium_intervals",
    "run_grid",
    "segment_token_counts",
    "smaller_bpe",
    "token_premiums",
    "trigram_similarity",
    "udhr_segments",
    "udhr_split",
]

export_lazily(__name__)
