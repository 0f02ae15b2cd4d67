"""`tokenry tokenizer compare A B … --text F`: the same text cut by each tokenizer, side by side."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenry.cli.console import Json, note, print_json, print_table, show
from tokenry.core.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from tokenry.tokenization.segmentation import Segmentation

_TINTS = ("black on rgb(190,215,240)", "black on rgb(250,215,175)")


def compare(
    tokenizers: Annotated[list[str], typer.Argument(help="Models, folders or tokenizer.json files.")],
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A text file in UTF-8. Can be repeated.")
    ] = None,
    parallel: Annotated[
        Path | None, typer.Option(help="Instead: a folder of parallel text, one LANGUAGE.txt each.")
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Those of the parallel text: eng,deu_1996,hin.")
    ] = None,
    shown: Annotated[int, typer.Option(min=1, help="Bytes of each text that are drawn.")] = 600,
    output: Annotated[
        Path | None, typer.Option(help="Write the picture to this .html file, or the pieces to a .json file.")
    ] = None,
    json: Json = False,
) -> None:
    """Draw the same text cut by each tokenizer, side by side, with counts per text or language.

    Without --text or --parallel the text is the Universal Declaration of Human Rights, in the --languages given.
    """
    from tokenry.core.files import atomic_write, require_output_file, write_json
    from tokenry.report.tokenizer_page import render_tokenizers
    from tokenry.tokenization.segmentation import compare_segmentations
    from tokenry.tokenization.tokenizer_files import load_any_tokenizer

    if output and output.suffix not in (".html", ".json"):
        raise UserError(f"--output must end in .html or .json, got {output}.")
    require_output_file(output)
    texts, names = _read(text, parallel, languages)
    loaded = {short: load_any_tokenizer(name) for name, short in _short_names(tokenizers).items()}
    cut = compare_segmentations(loaded, texts)
    result = {"kind": "tokenizers", "texts": [_as_json(names.get(name, name), cut[name]) for name in cut]}
    if output and output.suffix == ".json":
        write_json(output, result)
    elif output:
        with atomic_write(output) as partial:
            page = render_tokenizers(
                cut, shown, names, {"texts": ", ".join(map(str, text or [])) or str(parallel or "UDHR")}
            )
            partial.write_text(page, encoding="utf-8")
    if json:
        print_json(result)
    else:
        for title, columns in cut.items():
            _show(names.get(title, title), columns, shown)
    for title, columns in cut.items():
        for each in columns:
            if not each.is_lossless:
                note(f"note: {names.get(title, title)}: {each.text_back.sentence(each.tokenizer)}")
    if output:
        note(f"written: {output}")


def _read(
    files: Sequence[Path] | None, parallel: Path | None, languages: str | None
) -> tuple[dict[str, str], Mapping[str, str]]:
    """The texts by name, and longer names where there are some."""
    from tokenry.tokenization.premiums.parallel_text import load_for_measuring, names_of
    from tokenry.tokenization.tokenizer_files import TextLines

    if files:
        if parallel or languages:
            raise UserError("give --text, or --parallel with --languages: not both.")
        return {file.stem: "".join(TextLines((file,), whole_files=True)) for file in files}, {}
    if parallel is None and languages is None:
        raise UserError(
            "there is no text to cut: give --text FILE, --parallel FOLDER or --languages eng,deu_1996."
        )
    segments = load_for_measuring(parallel, languages.split(",") if languages else None)
    joined = {
        language: "\n".join(part for segment in each for part in segment)
        for language, each in segments.items()
    }
    return joined, names_of(joined) if parallel is None else {}


def _as_json(title: str, columns: "Sequence[Segmentation]") -> dict[str, Any]:
    return {
        "text": title,
        "bytes": columns[0].size,
        "characters": columns[0].characters,
        "tokenizers": [
            {
                "tokenizer": each.tokenizer,
                "tokens": len(each.pieces),
                "bytes_per_token": each.bytes_per_token,
                "tokens_per_word": each.fertility,
                "vocabulary_used": each.use.used,
                "shannon_efficiency": each.use.shannon_efficiency,
                "renyi_efficiency": each.use.renyi_efficiency,
                "relative_cost": each.relative_cost,
                "shared_cuts": each.shared_cuts,
                "is_lossless": each.is_lossless,
                "text_back": each.text_back.as_json(),
                "pieces": [{"id": piece.id, "text": piece.text} for piece in each.pieces],
            }
            for each in columns
        ],
    }


def _show(title: str, columns: "Sequence[Segmentation]", shown: int) -> None:
    print_table(
        f"{title}: {columns[0].size:,} bytes, {columns[0].characters:,} characters",
        (
            "tokenizer",
            "tokens",
            "bytes each",
            "per word",
            "Rényi",
            f"× {columns[0].tokenizer}",
            "cuts shared",
            "text back",
        ),
        (
            (
                each.tokenizer,
                f"{len(each.pieces):,}",
                f"{each.bytes_per_token:.2f}",
                f"{each.fertility:.2f}",
                f"{each.use.renyi_efficiency:.3f}",
                f"{each.relative_cost:.2f}",
                "–" if each.shared_cuts is None else f"{each.shared_cuts:.0%}",
                each.text_back.cell,
            )
            for each in columns
        ),
    )
    for each in columns:
        show(_drawn(each, shown))


def _drawn(segmentation: "Segmentation", shown: int) -> "Text":
    from rich.text import Text

    from tokenry.report.text import visible

    drawn, size = Text(f"{segmentation.tokenizer}  ", style="dim"), 0
    for piece, tint in zip(segmentation.pieces, cycle(_TINTS), strict=False):
        if size >= shown:
            drawn.append("│…", style="dim")
            break
        # The bar shows the cut where there is no colour.
        drawn.append("│", style="dim").append(
            visible(piece.text), style=tint if piece.stands_for_text else "reverse"
        )
        size += len(piece.data)
    return drawn


def _short_names(tokenizers: Sequence[str]) -> dict[str, str]:
    """What each is called: the last part of a path, where that is not the name of another."""
    last = [Path(name).name for name in tokenizers]
    return {
        name: short if Path(name).exists() and last.count(short) == 1 else name
        for name, short in zip(tokenizers, last, strict=True)
    }
