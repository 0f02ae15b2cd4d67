"""Give a model any tokenizer in one pass over its vocabulary, with a trained hypernetwork.

    rows of a new token = hypernetwork(surface form of the token, rows of the source model)
    special tokens        the source model's rows: of the token of that name, else of the one with the same part (bos, eos, …)
    ids no text has       the mean row of the source model (byte fallbacks beside a token of their own, gaps)

Fine-tuned variants of the source model take the rows that the hypernetwork predicts for the base (`base=`) or for themselves.

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), sections 3 and 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.core.errors import UserError
from tokenry.tokenization.special_roles import ROLES, as_fast
from tokenry.tokenization.transfer.model_folder import save_model_folder
from tokenry.tokenization.transfer.model_rows import (
    ModelRows,
    model_rows,
    set_special_ids,
    source_rows,
    split_sides,
    with_mean_rows,
    with_source_rows,
    write_rows,
)
from tokenry.tokenization.transfer.zett.byte_conversion import ConvertedTokenizer, to_byte_level
from tokenry.tokenization.transfer.zett.hypernetwork import EmbeddingHyperNetwork
from tokenry.tokenization.transfer.zett.surface_forms import surface_forms
from tokenry.tokenization.transfer.zett.token_report import TokenReport
from tokenry.tokenization.written import WrittenVocabulary

REPORT_FILE = "zett.json"


@dataclass(frozen=True)
class PredictedVocabulary:
    """Rows for a new tokenizer.

    Attributes:
        rows: rows by new id, special tokens included.
        forms: surface forms by new id.
        report: what could be known of each token.
    """

    rows: ModelRows
    forms: Int[Tensor, "tokens pieces"]
    report: TokenReport


def transfer_tokenizer(
    model: PreTrainedModel,
    hypernetwork: EmbeddingHyperNetwork,
    new_tokenizer: PreTrainedTokenizerBase | Tokenizer,
    *,
    base: PreTrainedModel | None = None,
    source_tokenizer: PreTrainedTokenizerBase | None = None,
    language: int | None = None,
) -> PreTrainedModel:
    """Replace the vocabulary of a model; its other weights stay as they are.

    Args:
        model: the model that the hypernetwork was trained for, or a fine-tuned variant; changed in place once all rows are known.
        hypernetwork: a trained hypernetwork.
        new_tokenizer: any tokenizer that can be written in bytes; its ids become those of the model.
        base: the model whose rows are read; None for `model`.
        source_tokenizer: tokenizer of the base; None for the one that was saved with the hypernetwork.
        language: number of the language, for a hypernetwork that tells languages apart.

    Returns:
        The model, which `save_pretrained` and `from_pretrained` know how to store.

    Raises:
        UserError: an empty or slow tokenizer, one that cannot be written in bytes, a model of another shape than the hypernetwork's, or a
            missing source tokenizer.

    Source: arXiv 2405.07883, section 3.
    """
    predicted = predict_vocabulary(
        model,
        hypernetwork,
        new_tokenizer,
        base=base,
        source_tokenizer=source_tokenizer,
        language=language,
    )
    write_rows(model, predicted.rows)
    set_special_ids(model, as_fast(new_tokenizer))
    return model


@torch.no_grad()
def predict_vocabulary(
    model: PreTrainedModel,
    hypernetwork: EmbeddingHyperNetwork,
    new_tokenizer: PreTrainedTokenizerBase | Tokenizer,
    *,
    base: PreTrainedModel | None = None,
    source_tokenizer: PreTrainedTokenizerBase | None = None,
    language: int | None = None,
    batch_size: int = 16_384,
) -> PredictedVocabulary:
    """Predict what `transfer_tokenizer` writes, and change nothing; its arguments, and one more.

    Args:
        batch_size: number of tokens that are predicted at once.
    """
    config = hypernetwork.config
    new_tokenizer = as_fast(new_tokenizer)
    source = _source(hypernetwork, source_tokenizer)
    tokens, special = _vocabulary(new_tokenizer, source)
    of_base = model_rows(base or model)
    embeddings = source_rows(base or model, config.vocabulary)
    _require_fit(model, of_base, hypernetwork)
    forms, _ = surface_forms(tokens, source, config.max_length)
    ids = torch.tensor(list(special), dtype=torch.long)
    source_ids = torch.tensor(list(special.values()), dtype=torch.long)
    forms[ids] = config.pad_id
    forms[ids, 0] = source_ids
    hypernetwork = hypernetwork.to(embeddings.device)
    parts = [
        hypernetwork(part.to(embeddings.device), embeddings, language) for part in forms.split(batch_size)
    ]
    made = ModelRows(
        torch.cat([part.input for part in parts]),
        None if config.tied else torch.cat([part.output for part in parts if part.output is not None]),
        None if of_base.bias is None else torch.cat([part.bias for part in parts]),
    )
    never = sorted(WrittenVocabulary.of(new_tokenizer).never - set(special))
    untrained = WrittenVocabulary.of(source, pieces=False).never
    rows = with_source_rows(made, of_base, ids, source_ids)
    rows = with_mean_rows(rows, of_base, never, [n for n in range(config.vocabulary) if n not in untrained])
    source_names = source.convert_ids_to_tokens(list(range(len(source))))
    report = TokenReport.of(
        tokens,
        forms,
        ids,
        made.input.cpu(),
        split_sides(embeddings, config.embedding_size)[0].cpu(),
        source_names,
        config.pad_id,
        never,
    )
    dtype = of_base.input.dtype
    return PredictedVocabulary(rows.each(lambda side: side.to(dtype)), forms, report)


def save_transfer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    report: TokenReport,
    folder: Path,
    measured: Mapping[str, Any] | None = None,
) -> None:
    """Write model, tokenizer and report, with what else was measured, to a folder that did not exist, whole or not at all.

    Raises:
        UserError: the folder exists, or cannot be written.
    """
    save_model_folder(model, tokenizer, folder, REPORT_FILE, {**report.as_json(), **(measured or {})})


def _source(
    hypernetwork: EmbeddingHyperNetwork, given: PreTrainedTokenizerBase | None
) -> PreTrainedTokenizerFast:
    source = hypernetwork.source_tokenizer if given is None else to_byte_level(given).tokenizer
    if source is None:
        raise UserError(
            "this hypernetwork has no source tokenizer with it: give the tokenizer of its model as source_tokenizer."
        )
    rows = hypernetwork.config.vocabulary + hypernetwork.config.fallback_rows
    if len(source) != rows:
        raise UserError(
            f"the source tokenizer has {len(source)} tokens over bytes, but the hypernetwork knows {rows}: give the tokenizer it was "
            "trained with."
        )
    return source


def _vocabulary(
    new: PreTrainedTokenizerBase, source: PreTrainedTokenizerFast
) -> tuple[list[str], dict[int, int]]:
    """The new tokens in byte characters, and the source id of each special token that has a counterpart."""
    converted: ConvertedTokenizer = to_byte_level(new)
    known = source.get_vocab()
    by_part = {
        getattr(new, part): getattr(source, part)
        for part in reversed(ROLES)
        if getattr(new, part) is not None
    }
    special = {}
    for number in converted.special_ids:
        name = converted.tokens[number]
        counterpart = name if name in source.all_special_tokens else by_part.get(name)
        if counterpart is not None:
            special[number] = known[counterpart]
    original = len(converted.tokens) - converted.extra_tokens
    return list(converted.tokens[:original]), special


def _require_fit(model: PreTrainedModel, rows: ModelRows, hypernetwork: EmbeddingHyperNetwork) -> None:
    own, config = model_rows(model), hypernetwork.config
    for sides in (own, rows):
        width, tied = sides.input.shape[1], sides.output is None
        if width != config.embedding_size or tied != config.tied:
            raise UserError(
                f"the hypernetwork is for {'tied' if config.tied else 'untied'} embeddings of width {config.embedding_size}, but the "
                f"model has {'tied' if tied else 'untied'} ones of width {width}: use the model it was trained for, or a variant of it."
            )
