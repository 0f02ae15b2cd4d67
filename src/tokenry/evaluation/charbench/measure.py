"""Ask models by their names, one after the other: what `tokenry evaluate charbench` does."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pandas import DataFrame

from tokenry.core.errors import UserError
from tokenry.core.round_trip import RoundTrip, round_trip
from tokenry.evaluation.charbench.evaluate import Mode, evaluate_charbench
from tokenry.evaluation.charbench.items import build_charbench, sample_items
from tokenry.evaluation.charbench.segmentation import tokenization_features
from tokenry.evaluation.charbench.words import SOURCES, load_word_list, read_word_list, word_frequencies
from tokenry.models import load_model, load_tokenizer, preferred_device, preferred_dtype


def choose_items(
    words: Path | None = None,
    per_length: int = 25_000,
    min_len: int = 4,
    max_len: int = 10,
    limit: int | None = None,
    seed: int = 42,
    nfc: bool = False,
) -> tuple[DataFrame, str]:
    """Build the benchmark from the word lists or from a file of words, and draw some of it.

    Args:
        words: a file with one word per line; None for the English lists.
        per_length: words of each length.
        min_len: characters of the shortest words.
        max_len: characters of the longest.
        limit: items to draw, evenly from all tasks and lengths; None for all.
        seed: of the items.
        nfc: compose the characters of a file first.

    Returns:
        The items, and where their words are from.

    Raises:
        UserError: words or sizes of which no benchmark can be made.
    """
    if not 1 <= min_len <= max_len:
        raise UserError(
            f"words have at least one character and the shortest are no longer than the longest, got {min_len} and {max_len}."
        )
    listed = load_word_list(min_len=min_len, max_len=max_len) if words is None else read_word_list(words, nfc)
    items = build_charbench(listed, per_length, seed, range(min_len, max_len + 1))
    return (
        items if limit is None else sample_items(items, limit),
        "+".join(SOURCES) if words is None else str(words),
    )


def ask_models(
    names: Sequence[str],
    items: DataFrame,
    mode: Mode = "score",
    batch_size: int = 32,
    dtype: str | None = None,
    report: Callable[[str, float], None] = lambda what, share: None,
) -> tuple[dict[str, DataFrame], dict[str, DataFrame], dict[str, RoundTrip]]:
    """Load each model, ask it all items, and see how its tokenizer cuts their words.

    Args:
        names: as of `load_model`.
        items: as of `build_charbench`.
        mode: see `evaluate_charbench`.
        batch_size: items at a time.
        dtype: of the weights; None for what the hardware has.
        report: is told what is being done, and the share of all that is done.

    Returns:
        Predictions and tokenization features of each model, and whether its tokenizer gives the words back.

    Raises:
        UserError: no model, one named twice, or one that cannot be loaded or asked.
    """
    if not names or len(set(names)) < len(names):
        raise UserError(f"name at least one model, and each once, got {', '.join(names) or 'none'}.")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}.")
    device = preferred_device()
    tokenizers = {name: load_tokenizer(name) for name in names}  # all, before the first model is asked
    predictions, features, text_back = {}, {}, {}
    words = list(dict.fromkeys(items["word"]))
    for place, (name, tokenizer) in enumerate(tokenizers.items()):
        report(f"reading {name}", place / len(names))
        back = round_trip(tokenizer, words)
        if back is not None:
            text_back[name] = back
        features[name] = with_frequencies(tokenization_features(items, tokenizer), items)
        predictions[name] = evaluate_charbench(
            load_model(name, dtype=dtype or preferred_dtype(device)).to(device),
            tokenizer,
            items,
            mode,
            batch_size,
            lambda share, name=name, place=place: report(f"asking {name}", (place + share) / len(names)),  # type: ignore[misc]
        )
    return predictions, features, text_back


def with_frequencies(features: DataFrame, items: DataFrame) -> DataFrame:
    """Add how frequent the words are in English, where the package that knows it is installed."""
    try:
        return features.assign(frequency=word_frequencies(items["word"].tolist()))
    except UserError:
        return features
