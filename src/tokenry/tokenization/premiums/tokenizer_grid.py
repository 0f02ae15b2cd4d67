"""The grid: a tokenizer for every language × algorithm × vocabulary × amount of training text, and what parallel text costs with each.

    unscaled    the same number of bytes in every language
    scaled      bytes × byte premium: the same content in every language

A job is one language with one algorithm on one amount of text: it trains once for all sizes where that is exact (BPE, BoundlessBPE;
the first stage of SuperBPE). Every cell becomes one small file as soon as it is measured, so that an interrupted grid resumes.

Source: Explaining and Mitigating Crosslingual Tokenizer Inequities (arXiv 2510.21909): 97 languages, about 7,000 tokenizers. The full
list of its vocabulary sizes was not readable for us; ours are those of the published files and some in between.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from tokenizers import Tokenizer

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write, read_json, write_json
from tokenry.core.io.jobs import over
from tokenry.core.io.progress import Progress
from tokenry.core.io.workspace import Workspace, fingerprint
from tokenry.core.text.token_counts import (
    Segments,
    byte_premium,
    require_parallel,
    require_reference,
    require_text,
    segment_token_counts,
    utf8_bytes,
)
from tokenry.tokenization.premiums.grid_config import GridConfig
from tokenry.tokenization.premiums.many_sizes import segment_counts_by_size
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE
from tokenry.tokenization.training.merge_lists import smaller_bpe
from tokenry.tokenization.training.train_any import train_any, train_sizes

_SETTINGS = "grid.json"
_CELLS, _TOKENIZERS = "cells", "tokenizers"


@dataclass(frozen=True)
class Job:
    """Tokenizers that are trained together."""

    language: str
    algorithm: str
    amount: str


@dataclass(frozen=True)
class GridCell:
    """One tokenizer of the grid, and what the evaluation text costs with it.

    Attributes:
        language: language of the text and the tokenizer.
        amount: scaled or unscaled training text.
        vocab_size: vocabulary size that was asked for.
        trained_vocab_size: vocabulary size that came out: smaller where the text was too small.
        counts: tokens of each segment of the evaluation text.
    """

    language: str
    algorithm: str
    amount: str
    vocab_size: int
    trained_vocab_size: int
    train_bytes: int
    counts: tuple[int, ...]

    @property
    def ctc(self) -> int:
        """The corpus token count."""
        return sum(self.counts)

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.algorithm}_{self.language}_{self.vocab_size}_{self.amount}"


Cell = GridCell
"""The earlier name of the class."""


def run_grid(
    train: Mapping[str, Sequence[str]],
    evaluation: Mapping[str, Segments],
    folder: Path,
    config: GridConfig | None = None,
    progress: Progress = lambda what, share: None,
    ray: bool = False,
) -> list[GridCell]:
    """Train and measure every cell that `folder` does not hold yet.

    Args:
        train: training texts of each language.
        evaluation: parallel segments of the same languages.
        folder: folder of the results; an interrupted grid resumes there.
        config: what is trained.
        progress: called after each job with the share of jobs that are done.
        ray: run the jobs on a Ray cluster (the running one, else a local one); the extra `tokenry[ray]`.

    Returns:
        All cells, also those of earlier runs.

    Raises:
        UserError: the texts are not parallel or empty, a language has no training text, the reference is missing, the folder holds
            another grid, or Ray is not installed.
    """
    config = config or GridConfig()
    _require_texts(train, evaluation, config.reference)
    _require_same_grid(folder, config, train, evaluation)
    known = {cell.name for cell in load_grid(folder)}
    budgets = {amount: training_budgets(train, evaluation, amount, config) for amount in config.amounts}
    sizes_of = {
        job: sizes
        for job in _jobs(evaluation, config)
        if (sizes := [size for size in config.vocab_sizes if _cell_name(job, size) not in known])
    }

    def arguments(job: Job) -> tuple[Any, ...]:
        texts = taken(train[job.language], budgets[job.amount][job.language])
        return job, texts, evaluation[job.language], sizes_of[job], config

    for cell, tokenizer in over(
        list(sizes_of),
        train_cells,
        arguments,
        name=lambda job: f"{job.algorithm} {job.amount} {job.language}",
        progress=progress,
        ray=ray,
    ):
        _save(folder, cell, tokenizer if config.save_tokenizers else None)
    return load_grid(folder)


def train_cells(
    job: Job, texts: Sequence[str], segments: Segments, sizes: Sequence[int], config: GridConfig
) -> Iterator[tuple[GridCell, str]]:
    """Do one job: yields each cell with its tokenizer as JSON, as soon as it is measured."""
    train_bytes = utf8_bytes(texts)

    def cell(size: int, trained: int, counts: Int[ndarray, "segments"]) -> GridCell:
        return GridCell(
            **asdict(job),
            vocab_size=size,
            trained_vocab_size=trained,
            train_bytes=train_bytes,
            counts=tuple(counts.tolist()),
        )

    training = config.training(job.algorithm, sizes[-1])
    if job.algorithm == "bpe":
        # One replay of the merges counts all sizes.
        largest, _ = train_any(training, texts)
        assert isinstance(largest, Tokenizer)
        counts, trained = segment_counts_by_size(largest, segments, sizes), largest.get_vocab_size()
        for size in sizes:
            kept = smaller_bpe(largest, size).to_str() if config.save_tokenizers else ""
            yield cell(size, min(size, trained), counts[size]), kept
        return
    for size, tokenizer in zip(sizes, train_sizes(training, texts, sizes), strict=True):
        known, written = (
            (tokenizer.vocab_size, tokenizer.to_json)
            if isinstance(tokenizer, BoundlessBPE)
            else (tokenizer.get_vocab_size(), tokenizer.to_str)
        )
        counted = segment_token_counts(tokenizer, segments)
        yield cell(size, known, counted), written() if config.save_tokenizers else ""


def load_grid(folder: Path) -> list[GridCell]:
    """Read the cells of a folder, in the order of their names; none if the folder does not exist."""
    files = sorted((Path(folder) / _CELLS).glob("*.json"))
    contents = (read_json(file) for file in files)
    return [GridCell(**{**content, "counts": tuple(content["counts"])}) for content in contents]


def counts_of(
    cells: Sequence[GridCell], algorithm: str, amount: str, vocab_size: int
) -> dict[str, Int[ndarray, "segments"]]:
    """Tokens per segment of every language, for one algorithm, amount and size."""
    return {
        cell.language: np.array(cell.counts, dtype=np.int64)
        for cell in cells
        if (cell.algorithm, cell.amount, cell.vocab_size) == (algorithm, amount, vocab_size)
    }


def curves_of(cells: Sequence[GridCell], algorithm: str, amount: str) -> dict[str, dict[int, int]]:
    """Corpus token counts by language and vocabulary size, for one algorithm and amount."""
    found: dict[str, dict[int, int]] = {}
    for cell in sorted(cells, key=lambda cell: cell.vocab_size):
        if (cell.algorithm, cell.amount) == (algorithm, amount):
            found.setdefault(cell.language, {})[cell.vocab_size] = cell.ctc
    return found


def training_budgets(
    train: Mapping[str, Sequence[str]],
    evaluation: Mapping[str, Segments],
    amount: str,
    config: GridConfig,
) -> dict[str, int]:
    """Bytes of training text for each language.

    Without `train_bytes`, as much as every language has: the same bytes, or the same content by their byte premiums.
    """
    flat = {language: _flat(segments) for language, segments in evaluation.items()}
    premiums = {language: byte_premium(texts, flat[config.reference]) for language, texts in flat.items()}
    scale = premiums if amount == "scaled" else dict.fromkeys(premiums, 1.0)
    base = config.train_bytes or min(utf8_bytes(train[language]) / scale[language] for language in evaluation)
    return {language: round(base * scale[language]) for language in evaluation}


def taken(texts: Sequence[str], budget: int) -> list[str]:
    """The first texts that together have no more bytes than the budget; at least one."""
    sizes = np.cumsum([len(text.encode()) for text in texts])
    return list(texts[: max(1, int(np.searchsorted(sizes, budget, side="right")))])


def _jobs(languages: Mapping[str, Any], config: GridConfig) -> Iterator[Job]:
    for algorithm in config.algorithms:
        for amount in config.amounts:
            for language in languages:
                yield Job(language, algorithm, amount)


def _cell_name(job: Job, size: int) -> str:
    return GridCell(**asdict(job), vocab_size=size, trained_vocab_size=0, train_bytes=0, counts=()).name


def _save(folder: Path, cell: GridCell, tokenizer: str | None) -> None:
    if tokenizer is not None:
        with atomic_write(Path(folder) / _TOKENIZERS / f"{cell.name}.json") as partial:
            partial.write_text(tokenizer, encoding="utf-8")
    # The cell comes last: where it is, its tokenizer is too.
    write_json(Path(folder) / _CELLS / f"{cell.name}.json", asdict(cell))


def _flat(segments: Segments) -> list[str]:
    return [text for segment in segments for text in segment]


def _require_texts(
    train: Mapping[str, Sequence[str]], evaluation: Mapping[str, Segments], reference: str
) -> None:
    require_reference(evaluation, reference)
    require_parallel({language: len(segments) for language, segments in evaluation.items()})
    for language, segments in evaluation.items():
        require_text(_flat(segments))
        if not any(train.get(language, ())):
            raise UserError(f"{language} has no training text: give some, or leave the language out.")


def _require_same_grid(
    folder: Path,
    config: GridConfig,
    train: Mapping[str, Sequence[str]],
    evaluation: Mapping[str, Segments],
) -> None:
    """A folder belongs to one set of texts and one way of training; more sizes, algorithms and amounts may be added."""
    free = {"algorithms", "vocab_sizes", "amounts", "save_tokenizers"}
    settings = {name: value for name, value in asdict(config).items() if name not in free}
    prints = {
        language: fingerprint(*train[language], *_flat(segments), length=16)
        for language, segments in evaluation.items()
    }
    Workspace(folder, {"settings": settings, "texts": prints}, _SETTINGS).claim(
        f"{folder} holds another grid (other texts, languages or settings): choose another folder, or remove that one."
    )
