"""Long texts shortened for an encoder's window: what was dropped, what still overflows, and what it costs a classifier."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.io.files import require_folder_name, without_nan
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.core.stats import Estimate
from tokenry.core.train.classifier import ClassifierConfig
from tokenry.report.blocks import Block, Column, Findings, Heatmap, Section, Table, Text, Token
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._hardware import Hardware

if TYPE_CHECKING:
    from tokenry.compression.text import TextHacks

SHORT_FILE = "shortened.jsonl"
RAW = "raw"
HACK_NAMES = ("stopwords", "punctuation", "low-frequency", "recurring")
_DRAWN_WORDS = 150


@dataclass(frozen=True)
class Plan:
    """Shorten long texts before they are tokenised, and see how many still overflow the window of an encoder.

    Attributes:
        data: file of texts: text, and if they are labelled, label and split (train, validation or test).
        models: encoders or tokenizers, folders or hub names separated by commas; the one with the fewest tokens per text is used.
        hacks: what is dropped, separated by commas: stopwords, punctuation, low-frequency, recurring.
        stopwords: file with one stopword per line, english, or a language and how many of its commonest words, such as id:100.
        min_count: occurrences in the training texts below which a word is of low frequency.
        max_lengths: windows in tokens, special ones included, separated by commas.
        head: tokens kept at the beginning of a text that overflows, the others at its end; by default the beginning alone.
        only_if_longer: leave texts alone that fit in the longest window.
        trials: fine-tune the model on raw and on shortened texts, each after a search of that many trainings.
        learning_rates: learning rates of the search; at the ends it may double or halve them.
        batch_sizes: batch sizes of the search.
        dropouts: dropout rates of the search.
        margin: share of the test texts that a shorter window may get wrong more to count as not worse.
        seed: random seed of new heads, training, and the split where the data name none.
        output: folder for shortened.jsonl, result.json and report.html, and the ledgers of the searches.
    """

    data: Path = argument()
    models: tuple[str, ...] = option((), metavar="A,B", commas=True)
    hacks: tuple[str, ...] = option(("stopwords",), metavar="A,B", commas=True)
    stopwords: str = "english"
    min_count: int = 2
    max_lengths: tuple[int, ...] = option((128, 256, 512), metavar="128,512", commas=True)
    head: int | None = None
    only_if_longer: bool = False
    trials: int = 0
    training: ClassifierConfig = embedded(ClassifierConfig(epochs=5), only=("epochs", "bfloat16"))
    learning_rates: tuple[float, ...] = option((1e-5, 2e-5, 3e-5, 5e-5), metavar="1e-5,3e-5", commas=True)
    batch_sizes: tuple[int, ...] = option((8, 16, 32), metavar="8,16", commas=True)
    dropouts: tuple[float, ...] = option((0.0, 0.1, 0.2, 0.3), metavar="0,0.1", commas=True)
    margin: float = 0.02
    seed: int = 42
    hardware: Hardware = embedded(Hardware(), only=("device",))
    output: Path | None = Path("runs/long-text")

    def __post_init__(self) -> None:
        require_at_least(0, trials=self.trials, margin=self.margin, seed=self.seed, head=self.head)
        require_at_least(1, min_count=self.min_count)
        if not (self.models and self.hacks and self.max_lengths):
            raise UserError("give --models, --hacks and --max-lengths: windows are in tokens of a model.")
        require_at_least(1, max_lengths=min(self.max_lengths))
        for hack in self.hacks:
            require_one_of(hack, HACK_NAMES, "hacks")
        require_folder_name(self.output, "the shortened texts")
        if self.trials and self.output is None:
            raise UserError(
                "--trials needs --output: the ledgers of the searches stand there, so that a killed run goes on."
            )


def run(plan: Plan, progress: Progress) -> Result:
    """Shorten the texts and count tokens, and with trials fine-tune on both."""
    from tokenry.compression.text import TextHacks, stopword_list, tokenizer_length_report
    from tokenry.core.text.truncation import truncate_ids, window_of
    from tokenry.models.loading import load_tokenizer
    from tokenry.verbs.compress._window_trials import WindowStudy, read_source

    progress("reading the texts", 0.0)
    source = read_source(plan.data, plan.seed, labelled=bool(plan.trials))
    stopwords = stopword_list(plan.stopwords) if "stopwords" in plan.hacks else ()
    windows, texts = sorted(plan.max_lengths), [row["text"] for row in source.rows]
    tokenizers = {name: load_tokenizer(name) for name in plan.models}
    for tokenizer in tokenizers.values():
        truncate_ids([], window_of(tokenizer, windows[0]), plan.head)
    lengths = tokenizer_length_report(tokenizers, source.train, windows)
    model = lengths[0].name
    measured, alone = [], [[hack] for hack in plan.hacks] if len(plan.hacks) > 1 else []
    for number, chosen in enumerate([*alone, plan.hacks]):
        progress(" + ".join(chosen), 0.02 + 0.08 * number / (len(alone) + 1))
        hacks = TextHacks.named(chosen, stopwords, plan.min_count, only_if_longer=plan.only_if_longer).fit(
            source.train
        )
        short = hacks.transform(texts, tokenizers[model], windows[-1])
        measured.append(shortened_row(" + ".join(chosen), hacks, short, tokenizers[model], windows))
    report, trials = hacks.report(), list[dict[str, Any]]()
    if source.splits is not None and plan.output is not None:
        splits = source.splits.shortened(hacks, tokenizers[model], windows[-1])
        study = WindowStudy(plan, model, windows, plan.output)
        trials = study.rows(source.splits, splits, part(progress, 0.1, 1.0))
    data = without_nan(
        {
            "kind": "compress long-text",
            "counts": {"documents": len(texts), "training": len(source.train)},
            "model": model,
            "windows": windows,
            "tokenizers": [
                {"name": row.name, **asdict(row.tokens), "over": list(row.over.values())} for row in lengths
            ],
            "hacks": [shortened_row(RAW, TextHacks(), texts, tokenizers[model], windows), *measured],
            "warnings": [*report.warnings, *_leaks(plan, source.split_given)],
            "example": [list(judged) for judged in hacks.judged(max(texts, key=len))[:_DRAWN_WORDS]],
            "trials": trials,
            "settings": plan_settings(plan),
        }
    )
    rows = [dict(row) | {"text": text} for row, text in zip(source.rows, short, strict=True)]
    written = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    return Result(f"{plan.data} for {model}", data, lay_out(data), files={SHORT_FILE: written})


def shortened_row(
    name: str, hacks: "TextHacks", short: Sequence[str], tokenizer: Any, windows: Sequence[int]
) -> dict[str, Any]:
    """What some hacks dropped, and how many of the texts still overflow each window."""
    from tokenry.compression.text import tokenizer_length_report

    (found,) = tokenizer_length_report({name: tokenizer}, short, windows)
    return {
        "name": name,
        "mean": found.tokens.mean,
        "p95": found.tokens.p95,
        "over": list(found.over.values()),
        "dropped": dict.fromkeys(HACK_NAMES, 0) if name == RAW else dict(hacks.report().dropped),
    }


def _leaks(plan: Plan, split_given: bool) -> Iterator[str]:
    if "low-frequency" in plan.hacks and not split_given:
        yield "low-frequency words were counted in all texts, test texts included: name a split, so that only training texts count."


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what was dropped, what still overflows, one text word by word, and the fine-tunings."""
    raw, *_, last = data["hacks"]
    windows = data["windows"]
    lead = (
        f"{plural(data['counts']['documents'], 'text')}, counted with the tokenizer of {data['model']}, special tokens included. "
        f"Without {last['name']}, {last['mean']:.0f} of {raw['mean']:.0f} tokens per text are left; {1 - last['over'][-1]:.1%} of the texts fit "
        f"in {windows[-1]} tokens, {1 - raw['over'][-1]:.1%} did before."
    )
    blocks: list[Block] = [Text(lead, "lead"), *(Text(warning, "warning") for warning in data["warnings"])]
    if data["trials"]:
        blocks += [Findings(list(findings(data)), "What can be said"), _trials(data["trials"])]
    if len(data["tokenizers"]) > 1:
        blocks.append(_tokenizers(data["tokenizers"], windows))
    blocks.append(_hacks(data["hacks"], windows))
    tokens = [
        Token(f" {word}", "kept" if verdict == "kept" else "dropped") for word, verdict in data["example"]
    ]
    drawn = Heatmap("The longest text, as far as it is drawn", [(last["name"], tokens)], folded=True)
    return [*blocks, Section("What is dropped", [drawn])]


