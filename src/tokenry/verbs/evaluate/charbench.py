"""Character-level questions about words, and the correlation of correct answers with tokenization."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Cell, Column, Figure, Section, Series, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._estimates import between, stored_estimate
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title

if TYPE_CHECKING:
    from pandas import DataFrame

Rows = Sequence[Mapping[str, Any]]

_QUESTIONS = {
    "count_unique_chars": ("How many unique characters?", Column("unique", "characters", "+.3f")),
    "count_character_frequency": (
        "How often does a character appear?",
        Column("character", "frequency", "+.3f"),
    ),
    "find_first_occurrence": ("Where does a character come first?", Column("first", "position", "+.3f")),
    "find_last_occurrence": ("Where does a character come last?", Column("last", "position", "+.3f")),
}
_PROPERTIES = {
    "word_length": "word length",
    "gold": "true answer",
    "gold_over_length": "true answer / word length",
    "unique_characters": "unique characters",
    "number_of_tokens": "number of tokens",
    "compression": "characters per token",
    "target_token_length": "length of the target token",
    "frequency": "word frequency",
}
_CURVES = ("word_length", "gold", "number_of_tokens", "target_token_length")


@dataclass(frozen=True)
class Plan:
    """Ask models about the characters of words, and correlate correct answers with how their tokenizers cut them.

    Attributes:
        models: `embedded`, folders, or hub names; the errors of several models are compared.
        words: file with one word per line; English word lists by default.
        per_length: words of each length in the benchmark that is built, a multiple of 4.
        min_length: characters of the shortest words.
        max_length: characters of the longest words.
        limit: items to ask, drawn evenly from tasks and lengths; 0 for all.
        mode: compare the scores of all answers, or let the model generate one, as in the paper.
        batch_size: items per batch.
        nfc: compose the characters of --words first.
        seed: random seed of the items.
        output: folder for result.json, predictions.csv and report.html, or a .json or .html file.
    """

    models: tuple[str, ...] = argument(("embedded",))
    words: Path | None = None
    per_length: int = 25_000
    min_length: int = 4
    max_length: int = 10
    limit: int = 400
    mode: Literal["score", "generate"] = "score"
    batch_size: int = 32
    hardware: Hardware = Hardware()
    nfc: bool = False
    seed: int = 42
    output: Path | None = Path("runs/charbench")

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) < len(self.models):
            raise UserError(
                f"name at least one model, and each once, got {', '.join(self.models) or 'none'}."
            )
        require_at_least(1, min_length=self.min_length, batch_size=self.batch_size)
        require_at_least(0, seed=self.seed)
        if self.min_length > self.max_length:
            raise UserError(
                f"the shortest words are no longer than the longest, got {self.min_length} and {self.max_length}."
            )
        if self.limit < 0:
            raise UserError(f"limit must be at least 1, or 0 for all items, got {self.limit}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Ask every model all items, and see how its tokenizer cuts their words."""
    from tokenry.core.text.round_trip import round_trip
    from tokenry.evaluation.charbench import charbench_report, evaluate_charbench, join_records
    from tokenry.models import load_tokenizer

    items, source = _items(plan)
    words = list(dict.fromkeys(items["word"]))
    predictions, features, text_back = {}, {}, {}
    # All of them before the first model is asked.
    tokenizers = {name: load_tokenizer(name) for name in plan.models}
    for place, (name, tokenizer) in enumerate(tokenizers.items()):
        progress(f"reading {name}", place / len(plan.models))
        if (back := round_trip(tokenizer, words)) is not None:
            text_back[name] = back
        features[name] = _features(items, tokenizer)
        predictions[name] = evaluate_charbench(
            plan.hardware.load(name),
            tokenizer,
            items,
            plan.mode,
            plan.batch_size,
            lambda share, name=name, place=place: progress(  # type: ignore[misc]
                f"asking {name}", (place + share) / len(plan.models)
            ),
        )
    data = {
        "kind": "charbench",
        "settings": plan_settings(plan) | {"words": source, "items": len(items)},
        **charbench_report(items, predictions, features, text_back=text_back).as_json(),
    }
    records = join_records(items, predictions, features)
    return Result(
        "Characters inside tokens",
        data,
        lay_out(data),
        files={"predictions.csv": records.to_csv(index=False)},
    )


