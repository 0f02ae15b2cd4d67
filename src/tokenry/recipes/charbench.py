"""CharBench (arXiv 2508.02591): does a model see less of a word inside a long token, and which properties go with counting errors?

Two models, on words that a benchmark regenerated from open word lists asks about (not on the authors' file):

    reader    a small encoder trained on the four tasks, on tokens of a BPE with 800 entries; tested on words it has never seen
    SmolLM2   the embedded chat model, asked in the paper's words; the answer with the highest log-likelihood counts

Index tasks are judged by the length of the token that holds the character, counting tasks by the stronger correlation: that of the true
count or that of the number of tokens. Headline: the abstract's sentence on index tasks, for the reader, which is correct often enough to
tell. Beyond the paper, the token that holds the character, or another one, is cut into single characters in the reader's test words (in
the settings). The paper's tables could not be read: its figures are those of the abstract; thresholds were set on another training of such
a reader.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from tokenry.core.io.progress import Progress, in_turn, named, part
from tokenry.core.stats import (
    Estimate,
    all_of,
    independent_difference,
    shown,
)
from tokenry.evaluation.charbench import (
    build_charbench,
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
from tokenry.models import EMBEDDED_TITLE, load_model, load_tokenizer, preferred_device
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.character_reader import ReaderConfig, Trained, cut_anew, train_reader
from tokenry.recipes.testbeds.charbench_answers import ModelAnswers

READER = "reader"
SHORT, LONG = 1.0, 4.0
LEAST_FALL = 0.15
LEAST_RATIO = 2.0
ABSTRACT_INDEX = "negatively correlated with the length of the token that holds the character (abstract)"
ABSTRACT_COUNT = "weakly correlated with tokenization; word length and true count matter more (abstract)"
_NAMES = {
    "word_length": "word length",
    "gold": "true answer",
    "number_of_tokens": "tokens",
    "compression": "characters per token",
    "target_token_length": "length of the token with it",
}


@dataclass(frozen=True)
class CharBenchSizes:
    """Sizes of one scale.

    Attributes:
        reader: training of the small encoder.
        models: language models that are asked.
        items: number of items that each of them is asked; None for all.
        mode: how the models answer.
    """

    reader: ReaderConfig
    models: tuple[str, ...]
    items: int | None
    mode: Mode
    dtype: str | None = None


@recipe(
    "charbench",
    laptop=CharBenchSizes(ReaderConfig(), ("embedded",), 400, "score"),
    paper=CharBenchSizes(
        ReaderConfig(steps=20_000, layers=6, width=384, heads=6),
        ("mistralai/Mistral-7B-Instruct-v0.2", "meta-llama/Llama-3.3-70B-Instruct"),
        None,
        "generate",
        "bfloat16",
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train the reader, ask the language models, and judge each claim."""
    sizes: CharBenchSizes = run.sizes
    trained = train_reader(
        frequent_words(sizes.reader.words),
        sizes.reader,
        named(part(run.progress, 0.02, 0.52), "training a reader of tokens"),
    )
    reader = ask_reader(trained)
    recut = {task: cut_anew(trained, task) for task in INDEX_TASKS}
    models = ask_models(sizes, part(run.progress, 0.55, 0.98))
    run.settings |= {
        "note": REGENERATED,
        **asdict(sizes),
        "reader_accuracy": reader.accuracies,
        "reader_correlations": reader.correlations,
        "reader_accuracy_by_target_token_length": {
            task: {
                length: (found.value, found.standard_error, found.samples)
                for length, found in reader.accuracy_at(task, "target_token_length").items()
            }
            for task in INDEX_TASKS
        },
        "reader_regression": reader.regression,
        "reader_accuracy_change_when_a_token_is_cut_into_characters": {
            task: change.as_json() for task, change in recut.items()
        },
        **{f"{model.name} accuracy": model.accuracies for model in models},
        **{f"{model.name} correlations": model.correlations for model in models},
    }
    with run.figure(10.5, 4.2) as figure:
        draw(figure, reader, models)
    yield from judge(reader, models)


def ask_reader(trained: Trained) -> ModelAnswers:
    """Test the reader on unseen words."""
    predictions = DataFrame({"prediction": trained.predict(trained.items, trained.segmentations)})
    return ModelAnswers.of(
        READER, trained.items, predictions, features_of(trained.items, trained.segmentations)
    )


def ask_models(sizes: CharBenchSizes, progress: Progress) -> list[ModelAnswers]:
    """Ask each language model."""
    items = build_charbench(load_word_list())
    items = items if sizes.items is None else sample_items(items, sizes.items)
    asked = []
    for name, told in in_turn(sizes.models, progress):
        title = EMBEDDED_TITLE if name == "embedded" else name
        report = named(told, f"asking {title}")
        report(0.0)
        model, tokenizer = load_model(name, sizes.dtype).to(preferred_device()), load_tokenizer(name)
        predictions = evaluate_charbench(model, tokenizer, items, sizes.mode, report=report)
        asked.append(ModelAnswers.of(title, items, predictions, tokenization_features(items, tokenizer)))
    return asked


