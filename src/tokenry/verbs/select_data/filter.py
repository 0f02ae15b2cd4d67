"""The documents of a corpus that a classifier keeps, shard by shard."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least, require_share
from tokenry.core.io.corpus import STDIN, Fields, read_shard, shards_of
from tokenry.core.io.files import read_json, require_folder_name, write_json
from tokenry.core.io.progress import Progress
from tokenry.core.io.workspace import Workspace
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs.select_data._shards import Workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tokenry.core.io.corpus import ShardBatch
    from tokenry.data import Selection, TextScorer

_RUN_FILE, _THRESHOLD_FILE = "filter-run.json", "threshold.json"
_KEPT, _RECORDS = "documents", "shards"
_SHOWN, _BATCH = 20, 1000
_MEASURABLE = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Keep the documents of a corpus that a classifier scores highest: a share of its characters, or all from a threshold on.

    Attributes:
        corpus: a shard (JSON lines, also gzipped, or Parquet), a folder of shards, or - for JSON lines from the standard input.
        scorer: classifier of `tokenry select-data train`, or a fastText classifier (.bin) with the label __label__1.
        keep: share of the characters to keep, in (0, 1].
        threshold: lowest score to keep, in the place of a share.
        calibrate: documents from which the threshold of a share is taken, the first ones of every shard.
        output: folder for the kept shards, result.json and report.html; an interrupted run resumes there.
    """

    corpus: str = argument()
    scorer: Path = argument()
    keep: float = 0.1
    threshold: float | None = option(None, metavar="SCORE")
    calibrate: int = 100_000
    fields: Fields = embedded(Fields(), only=("text", "domain"))
    workers: Workers = embedded(Workers(), only=("ray", "actors"))
    output: Path = Path("runs/selected")

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the kept shards")
        require_share(self.keep, "keep")
        require_at_least(1, calibrate=self.calibrate)
        if self.corpus == STDIN and self.workers.ray:
            raise UserError(
                "the standard input cannot be read by several workers: leave out --ray, or name files."
            )


