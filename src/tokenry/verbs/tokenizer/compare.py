"""The same text cut by several tokenizers, side by side: where each cuts, and what it costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import is_result_file
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Cell, Column, Piece, Section, Segmentation, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._output import OptionalOutput

if TYPE_CHECKING:
    from tokenry.tokenization.segmentation import TextSegmentation

SHOWN = 600


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Draw the same text cut by each tokenizer, side by side, with counts per text or language.

    Without --text or --parallel the text is the Universal Declaration of Human Rights, in the --languages given.

    Attributes:
        tokenizers: models, folders or tokenizer.json files.
        texts: a text file in UTF-8; can be repeated.
        parallel: folder of parallel text instead, one LANGUAGE.txt each.
        languages: languages of the parallel text; by default all.
        shown: bytes of each text that are drawn.
    """

    tokenizers: tuple[str, ...] = argument(metavar="TOKENIZER")
    texts: tuple[Path, ...] = option((), flag="--text", metavar="FILE")
    parallel: Path | None = None
    languages: tuple[str, ...] = option((), metavar="eng,deu_1996,hin", commas=True)
    shown: int = SHOWN

    def __post_init__(self) -> None:
        require_at_least(1, shown=self.shown)
        if self.output and self.output.suffix and not (is_result_file(self.output) or self.output.is_dir()):
            raise UserError(f"output must end in .html or .json, or be a folder, got {self.output}.")
        of_languages = self.parallel is not None or bool(self.languages)
        if self.texts and of_languages:
            raise UserError("give --text, or --parallel with --languages: not both.")
        if not self.texts and not of_languages:
            raise UserError(
                "there is no text to cut: give --text FILE, --parallel FOLDER or --languages eng,deu_1996."
            )


def run(plan: Plan, progress: Progress) -> Result:
    """Cut every text with every tokenizer."""
    from tokenry.tokenization.segmentation import compare_segmentations
    from tokenry.tokenization.tokenizer_files import load_any_tokenizer

    texts = _read_texts(plan)
    loaded = {short: load_any_tokenizer(name) for name, short in short_names(plan.tokenizers).items()}
    progress("cutting", 0.0)
    cut = compare_segmentations(loaded, texts)
    data = {
        "kind": "tokenizers",
        "texts": [_text_as_json(name, columns) for name, columns in cut.items()],
        "settings": plan_settings(plan),
    }
    return Result("Tokenizers side by side", data, lay_out(data))


def _read_texts(plan: Plan) -> dict[str, str]:
    """The texts by name, which is that of the file or of the language."""
    from tokenry.tokenization.premiums.parallel_text import load_for_measuring, names_of
    from tokenry.tokenization.tokenizer_files import TextLines

    if plan.texts:
        return {file.stem: "".join(TextLines((file,), whole_files=True)) for file in plan.texts}
    segments = load_for_measuring(plan.parallel, plan.languages or None)
    names = names_of(segments) if plan.parallel is None else {}
    return {
        names.get(language, language): "\n".join(text for segment in found for text in segment)
        for language, found in segments.items()
    }


def short_names(tokenizers: Sequence[str]) -> dict[str, str]:
    """A short name for each tokenizer: the last part of its path, unless another has the same."""
    last = [Path(name).name for name in tokenizers]
    return {
        name: short if Path(name).exists() and last.count(short) == 1 else name
        for name, short in zip(tokenizers, last, strict=True)
    }


def _text_as_json(name: str, columns: "Sequence[TextSegmentation]") -> dict[str, Any]:
    return {
        "text": name,
        "bytes": columns[0].size,
        "characters": columns[0].characters,
        "tokenizers": [
            {
                "tokenizer": column.tokenizer,
                "tokens": len(column.pieces),
                "bytes_per_token": column.bytes_per_token,
                "tokens_per_word": column.fertility,
                "vocabulary_used": column.use.used,
                "shannon_efficiency": column.use.shannon_efficiency,
                "renyi_efficiency": column.use.renyi_efficiency,
                "unigram_bits_per_byte": _unigram_bits(column),
                "relative_cost": column.relative_cost,
                "shared_cuts": column.shared_cuts,
                "is_lossless": column.is_lossless,
                "text_back": column.text_back.as_json(),
                "pieces": [
                    {"id": piece.id, "text": piece.text, "kind": kind}
                    for piece, kind in zip(column.pieces, kinds(column, columns[0]), strict=True)
                ],
            }
            for column in columns
        ],
    }


def _unigram_bits(column: "TextSegmentation") -> float | None:
    """What a unigram over the tokens costs, counted on the other half of the text: what the tokenizer leaves to a model."""
    from tokenry.theory import crossfitted_unigram_ce

    ids = [piece.id for piece in column.pieces]
    return crossfitted_unigram_ce(ids, column.vocabulary, column.size) / math.log(2) if ids else None


