"""CharBench (arXiv 2508.02591): does a model see less of a word inside a long token, and what do counting errors go with?

Two models, on words that a benchmark regenerated from open word lists asks about (not on the authors' file):

    reader    a small encoder trained on the four tasks, on tokens of a BPE with 800 entries; tested on words it has never seen
    SmolLM2   the embedded chat model, asked in the paper's words; the answer with the highest log-likelihood counts

Index tasks are judged by the length of the token that holds the character, counting tasks by what correlates more, the true count or
the number of tokens. Beyond the paper, the reader's test words are cut anew: the token that holds the character, or another one, into
single characters. The paper's tables could not be read: its figures are those of the abstract.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from pandas import DataFrame

from tokenry.core.stats import ratio_estimate
from tokenry.evaluation.charbench import (
    CharBenchReport,
    build_charbench,
    charbench_report,
    evaluate_charbench,
    features_of,
    frequent_words,
    load_word_list,
    sample_items,
    tokenization_features,
)
from tokenry.evaluation.charbench.evaluate import Mode
from tokenry.evaluation.charbench.items import COUNTING_TASKS, INDEX_TASKS
from tokenry.evaluation.charbench.report import REGENERATED
from tokenry.evaluation.charbench.segmentation import Segmentation
from tokenry.models import EMBEDDED_TITLE, load_model, load_tokenizer, preferred_device
from tokenry.recipes.recipe import Claim, Progress, Reproduction, Scale, verdict
from tokenry.recipes.toys.character_reader import ReaderConfig, Trained, right, spelled, train_reader
from tokenry.runs.quiet import quiet_libraries

READER = "reader"
SHORT, LONG = 1.0, 4.0
LEAST_FALL = 0.15
LEAST_RATIO = 2.0
ABSTRACT_INDEX = "negatively correlated with the length of the token that holds the character (abstract)"
ABSTRACT_COUNT = "weakly correlated with tokenization; word length and true count matter more (abstract)"


@dataclass(frozen=True)
class Sizes:
    """What a scale runs.

    Attributes:
        reader: how the small encoder is trained.
        models: language models that are asked.
        items: that each of them is asked; None for all.
        mode: how they answer.
        dtype: of their weights.
    """

    reader: ReaderConfig
    models: tuple[str, ...]
    items: int | None
    mode: Mode
    dtype: str | None = None


SIZES: dict[Scale, Sizes] = {
    "laptop": Sizes(ReaderConfig(), ("embedded",), 400, "score"),
    "paper": Sizes(
        ReaderConfig(steps=20_000, layers=6, width=384, heads=6),
        ("mistralai/Mistral-7B-Instruct-v0.2", "meta-llama/Llama-3.3-70B-Instruct"),
        None,
        "generate",
        "bfloat16",
    ),
}


@dataclass(frozen=True)
class Asked:
    """A model's answers, analysed.

    Attributes:
        name: of the model.
        report: all tables.
    """

    name: str
    report: CharBenchReport

    def correlation(self, task: str, prop: str) -> dict[str, Any]:
        """The row of a task and property: r, low, high, shown."""
        table = self.report.correlations
        return table[(table["task"] == task) & (table["property"] == prop)].iloc[0].to_dict()

    def accuracy_at(self, task: str, prop: str) -> dict[float, tuple[float, float, int]]:
        """By the value of a property: accuracy, standard error, items."""
        table = self.report.curves
        rows = table[(table["task"] == task) & (table["property"] == prop)]
        return {
            float(row.value): (float(row.accuracy), float(row.standard_error), int(row.n))
            for row in rows.itertuples()
        }


@dataclass(frozen=True)
class Recut:
    """What cutting a token of the test words into characters does to the reader's accuracy, with standard errors over words.

    Attributes:
        target: difference where the token that holds the character is cut.
        other: where another one is.
    """

    target: tuple[float, float]
    other: tuple[float, float]
    items: int


@dataclass(frozen=True)
class _CharBenchRecipe:
    slug: str = "charbench"
    title: str = "CharBench: Evaluating the Role of Tokenization in Character-Level Tasks"

    @quiet_libraries()
    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Train the reader, ask the language models, and judge each claim."""
        started = time.perf_counter()
        sizes = SIZES[scale]
        trained = train_reader(
            frequent_words(sizes.reader.words),
            sizes.reader,
            lambda share: progress("training a reader of tokens", 0.02 + 0.5 * share),
        )
        reader = ask_reader(trained)
        recut = {task: cut_anew(trained, task) for task in INDEX_TASKS}
        models = ask_models(sizes, lambda what, share: progress(what, 0.55 + 0.43 * share))
        return Reproduction(
            slug=self.slug,
            claims=judge(reader, models),
            settings={
                "scale": scale,
                "note": REGENERATED,
                **asdict(sizes),
                "reader_accuracy": _accuracies(reader),
                "reader_correlations": _correlations(reader),
                "reader_accuracy_by_target_token_length": {
                    task: reader.accuracy_at(task, "target_token_length") for task in INDEX_TASKS
                },
                "reader_regression": _regression(reader),
                "reader_accuracy_change_when_a_token_is_cut_into_characters": {
                    task: asdict(each) for task, each in recut.items()
                },
                **{f"{each.name} accuracy": _accuracies(each) for each in models},
                **{f"{each.name} correlations": _correlations(each) for each in models},
            },
            seconds=time.perf_counter() - started,
            plots=(_plot(reader, models, output),),
        )


