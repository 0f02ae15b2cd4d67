"""Models of words in folders, and what is shown of the words of a text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.report.blocks import Block, Column, Heatmap, Table, Token
from tokenry.verbs._estimates import stored_estimate
from tokenry.verbs._hardware import Hardware

if TYPE_CHECKING:
    from tokenry.architectures import FlatLM, ScoredWords, WordCoder, WordPooledLM

COUNTS_FILE = "word_counts.json"
MODEL_FOLDER = "model"
_DRAWN_WORDS = 100


@dataclass(frozen=True)
class StoredWordModel:
    """A model of words, its coder, and how often every word occurred in its training text."""

    model: "WordPooledLM | FlatLM"
    coder: "WordCoder"
    counts: Mapping[str, int]

    @property
    def is_pooled(self) -> bool:
        """Whether it is word-pooled, and not a flat baseline."""
        return bool(self.model.config.model_type == "word_pooled")

    @property
    def max_words(self) -> int:
        """Most words that it reads at once."""
        return int(self.model.config.max_words)


def load_word_model(name: str, hardware: Hardware) -> StoredWordModel:
    """Load what `tokenry words train` made: its output folder, or the folder `model` in it."""
    from transformers import AutoConfig

    from tokenry.architectures import FlatLM, WordCoder, WordPooledLM

    place, folder = hardware.place(), Path(name)
    inside = folder / MODEL_FOLDER
    folder = inside if inside.is_dir() else folder
    coder = WordCoder.load(folder)
    kinds: dict[str, Any] = {"word_pooled": WordPooledLM, "flat_units": FlatLM}
    try:
        kind = kinds[AutoConfig.from_pretrained(folder).model_type]
        model = kind.from_pretrained(folder, dtype=hardware.dtype or "float32")
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{folder} holds no model of words: name the folder that `tokenry words train` made."
        ) from error
    return StoredWordModel(model.to(place).eval(), coder, read_json(folder / COUNTS_FILE))


def drawn_words(coder: "WordCoder", scored: "ScoredWords") -> list[dict[str, Any]]:
    """The first words of a text with the bits of each."""
    import numpy as np

    bits = scored.nll / np.log(2)
    space = "" if coder.splitter.keeps_text else " "
    return [
        {"text": coder.units.decode(word) + space, "bits": float(found), "right": bool(right)}
        for word, found, right in zip(scored.words[:_DRAWN_WORDS], bits, scored.right, strict=False)
    ]


def frequency_rows(stored: StoredWordModel, scored: "Sequence[ScoredWords]") -> list[dict[str, Any]]:
    """Words by their count in the training text, as JSON."""
    from tokenry.architectures import by_frequency

    return [asdict(found) for found in by_frequency(stored.coder, scored, stored.counts)]


def frequency_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out words by their count in the training text."""
    return Table(
        "words by how often they occur in the training text",
        (
            "occurs",
            Column("words", "", ",d"),
            Column("spelled right", "%"),
            Column("bits", "per byte", ".3f"),
        ),
        [
            (
                _counted(row["least"], row["most"]),
                row["accuracy"]["samples"],
                stored_estimate(row["accuracy"]),
                stored_estimate(row["bits_per_byte"]),
            )
            for row in rows
        ],
        notes=(
            "A word is spelled right where the most probable unit is the right one all through, with the end.",
        ),
    )


def _counted(least: int, most: int | None) -> str:
    if most is None:
        return f"{least:,} or more"
    return "never" if most == 0 else f"{least} to {most}"


def word_map(title: str, words: Sequence[Mapping[str, Any]]) -> Block:
    """A text coloured by the bits of its words."""
    tokens = [Token(word["text"], signals={"bits of the word": word["bits"]}) for word in words]
    return Heatmap(title, [("", tokens)])