def _items(plan: Plan) -> "tuple[DataFrame, str]":
    """The items, and the source of their words."""
    from tokenry.evaluation.charbench import build_charbench, load_word_list, read_word_list, sample_items
    from tokenry.evaluation.charbench.words import SOURCES

    if plan.words is None:
        words, source = load_word_list(min_len=plan.min_length, max_len=plan.max_length), "+".join(SOURCES)
    else:
        words, source = read_word_list(plan.words, plan.nfc), str(plan.words)
    items = build_charbench(words, plan.per_length, plan.seed, range(plan.min_length, plan.max_length + 1))
    return (sample_items(items, plan.limit) if plan.limit else items), source


def _features(items: "DataFrame", tokenizer: Any) -> "DataFrame":
    """How the words are cut, and how frequent they are in English, if wordfreq is installed."""
    from tokenry.evaluation.charbench import tokenization_features, word_frequencies

    features = tokenization_features(items, tokenizer)
    try:
        return features.assign(frequency=word_frequencies(items["word"].tolist()))
    except UserError:
        return features


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the answers out: accuracy and correlations of every model, then each task by itself."""
    models = list(dict.fromkeys(row["model"] for row in data["accuracy"]))
    tasks = [task for task in _QUESTIONS if any(row["task"] == task for row in data["accuracy"])]
    lead = (
        "What goes with correct answers to questions about the characters of words: properties of the word, or of how the tokenizer "
        "cuts it."
    )
    overview = [_accuracy(data, models), *(_correlations(data, tasks, model, models) for model in models)]
    return [
        Text(f"{lead} {data['note']}", "lead"),
        *(Text(sentence, "warning") for sentence in _not_given_back(data)),
        *_text_back(data),
        Section("Accuracy and correlations", overview),
        *(Section(_QUESTIONS[task][0], _task(_rows_of(data, task), models)) for task in tasks),
    ]


def _not_given_back(data: Mapping[str, Any]) -> list[str]:
    """A warning for each tokenizer that does not give all words back."""
    from tokenry.core.text.round_trip import RoundTrip

    return [
        RoundTrip.from_json(back).sentence(f"the tokenizer of {model_title(model)}", "words")
        for model, back in data.get("text_back", {}).items()
        if not back["gives_text_back"]
    ]


def _text_back(data: Mapping[str, Any]) -> list[Block]:
    rows = [(model_title(model), back["summary"]) for model, back in data.get("text_back", {}).items()]
    return [Table("Whether the tokenizer gives the words back", ("model", "text back"), rows)] if rows else []


def _rows_of(data: Mapping[str, Any], task: str) -> dict[str, Any]:
    tables = ("correlations", "curves", "regression", "mixed_case")
    return {name: [row for row in data[name] if row["task"] == task] for name in tables} | {
        "overlap": data["overlap"].get(task, {})
    }


def _accuracy(data: Mapping[str, Any], models: Sequence[str]) -> Table:
    bias = {(row["task"], row["model"]): row["mean"] for row in data["bias"]}
    one = f" of {model_title(models[0])}" if len(models) == 1 else ""
    return Table(
        f"Accuracy{one}",
        (
            "task",
            "items",
            Column("correct", "%"),
            Column("integers", "%"),
            Column("wrong by", "mean", "+.2f"),
        ),
        [
            (
                _named(row["task"].replace("_", " "), row, models),
                row["n"],
                stored_estimate(row, "accuracy", "n"),
                row["valid"],
                bias.get((row["task"], row["model"])),
            )
            for row in data["accuracy"]
        ],
        notes=("integers: answers that are a number at all; wrong by: how far wrong counts are off.",),
    )


def _correlations(data: Mapping[str, Any], tasks: Sequence[str], model: str, models: Sequence[str]) -> Table:
    found = {(row["property"], row["task"]): row for row in data["correlations"] if row["model"] == model}
    properties = list(dict.fromkeys(prop for prop, _ in found))
    one = f", {model_title(model)}" if len(models) > 1 else ""
    return Table(
        f"Correlation with correct answers{one}",
        ("property", *(_QUESTIONS[task][1] for task in tasks)),
        [(_PROPERTIES[prop], *(_correlation(found[prop, task]) for task in tasks)) for prop in properties],
        notes=("shown: p below 0.05, adjusted for the number of correlations.",),
    )


def _correlation(row: Mapping[str, Any]) -> Cell:
    return Cell(row["r"], "shown" if row["shown"] else "")


def _task(rows: Mapping[str, Any], models: Sequence[str]) -> list[Block]:
    defined = [row for row in rows["correlations"] if row["r"] is not None]
    known = [row for row in defined if row["low"] is not None]
    tables = {
        _correlation_table: defined,
        _curve_table: rows["curves"],
        _regression_table: rows["regression"],
        _mixed_table: rows["mixed_case"],
    }
    return [
        _correlation_figure(known, models)
        if known
        else Text("No correlation is defined: every answer is correct, or none is."),
        *_curve_figures(rows["curves"], models),
        *(table(shown, models) for table, shown in tables.items() if shown),
        *([_overlap_table(rows["overlap"])] if len(rows["overlap"]) > 1 else []),
    ]


def _correlation_figure(rows: Rows, models: Sequence[str]) -> Figure:
    return Figure(
        "Correlation with correct answers",
        "intervals",
        [
            Series(
                model_title(model),
                [_PROPERTIES[row["property"]] for row in of_one],
                [row["r"] for row in of_one],
                [row["low"] for row in of_one],
                [row["high"] for row in of_one],
            )
            for model, of_one in _by_model(rows, models)
        ],
        x_label="r, 95 % interval over words",
        summary="correlations with correct answers: "
        + "; ".join(f"{_PROPERTIES[row['property']]} {row['r']:+.3f}" for row in rows),
        reference=0.0,
    )


def _curve_figures(rows: Rows, models: Sequence[str]) -> list[Figure]:
    figures = []
    for prop in _CURVES:
        points = [row for row in rows if row["property"] == prop]
        if len({row["value"] for row in points}) < 2:
            continue
        series = [_curve(model, of_one) for model, of_one in _by_model(points, models)]
        figures.append(Figure(f"Accuracy by {_PROPERTIES[prop]}", "lines", series, _PROPERTIES[prop], "%"))
    return figures


def _curve(model: str, rows: Rows) -> Series:
    rows = sorted(rows, key=lambda row: row["value"])
    around = [(row["accuracy"], row["standard_error"]) for row in rows]
    return Series(
        model_title(model),
        [row["value"] for row in rows],
        [100 * accuracy for accuracy, _ in around],
        [100 * max(0.0, accuracy - error) for accuracy, error in around],
        [100 * min(1.0, accuracy + error) for accuracy, error in around],
    )


def _correlation_table(rows: Rows, models: Sequence[str]) -> Table:
    return Table(
        "Correlations with their intervals",
        ("property", Column("r", "", "+.3f"), "95 % interval", Column("p", "", ".2g"), Column("p", "adjusted", ".2g"), "items"),
        [
            (
                _property(row, models),
                row["r"],
                between(row["low"], row["high"], "+.3f"),
                row["p"],
                row["adjusted_p"],
                row["n"],
            )
            for row in rows
        ],
        folded=True,
    )  # fmt: skip


def _curve_table(rows: Rows, models: Sequence[str]) -> Table:
    return Table(
        "Accuracy at every value",
        ("property", "value", Column("correct", "%"), "items"),
        [
            (
                _property(row, models),
                row["value"],
                stored_estimate(row, "accuracy", "n"),
                row["n"],
            )
            for row in rows
        ],
        folded=True,
    )


def _regression_table(rows: Rows, models: Sequence[str]) -> Table:
    return Table(
        "All properties at once: logistic regression",
        ("property", Column("log odds", "per s.d.", "+.3f"), Column("p", "", ".2g"), Column("partial r", "", "+.3f")),
        [
            (
                _property(row, models),
                stored_estimate(row, "coefficient", "n"),
                row["p"],
                row["partial_r"],
            )
            for row in rows
        ],
        folded=True,
    )  # fmt: skip


def _mixed_table(rows: Rows, models: Sequence[str]) -> Table:
    return Table(
        "Words of mixed case",
        ("case", "items", Column("correct", "%")),
        [
            (
                _named("mixed" if row["mixed"] else "not mixed", row, models),
                row["n"],
                stored_estimate(row, "accuracy", "n"),
            )
            for row in rows
        ],
        folded=True,
    )


def _overlap_table(overlap: Mapping[str, Mapping[str, float]]) -> Table:
    return Table(
        "Errors in common: wrong in both models / wrong in either",
        ("model", *(Column(model_title(model), "", ".2f") for model in overlap)),
        [(model_title(model), *shares.values()) for model, shares in overlap.items()],
        folded=True,
    )


def _by_model(rows: Rows, models: Sequence[str]) -> Iterable[tuple[str, list[Mapping[str, Any]]]]:
    """The rows of every model, also of one without rows, so that a model has the same colour in every chart."""
    return [(model, [row for row in rows if row["model"] == model]) for model in models]


def _property(row: Mapping[str, Any], models: Sequence[str]) -> Cell:
    return _named(_PROPERTIES[row["property"]], row, models)


def _named(name: str, row: Mapping[str, Any], models: Sequence[str]) -> Cell:
    """The name of a row, with that of its model if there are several."""
    return Cell(name, model_title(row["model"]) if len(models) > 1 else "")