def ask_reader(trained: Trained) -> Asked:
    """Test the reader on unseen words."""
    return _analysed(
        READER,
        trained.items,
        DataFrame({"prediction": trained.predict(trained.items, trained.segmentations)}),
        features_of(trained.items, trained.segmentations),
    )


def ask_models(sizes: Sizes, progress: Progress) -> list[Asked]:
    """Ask each language model."""
    items = build_charbench(load_word_list())
    items = items if sizes.items is None else sample_items(items, sizes.items)
    return [
        _ask_model(name, items, sizes, progress, place / len(sizes.models))
        for place, name in enumerate(sizes.models)
    ]


def _ask_model(name: str, items: DataFrame, sizes: Sizes, progress: Progress, begun: float) -> Asked:
    title = EMBEDDED_TITLE if name == "embedded" else name
    progress(f"asking {title}", begun)
    model = load_model(name, sizes.dtype).to(preferred_device())
    tokenizer = load_tokenizer(name)
    predictions = evaluate_charbench(
        model,
        tokenizer,
        items,
        sizes.mode,
        report=lambda share: progress(f"asking {title}", begun + share / len(sizes.models)),
    )
    return _analysed(title, items, predictions, tokenization_features(items, tokenizer))


def _analysed(name: str, items: DataFrame, predictions: DataFrame, features: DataFrame) -> Asked:
    return Asked(name, charbench_report(items, {name: predictions}, {name: features}))


def cut_anew(trained: Trained, task: str) -> Recut:
    """Cut the token that holds the character, or another one, and see what becomes of the same items.

    Only words are asked about that have two tokens or more of at least two characters, one of them the one that holds the character.
    """
    items = trained.items[trained.items["task"] == task]
    kept: list[int] = []
    target: dict[int, Segmentation] = {}
    other: dict[int, Segmentation] = {}
    for number, (word, answer) in enumerate(zip(items["word"], items["answer"].map(int), strict=True)):
        cut = trained.segmentations[word]
        long = [span for span in zip(cut.starts, cut.ends, strict=True) if span[1] - span[0] > 1]
        holding = [span for span in long if span[0] <= answer < span[1]]
        if holding and len(long) > 1:
            first_other = next(span for span in long if span not in holding)
            kept.append(number)
            target[number] = spelled(cut, holding[0])
            other[number] = spelled(cut, first_other)
    chosen = items.iloc[kept]
    words = chosen["word"].tolist()
    before = right(chosen, trained.predict(chosen, trained.segmentations))
    changes = [
        _change(words, before, _right_when(trained, chosen, [cuts[number] for number in kept]))
        for cuts in (target, other)
    ]
    return Recut(changes[0], changes[1], len(chosen))