def kinds(column: "TextSegmentation", first: "TextSegmentation") -> list[str]:
    """The kind of each piece: the first tokenizer cuts before it too (`same`) or not (`other`), or it stands for no text (`lost`)."""
    known = set(_starts(first))
    return [
        "lost"
        if not piece.stands_for_text
        else "same"
        if column.shared_cuts is None or start in known
        else "other"
        for start, piece in zip(_starts(column), column.pieces, strict=True)
    ]


def _starts(column: "TextSegmentation") -> list[int]:
    """The byte at which each piece begins."""
    return [0, *accumulate(len(piece.data) for piece in column.pieces)][: len(column.pieces)]


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the cost of each text with each tokenizer, and its cuts."""
    texts = data["texts"]
    shown = data.get("settings", {}).get("shown", SHOWN)
    names = [column["tokenizer"] for column in texts[0]["tokenizers"]]
    number = plural(len(names), "tokenizer")
    overview = [Section("Tokens per text", [_overview(texts, names)])] if len(texts) > 1 else []
    pictures = [block for text in texts for block in (_costs(text, names[0]), _picture(text, shown))]
    return [
        Text(f"The same text cut by {number}, and what it costs: {', '.join(names)}.", "lead"),
        *(Text(warning, "warning") for text in texts for warning in _not_given_back(text)),
        *overview,
        Section("Where each cuts", [Text(_legend(texts, names)), *pictures]),
    ]


def _legend(texts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    found = {
        piece.get("kind") for text in texts for column in text["tokenizers"] for piece in column["pieces"]
    }
    return " ".join(
        [
            "One tinted box is one token; · is a space, ⏎ a line break, ⟨C3⟩ a byte that is only a part of a character.",
            *([f"A bar is a cut that {names[0]} does not make."] if "other" in found else []),
            *(
                ["A wave is a token that stands for no text: what was there is lost."]
                if "lost" in found
                else []
            ),
            "Point at a token to read its id.",
        ]
    )


def _overview(texts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    return Table(
        "",
        ("text", *(Column(name, "tokens", ",d") for name in names)),
        [
            (
                text["text"],
                *(
                    Cell(column["tokens"], f"{column['bytes_per_token']:.2f} bytes per token")
                    for column in text["tokenizers"]
                ),
            )
            for text in texts
        ],
    )


def _costs(text: Mapping[str, Any], first: str) -> Table:
    measures = {
        "tokens": Column("tokens"),
        "bytes_per_token": Column("bytes", "per token", ".2f"),
        "tokens_per_word": Column("tokens", "per word", ".2f"),
        "vocabulary_used": Column("vocabulary", "%"),
        "renyi_efficiency": Column("Rényi", "efficiency", ".3f"),
        "unigram_bits_per_byte": Column("unigram", "bits per byte", ".2f"),
        "relative_cost": Column("cost", f"× {first}", ".2f"),
        "shared_cuts": Column("cuts shared", "%"),
    }
    return Table(
        f"{text['text']}: {text['bytes']:,} bytes, {text['characters']:,} characters",
        ("tokenizer", *measures.values(), "text back"),
        [
            (
                column["tokenizer"],
                *(column.get(name) for name in measures),
                column["text_back"]["summary"],
            )
            for column in text["tokenizers"]
        ],
    )


def _picture(text: Mapping[str, Any], shown: int) -> Segmentation:
    """The beginning of a text; the counts are of the whole."""
    size = text["bytes"]
    return Segmentation(
        text["text"],
        f"the first {shown:,} of {size:,} bytes" if size > shown else f"{size:,} bytes",
        [
            (
                column["tokenizer"],
                plural(column["tokens"], "token"),
                _beginning(column["pieces"], shown),
            )
            for column in text["tokenizers"]
        ],
    )


def _beginning(pieces: Sequence[Mapping[str, Any]], shown: int) -> list[Piece]:
    drawn: list[Piece] = []
    size = 0
    for piece in pieces:
        if size >= shown:
            break
        drawn.append(Piece(piece["text"], piece["id"], piece.get("kind", "same")))
        size += len(piece["text"].encode(errors="replace"))
    return drawn


def _not_given_back(text: Mapping[str, Any]) -> list[str]:
    from tokenry.core.text.round_trip import RoundTrip

    return [
        f"{text['text']}: {sentence}"
        for column in text["tokenizers"]
        for sentence in RoundTrip.from_json(column["text_back"]).sentences(column["tokenizer"])
    ]
