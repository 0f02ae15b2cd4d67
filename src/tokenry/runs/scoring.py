"""Signals of every token of a text or a data set under one model: what `tokenry score` shows."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tokenry.core.attention import attention_layers, resolve_layers
from tokenry.core.errors import UserError
from tokenry.core.progress import Progress
from tokenry.core.records import Example, ReportToken
from tokenry.finetuning import AttentionProbe
from tokenry.finetuning.conversations import encode_rows
from tokenry.finetuning.dataset_pass import read_dataset, samples_of
from tokenry.finetuning.nll_cache import Sample
from tokenry.finetuning.template import template_pieces, training_template
from tokenry.finetuning.token_store import TokenStore
from tokenry.models import load_model, load_tokenizer, preferred_device
from tokenry.runs.material import read_checked
from tokenry.runs.quiet import quiet_libraries
from tokenry.runs.run_record import token_texts

logger = logging.getLogger(__name__)

_LOSSES = ("nll", "entropy")
_ATTENTION: dict[str, Literal["prompt", "content"]] = {
    "prompt_attention": "prompt",
    "content_attention": "content",
}
SIGNALS = (*_LOSSES, *_ATTENTION)
_DATA = (".jsonl", ".json", ".csv", ".parquet")


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
) -> list[Example]:
    """Score the tokens of a text, a text file, or the first `samples` rows of a data file.

    NLL and entropy are in nats, attention is a probability mass. In a plain text every token but the first is scored; in
    conversations the assistant's are.

    Raises:
        UserError: an unknown signal, or data, a model or a layer that cannot be read.
    """
    unknown = [name for name in signals if name not in SIGNALS]
    if unknown or not signals:
        raise UserError(f"signals are {', '.join(SIGNALS)}; got {', '.join(unknown) or 'none'}.")
    if max_length < 2:
        raise UserError(f"max_length must be at least 2 tokens, got {max_length}.")
    report("reading the model and the data", 0.0)
    tokenizer = load_tokenizer(model_name)
    if chat_template:
        tokenizer.chat_template = training_template(tokenizer, chat_template)
    text = _text(source)
    if text is None:
        rows = encode_rows(read_checked(source)[:samples], tokenizer, max_length)
    else:
        rows = [_encode_text(text, tokenizer, max_length)]
    parts, size = _indexed(rows)
    attention = [name for name in signals if name in _ATTENTION]
    if attention and all(part.targets[1:].all() for part in parts):
        raise UserError(
            f"{attention[0]} is attention to a prompt, and a plain text has none: give conversations."
        )
    model = load_model(model_name).to(preferred_device())
    if attention:
        resolve_layers(layers, len(attention_layers(model)))
    columns = _read(model, parts, size, signals, layers, tokenizer, report)
    report("done", 1.0)
    return [
        Example(title=f"sample {number}", tokens=_tokens(part, columns, tokenizer))
        for number, part in enumerate(parts, start=1)
    ]


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
    ids = tokenizer(text, verbose=False)["input_ids"]
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
        parts += samples_of([{**row, "token_index": np.arange(size, size + length)}])
        size += length
    return parts, size


def _read(
    model: nn.Module,
    parts: Sequence[Sample],
    size: int,
    signals: Sequence[str],
    layers: int | str | Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    report: Progress,
) -> dict[str, Tensor]:
    """Read losses in one pass, and each kind of attention in one more."""
    passes: list[tuple[str, AttentionProbe | None]] = []
    if set(signals) & set(_LOSSES):
        passes.append(("losses", None))
    passes += [(name, AttentionProbe(layers, _ATTENTION[name])) for name in signals if name in _ATTENTION]
    columns: dict[str, Tensor] = {}
    for number, (name, probe) in enumerate(passes):
        report(name, number / len(passes))
        store = TokenStore(size)
        reads_content = probe is not None and probe.columns == "content"
        read_dataset(
            model,
            parts,
            store,
            frozenset({"prompt_attention"}) if probe else frozenset(signals) & frozenset(_LOSSES),
            probe=probe,
            template=template_pieces(tokenizer) if reads_content else (),
            progress=False,
        )
        columns |= {name: store.columns["prompt_attention"]} if probe else store.columns
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
