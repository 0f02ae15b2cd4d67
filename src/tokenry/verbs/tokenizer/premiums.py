"""What the same text costs in each language: with given tokenizers, or with one trained for each language over a grid of settings.

premium(language) = tokens(language) / tokens(reference)        the same text
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.files import require_folder_name
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Section, Series, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.tokenization.premiums.grid_config import GridConfig
from tokenry.verbs._estimates import interval_cell

if TYPE_CHECKING:
    from tokenry.core.text.token_counts import Segments
    from tokenry.tokenization.premiums.premium_table import PremiumTable

    _Tables = list[PremiumTable]
    _Texts = Mapping[str, Segments]

_OPTIONS = ("algorithms", "vocab_sizes", "amounts", "train_bytes", "min_frequency", "save_tokenizers")


@dataclass(frozen=True)
class Plan:
    """Measure how many tokens the same text costs in each language, with intervals.

    Attributes:
        tokenizers: models, folders or tokenizer.json files, each used for all languages.
        grid: train tokenizers for each language over the whole grid instead.
        parallel: folder of parallel text, one LANGUAGE.txt each, line by line; by default the Universal Declaration of Human Rights.
        train: grid: folder of training text, one LANGUAGE.txt each.
        languages: languages to measure; by default all.
        reference: the language that premiums are relative to.
        ray: grid: run on a Ray cluster (extra ray).
        output: folder for result.json and report.html; an interrupted grid resumes there.
    """

    tokenizers: tuple[str, ...] = argument((), metavar="TOKENIZER")
    grid: bool = False
    parallel: Path | None = None
    train: Path | None = None
    languages: tuple[str, ...] = option((), metavar="eng,deu_1996,hin", commas=True)
    reference: str = "eng"
    cells: GridConfig = embedded(GridConfig(), only=_OPTIONS, prefix="grid: ")
    ray: bool = False
    output: Path = Path("runs/premiums")

    def __post_init__(self) -> None:
        if bool(self.tokenizers) == self.grid:
            raise UserError("name tokenizers to measure, or give --grid to train them: one of the two.")
        if self.grid:
            require_folder_name(self.output, "the cells of the grid")

    def grid_config(self) -> GridConfig:
        """What the grid trains."""
        return replace(self.cells, reference=self.reference)


def run(plan: Plan, progress: Progress) -> Result:
    """Count the text with every tokenizer."""
    from tokenry.tokenization.premiums.parallel_text import names_of

    tables, evaluation = (_measure_grid if plan.grid else _measure_given)(plan, progress)
    data = {
        "kind": "premiums",
        "reference": plan.reference,
        "segments": len(evaluation[plan.reference]),
        "names": names_of(evaluation) if plan.parallel is None else {},
        "tables": [table.as_json() for table in tables],
        "settings": plan_settings(plan) | {"text": str(plan.parallel or "UDHR")},
    }
    return Result(_title(data), data, lay_out(data))


def _measure_given(plan: Plan, progress: Progress) -> "tuple[_Tables, _Texts]":
    from tokenry.tokenization.premiums.parallel_text import load_for_measuring
    from tokenry.tokenization.premiums.premium_table import measure_premiums
    from tokenry.tokenization.tokenizer_files import load_any_tokenizer

    loaded = {name: load_any_tokenizer(name) for name in plan.tokenizers}
    evaluation = load_for_measuring(plan.parallel, plan.languages or None)
    progress("counting", 0.0)
    return measure_premiums(loaded, evaluation, plan.reference), evaluation


def _measure_grid(plan: Plan, progress: Progress) -> "tuple[_Tables, _Texts]":
    from tokenry.tokenization.premiums.parallel_text import load_train_and_parallel
    from tokenry.tokenization.premiums.premium_table import grid_premiums
    from tokenry.tokenization.premiums.tokenizer_grid import run_grid

    config = plan.grid_config()
    texts, evaluation = load_train_and_parallel(plan.train, plan.parallel, plan.languages or None)
    cells = run_grid(texts, evaluation, plan.output / "grid", config, progress, plan.ray)
    # The folder may hold more, of earlier runs.
    wanted = [
        cell
        for cell in cells
        if cell.algorithm in config.algorithms
        and cell.amount in config.amounts
        and cell.vocab_size in config.vocab_sizes
    ]
    return grid_premiums(wanted, evaluation, plan.reference), evaluation


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out which languages cost most, how far costs spread, and each language."""
    tables, names = data["tables"], data["names"]
    languages = plural(len(tables[0]["languages"]), "language")
    segments = plural(data["segments"], "parallel segment")
    warnings = [sentence for table in tables for sentence in _not_given_back(table, names)]
    if warnings:
        warnings.insert(0, _SMALL_COUNT)
    reference = names.get(data["reference"], data["reference"])
    return [
        Text(f"{languages}, {segments}: how many tokens the same text costs in each. {_INTERVALS}", "lead"),
        *(Text(warning, "warning") for warning in warnings),
        Section("Who pays more", [Text(_MAP.format(reference)), *_maps(tables, names)]),
        Section("How far they spread", [_spread(tables)]),
        Section("Language by language", [_languages(table, names) for table in tables]),
    ]