def findings(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The shortened texts at each window against the raw ones in the longest."""
    whole = next(row for row in reversed(data["trials"]) if row["texts"] == RAW)
    for row in data["trials"]:
        if row["texts"] != RAW:
            estimate = Estimate(**row["difference"]).scaled(100)
            yield (
                f"{row['window']} tokens",
                f"macro F1 {row['macro_f1']:.3f} against {whole['macro_f1']:.3f} of the raw texts in {whole['window']} tokens, "
                f"{whole['seconds'] / max(row['seconds'], 1e-9):.1f} times as fast; right labels {estimate.with_interval('+.1f')} points. "
                f"Not worse by more than {100 * data['settings']['margin']:g} points: {row['not_worse']}.",
            )


def _hacks(rows: Sequence[Mapping[str, Any]], windows: Sequence[int]) -> Table:
    columns: list[Column | str] = [
        "texts",
        Column("mean", "tokens", ".1f"),
        Column("less", "%"),
        Column("p95", "tokens", ".0f"),
    ]
    columns += [*(Column(f"over {window}", "%") for window in windows), Column("dropped", "words")]
    raw = rows[0]["mean"] or 1.0
    return Table(
        "What the hacks leave",
        columns,
        [
            (row["name"], row["mean"], 1 - row["mean"] / raw, row["p95"], *row["over"], sum(row["dropped"].values()))
            for row in rows
        ],
        notes=["Over: texts that the window still cuts."],
    )  # fmt: skip


def _tokenizers(rows: Sequence[Mapping[str, Any]], windows: Sequence[int]) -> Table:
    columns: list[Column | str] = [
        "tokenizer",
        Column("mean", "tokens", ".1f"),
        Column("median", "tokens", ".0f"),
    ]
    columns += [
        Column("p95", "tokens", ".0f"),
        Column("per word", "tokens", ".2f"),
        *(Column(f"over {window}", "%") for window in windows),
    ]
    names = ("name", "mean", "median", "p95", "fertility")
    return Table(
        "Tokenizers on the raw training texts",
        columns,
        [(*(row[name] for name in names), *row["over"]) for row in rows],
    )  # fmt: skip


def _trials(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("texts", Column("window", "tokens"), Column("macro F1", "test", ".3f"), Column("right", "%"), Column("difference", "points", "+.1f"),
               Column("training", "s", ".1f"), Column("peak memory", "MB", ",.0f"), "settings")  # fmt: skip
    return Table(
        "Fine-tuned",
        columns,
        [
            (
                row["texts"],
                row["window"],
                row["macro_f1"],
                row["right"],
                Estimate(**row["difference"]).scaled(100),
                row["seconds"],
                row.get("peak_memory_mb"),
                ", ".join(f"{value:g}" for value in row["settings"].values()),
            )
            for row in rows
        ],
        notes=[
            f"Settings: learning rate, batch size, dropout, from a gradual search of up to {max(row['trials'] for row in rows)} trainings on each "
            "kind of texts. Difference: right labels, to the raw texts in the longest window."
        ],
    )
