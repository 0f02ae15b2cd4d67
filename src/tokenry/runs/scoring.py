"""Signals of every token of a text or a data set under one model: what `tokenry score` shows."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.attention import attention_layers, resolve_layers
from tokenry.core.errors import UserError
from tokenry.core.progress import Progress
from tokenry.core.records import Example, ReportToken
from tokenry.finetuning import AttentionProbe
from tokenry.finetuning.conversations import encode_with_notes
from tokenry.finetuning.dataset_pass import read_dataset, samples_of
from tokenry.finetuning.nll_cache import Sample
from tokenry.finetuning.template import adds_bos, template_pieces, training_template
from tokenry.finetuning.token_index import RUNS
from tokenry.finetuning.token_store import TokenStore
from tokenry.models import (
    load_model,
    load_tokenizer,
    preferred_device,
    require_causal_lm,
    require_readable,
    require_same_tokenizer,
)
from tokenry.runs.material import read_checked, say
from tokenry.runs.quiet import quiet_libraries
from tokenry.runs.run_record import token_texts

logger = logging.getLogger(__name__)

_LOSSES = ("nll", "entropy")
_ATTENTION: dict[str, Literal["prompt", "content"]] = {
    "prompt_attention": "prompt",
    "content_attention": "content",
}
# What a reference model adds: its own loss, and by how much the model's is larger (RHO-1's score).
_OF_REFERENCE = ("reference_nll", "excess_nll")
SIGNALS = (*_LOSSES, *_ATTENTION, *_OF_REFERENCE)
_DATA = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Scores:
    """Scored texts, and what of the data was cut, skipped or not read."""

    examples: list[Example]
    notes: list[str]


@quiet_libraries()
def score_source(
    source: str,
    signals: Sequence[str],
    model_name: str,
    report: Progress,
    *,
    layers: int | str | Sequence[int] = -1,
    max_length: int = 2048,
    samples: int = 20,
    chat_template: str | None = None,
    reference: str | None = None,
) -> Scores:
    """Score the tokens of a text, a text file, or the first `samples` rows of a data file.

    NLL and entropy are in nats, attention is a probability mass. In a plain text every token but the first is scored; in
    conversations the assistant's are. `reference` names a second model, for `reference_nll` and `excess_nll`.

    Raises:
        UserError: an unknown signal, or data, a model or a layer that cannot be read, or a reference of another tokenizer.
    """
    unknown = [name for name in signals if name not in SIGNALS]
    if unknown or not signals:
        raise UserError(f"signals are {', '.join(SIGNALS)}; got {', '.join(unknown) or 'none'}.")
    if max_length < 2:
        raise UserError(f"max_length must be at least 2 tokens, got {max_length}.")
    compared = [name for name in signals if name in _OF_REFERENCE]
    if bool(compared) != (reference is not None):
        raise UserError(
            f"{compared[0]} needs a second model: name it with --reference."
            if compared
            else f"--reference {reference} is not used: ask for reference_nll or excess_nll among the signals."
        )
    report("reading the model and the data", 0.0)
    tokenizer = load_tokenizer(model_name)
    if chat_template:
        tokenizer.chat_template = training_template(tokenizer, chat_template)
    text = _text(source)
    if text is None:
        encoding = encode_with_notes(read_checked(source)[:samples], tokenizer, max_length, chat_template)
        rows, names, notes = encoding.dataset, encoding.numbers, encoding.notes
    else:
        rows, names, notes = [_encode_text(text, tokenizer, max_length)], (1,), ()
    say(notes)
    parts, size = _indexed(rows)
    attention = [name for name in signals if name in _ATTENTION]
    if attention and all(part.targets[1:].all() for part in parts):
        raise UserError(
            f"{attention[0]} is attention to a prompt, and a plain text has none: give conversations."
        )
    if reference is not None:
        require_same_tokenizer(tokenizer, load_tokenizer(reference), f"the reference {reference}")
    model = _load(model_name, parts)
    other = None if reference is None else _load(reference, parts)
    if attention:
        resolve_layers(layers, len(attention_layers(model)))
    columns = _read(model, other, parts, size, signals, layers, tokenizer, report)
    report("done", 1.0)
    examples = [
        Example(title=f"sample {name}", tokens=_tokens(part, columns, tokenizer))
        for name, part in zip(names, parts, strict=True)
    ]
    return Scores(examples, list(notes))


def parse_layers(written: str) -> int | str | tuple[int, ...]:
    """Read `-1`, `deep` or `10,20`.

    Raises:
        UserError: anything else.
    """
    if written == "deep":
        return written
    try:
        layers = tuple(int(part) for part in written.split(","))
    except ValueError as error:
        raise UserError(f"layers are -1, deep, or numbers such as 10,20; got {written!r}.") from error
    return layers[0] if len(layers) == 1 else layers


def _text(source: str) -> str | None:
    """Return the text that `source` is or names; None when it names data."""
    if not os.path.exists(source):  # noqa: PTH110  (a Path refuses a text that is too long for a name)
        return None if source.endswith(_DATA) else source
    path = Path(source)
    if path.is_dir() or path.suffix in _DATA:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error


def _encode_text(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    has_bos = adds_bos(tokenizer) and text.lstrip().startswith(
        tokenizer.bos_token
    )  # text that was rendered already
    ids = tokenizer(text, add_special_tokens=not has_bos, verbose=False)["input_ids"]
    if len(ids) < 2:
        raise UserError(
            "the text has fewer than two tokens, and the first of a text has no score: give more."
        )
    if len(ids) > max_length:
        logger.warning(
            "the text is longer than %d tokens: the rest of its %d is left out.", max_length, len(ids)
        )
    return {"input_ids": ids[:max_length], "labels": ids[:max_length]}


def _indexed(rows: Any) -> tuple[list[Sample], int]:
    parts: list[Sample] = []
    size = 0
    for row in rows:
        length = len(row["input_ids"])
        parts += samples_of([{**row, RUNS: [size, size + length]}])
        size += length
    return parts, size


def _load(name: str, parts: Sequence[Sample]) -> PreTrainedModel:
    """Load a model that can read all samples."""
    model = load_model(name).to(preferred_device())
    require_causal_lm(model, name)
    ids = np.concatenate([part.input_ids for part in parts])
    require_readable(model, ids, [len(part.input_ids) for part in parts], "the text", name)
    return model


def _read(
    model: nn.Module,
    reference: nn.Module | None,
    parts: Sequence[Sample],
    size: int,
    signals: Sequence[str],
    layers: int | str | Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    report: Progress,
) -> dict[str, Tensor]:
    """Read losses in one pass, each kind of attention in one more, and the losses of the reference in the last."""
    passes: list[tuple[str, AttentionProbe | None]] = []
    if set(signals) & {*_LOSSES, "excess_nll"}:
        passes.append(("losses", None))
    passes += [(name, AttentionProbe(layers, _ATTENTION[name])) for name in signals if name in _ATTENTION]
    losses = frozenset(signals) & frozenset(_LOSSES) | ({"nll"} if "excess_nll" in signals else set())
    columns: dict[str, Tensor] = {}
    for number, (name, probe) in enumerate(passes):
        report(name, number / len(passes))
        store = TokenStore(size)
        reads_content = probe is not None and probe.columns == "content"
        read_dataset(
            model,
            parts,
            store,
            frozenset({"prompt_attention"}) if probe else losses,
            probe=probe,
            template=template_pieces(tokenizer) if reads_content else (),
            progress=False,
        )
        columns |= {name: store.columns["prompt_attention"]} if probe else store.columns
    if reference is not None:
        report("the reference", (len(passes) - 1) / len(passes) if passes else 0.0)
        store = TokenStore(size)
        read_dataset(reference, parts, store, progress=False)
        columns["reference_nll"] = store.columns["nll"]
        if "excess_nll" in signals:
            columns["excess_nll"] = columns["nll"] - columns["reference_nll"]
    return {name: columns[name] for name in signals}


def _tokens(
    part: Sample, columns: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase
) -> list[ReportToken]:
    return [
        ReportToken(
            text=text,
            learnable=bool(target),
            signals={name: float(column[index]) for name, column in columns.items()} if target else {},
        )
        for text, index, target in zip(
            token_texts(part.input_ids.tolist(), tokenizer), part.token_index, part.targets, strict=True
        )
    ]
