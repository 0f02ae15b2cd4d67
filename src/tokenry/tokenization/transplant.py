"""Give a language model another tokenizer without training: copy what both vocabularies share, compose the rest of old rows.

    shared token        its old row, unchanged
    any other token     Σ weights · old rows, by one of METHODS; the same weights for the input and the output matrix
    what stays empty    N(mean, std) of the old matrix (special tokens without a counterpart, padding rows)

Source: TokenAdapt (arXiv 2505.09738), algorithm 1; for the other methods see `focus`, `matching_pursuit`, `embedding_heuristics`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.bits_per_byte import text_loss
from tokenry.core.byte_level import ByteVocabulary
from tokenry.core.errors import UserError, require_fraction, require_one_of
from tokenry.tokenization.auxiliary_space import Auxiliary, AuxiliarySpace, auxiliary_space
from tokenry.tokenization.embedding_heuristics import (
    Mixture,
    Wanted,
    global_mixture,
    hybrid,
    local_mixture,
    mean_of_pieces,
)
from tokenry.tokenization.focus import focus_mixture
from tokenry.tokenization.matching_pursuit import omp
from tokenry.tokenization.transplant_report import TransplantReport, leave_one_out, round_trip
from tokenry.tokenization.vocabulary_match import Match, VocabularyMatch, match_vocabularies