def _right_when(trained: Trained, items: DataFrame, cuts: Sequence[Segmentation]) -> Bool[ndarray, "items"]:
    """Whether items are answered right when each word is cut in its own way; a word can come again, cut otherwise."""
    names = [f"{number}" for number in range(len(items))]
    renamed = items.assign(word=names)
    return right(renamed, trained.predict(renamed, dict(zip(names, cuts, strict=True))))


def _change(
    words: Sequence[str], before: Bool[ndarray, "items"], after: Bool[ndarray, "items"]
) -> tuple[float, float]:
    change = DataFrame({"word": words, "change": after.astype(float) - before.astype(float)})
    by_word = change.groupby("word")["change"]
    found = ratio_estimate(by_word.sum().to_numpy(dtype=float), by_word.size().to_numpy(dtype=np.int64))
    return found.value, found.standard_error


def judge(reader: Asked, models: Sequence[Asked]) -> tuple[Claim, ...]:
    """Put each claim beside its measurement; thresholds were set on another training of such a reader."""
    return (
        *(_falls(reader, task) for task in INDEX_TASKS),
        *(_negative(reader, task) for task in INDEX_TASKS),
        _count_dominates(reader),
        *(_tokens_matter_less(reader, task) for task in COUNTING_TASKS),
        *(_negative(model, task) for model in models for task in INDEX_TASKS),
    )


def _falls(reader: Asked, task: str) -> Claim:
    by_length = reader.accuracy_at(task, "target_token_length")
    missing = (float("nan"), float("nan"), 0)
    (short, e_short, _), (long, e_long, _) = (by_length.get(each, missing) for each in (SHORT, LONG))
    by_word = reader.accuracy_at(task, "word_length")
    return Claim(
        claim=f"{task}: {reader.name} answers at least {100 * LEAST_FALL:.0f} points more rightly where the token that holds the "
        f"character has {SHORT:.0f} character than where it has {LONG:.0f}",
        paper=ABSTRACT_INDEX,
        measured=f"{100 * (short - long):.1f} ± {100 * float(np.hypot(e_short, e_long)):.1f} points ({100 * short:.1f} % against "
        f"{100 * long:.1f} %)",
        control="by word length: "
        + ", ".join(f"{n:.0f}: {100 * a:.0f} %" for n, (a, _, _) in by_word.items()),
        verdict=verdict(short - long > LEAST_FALL),
    )


def _negative(model: Asked, task: str) -> Claim:
    found = model.correlation(task, "target_token_length")
    length = model.correlation(task, "word_length")
    table = model.report.regression
    rows = table[(table["task"] == task) & (table["property"] == "target_token_length")]
    partial = f"{rows['partial_r'].iloc[0]:.3f}" if len(rows) else "undefined"
    return Claim(
        claim=f"{task}: right answers of {model.name} are negatively correlated with the length of the token that holds the character "
        f"(n = {found['n']:,}, right {_accuracies(model)[task]})",
        paper=ABSTRACT_INDEX,
        measured=f"{_interval(found)}; given word length, true index and number of tokens {partial}",
        control=f"{_interval(length)} with word length",
        verdict=verdict(bool(found["high"] < 0)),
    )


def _count_dominates(reader: Asked) -> Claim:
    task = COUNTING_TASKS[1]
    gold, tokens = (reader.correlation(task, name) for name in ("gold", "number_of_tokens"))
    return Claim(
        claim=f"{task}: the true count correlates at least {LEAST_RATIO:.0f} times as much with right answers of the {reader.name} as the "
        "number of tokens",
        paper=ABSTRACT_COUNT,
        measured=f"{_interval(gold)} with the true count",
        control=f"{_interval(tokens)} with the number of tokens",
        verdict=verdict(bool(abs(gold["r"]) > LEAST_RATIO * abs(tokens["r"]))),
    )


