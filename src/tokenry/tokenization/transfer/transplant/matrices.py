"""The matrices of a model that have one row per token: read and checked, and made anew for another vocabulary.

    input     of every model        output    where it is another matrix        bias    of the output, as a matrix of one column

A row of the new matrices is copied, composed of old rows, or the fallback: the mean of the trained old rows, or N(mean, std) of them.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.model_rows import ModelRows
from tokenry.tokenization.transfer.transplant.embedding_heuristics import Mixture
from tokenry.tokenization.transfer.transplant.settings import TransplantSettings
from tokenry.tokenization.transfer.transplant.vocabulary_match import VocabularyMatch, token_names

Matrices = dict[str, Float[Tensor, "rows dim"]]

# Tables of positions that may happen to have as many rows as there are tokens.
_POSITIONS = ("wpe", "embed_positions", "position_embeddings", "position_embedding")


def read_matrices(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Matrices:
    """Read the matrices, which share memory with the model; raise `UserError` if they cannot be replaced."""
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:
        embeddings = None
    if not isinstance(getattr(embeddings, "weight", None), Tensor):
        raise UserError(
            f"{type(model).__name__} has no input embeddings, so it has no vocabulary to replace: give a causal language model."
        )
    weight, head = embeddings.weight, model.get_output_embeddings()
    if not weight.is_floating_point():
        raise UserError("the embeddings of this model are quantised: load it without quantisation.")
    others = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module not in (embeddings, head)
        and module.num_embeddings == len(weight)
        and name.split(".")[-1] not in _POSITIONS
    ]
    if others:
        raise UserError(
            f"{type(model).__name__} keeps further weights per token ({', '.join(others)}), which no method here composes."
        )
    matrices = {"input": weight.detach()}
    if head is not None and head.weight is not weight:
        matrices["output"] = head.weight.detach()
    if getattr(head, "bias", None) is not None:
        matrices["bias"] = head.bias.detach()[:, None]
    _require_rows(matrices, tokenizer)
    return matrices


def trained_rows(
    matrix: Float[Tensor, "rows dim"], tokenizer: PreTrainedTokenizerBase, matched: VocabularyMatch
) -> Bool[Tensor, "rows"]:
    """The old rows that training has reached: not padding, and not those of ids that are never written."""
    trained = torch.zeros(len(matrix), dtype=torch.bool, device=matrix.device)
    trained[[token for token in token_names(tokenizer) if token not in matched.old_never]] = True
    return trained


def new_matrices(
    old: Matrices,
    trained: Bool[Tensor, "rows"],
    matched: VocabularyMatch,
    mixture: Mixture,
    settings: TransplantSettings,
) -> ModelRows:
    """Copy the rows of shared tokens, compose those of `matched.composable`, and give all others the fallback."""
    number = math.ceil(len(matched.shared) / settings.pad_to_multiple_of) * settings.pad_to_multiple_of
    generator = torch.Generator().manual_seed(settings.seed)
    new_ids = matched.copied
    old_ids, composed = matched.shared[new_ids], mixture.composed
    made = {}
    for name, matrix in old.items():
        known = matrix[trained].float()
        if settings.random_rows:
            noise = torch.randn(number, matrix.shape[1], generator=generator).to(matrix.device)
            rows = (known.mean() + known.std() * noise).to(matrix.dtype)
        else:
            rows = known.mean(dim=0).to(matrix.dtype).repeat(number, 1)
        rows[new_ids.to(matrix.device)] = matrix[old_ids.to(matrix.device)]
        rows[matched.composable.to(matrix.device)[composed]] = mixture.rows(matrix)[composed].to(matrix)
        made[name] = rows
    bias = made["bias"][:, 0] if "bias" in made else None
    return ModelRows(made["input"], made.get("output"), bias)


def _require_rows(matrices: Matrices, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` unless every old token has a row, and every row is finite."""
    number = len(matrices["input"])
    beyond = [token for token in sorted(token_names(tokenizer)) if token >= number]
    if beyond:
        raise UserError(
            f"the old tokenizer has {len(beyond)} token ids beyond the {number} rows of the model ({_listed(beyond)}): it belongs to "
            "another model, or tokens were added to it without resizing the embeddings."
        )
    for name, matrix in matrices.items():
        bad = (~matrix.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        if bad:
            raise UserError(
                f"{len(bad)} rows of the {name} matrix are not finite ({_listed(bad)}): the weights are damaged."
            )


def _listed(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:20]))
    return shown if len(ids) <= 20 else f"{shown}, … {ids[-1]}"