def judge(reader: ModelAnswers, models: Sequence[ModelAnswers]) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    yield _negative(reader)
    yield _falls(reader)
    task = COUNTING_TASKS[1]
    yield Claim(
        f"{task}: the true count correlates at least {LEAST_RATIO:.0f} times as much with right answers of the {reader.name} as the "
        "number of tokens",
        ABSTRACT_COUNT,
        measured=f"r = {reader.correlation(task, 'gold').with_interval('.3f')} with the true count",
        control=f"r = {reader.correlation(task, 'number_of_tokens').with_interval('.3f')} with the number of tokens",
        verdict=reader.stronger(task, ("gold",), ("number_of_tokens",), LEAST_RATIO),
    )
    yield _tokens_matter_less(reader)
    for model in models:
        yield _negative(model)


def _negative(model: ModelAnswers) -> Claim:
    found = {task: model.correlation(task, "target_token_length") for task in INDEX_TASKS}
    accuracies = model.accuracies
    asked = "; ".join(f"n = {r.samples:,}, right {accuracies[task]}" for task, r in found.items())
    return Claim(
        f"{' and '.join(INDEX_TASKS)}: right answers of {model.name} are negatively correlated with the length of the token that holds "
        f"the character ({asked})",
        ABSTRACT_INDEX,
        measured="; ".join(
            f"r = {r.with_interval('.3f')}; given word length, true index and number of tokens "
            f"{model.partial(task, 'target_token_length')}"
            for task, r in found.items()
        ),
        control="; ".join(
            f"r = {model.correlation(task, 'word_length').with_interval('.3f')}" for task in found
        )
        + " with word length",
        verdict=all_of(shown(r.scaled(-1)) for r in found.values()),
    )


def _falls(reader: ModelAnswers) -> Claim:
    missing = Estimate(float("nan"), float("nan"), 0)
    at = {task: reader.accuracy_at(task, "target_token_length") for task in INDEX_TASKS}
    ends = {task: [found.get(length, missing) for length in (SHORT, LONG)] for task, found in at.items()}
    falls = [independent_difference(*pair) for pair in ends.values()]
    by_word = {task: reader.accuracy_at(task, "word_length") for task in INDEX_TASKS}
    return Claim(
        f"{' and '.join(INDEX_TASKS)}: {reader.name} is at least {100 * LEAST_FALL:.0f} points more accurate where the token that holds "
        f"the character has {SHORT:.0f} character than where it has {LONG:.0f}",
        ABSTRACT_INDEX,
        measured="; ".join(
            f"{fall.scaled(100):.1f} points ({short.value:.1%} against {long.value:.1%})"
            for fall, (short, long) in zip(falls, ends.values(), strict=True)
        ),
        control="by word length: "
        + "; ".join(
            ", ".join(f"{length:.0f}: {found.value:.0%}" for length, found in of_task.items())
            for of_task in by_word.values()
        ),
        verdict=all_of(shown(fall, least=LEAST_FALL) for fall in falls),
    )


def _tokens_matter_less(reader: ModelAnswers) -> Claim:
    words, tokens = ("word_length", "gold"), ("number_of_tokens", "compression")

    def strongest(task: str, names: Sequence[str]) -> str:
        name = max(names, key=lambda prop: abs(reader.correlation(task, prop).value))
        return f"r = {reader.correlation(task, name).with_interval('.3f')} with {name}"

    return Claim(
        f"{' and '.join(COUNTING_TASKS)}: word length or true count correlates more with right answers of the {reader.name} than number "
        "of tokens and compression",
        ABSTRACT_COUNT,
        measured="; ".join(strongest(task, words) for task in COUNTING_TASKS),
        control="; ".join(strongest(task, tokens) for task in COUNTING_TASKS),
        verdict=all_of(reader.stronger(task, words, tokens) for task in COUNTING_TASKS),
    )


def draw(figure: Figure, reader: ModelAnswers, models: Sequence[ModelAnswers]) -> None:
    """Accuracy over the length of the token that holds the character, and all correlations."""
    curves, bars = figure.subplots(1, 2)
    for number, model in enumerate((reader, *models)):
        for task, style in zip(INDEX_TASKS, ("o-", "s--"), strict=True):
            points = {
                length: found.scaled(100)
                for length, found in model.accuracy_at(task, "target_token_length").items()
                if found.samples >= 10
            }
            if points:
                values, errors = zip(
                    *((found.value, found.standard_error) for found in points.values()), strict=True
                )
                words = f"{model.name}, {task.split('_')[1]}"
                curves.errorbar(
                    list(points), values, errors, fmt=style, color=f"C{number}", capsize=2, label=words
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
    for number, (prop, label) in enumerate(_NAMES.items()):
        rows = {
            place + 0.15 * (number - 2): reader.correlation(task, prop) for place, task in enumerate(tasks)
        }
        known = {height: r for height, r in rows.items() if np.isfinite(r.value)}
        lows, highs, centres = ([getattr(r, end) for r in known.values()] for end in ("low", "high", "value"))
        bars.hlines([*known], lows, highs, color=f"C{number}", linewidth=1.5)
        bars.plot(centres, [*known], "o", color=f"C{number}", markersize=5, label=label)
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set_yticks(range(len(tasks)), [task.replace("_", " ") for task in tasks])
    bars.set(
        xlabel="correlation with right answers (95 %)",
        title=f"The {reader.name}",
        ylim=(len(tasks) - 0.5, -0.5),
    )
    bars.legend(fontsize=8, loc="lower left")