def _tokens_matter_less(reader: Asked, task: str) -> Claim:
    words = [reader.correlation(task, name) for name in ("word_length", "gold")]
    tokens = [reader.correlation(task, name) for name in ("number_of_tokens", "compression")]
    strongest = [max(each, key=lambda found: abs(found["r"])) for each in (words, tokens)]
    return Claim(
        claim=f"{task}: word length or true count correlates more with right answers of the {reader.name} than number of tokens and "
        "compression",
        paper=ABSTRACT_COUNT,
        measured=f"{_interval(strongest[0])} with {strongest[0]['property']}",
        control=f"{_interval(strongest[1])} with {strongest[1]['property']}",
        verdict=verdict(bool(abs(strongest[0]["r"]) > abs(strongest[1]["r"]))),
    )


def _interval(found: Mapping[str, Any]) -> str:
    return f"r = {found['r']:.3f} (95 %: {found['low']:.3f} to {found['high']:.3f})"


def _accuracies(model: Asked) -> dict[str, str]:
    return {
        row["task"]: f"{100 * row['accuracy']:.1f} ± {100 * row['standard_error']:.1f} %"
        for row in model.report.accuracy.to_dict("records")
    }


def _correlations(model: Asked) -> dict[str, dict[str, float]]:
    table = model.report.correlations.dropna(subset="r")
    return {
        str(task): dict(zip(rows["property"], rows["r"].round(4), strict=True))
        for task, rows in table.groupby("task", sort=False)
    }


def _regression(model: Asked) -> dict[str, dict[str, str]]:
    return {
        str(task): {
            row[
                "property"
            ]: f"{row['coefficient']:.3f} ± {row['standard_error']:.3f}, partial r {row['partial_r']:.3f}"
            for row in rows.to_dict("records")
        }
        for task, rows in model.report.regression.groupby("task", sort=False)
    }


_NAMES = {
    "word_length": "word length",
    "gold": "true answer",
    "number_of_tokens": "tokens",
    "compression": "characters per token",
    "target_token_length": "length of the token with it",
}


def _plot(reader: Asked, models: Sequence[Asked], output: Path) -> Path:
    """Draw accuracy over the length of the token that holds the character, and all correlations."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, (curves, bars) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    for number, model in enumerate((reader, *models)):
        for task, style in zip(INDEX_TASKS, ("o-", "s--"), strict=True):
            points = [
                (value, *found[:2])
                for value, found in model.accuracy_at(task, "target_token_length").items()
                if found[2] >= 10
            ]
            if points:
                lengths, shares, errors = (np.array(each) for each in zip(*points, strict=True))
                words = f"{model.name}, {task.split('_')[1]}"
                curves.errorbar(
                    lengths, 100 * shares, 100 * errors, fmt=style, color=f"C{number}", capsize=2, label=words
                )
    curves.set(
        xlabel="characters of the token that holds the character",
        ylabel="accuracy, %",
        title="Finding a character",
        ylim=(0, None),
    )
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.legend(fontsize=8)
    tasks = (*COUNTING_TASKS, *INDEX_TASKS)
    for place, task in enumerate(tasks):
        found = [(name, reader.correlation(task, name)) for name in _NAMES]
        heights = [place + 0.15 * (number - 2) for number in range(len(found))]
        for number, ((_, row), height) in enumerate(zip(found, heights, strict=True)):
            if np.isfinite(row["r"]):
                bars.plot([row["low"], row["high"]], [height] * 2, color=f"C{number}", linewidth=1.5)
                bars.plot(row["r"], height, "o", color=f"C{number}", markersize=5)
    for number, name in enumerate(_NAMES.values()):
        bars.plot([], [], "o-", color=f"C{number}", label=name)
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set_yticks(range(len(tasks)), [task.replace("_", " ") for task in tasks])
    bars.set(
        xlabel="correlation with right answers (95 %)",
        title=f"The {reader.name}",
        ylim=(len(tasks) - 0.5, -0.5),
    )
    bars.legend(fontsize=8, loc="lower left")
    path = output / "charbench.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Path(path.name)


RECIPE = _CharBenchRecipe()
