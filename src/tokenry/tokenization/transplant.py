"""Give a language model another tokenizer without training: copy what both vocabularies share, compose the rest of old rows.

    shared token      its old row, unchanged
    any other         Σ weights · old rows, by one of METHODS; the same weights for the input and the output matrix
    fallback          N(mean, std) of the old matrix, for special tokens without a counterpart, for padding, and for method "random"

Source: TokenAdapt (arXiv 2505.09738) and its released code; the other methods are described where they are written.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.bits_per_byte import text_loss
from tokenry.core.byte_level import ByteVocabulary
from tokenry.core.cache import build_once
from tokenry.core.errors import UserError, require_fraction, require_one_of
from tokenry.core.files import write_json
from tokenry.tokenization.auxiliary_space import Auxiliary, Tokens, auxiliary_space
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
from tokenry.tokenization.transplant_report import (
    PROBES,
    LeaveOneOut,
    TransplantReport,
    round_trip_failures,
)
from tokenry.tokenization.vocabulary_match import (
    Match,
    VocabularyMatch,
    longest_first,
    match_vocabularies,
    padded,
    token_names,
)

Method = Literal["tokenadapt", "retok", "focus", "omp", "mean", "random"]
METHODS: tuple[str, ...] = get_args(Method)

_NEEDS_SPACE = ("tokenadapt", "focus", "omp")
_LEAVE_ONE_OUT = 2000
_OMP_BLOCK = 512


@dataclass(frozen=True)
class TransplantSettings:
    """What the new rows depend on; see `transplant_tokenizer`."""

    method: Method = "tokenadapt"
    temperature: float = 0.3
    top_k: int = 3
    global_weight: float = 0.3
    threshold: float = 0.0
    atoms: int = 64
    pad_to_multiple_of: int = 128
    match: Match = "bytes"
    seed: int = 0

    def __post_init__(self) -> None:
        require_one_of(self.method, METHODS, "method")
        require_one_of(self.match, get_args(Match), "match")
        require_fraction(self.global_weight, "global_weight")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature must be 0 or more, got {self.temperature}.")
        for name in ("top_k", "atoms", "pad_to_multiple_of"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class _OldVocabulary:
    """What new rows are composed of: auxiliary vectors of all old tokens, and the ids of those that are shared."""

    vectors: Float[Tensor, "old dim"]
    shared: Int[Tensor, "shared"]

    def place(self, ids: Int[Tensor, "tokens"]) -> Int[Tensor, "tokens"]:
        """Where old ids stand among the shared ones; -1 for those that do not."""
        places = torch.full((len(self.vectors) + 1,), -1)
        places[self.shared] = torch.arange(len(self.shared))
        return places[ids]


def transplant_tokenizer(
    model: PreTrainedModel,
    old_tokenizer: PreTrainedTokenizerBase,
    new_tokenizer: PreTrainedTokenizerBase,
    method: Method = "tokenadapt",
    *,
    auxiliary: Auxiliary | None = None,
    temperature: float = 0.3,
    top_k: int = 3,
    global_weight: float = 0.3,
    threshold: float = 0.0,
    atoms: int = 64,
    pad_to_multiple_of: int = 128,
    match: Match = "bytes",
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> tuple[PreTrainedModel, TransplantReport]:
    """Replace the vocabulary of a causal language model.

    The model is changed in place, and only when all rows are known. Ids of special tokens in its config and generation config follow
    the new tokenizer, which gets the old one's chat template where it has none.

    Args:
        model: with tied or separate matrices.
        old_tokenizer: the model's own.
        new_tokenizer: the one it gets, of any kind.
        method: `tokenadapt` (pieces and neighbours), `retok` (mean of the pieces), `focus` (sparse mean of shared tokens), `omp`
            (sparse combination of shared tokens), `mean` (of all rows), `random`.
        auxiliary: the space in which tokens are compared, see `auxiliary_space`; None for the model's own hidden states. `omp` is
            meant for the matrix of a donor model that has the new vocabulary; None stands for the model's rows there.
        temperature: of TokenAdapt's softmaxes.
        top_k: TokenAdapt's neighbours.
        global_weight: what neighbours weigh against pieces: 0 for pieces alone, 1 for neighbours alone.
        threshold: cosine below which a neighbour does not count.
        atoms: tokens that `omp` combines.
        pad_to_multiple_of: rows of the matrices.
        match: tokens are equal by their `bytes`, or by how they are written (`string`: the released code).
        seed: of the random rows.
        texts: measured in bits per byte before and after.

    Returns:
        The model, and what became of its vocabulary.

    Raises:
        UserError: a setting out of range, a model without input embeddings or with other matrices of one row per token, token ids
            beyond the rows, rows or auxiliary vectors that are not finite, an empty vocabulary.

    Source: TokenAdapt (arXiv 2505.09738).
    """
    settings = TransplantSettings(
        method, temperature, top_k, global_weight, threshold, atoms, pad_to_multiple_of, match, seed
    )
    matched = match_vocabularies(old_tokenizer, new_tokenizer, settings.match)
    matrices = _matrices(model)
    _require_rows(matrices["input"], old_tokenizer)
    before = text_loss(model, old_tokenizer, texts) if texts else None
    composer = _Composer(model, old_tokenizer, matched, settings, auxiliary)
    mixture = composer.compose(composer.unique)
    left_out = composer.leave_one_out(matrices["input"])
    rows = math.ceil(len(matched.shared) / settings.pad_to_multiple_of) * settings.pad_to_multiple_of
    made = {
        name: _new_matrix(matrix, matched, composer.unique_ids, mixture, rows, settings)
        for name, matrix in matrices.items()
    }
    _write(model, made)
    notes = _carry_over(model, old_tokenizer, new_tokenizer, matched)
    return model, _report(
        settings, matched, new_tokenizer, composer, mixture, left_out, rows, "output" not in matrices, notes,
    )