def run(plan: Plan, progress: Progress) -> Result:
    """Find the threshold, filter every shard that is not done, and count what was kept."""
    from tokenry.data import Selection, load_scorer
    from tokenry.data.selection import beginnings

    shards = shards_of(plan.corpus)
    _claim(plan, shards)
    progress("loading the classifier", 0.0)
    scorer = load_scorer(plan.scorer)
    if plan.corpus == STDIN:
        if _record(plan, shards[0]).exists():
            raise UserError(
                f"{plan.output} holds what was kept of a standard input before, which cannot be told from this one: name another folder."
            )
        # Its beginning cannot be read again, so that it is held while the threshold is found.
        batches = read_shard(shards[0], plan.fields)
        head = list(islice(batches, -(-plan.calibrate // _BATCH)))
        threshold = _threshold(plan, scorer, iter(head))
        work = ShardFilter(scorer, threshold, plan)
        records, done = [work.filter(shards[0], chain(head, batches))], 0
    else:
        progress("finding the threshold", 0.0)
        threshold = _threshold(plan, scorer, beginnings(shards, plan.fields, plan.calibrate))
        pending = [str(shard) for shard in shards if not _record(plan, shard).exists()]
        done = len(shards) - len(pending)
        found = plan.workers.over(pending, ShardFilter, (plan.scorer, threshold, plan))
        for number, _ in enumerate(found, start=done + 1):
            progress(f"filtering shard {number} of {len(shards)}", number / len(shards))
        records = [str(_record(plan, shard)) for shard in shards]
    total, seconds = Selection(), 0.0
    for record in map(read_json, map(Path, records)):
        total.merge(Selection.from_json(record))
        seconds += record["seconds"]
    data = {
        "kind": "select-data filter",
        "threshold": threshold,
        "shards": len(records),
        "done_before": done,
        **_counted(total),
        "megabytes_per_second": total.characters / 1e6 / seconds if seconds else None,
        "documents_in": str(plan.output / _KEPT),
        "settings": plan_settings(plan),
    }
    title = f"{plural(total.kept_documents, 'document')} kept of {total.documents:,}"
    return Result(title, data, lay_out(data))


def _claim(plan: Plan, shards: Sequence[Path]) -> None:
    """Make the folder belong to this corpus, this classifier and this share."""
    try:
        with plan.scorer.open("rb") as opened:
            scorer = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{plan.scorer} cannot be read as a scorer ({error.strerror}).") from error
    sizes = [] if plan.corpus == STDIN else [[str(shard), shard.stat().st_size] for shard in shards]
    settings = {
        "corpus": sizes,
        "scorer": scorer,
        "fields": asdict(plan.fields),
        "keep": plan.keep,
        "threshold": plan.threshold,
        "calibrate": plan.calibrate,
    }
    Workspace(plan.output, settings, _RUN_FILE).claim(
        f"{plan.output} holds what another run kept (another corpus, classifier or share): name another folder, or remove that one."
    )


def _threshold(plan: Plan, scorer: "TextScorer", batches: "Iterator[ShardBatch]") -> float:
    """The threshold as it is given, as it was found when the run began, or of the beginning of the corpus."""
    from tokenry.data import threshold_of

    found = plan.output / _THRESHOLD_FILE
    if plan.threshold is not None:
        return plan.threshold
    if plan.corpus == STDIN or not found.exists():
        write_json(found, threshold_of(scorer, batches, plan.keep))
    return float(read_json(found))


class ShardFilter:
    """Filters shards with one classifier.

    Args:
        scorer: the classifier, or its file.
        threshold: lowest score that is kept.
        plan: what is filtered, and where to.
    """

    def __init__(self, scorer: "TextScorer | Path", threshold: float, plan: Plan) -> None:
        from tokenry.data import load_scorer

        self.scorer = load_scorer(scorer) if isinstance(scorer, Path) else scorer
        self.threshold, self.plan = threshold, plan

    def __call__(self, shard: str) -> str:
        """Filter a shard; returns the file of its record, which is there when its documents are."""
        return self.filter(Path(shard), read_shard(Path(shard), self.plan.fields, _BATCH))

    def filter(self, shard: Path, batches: "Iterable[ShardBatch]") -> str:
        """Filter what is read of a shard."""
        from tokenry.data import filter_shard

        started, record = time.perf_counter(), _record(self.plan, shard)
        target = self.plan.output / _KEPT / _name(self.plan, shard)
        counted = filter_shard(self.scorer, batches, self.threshold, shard, target)
        write_json(record, counted.as_json() | {"seconds": time.perf_counter() - started})
        return str(record)


def _name(plan: Plan, shard: Path) -> str:
    """The name of a shard in the output: its place in the folder of the corpus."""
    if plan.corpus == STDIN:
        return "stdin.jsonl"
    corpus = Path(plan.corpus).expanduser()
    return str(shard.relative_to(corpus)) if corpus.is_dir() else shard.name


def _record(plan: Plan, shard: Path) -> Path:
    return plan.output / _RECORDS / f"{_name(plan, shard)}.json"


def _counted(total: "Selection") -> dict[str, Any]:
    frequent = [(name, count) for name, count in total.domains.most_common(_SHOWN) if name]
    return {
        "documents": total.documents,
        "kept_documents": total.kept_documents,
        "characters": total.characters,
        "kept_characters": total.kept_characters,
        "domains": [
            {"domain": name, "documents": count, "kept": total.kept_domains[name]} for name, count in frequent
        ],
        "lengths": [
            {
                "from": 2**power if power else 0,
                "documents": total.lengths[power],
                "kept": total.kept_lengths[power],
            }
            for power in sorted(total.lengths)
        ],
    }


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what was kept, by domain and by length."""
    documents, kept = data["documents"], data["kept_documents"]
    share = data["kept_characters"] / max(1, data["characters"])
    workers = Workers(actors=data["settings"]["actors"])
    blocks: list[Block] = [
        Text(
            f"{kept:,} of {plural(documents, 'document')} kept, {share:.1%} of the characters: those with a score of at least "
            f"{data['threshold']:.4g}. They are in {data['documents_in']}.",
            "lead",
        )
    ]
    if not kept:
        blocks.append(Text("Nothing was kept: the threshold is above every score.", "warning"))
    elif data["settings"]["threshold"] is None and not _near(share, data["settings"]["keep"]):
        blocks.append(
            Text(
                f"{data['settings']['keep']:.1%} of the characters were asked for. The threshold was taken from the beginnings of the shards: "
                "they differ from the rest, or many documents share one score. Raise --calibrate.",
                "warning",
            )
        )
    overall = kept / max(1, documents)
    if data["domains"]:
        rows = sorted(data["domains"], key=lambda row: -row["kept"] / row["documents"])
        blocks.append(
            Table(
                "The most frequent domains: gained (above 1) and lost",
                ("domain", "documents", Column("kept", "%", ".1f"), Column("beside all", "times", ".2f")),
                [_kept_row(row["domain"], row, overall) for row in rows],
            )
        )
    blocks += [
        Table(
            "Lengths: gained (above 1) and lost",
            ("characters", "documents", Column("kept", "%", ".1f"), Column("beside all", "times", ".2f")),
            [_kept_row(f"from {row['from']:,}", row, overall) for row in data["lengths"]],
        ),
        _figure(data["lengths"]),
    ]
    speed = data["megabytes_per_second"]
    measured = data["characters"] >= _MEASURABLE and workers.actors > 1
    return [*blocks, Text(workers.pays_from(speed))] if measured else blocks


def _near(share: float, asked: float) -> bool:
    return asked / 1.5 <= share <= asked * 1.5


def _kept_row(name: str, row: Mapping[str, Any], overall: float) -> tuple[Any, ...]:
    share = row["kept"] / row["documents"]
    return name, row["documents"], share, share / overall if overall else None


def _figure(lengths: Sequence[Mapping[str, Any]]) -> Figure:
    powers = [max(1, row["from"]).bit_length() - 1 for row in lengths]
    edges = list(range(powers[0], powers[-1] + 2)) if powers else [0, 1]
    by_power = dict(zip(powers, lengths, strict=True))
    counts = [by_power.get(power, {"kept": 0, "documents": 0}) for power in edges[:-1]]
    return Figure(
        "Length of documents, kept (up) and dropped (down)",
        "histogram",
        [
            Series("kept", edges, [row["kept"] for row in counts]),
            Series("dropped", edges, [row["documents"] - row["kept"] for row in counts]),
        ],
        "length in characters, as a power of 2",
        "documents",
        "; ".join(
            f"from {row['from']:,} characters: {row['kept']:,} of {row['documents']:,}" for row in lengths
        ),
    )
