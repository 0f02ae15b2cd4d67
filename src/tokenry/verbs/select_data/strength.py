"""The predictive strength of documents of a corpus: how well the losses of several models order the models as their benchmarks do."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenry.core.errors import UserError
from tokenry.core.io.corpus import STDIN, Fields, read_shard, shards_of
from tokenry.core.io.files import atomic_write, read_json, require_folder_name, write_json
from tokenry.core.io.progress import Progress, in_turn
from tokenry.core.io.reading import read_csv
from tokenry.core.io.workspace import Workspace
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.core.stats import estimate_of_mean, ratio_estimate
from tokenry.data.selection_settings import LossConfig, SampleConfig
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._environment import environment
from tokenry.verbs._estimates import estimate_row, finite_or_none, stored_estimate
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.select_data._shards import Workers

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from tokenry.data import Document

STRENGTH_FILE = "strength.jsonl"
_RUN_FILE, _SAMPLE_FILE = "strength-run.json", "sample.json"
_BLOCK = 256
_SHOWN, _EXAMPLES, _EXCERPT = 15, 3, 160


@dataclass(frozen=True)
class Plan:
    """Measure the predictive strength of documents: how well the losses of several models order the models as their benchmarks do.

    Attributes:
        corpus: a shard (JSON lines, also gzipped, or Parquet) or a folder of shards.
        models: models of one family, the names in the benchmarks; NAME@LAYERS is a model of its first layers only.
        benchmarks: CSV table with a column `model` and one or more columns of scores, higher is better.
        benchmark: column of the benchmark; by default the mean of all columns.
        output: folder for strength.jsonl, result.json and report.html; an interrupted run resumes there.
    """

    corpus: str = argument()
    models: tuple[str, ...] = option(metavar="A,B,C", commas=True)
    benchmarks: Path = option(metavar="SCORES.csv")
    benchmark: str | None = option(None, metavar="COLUMN")
    fields: Fields = embedded(Fields(), only=("text", "domain"))
    sample: SampleConfig = embedded(SampleConfig(), only=("domains", "per_domain", "seed"))
    losses: LossConfig = embedded(LossConfig(), only=("window", "stride", "batch_tokens", "packed"))
    workers: Workers = embedded(Workers(), only=("ray", "actors"))
    hardware: Hardware = Hardware()
    output: Path = Path("runs/strength")

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the strength of every document")
        if len(self.models) < 2:
            raise UserError(
                f"predictive strength compares models, and {plural(len(self.models), 'model')} is given: name at least two of one family."
            )
        if self.corpus == STDIN:
            raise UserError(
                "the strength reads a corpus twice, so it cannot come from the standard input: name its files."
            )


def run(plan: Plan, progress: Progress) -> Result:
    """Draw the sample, measure it with every model, and compute the strength of its documents."""
    from tokenry.data import predictive_strength

    benchmark = read_benchmarks(plan.benchmarks, plan.models, plan.benchmark)
    blocks = _sample(plan, progress)
    losses, seconds = [], 0.0
    for name, told in in_turn(plan.models, progress, 0.1):
        found, took = _losses_of(name, blocks, plan, told)
        losses.append(found)
        seconds += took
    documents = [document for block in blocks for document in _read_block(Path(block))]
    loss = np.array(losses).T
    strength = predictive_strength(loss, benchmark)
    _write(plan.output / STRENGTH_FILE, documents, strength, loss)
    data = {
        "kind": "select-data strength",
        "documents": len(documents),
        "without_loss": int(np.isnan(strength).sum()),
        "characters": sum(len(document.text) for document in documents),
        "seconds_of_one_process": seconds,
        "mean": estimate_row(estimate_of_mean(strength[np.isfinite(strength)])),
        "counts": _counts(strength, len(plan.models)),
        "models": _model_rows(plan.models, benchmark, loss, documents),
        "domains": _domain_rows(documents, strength),
        "examples": _examples(documents, strength),
        "settings": plan_settings(plan),
        "environment": environment(plan.hardware.place()),
    }
    title = f"Predictive strength of {plural(len(documents), 'document')} under {len(plan.models)} models"
    return Result(title, data, lay_out(data))


def read_benchmarks(path: Path, models: Sequence[str], column: str | None) -> "Float[ndarray, 'models']":
    """Read the benchmark of every model from a table.

    Raises:
        UserError: the table has no such column, lacks a model or names another one, has a cell that is no number, or orders no models.
    """
    from tokenry.data.predictive_strength import require_benchmark

    columns, rows = read_csv(path)
    if "model" not in columns or len(columns) < 2:
        raise UserError(
            f"{path} must have a column `model` and at least one of scores: it has {', '.join(columns)}."
        )
    scores = [name for name in columns if name != "model"] if column is None else [column]
    if column is not None and column not in columns:
        raise UserError(f"{path} has no column {column}: it has {', '.join(columns)}.")
    found = {str(row["model"]): _mean_score(row, scores, f"{path}, line {line}") for line, row in rows}
    for name in found:
        if name not in models:
            raise UserError(
                f"{path} names the model {name}, which is not among --models: {', '.join(models)}."
            )
    for name in models:
        if name not in found:
            raise UserError(
                f"{path} has no benchmark of the model {name}: it has those of {', '.join(found)}."
            )
    benchmark = np.array([found[name] for name in models])
    require_benchmark(benchmark, len(models))
    return benchmark


def _mean_score(row: Mapping[Any, Any], scores: Sequence[str], where: str) -> float:
    try:
        return float(np.mean([float(row[name]) for name in scores]))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{where}: the scores of {row['model']} must be numbers, got {[row[name] for name in scores]}."
        ) from error


# --- the sample and its losses -----------------------------------------------------------------------------------------


def _sample(plan: Plan, progress: Progress) -> list[str]:
    """The files of the sample, drawn once."""
    from tokenry.data import sample_documents

    shards = shards_of(plan.corpus)
    settings = {
        "corpus": [[str(shard), shard.stat().st_size] for shard in shards],
        "fields": asdict(plan.fields),
        "sample": asdict(plan.sample),
        "losses": asdict(plan.losses),
    }
    Workspace(plan.output, settings, _RUN_FILE).claim(
        f"{plan.output} holds the strength of another corpus, sample or window: name another folder, or remove that one."
    )
    drawn = plan.output / _SAMPLE_FILE
    if not drawn.exists():
        progress("drawing the sample", 0.0)
        documents = sample_documents(
            lambda: (batch for shard in shards for batch in read_shard(shard, plan.fields)), plan.sample
        )
        blocks = []
        for number, start in enumerate(range(0, len(documents), _BLOCK)):
            block = plan.output / f"sample/{number:05d}.json"
            write_json(block, [asdict(document) for document in documents[start : start + _BLOCK]])
            blocks.append(str(block.relative_to(plan.output)))
        write_json(drawn, blocks)
    return [str(plan.output / block) for block in read_json(drawn)]


def _read_block(path: Path) -> "list[Document]":
    from tokenry.data import Document

    return [Document(**row) for row in read_json(path)]


class BlockLosses:
    """Measures blocks of documents with one model; what was measured with the same weights stays.

    Args:
        name: the model, or NAME@LAYERS.
        hardware: where it runs.
        config: how documents are read.
        folder: folder of the losses.
    """

    def __init__(self, name: str, hardware: Hardware, config: LossConfig, folder: Path) -> None:
        from tokenry.core.tensors.depth import at_depth
        from tokenry.core.tensors.fingerprints import model_fingerprint
        from tokenry.models import load_tokenizer

        base, layers = depth_of(name)
        self.model, self.tokenizer, self.config = hardware.load(base), load_tokenizer(base), config
        self.depth: Any = nullcontext if layers is None else lambda: at_depth(self.model, layers)
        with self.depth():
            self.folder = folder / model_fingerprint(self.model)

    def __call__(self, block: str) -> str:
        """Measure a block; returns the file of its losses."""
        from tokenry.data import document_bpc

        path = self.folder / Path(block).name
        if not path.exists():
            texts = [document.text for document in _read_block(Path(block))]
            started = time.perf_counter()
            with self.depth():
                nll = document_bpc(self.model, self.tokenizer, texts, **asdict(self.config)).nll
            seconds = time.perf_counter() - started
            write_json(path, {"seconds": seconds, "nll": [finite_or_none(value) for value in nll.tolist()]})
        return str(path)


def depth_of(name: str) -> tuple[str, int | None]:
    """A model and the number of its layers: `embedded@26`; None for all.

    Raises:
        UserError: the number is none.
    """
    base, at, layers = name.rpartition("@")
    if not at:
        return name, None
    if not layers.isdigit():
        raise UserError(f"a depth is given as NAME@LAYERS, such as embedded@26, got {name!r}.")
    return base, int(layers)


def _losses_of(name: str, blocks: Sequence[str], plan: Plan, progress: Progress) -> tuple[list[float], float]:
    """The losses of all documents under a model, and the seconds that it took one worker after another to measure them."""
    progress(f"loading {name}", 0.0)
    arguments = (name, plan.hardware, plan.losses, plan.output / "losses")
    gpus = float(plan.hardware.place().type == "cuda") if plan.workers.ray else 0.0
    found = {}
    for path in plan.workers.over(blocks, BlockLosses, arguments, gpus):
        found[Path(path).name] = read_json(Path(path))
        progress(f"reading with {name}", len(found) / len(blocks))
    in_order = [found[Path(block).name] for block in blocks]
    losses = [math.nan if value is None else value for measured in in_order for value in measured["nll"]]
    return losses, sum(measured["seconds"] for measured in in_order)


# --- the result --------------------------------------------------------------------------------------------------------


def _write(path: Path, documents: "Sequence[Document]", strength: Any, loss: Any) -> None:
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as opened:
        for document, value, nll in zip(documents, strength.tolist(), loss.tolist(), strict=True):
            row = {
                **asdict(document),
                "strength": finite_or_none(value),
                "nll": [finite_or_none(part) for part in nll],
            }
            opened.write(json.dumps(row, ensure_ascii=False) + "\n")


def _counts(strength: Any, models: int) -> list[int]:
    """Number of documents by the number of pairs that they order rightly."""
    pairs = models * (models - 1) // 2
    rightly = np.rint(strength[np.isfinite(strength)] * pairs).astype(int)
    counts: list[int] = np.bincount(rightly, minlength=pairs + 1).tolist()
    return counts


def _model_rows(
    models: Sequence[str], benchmark: Any, loss: Any, documents: "Sequence[Document]"
) -> list[dict[str, Any]]:
    known = np.isfinite(loss).all(1)
    chars = np.array([len(document.text) for document in documents])[known]
    return [
        {
            "model": name,
            "benchmark": score,
            "bits_per_character": estimate_row(ratio_estimate(nll[known] / math.log(2), chars)),
        }
        for name, score, nll in zip(models, benchmark.tolist(), loss.T, strict=True)
    ]


def _domain_rows(documents: "Sequence[Document]", strength: Any) -> list[dict[str, Any]]:
    by_domain: dict[str, list[float]] = defaultdict(list)
    for document, value in zip(documents, strength.tolist(), strict=True):
        if document.domain and not math.isnan(value):
            by_domain[document.domain].append(value)
    frequent = sorted(by_domain, key=lambda domain: -len(by_domain[domain]))[:_SHOWN]
    rows = [{"domain": name, **estimate_row(estimate_of_mean(by_domain[name]))} for name in frequent]
    return sorted(rows, key=lambda row: -row["value"])


def _examples(documents: "Sequence[Document]", strength: Any) -> list[dict[str, Any]]:
    known = np.flatnonzero(np.isfinite(strength))
    rising = known[np.argsort(strength[known], kind="stable")]
    chosen = [*rising[::-1][:_EXAMPLES], *rising[: max(0, min(_EXAMPLES, len(rising) - _EXAMPLES))]]
    return [
        {
            "strength": float(strength[place]),
            "text": " ".join(documents[place].text[: 2 * _EXCERPT].split())[:_EXCERPT],
        }
        for place in chosen
    ]


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the distribution, the models, the domains, and documents at both ends."""
    pairs, mean = len(data["counts"]) - 1, stored_estimate(data["mean"])
    perfect, measured = data["counts"][-1], sum(data["counts"])
    blocks: list[Block] = [
        Text(
            f"Strength {mean:.3f} on average over {plural(measured, 'document')}; {perfect:,} order all models as the benchmarks "
            "do. `tokenry select-data train` learns from both ends.",
            "lead",
        )
    ]
    if data["without_loss"]:
        blocks.append(
            Text(
                f"{plural(data['without_loss'], 'document')} without a loss left out: empty, or nothing to predict in them."
            )
        )
    if not _follows(data["models"]):
        blocks.append(
            Text(
                "Over the whole sample the losses do not order the models as the benchmarks do. Are these models of one family, and the "
                "benchmarks those of a skill that this corpus has?",
                "warning",
            )
        )
    blocks += [
        Figure(
            "Documents by predictive strength",
            "histogram",
            [Series("documents", [place - 0.5 for place in range(pairs + 2)], data["counts"])],
            f"pairs of models ordered rightly, of {pairs}",
            "documents",
            f"{perfect:,} of {measured:,} documents have strength 1; the mean is {mean.value:.3f}.",
        ),
        Table(
            "The models on the sample",
            ("model", Column("benchmark", "", ".4g"), Column("loss", "bits per character")),
            [
                (row["model"], row["benchmark"], stored_estimate(row["bits_per_character"]))
                for row in data["models"]
            ],
        ),
    ]
    if data["domains"]:
        blocks.append(
            Table(
                "The most frequent domains, the strongest first",
                ("domain", "documents", "strength"),
                [(row["domain"], row["samples"], stored_estimate(row)) for row in data["domains"]],
            )
        )
    blocks.append(
        Table(
            "Documents at both ends",
            (Column("strength", "", ".2f"), "text"),
            [(row["strength"], row["text"]) for row in data["examples"]],
            folded=True,
        )
    )
    return [*blocks, *_about_ray(data)]


def _about_ray(data: Mapping[str, Any]) -> list[Block]:
    """From which sample on Ray pays, by the speed of this run."""
    workers, megabytes = Workers(actors=data["settings"]["actors"]), data["characters"] / 1e6
    if workers.actors == 1 or not data["seconds_of_one_process"]:
        return []
    did = f"took {len(data['models'])} models over a sample of {megabytes:.2g} MB at"
    return [Text(workers.pays_from(megabytes / data["seconds_of_one_process"], did))]


def _follows(models: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the losses on the whole sample fall as the benchmarks rise."""
    rising = sorted(models, key=lambda row: row["benchmark"])
    bits = [row["bits_per_character"]["value"] for row in rising]
    return bits[0] > bits[-1]
