"""Give a model another tokenizer without training: copy the rows of shared tokens, compose the others of old rows."""

from tokenry.tokenization.probes import round_trip_failures
from tokenry.tokenization.transplant.apply import save_transplant, transplant_tokenizer
from tokenry.tokenization.transplant.auxiliary_space import (
    auxiliary_space,
    character_ngrams,
    sentence_encoder,
)
from tokenry.tokenization.transplant.composition import TransplantSettings
from tokenry.tokenization.transplant.embedding_heuristics import global_weights, local_weights
from tokenry.tokenization.transplant.focus import sparsemax
from tokenry.tokenization.transplant.matching_pursuit import interpolation, omp
from tokenry.tokenization.transplant.report import LeaveOneOut, TransplantReport
from tokenry.tokenization.transplant.vocabulary_match import VocabularyMatch, match_vocabularies

__all__ = [
    "LeaveOneOut",
    "TransplantReport",
    "TransplantSettings",
    "VocabularyMatch",
    "auxiliary_space",
    "character_ngrams",
    "global_weights",
    "interpolation",
    "local_weights",
    "match_vocabularies",
    "omp",
    "round_trip_failures",
    "save_transplant",
    "sentence_encoder",
    "sparsemax",
    "transplant_tokenizer",
]
