"""Give a model another tokenizer without training: copy the rows of shared tokens, compose the others of old rows."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.tokenization.probes import round_trip_failures
    from tokenry.tokenization.transfer.transplant.apply import save_transplant, transplant_tokenizer
    from tokenry.tokenization.transfer.transplant.auxiliary_space import (
        auxiliary_space,
        character_ngrams,
        sentence_encoder,
    )
    from tokenry.tokenization.transfer.transplant.composition import Composition, OldTokens, compose
    from tokenry.tokenization.transfer.transplant.embedding_heuristics import (
        Mixture,
        Wanted,
        global_mixture,
        global_weights,
        hybrid,
        local_mixture,
        local_weights,
        mean_of_pieces,
    )
    from tokenry.tokenization.transfer.transplant.focus import focus_mixture, sparsemax
    from tokenry.tokenization.transfer.transplant.matching_pursuit import interpolation, omp
    from tokenry.tokenization.transfer.transplant.report import LeaveOneOut, TransplantReport
    from tokenry.tokenization.transfer.transplant.settings import TransplantSettings
    from tokenry.tokenization.transfer.transplant.vocabulary_match import VocabularyMatch, match_vocabularies

__all__ = [
    "Composition",
    "LeaveOneOut",
    "Mixture",
    "OldTokens",
    "TransplantReport",
    "TransplantSettings",
    "VocabularyMatch",
    "Wanted",
    "auxiliary_space",
    "character_ngrams",
    "compose",
    "focus_mixture",
    "global_mixture",
    "global_weights",
    "hybrid",
    "interpolation",
    "local_mixture",
    "local_weights",
    "match_vocabularies",
    "mean_of_pieces",
    "omp",
    "round_trip_failures",
    "save_transplant",
    "sentence_encoder",
    "sparsemax",
    "transplant_tokenizer",
]

export_lazily(__name__)
