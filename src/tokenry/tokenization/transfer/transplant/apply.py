"""Give a language model another tokenizer without training: copy what both vocabularies share, compose the rest of old rows.

    shared token      its old row, unchanged
    any other         Σ weights · old rows, by one of METHODS; the same weights for the input and the output matrix
    fallback          the mean row, for special tokens without a counterpart, padding, ids that are never written, and whatever could
                      not be composed

Old rows that no text has trained (padding, ids that are never written) are part of no mean and of no sum, and copied to their like only.

The released code draws fallback rows from N(mean, std) of the old matrix (`fallback="random"`). A row that belongs to no text but has
a random direction takes probability from all others; `tokenry reproduce tokenadapt` measures how much.

Source: TokenAdapt (arXiv 2505.09738) and its released code.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from tokenry.core.errors import UserError
from tokenry.core.tensors.gate import require_causal_lm
from tokenry.core.text.bits_per_byte import text_loss
from tokenry.tokenization.probes import require_encodable, round_trip_failures, texts_back
from tokenry.tokenization.special_roles import take_roles
from tokenry.tokenization.transfer.model_folder import save_model_folder
from tokenry.tokenization.transfer.model_rows import ModelRows, set_special_ids, write_rows
from tokenry.tokenization.transfer.transplant.auxiliary_space import Auxiliary, auxiliary_space
from tokenry.tokenization.transfer.transplant.composition import (
    Composition,
    OldTokens,
    compose,
    wanted_left_out,
    wanted_new,
)
from tokenry.tokenization.transfer.transplant.embedding_heuristics import Mixture, Wanted
from tokenry.tokenization.transfer.transplant.report import LeaveOneOut, TransplantReport
from tokenry.tokenization.transfer.transplant.settings import TransplantSettings
from tokenry.tokenization.transfer.transplant.vocabulary_match import (
    VocabularyMatch,
    match_vocabularies,
    token_names,
)

REPORT_FILE = "transplant.json"

# Tables of positions that may happen to have as many rows as there are tokens.
_POSITIONS = ("wpe", "embed_positions", "position_embeddings", "position_embedding")


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
        model: with tied or separate matrices.
        old_tokenizer: the model's own.
        new_tokenizer: the one it gets, of any kind; its special tokens take the roles (bos, eos, …) that the old tokenizer gives to
            tokens of the same names, where it has none in that role itself.
        settings: how the rows are made, or the name of a method: `tokenadapt` (pieces and neighbours), `retok` (mean of the pieces),
            `focus` (sparse mean of shared tokens), `omp` (sparse combination of shared tokens), `mean` (of all rows) or `random`.
        auxiliary: the space in which tokens are compared, see `auxiliary_space`; None for the model's own hidden states. `omp` is
            meant for the matrix of a donor model that has the new vocabulary; there None stands for the model's own rows.
        carry_special_tokens: first add the old special tokens that the new tokenizer lacks, and give it their roles where it has none.
        texts: measured in bits per byte before and after.
        **options: fields of `TransplantSettings`, in place of those of `settings`: `method="retok", seed=1`.

    Returns:
        The model, and what became of its vocabulary.

    Raises:
        UserError: a setting out of range, a model without input embeddings or with further weights per token, token ids beyond the
            rows, rows or auxiliary vectors that are not finite, an empty vocabulary, texts that cannot be encoded or without a token
            that could begin them.

    Source: TokenAdapt (arXiv 2505.09738).
    """
    settings = replace(
        settings if isinstance(settings, TransplantSettings) else TransplantSettings(settings), **options
    )
    old_tokenizer, new_tokenizer = _with_roles(old_tokenizer, "old"), _with_roles(new_tokenizer, "new")
    old_matrices = _matrices(model)
    _require_rows(old_matrices, old_tokenizer)
    require_causal_lm(model)
    take_roles(new_tokenizer, old_tokenizer)
    if carry_special_tokens:
        _carry_special_tokens(old_tokenizer, new_tokenizer)
    if texts is not None and new_tokenizer.bos_token_id is None and new_tokenizer.eos_token_id is None:
        raise UserError(
            "the new tokenizer has neither a bos nor an eos token, so nothing predicts the first token of a text: set one of them, "
            "let carry_special_tokens=True bring the old ones, or give no texts."
        )
    require_encodable({"old": old_tokenizer, "new": new_tokenizer}, texts or ())
    matched = match_vocabularies(old_tokenizer, new_tokenizer, settings.match)
    before = text_loss(model, old_tokenizer, texts) if texts is not None else None
    alone = (matched.shared < 0).nonzero()[:, 0].tolist()
    unique = torch.tensor([number for number in alone if number not in matched.new_never], dtype=torch.long)
    new_names = token_names(new_tokenizer)
    real = _real_rows(old_matrices["input"], old_tokenizer, matched)
    composition, left_out = _compose(model, matched, unique, new_names, settings, auxiliary, real)
    matrices = _new_matrices(old_matrices, matched, unique, composition.mixture, settings, real)
    bias = matrices["bias"][:, 0] if "bias" in matrices else None
    write_rows(model, ModelRows(matrices["input"], matrices.get("output"), bias))
    back, lost = texts_back({"old": old_tokenizer, "new": new_tokenizer}, texts)
    notes = _carry_over(model, old_tokenizer, new_tokenizer, matched) + tuple(lost)
    composed = composition.mixture.composed.tolist()
    uncomposed = [
        new_names[number] for number, done in zip(unique.tolist(), composed, strict=True) if not done
    ]
    never = [number for number in alone if number in matched.new_never and number not in matched.absent]
    report = TransplantReport(
        method=settings.method,
        settings={**asdict(settings), "auxiliary": _name_of(auxiliary, settings)},
        old_tokens=len(matched.old_texts),
        new_tokens=len(new_names),
        rows=len(matrices["input"]),
        tied="output" not in matrices,
        counts={
            "copied": len(matched.copied),
            "composed": sum(composed),
            "fallback": len(uncomposed),
            **({"never_written": len(never)} if never else {}),
        },
        estimates=composition.estimates,
        pieces_per_token=_mean_pieces(matched, unique),
        fallback=tuple(uncomposed),
        never_written=tuple(new_names[number] for number in never),
        notes=notes,
        round_trip_failures=round_trip_failures(new_tokenizer),
        leave_one_out=left_out,
        text_back=back,
        before=before,
        after=text_loss(model, new_tokenizer, texts) if texts is not None else None,
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


# --- composing -----------------------------------------------------------------------------------------------------------------------


def _compose(
    model: PreTrainedModel,
    matched: VocabularyMatch,
    unique: Tensor,
    new_names: dict[int, str],
    settings: TransplantSettings,
    auxiliary: Auxiliary | None,
    real: Bool[Tensor, "old_rows"],
) -> tuple[Composition, LeaveOneOut | None]:
    """Compose the new tokens, and shared ones as if they were new; of `real` rows only."""
    matrix = model.get_input_embeddings().weight.detach()
    space = None
    if settings.needs_space and len(unique):
        space = auxiliary_space(
            _default(auxiliary, settings), matched, model, centred=settings.method != "omp"
        )
    vectors = torch.zeros(len(matched.old_texts), 1) if space is None else space.old
    vectors = vectors * real[: len(vectors), None].cpu()
    shared = matched.shared[matched.shared_written].unique()
    old = OldTokens(vectors.to(matrix.device), shared.to(matrix.device))
    composition = compose(_on(wanted_new(unique, matched, space), matrix.device), old, settings)
    if settings.method in ("mean", "random") or not (len(unique) and settings.leave_one_out):
        return composition, None
    ids, left_out = wanted_left_out(matched, space, settings.leave_one_out, settings.seed)
    if not len(ids):
        return composition, None
    mixture = compose(_on(left_out, matrix.device), old, settings).mixture
    true = matrix[left_out.itself.to(matrix.device)].float()
    names = tuple(new_names[number] for number in ids.tolist())
    mean_row = matrix[real].float().mean(dim=0).cpu()
    return composition, LeaveOneOut.of(ids, names, mixture.rows(matrix).cpu(), true.cpu(), mean_row)


def _on(wanted: Wanted, device: torch.device) -> Wanted:
    return Wanted(**{name: value.to(device) for name, value in vars(wanted).items()})


def _default(auxiliary: Auxiliary | None, settings: TransplantSettings) -> Auxiliary:
    if auxiliary is not None:
        return auxiliary
    return "embeddings" if settings.method == "omp" else "hidden"


def _name_of(auxiliary: Auxiliary | None, settings: TransplantSettings) -> str | None:
    if not settings.needs_space:
        return None
    chosen = _default(auxiliary, settings)
    return chosen if isinstance(chosen, str) else type(chosen).__name__


# --- the model -----------------------------------------------------------------------------------------------------------------------


def _with_roles(tokenizer: PreTrainedTokenizerBase | Tokenizer, which: str) -> PreTrainedTokenizerBase:
    """The tokenizer itself, which is changed and saved with the model.

    Raises:
        UserError: it is none of transformers.
    """
    if isinstance(tokenizer, Tokenizer):
        raise UserError(
            f"the {which} tokenizer is a tokenizers.Tokenizer, which knows no bos or eos token: give "
            "PreTrainedTokenizerFast(tokenizer_object=…, bos_token=…, eos_token=…)."
        )
    return tokenizer


def _matrices(model: PreTrainedModel) -> dict[str, Tensor]:
    """The old `input` matrix; where it has its own, the `output` matrix; the output `bias` as a matrix of one column.

    Raises:
        UserError: there is no input matrix, it is quantised, or the model keeps further weights per token.
    """
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
    return matrices


def _require_rows(matrices: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase) -> None:
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


def _new_matrices(
    old: dict[str, Tensor],
    matched: VocabularyMatch,
    unique: Int[Tensor, "unique"],
    mixture: Mixture,
    settings: TransplantSettings,
    real: Bool[Tensor, "old_rows"],
) -> dict[str, Tensor]:
    number = math.ceil(len(matched.shared) / settings.pad_to_multiple_of) * settings.pad_to_multiple_of
    generator = torch.Generator().manual_seed(settings.seed)
    new_ids = matched.copied
    old_ids, composed = matched.shared[new_ids], mixture.composed
    made = {}
    for name, matrix in old.items():
        everything = matrix[real].float()
        if settings.random_rows:
            noise = torch.randn(number, matrix.shape[1], generator=generator).to(matrix.device)
            rows = (everything.mean() + everything.std() * noise).to(matrix.dtype)
        else:
            rows = everything.mean(dim=0).to(matrix.dtype).repeat(number, 1)
        rows[new_ids.to(matrix.device)] = matrix[old_ids.to(matrix.device)]
        rows[unique.to(matrix.device)[composed]] = mixture.rows(matrix)[composed].to(matrix)
        made[name] = rows
    return made


def _real_rows(
    matrix: Tensor, old: PreTrainedTokenizerBase, matched: VocabularyMatch
) -> Bool[Tensor, "old_rows"]:
    """The old rows that training has reached: not padding, and not those of ids that are never written."""
    real = torch.zeros(len(matrix), dtype=torch.bool, device=matrix.device)
    real[[number for number in token_names(old) if number not in matched.old_never]] = True
    return real


def _carry_special_tokens(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> None:
    known = new.get_vocab()
    missing = [token for token in _special_tokens(old) if token.content not in known]
    new.add_tokens(missing, special_tokens=True)
    for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
        if getattr(new, role) is None and getattr(old, role) is not None:
            setattr(new, role, getattr(old, role))


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[AddedToken]:
    return [token for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]


def _carry_over(
    model: PreTrainedModel,
    old: PreTrainedTokenizerBase,
    new: PreTrainedTokenizerBase,
    matched: VocabularyMatch,
) -> tuple[str, ...]:
    """Let config, generation config and chat template follow; returns what the user should know."""
    first_of: dict[int, int] = {}
    for number, counterpart in enumerate(matched.shared.tolist()):
        first_of.setdefault(counterpart, number)
    generation = model.generation_config
    old_stops = None if generation is None else generation.eos_token_id
    set_special_ids(model, new)
    if generation is not None:
        generation.eos_token_id = _stops(old_stops, generation.eos_token_id, first_of)
    if new.model_max_length > VERY_LARGE_INTEGER / 2:
        new.model_max_length = old.model_max_length
    if new.chat_template is not None or old.chat_template is None:
        return ()
    new.chat_template = old.chat_template
    known = new.get_vocab()
    written = [token.content for token in _special_tokens(old) if token.content in str(old.chat_template)]
    return tuple(
        f"the chat template writes {name}, which the new tokenizer cuts into pieces: carry_special_tokens=True adds it."
        for name in written
        if name not in known
    )


def _stops(old: int | list[int] | None, eos: int | None, new_ids: dict[int, int]) -> int | list[int] | None:
    """The ids that end a text: those of the old tokens that are still there, and the new tokenizer's own."""
    if not isinstance(old, list):
        return eos
    kept = [new_ids[number] for number in old if number in new_ids]
    return list(dict.fromkeys(([] if eos is None else [eos]) + kept))


def _mean_pieces(matched: VocabularyMatch, unique: Tensor) -> float:
    counts = (matched.pieces[unique] >= 0).sum(dim=1).float()
    return float(counts[counts > 0].mean()) if bool((counts > 0).any()) else 0.0
