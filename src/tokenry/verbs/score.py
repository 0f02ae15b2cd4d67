"""The signals of every token of a text or a data set under one model."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.io.reading import read_text
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Heatmap, Section, Series, Table, Text
from tokenry.report.result import Result
from tokenry.report.text import label
from tokenry.report.token_maps import signal_values
from tokenry.report.writing import plural
from tokenry.verbs._chats import read_checked
from tokenry.verbs._environment import environment
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title
from tokenry.verbs._tokens import example_tokens, token_texts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokenry.finetuning.nll_cache import IndexedSample

_LOSSES = ("nll", "entropy")
_ATTENTION: dict[str, Literal["prompt", "content"]] = {
    "prompt_attention": "prompt",
    "content_attention": "content",
}
# What a reference model adds: its own loss, and by how much the model's is larger (RHO-1's score).
_OF_REFERENCE = ("reference_nll", "excess_nll")
SIGNALS = (*_LOSSES, *_ATTENTION, *_OF_REFERENCE)

# A single word with one of these endings names a file, even if no such file exists.
_TEXT_FILES = (
    *(".txt", ".text", ".md", ".rst", ".tex", ".html", ".htm"),
    *(".xml", ".log", ".py", ".yaml", ".yml"),
)
_SHOWN = 20
_BINS = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Score the tokens of a text or data set, and draw them as heat-maps in the terminal and on a page.

    Attributes:
        source: a text, a text file, or conversations: a file (JSONL, JSON, CSV, Parquet), a folder, or a hub name.
        signals: names separated by commas: nll, entropy, prompt_attention, content_attention, reference_nll, excess_nll; by default nll,entropy, and excess_nll with --reference.
        model: `embedded`, a folder, or a hub name.
        reference: a second model with the same tokenizer.
        layers: attention layers: -1, `deep`, or numbers such as 10,20.
        max_length: maximum tokens per sample; longer samples are truncated.
        samples: maximum number of samples from a data set.
        chat_template: `open-instruct`, or a jinja file; by default the tokenizer's own.
        output: folder for result.json, scores.json and report.html, or a .json or .html file.
    """

    source: str = argument()
    signals: str | None = None
    model: str = "embedded"
    reference: str | None = option(None, metavar="MODEL")
    layers: str = "-1"
    max_length: int = 2048
    samples: int = 20
    chat_template: str | None = None
    hardware: StoredHardware = AS_STORED
    output: Path | None = Path("runs/score")

    def __post_init__(self) -> None:
        require_at_least(2, max_length=self.max_length)
        require_at_least(1, samples=self.samples)
        unknown = [name for name in self.names if name not in SIGNALS]
        if unknown or not self.names:
            raise UserError(f"signals are {', '.join(SIGNALS)}; got {', '.join(unknown) or 'none'}.")
        compared = [name for name in self.names if name in _OF_REFERENCE]
        if bool(compared) != (self.reference is not None):
            raise UserError(
                f"{compared[0]} needs a second model: name it with --reference."
                if compared
                else f"--reference {self.reference} is not used: ask for reference_nll or excess_nll among the signals."
            )
        parse_layers(self.layers)

    @property
    def names(self) -> list[str]:
        """The names of the signals."""
        default = "nll,entropy" if self.reference is None else "nll,entropy,excess_nll"
        return [name.strip() for name in (self.signals or default).split(",") if name.strip()]


def run(plan: Plan, progress: Progress) -> Result:
    """Score the tokens of a text, a text file, or the first rows of a data set.

    NLL and entropy are in nats, attention is a probability mass. In a plain text every token but the first is scored; in
    conversations the assistant's are.
    """
    device = plan.hardware.place()
    found = scored(plan, progress)
    data = {
        "kind": "score",
        "model": plan.model,
        "settings": plan_settings(plan) | {"signals": ",".join(plan.names)},
        **found,
    }
    data["environment"] = environment(device) | found["environment"]
    result = Result(f"Scores by {model_title(plan.model)}", data, lay_out(data), printed_part="examples")
    return replace(
        result, files={"scores.json": json.dumps(result.printed, indent=2, allow_nan=False) + "\n"}
    )


