"""Give a language model another tokenizer without training: copy what both vocabularies share, compose the rest of old rows.

    shared token      its old row, unchanged
    any other         Σ weights · old rows, by one of METHODS; the same weights for the input and the output matrix
    fallback          the mean row, for special tokens without a counterpart, padding, ids that are never written, and tokens that
                      cannot be composed

Old rows that no text has trained (padding, ids that are never written) enter no mean and no sum, and are copied to their like only.

The released code draws fallback rows from N(mean, std) of the old matrix (`fallback="random"`). A row that belongs to no text but has
a random direction takes probability from all others; `tokenry reproduce tokenadapt` measures how much.

Source: TokenAdapt (arXiv 2505.09738) and its released code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.tensors.gate import require_causal_lm
from tokenry.core.text.bits_per_byte import text_loss
from tokenry.tokenization.probes import require_encodable, round_trip_failures, texts_back
from tokenry.tokenization.special_roles import take_roles
from tokenry.tokenization.transfer.model_folder import save_model_folder
from tokenry.tokenization.transfer.model_rows import write_rows
from tokenry.tokenization.transfer.transplant.auxiliary_space import (
    Auxiliary,
    auxiliary_space,
)
from tokenry.tokenization.transfer.transplant.carry_over import add_special_tokens, carry_over
from tokenry.tokenization.transfer.transplant.composition import (
    Composition,
    OldTokens,
    compose,
    wanted_left_out,
    wanted_new,
)
from tokenry.tokenization.transfer.transplant.matrices import new_matrices, read_matrices, trained_rows
from tokenry.tokenization.transfer.transplant.report import LeaveOneOut, TransplantReport
from tokenry.tokenization.transfer.transplant.settings import TransplantSettings
from tokenry.tokenization.transfer.transplant.vocabulary_match import (
    VocabularyMatch,
    match_vocabularies,
    token_names,
)

REPORT_FILE = "transplant.json"


def transplant_tokenizer(
    model: PreTrainedModel,
    old_tokenizer: PreTrainedTokenizerBase | Tokenizer,
    new_tokenizer: PreTrainedTokenizerBase | Tokenizer,
    settings: TransplantSettings | str = "tokenadapt",
    *,
    auxiliary: Auxiliary | None = None,
    carry_special_tokens: bool = False,
    texts: Sequence[str] | None = None,
    **options: Any,
) -> tuple[PreTrainedModel, TransplantReport]:
    """Replace the vocabulary of a causal language model.

    The model is changed in place, and only once all rows are known. The ids of special tokens in its config and generation config
    follow the new tokenizer, which gets the old one's chat template where it has none.

    Args:
        model: model with tied or separate matrices.
        new_tokenizer: tokenizer that replaces it, of any kind; its special tokens take the roles (bos, eos, …) that the old tokenizer
            gives to tokens of the same names, unless it has a token in that role itself.
        settings: settings of the new rows, or the name of a method: `tokenadapt` (pieces and neighbours), `retok` (mean of the pieces),
            `focus` (sparse mean of shared tokens), `omp` (sparse combination of shared tokens), `mean` (of all rows) or `random`.
        auxiliary: space in which tokens are compared, see `auxiliary_space`; None for the model's own hidden states. `omp` is meant for
            the matrix of a donor model that has the new vocabulary; there None stands for the model's own rows.
        carry_special_tokens: whether the old special tokens that the new tokenizer lacks are added first, with their roles.
        texts: texts whose bits per byte are measured before and after.
        **options: fields of `TransplantSettings` that replace those of `settings`: `method="retok", seed=1`.

    Returns:
        The model, and what became of its vocabulary.

    Raises:
        UserError: a model without input embeddings or with further weights per token, token ids beyond the rows, rows or auxiliary
            vectors that are not finite, an empty vocabulary, texts that cannot be encoded or without a token that could begin them.

    Source: TokenAdapt (arXiv 2505.09738).
    """
    settings = replace(
        settings if isinstance(settings, TransplantSettings) else TransplantSettings(settings), **options
    )
    old, new = _with_roles(old_tokenizer, "old"), _with_roles(new_tokenizer, "new")
    matrices = read_matrices(model, old)
    require_causal_lm(model)
    take_roles(new, old)
    if carry_special_tokens:
        add_special_tokens(old, new)
    _require_measurable(old, new, texts)
    matched = match_vocabularies(old, new, settings.match)
    before = None if texts is None else text_loss(model, old, texts)

    names, trained = token_names(new), trained_rows(matrices["input"], old, matched)
    composition, left_out = _compose(model, matched, trained, names, settings, auxiliary)
    rows = new_matrices(matrices, trained, matched, composition.mixture, settings)

    write_rows(model, rows)
    notes = carry_over(model, old, new, matched)

    back, lost = texts_back({"old": old, "new": new}, texts)
    composed = composition.mixture.composed.cpu()
    fallback, never = matched.composable[~composed].tolist(), matched.never_copied.tolist()
    report = TransplantReport(
        method=settings.method,
        settings={**asdict(settings), "auxiliary": _name_of(auxiliary, settings)},
        old_tokens=len(matched.old_texts),
        new_tokens=len(names),
        rows=len(rows.input),
        tied=rows.output is None,
        counts={
            "copied": len(matched.copied),
            "composed": int(composed.sum()),
            "fallback": len(fallback),
            **({"never_written": len(never)} if never else {}),
        },
        estimates=composition.estimates,
        pieces_per_token=matched.pieces_per_token,
        fallback=tuple(names[token] for token in fallback),
        never_written=tuple(names[token] for token in never),
        notes=(*notes, *lost),
        round_trip_failures=round_trip_failures(new),
        leave_one_out=left_out,
        text_back=back,
        before=before,
        after=None if texts is None else text_loss(model, new, texts),
    )
    return model, report


def save_transplant(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, report: TransplantReport, folder: Path
) -> None:
    """Write model, tokenizer and report to a folder that did not exist, whole or not at all.

    Raises:
        UserError: the folder exists, cannot be written, or the tokenizer that is loaded from it cuts texts otherwise.
    """
    save_model_folder(model, tokenizer, folder, REPORT_FILE, report.as_json())


def _compose(
    model: PreTrainedModel,
    matched: VocabularyMatch,
    trained: Bool[Tensor, "rows"],
    names: Mapping[int, str],
    settings: TransplantSettings,
    auxiliary: Auxiliary | None,
) -> tuple[Composition, LeaveOneOut | None]:
    """Compose the new tokens of trained old rows, and some shared ones as if they were new."""
    matrix = model.get_input_embeddings().weight.detach()
    new_ids = matched.composable
    space = None
    if settings.needs_space and len(new_ids):
        space = auxiliary_space(
            _default(auxiliary, settings), matched, model, centred=settings.method != "omp"
        )
    vectors = torch.zeros(len(matched.old_texts), 1) if space is None else space.old
    vectors = vectors * trained[: len(vectors), None].cpu()
    shared = matched.shared[matched.shared_written].unique()
    old = OldTokens(vectors.to(matrix.device), shared.to(matrix.device))
    composition = compose(wanted_new(new_ids, matched, space).to(matrix.device), old, settings)
    if settings.method in ("mean", "random") or not (len(new_ids) and settings.leave_one_out):
        return composition, None
    ids, left_out = wanted_left_out(matched, space, settings.leave_one_out, settings.seed)
    if not len(ids):
        return composition, None
    mixture = compose(left_out.to(matrix.device), old, settings).mixture
    true = matrix[left_out.itself.to(matrix.device)].float()
    mean_row = matrix[trained].float().mean(dim=0).cpu()
    tried = tuple(names[token] for token in ids.tolist())
    return composition, LeaveOneOut.of(ids, tried, mixture.rows(matrix).cpu(), true.cpu(), mean_row)


def _default(auxiliary: Auxiliary | None, settings: TransplantSettings) -> Auxiliary:
    if auxiliary is not None:
        return auxiliary
    return "embeddings" if settings.method == "omp" else "hidden"


def _name_of(auxiliary: Auxiliary | None, settings: TransplantSettings) -> str | None:
    if not settings.needs_space:
        return None
    chosen = _default(auxiliary, settings)
    return chosen if isinstance(chosen, str) else type(chosen).__name__


def _with_roles(tokenizer: PreTrainedTokenizerBase | Tokenizer, which: str) -> PreTrainedTokenizerBase:
    """The tokenizer itself, which is changed and saved with the model; refused if it is not one of transformers."""
    if isinstance(tokenizer, Tokenizer):
        raise UserError(
            f"the {which} tokenizer is a tokenizers.Tokenizer, which knows no bos or eos token: give "
            "PreTrainedTokenizerFast(tokenizer_object=…, bos_token=…, eos_token=…)."
        )
    return tokenizer


def _require_measurable(
    old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, texts: Sequence[str] | None
) -> None:
    """Raise `UserError` unless both tokenizers can encode the texts, and something predicts their first token."""
    if texts is None:
        return
    if new.bos_token_id is None and new.eos_token_id is None:
        raise UserError(
            "the new tokenizer has neither a bos nor an eos token, so nothing predicts the first token of a text: set one of them, "
            "let carry_special_tokens=True bring the old ones, or give no texts."
        )
    require_encodable({"old": old, "new": new}, texts)