_INTERVALS = "Intervals are 95 % of a bootstrap over the segments."
_SMALL_COUNT = "some texts do not come back: where a tokenizer drops or replaces what it reads, a small count is no small cost."
_MAP = (
    "A mark is the tokens of a language over those of {}, for the same text; the line through it is its interval. The axis is "
    "logarithmic."
)


def _title(data: Mapping[str, Any]) -> str:
    reference = data["reference"]
    return f"Token premiums relative to {data['names'].get(reference, reference)}"


def _maps(tables: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Figure]:
    """One chart per group, all on one axis: a row per language, the most expensive with the first tokenizer on top, a mark per tokenizer."""
    ends = [row["premium"][end] for table in tables for row in table["languages"] for end in ("low", "high")]
    limits = min(1.0, *ends) / 1.04, max(1.0, *ends) * 1.04
    return [
        _map(group, [table for table in tables if table["group"] == group], names, limits)
        for group in dict.fromkeys(table["group"] for table in tables)
    ]


def _map(
    group: str,
    tables: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    limits: tuple[float, float],
) -> Figure:
    def series_of(table: Mapping[str, Any]) -> Series:
        rows = table["languages"]
        value, low, high = ([row["premium"][end] for row in rows] for end in ("value", "low", "high"))
        return Series(
            table["name"], [names.get(row["language"], row["language"]) for row in rows], value, low, high
        )

    series = list(map(series_of, tables))
    first = tables[0]["languages"]
    most, least = (names.get(row["language"], row["language"]) for row in (first[0], first[-1]))
    return Figure(
        group or "Token premiums",
        "intervals",
        series,
        x_label="token premium",
        reference=1.0,
        logarithmic=True,
        limits=limits,
        summary=f"premiums of {plural(len(first), 'language')}: most tokens in {most}, fewest in {least}",
    )


def _spread(tables: Sequence[Mapping[str, Any]]) -> Table:
    # The spread is over all languages, also those whose count is that of another text.
    changed = [sum(_is_changed(row) for row in table["languages"]) for table in tables]
    columns = [
        ("mean", Column("mean count", "tokens", ",.1f")),
        ("std", Column("s.d.", "tokens", ",.1f")),
        ("cv", Column("s.d. / mean", "", ".3f")),
        ("max_min", Column("max / min", "", ".2f")),
    ]
    return Table(
        f"spread over {plural(len(tables[0]['languages']), 'language')}",
        ("tokenizers", *(column for _, column in columns), *(["not given back"] if any(changed) else [])),
        [
            (
                _name(table),
                *(interval_cell(**table["spread"][name], style=column.format) for name, column in columns),
                *([count] if any(changed) else []),
            )
            for table, count in zip(tables, changed, strict=True)
        ],
        notes=(_INTERVALS,),
    )


def _languages(table: Mapping[str, Any], names: Mapping[str, str]) -> Table:
    return Table(
        _name(table),
        (
            "language",
            "tokens",
            Column("premium", "", ".2f"),
            Column("byte premium", "", ".2f"),
            Column("bytes", "per token", ".2f"),
            "text back",
        ),
        [
            (
                names.get(row["language"], row["language"]),
                row["tokens"],
                interval_cell(**row["premium"], style=".2f"),
                row["byte_premium"],
                row["bytes_per_token"],
                (row["text_back"] or {}).get("summary"),
            )
            for row in table["languages"]
        ],
        folded=bool(table["group"]),
    )


def _name(table: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (table["group"], table["name"])))


def _is_changed(row: Mapping[str, Any]) -> bool:
    return row["text_back"] is not None and not row["text_back"]["gives_text_back"]


def _not_given_back(table: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """A sentence on each language whose texts do not all come back."""
    from tokenry.core.text.round_trip import RoundTrip

    return [
        f"{names.get(row['language'], row['language'])}: {sentence}"
        for row in table["languages"]
        for sentence in RoundTrip.from_json(row["text_back"]).sentences(table["name"])
    ]