def scored(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Score the source: its texts token by token, what of it was cut, skipped or not read, and the type the model ran in."""
    from tokenry.core.chat.conversations import encode_with_notes
    from tokenry.core.chat.template import training_template
    from tokenry.core.tensors.attention import attention_layers, resolve_layers
    from tokenry.models import load_tokenizer, require_same_tokenizer

    progress("reading the model and the data", 0.0)
    text = source_text(plan.source)
    tokenizer = load_tokenizer(plan.model)
    if plan.chat_template:
        tokenizer.chat_template = training_template(tokenizer, plan.chat_template)
    rows: Any
    if text is None:
        read = read_checked(plan.source)[: plan.samples]
        encoding = encode_with_notes(read, tokenizer, plan.max_length, plan.chat_template)
        rows, numbers, notes = encoding.dataset, encoding.numbers, list(encoding.notes)
    else:
        rows, numbers, notes = [encode_text(text, tokenizer, plan.max_length)], (1,), []
    parts, size = _indexed(rows)
    attention = [name for name in plan.names if name in _ATTENTION]
    if attention and all(part.targets[1:].all() for part in parts):
        raise UserError(
            f"{attention[0]} is attention to a prompt, and a plain text has none: give conversations."
        )
    if plan.reference is not None:
        require_same_tokenizer(tokenizer, load_tokenizer(plan.reference), f"the reference {plan.reference}")
    model = _load(plan, plan.model, parts)
    reference = None if plan.reference is None else _load(plan, plan.reference, parts)
    if attention:
        resolve_layers(parse_layers(plan.layers), len(attention_layers(model)))
    columns = _read(plan, model, reference, parts, size, tokenizer, progress)
    examples = [
        {"title": f"sample {number}", "tokens": _tokens(part, columns, tokenizer)}
        for number, part in zip(numbers, parts, strict=True)
    ]
    dtype = str(model.dtype).removeprefix("torch.")
    return {"notes": notes, "examples": examples, "environment": {"dtype": dtype}}


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Statistics and distribution of every signal, and the first texts as heat-maps."""
    texts = [(example["title"], example_tokens(example)) for example in data["examples"]]
    values = signal_values(tokens for _, tokens in texts)
    sizes = f"{plural(len(texts), 'text')}, {plural(sum(len(tokens) for _, tokens in texts), 'token')}."
    blocks: list[Block] = [Text(sizes, "lead")]
    blocks += [Text(f"data: {note}", "warning") for note in data.get("notes", ())]
    maps = [Heatmap(f"{number}. {title}", [("", tokens)]) for number, (title, tokens) in enumerate(texts, 1)]
    hidden = [Text(f"The first {_SHOWN} of {plural(len(maps), 'text')}.")] if len(maps) > _SHOWN else []
    blocks.append(Section("Token by token", [*hidden, *maps[:_SHOWN]]))
    if values:
        note = Text("Over every token that has the signal. NLL and entropy are in nats.")
        charts = [_distribution(name, found) for name, found in values.items()]
        blocks.append(Section("Signals", [note, _statistics(values), *charts]))
    return blocks


def _statistics(values: Mapping[str, np.ndarray]) -> Table:
    numbers = (Column(name, format=",.3f") for name in ("mean", "s.d.", "lowest", "median", "highest"))
    rows = [
        (
            label(name),
            len(found),
            float(found.mean()),
            float(found.std()),
            float(found.min()),
            float(np.median(found)),
            float(found.max()),
        )
        for name, found in values.items()
    ]
    return Table("", ("signal", "tokens", *numbers), rows)


def _distribution(name: str, values: np.ndarray) -> Figure:
    counts, edges = np.histogram(values, bins=_BINS)
    summary = f"{label(name)} of {plural(len(values), 'token')}, from {edges[0]:.3g} to {edges[-1]:.3g}"
    return Figure(
        label(name),
        "histogram",
        [Series("tokens", edges.tolist(), counts.tolist())],
        label(name),
        "tokens",
        summary,
    )


# --- reading -------------------------------------------------------------------------------------------------------------------------


def parse_layers(written: str) -> int | str | tuple[int, ...]:
    """Read `-1`, `deep` or `10,20`."""
    if written == "deep":
        return written
    try:
        layers = tuple(int(part) for part in written.split(","))
    except ValueError as error:
        raise UserError(f"layers are -1, deep, or numbers such as 10,20; got {written!r}.") from error
    return layers[0] if len(layers) == 1 else layers


def source_text(source: str) -> str | None:
    """The text that `source` is or names; None when it names data."""
    from tokenry.core.chat.reading import ROW_FILES

    ending = os.path.splitext(source)[1].lower()  # noqa: PTH122  (a Path refuses a text that is too long for a name)
    if not os.path.exists(source):  # noqa: PTH110
        if ending in _TEXT_FILES and len(source.split()) == 1:
            raise UserError(f"the file {source} does not exist.")
        return None if ending in ROW_FILES else source
    path = Path(source)
    if path.is_dir() or ending in ROW_FILES:
        return None
    return read_text(path)


def encode_text(text: str, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> dict[str, Any]:
    """Encode a plain text; text that was rendered already gets no second BOS."""
    from tokenry.core.chat.template import adds_bos

    has_bos = adds_bos(tokenizer) and text.lstrip().startswith(tokenizer.bos_token)
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


def _indexed(rows: Any) -> "tuple[list[IndexedSample], int]":
    from tokenry.finetuning.dataset_pass import samples_of
    from tokenry.finetuning.token_index import RUNS

    parts: list[IndexedSample] = []
    size = 0
    for row in rows:
        length = len(row["input_ids"])
        parts += samples_of([{**row, RUNS: [size, size + length]}])
        size += length
    return parts, size


def _load(plan: Plan, name: str, parts: "Sequence[IndexedSample]") -> "PreTrainedModel":
    """Load a model that can read all samples."""
    from tokenry.models import require_causal_lm, require_readable

    model = plan.hardware.load(name)
    require_causal_lm(model, name)
    ids = np.concatenate([part.input_ids for part in parts])
    require_readable(model, ids, [len(part.input_ids) for part in parts], "the text", name)
    return model


def _read(
    plan: Plan,
    model: "PreTrainedModel",
    reference: "PreTrainedModel | None",
    parts: "Sequence[IndexedSample]",
    size: int,
    tokenizer: "PreTrainedTokenizerBase",
    progress: Progress,
) -> "dict[str, Tensor]":
    """Read losses in one pass, each kind of attention in one more, and the losses of the reference in the last."""
    from tokenry.core.chat.template import template_pieces
    from tokenry.finetuning import AttentionProbe
    from tokenry.finetuning.dataset_pass import read_dataset
    from tokenry.finetuning.token_store import TokenStore

    layers = parse_layers(plan.layers)
    losses = {name for name in plan.names if name in _LOSSES}
    if "excess_nll" in plan.names:
        losses.add("nll")
    passes: list[tuple[str, AttentionProbe | None]] = [("losses", None)] if losses else []
    passes += [(name, AttentionProbe(layers, _ATTENTION[name])) for name in plan.names if name in _ATTENTION]
    number_of_passes = len(passes) + (reference is not None)
    columns: dict[str, Tensor] = {}
    for number, (name, probe) in enumerate(passes):
        progress(name, number / number_of_passes)
        store = TokenStore(size)
        reads_content = probe is not None and probe.columns == "content"
        read_dataset(
            model,
            parts,
            store,
            frozenset({"prompt_attention"}) if probe else frozenset(losses),
            probe=probe,
            template=template_pieces(tokenizer) if reads_content else (),
            progress=False,
        )
        columns |= {name: store.columns["prompt_attention"]} if probe else store.columns
    if reference is not None:
        progress("the reference", len(passes) / number_of_passes)
        store = TokenStore(size)
        read_dataset(reference, parts, store, progress=False)
        columns["reference_nll"] = store.columns["nll"]
        if "excess_nll" in plan.names:
            columns["excess_nll"] = columns["nll"] - columns["reference_nll"]
    return {name: columns[name] for name in plan.names}


def _tokens(
    part: "IndexedSample", columns: "Mapping[str, Tensor]", tokenizer: "PreTrainedTokenizerBase"
) -> list[dict[str, Any]]:
    texts = token_texts(part.input_ids.tolist(), tokenizer)
    return [
        {
            "text": text,
            "learnable": bool(target),
            "weight": None,
            "token_class": None,
            "signals": {name: float(column[index]) for name, column in columns.items()} if target else {},
        }
        for text, index, target in zip(texts, part.token_index, part.targets, strict=True)
    ]
