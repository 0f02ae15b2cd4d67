"""Signals of every token of a text or a data set under one model: what `tokenry score` shows."""

from collections.abc import Sequence
from pathlib import Path

from tokenry.core.attention import attention_layers, resolve_layers
from tokenry.core.errors import UserError
from tokenry.core.records import Example, ReportToken
from tokenry.finetuning import AttentionProbe
from tokenry.finetuning.conversations import encode_rows
from tokenry.finetuning.dataset_pass import read_dataset, samples_of
from tokenry.finetuning.rows import read_rows
from tokenry.finetuning.template import template_pieces
from tokenry.finetuning.token_store import TokenStore
from tokenry.models import load_model, load_tokenizer
from tokenry.recipes.run_record import token_texts

SIGNALS = ("nll", "entropy", "prompt_attention", "content_attention")


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


def score_source(
    source: str,
    signals: Sequence[str],
    model_name: str,
    *,
    layers: int | str | Sequence[int] = -1,
    max_length: int = 2048,
    samples: int = 20,
    chat_template: str | None = None,
) -> list[Example]:
    """Score the tokens of a text, a text file, or the first `samples` rows of a data set.

    NLL and entropy are in nats, attention is a probability mass. In a plain text every token is scored and none is a prompt;
    in conversations the assistant's are.

    Raises:
        UserError: an unknown signal, or data, a model or a layer that cannot be read.
    """
    unknown = [name for name in signals if name not in SIGNALS]
    if unknown or not signals:
        raise UserError(f"signals are {', '.join(SIGNALS)}; got {', '.join(unknown) or 'none'}.")
    rows = _rows(source)[:samples]
    tokenizer = load_tokenizer(model_name)
    dataset = encode_rows(rows, tokenizer, max_length, chat_template=chat_template)
    model = load_model(model_name)
    if any("attention" in name for name in signals):
        resolve_layers(layers, len(attention_layers(model)))
    parts, size = [], 0
    for row in dataset:
        length = len(row["input_ids"])
        parts += samples_of([{**row, "token_index": range(size, size + length)}])
        size += length
    store = TokenStore(size)
    plain = frozenset(signals) & {"nll", "entropy"}
    if plain:
        read_dataset(model, parts, store, plain, title="scoring")
    for name, columns in (("content_attention", "content"), ("prompt_attention", "prompt")):
        if name in signals:
            probe = AttentionProbe(layers, columns)  # type: ignore[arg-type]
            template = template_pieces(tokenizer) if columns == "content" else ()
            read_dataset(
                model,
                parts,
                store,
                frozenset({"prompt_attention"}),
                probe=probe,
                template=template,
                title=name,
            )
            store.columns[name] = (
                store.columns.pop("prompt_attention") if columns == "content" else store.columns[name]
            )
    examples = []
    for number, part in enumerate(parts, start=1):
        texts = token_texts(part.input_ids.tolist(), tokenizer)
        tokens = [
            ReportToken(
                text=text,
                learnable=bool(target),
                signals={n: float(store.columns[n][index]) for n in signals} if target else {},
            )
            for text, index, target in zip(texts, part.token_index, part.targets, strict=True)
        ]
        examples.append(Example(title=f"sample {number}", tokens=tokens))
    return examples


def _rows(source: str) -> list[dict]:
    path = Path(source) if len(source) < 4096 and "\n" not in source else None
    if path is not None and path.suffix == ".txt" and path.is_file():
        try:
            return [{"text": path.read_text(encoding="utf-8")}]
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    if path is not None and (path.exists() or path.suffix in (".jsonl", ".json", ".csv", ".parquet", ".txt")):
        return read_rows(source)
    return [{"text": source}]
