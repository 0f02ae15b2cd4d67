"""A classifier that knows the documents of high predictive strength from those of low strength, written to a file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import require_folder_name
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.core.stats import estimate_of_mean
from tokenry.data.selection_settings import FastTextConfig, LinearConfig
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._estimates import estimate_row, stored_estimate
from tokenry.verbs.select_data.strength import STRENGTH_FILE

if TYPE_CHECKING:
    from tokenry.data import TextScorer

SCORER_FILES = {"fasttext": "scorer.bin", "linear": "scorer.npz"}
_WORDS, _BINS = 20, 20
_SHARED = ("epoch", "word_ngrams", "seed")


@dataclass(frozen=True)
class Plan:
    """Train a classifier on the strongest and the weakest documents; `tokenry select-data filter` applies it to a corpus.

    Attributes:
        documents: strength.jsonl of `tokenry select-data strength`, or its folder; or rows with `text` and `strength`.
        extremes: documents of either kind; by default all of the highest strength, and as many of the lowest.
        held_out: share of them on which the classifier is measured.
        scorer: classifier of the paper (extra data), or a logistic regression of scikit-learn.
        output: folder for the classifier, result.json and report.html.
    """

    documents: Path = argument()
    extremes: int | None = option(None, metavar="NUMBER")
    held_out: float = 0.1
    scorer: Literal["fasttext", "linear"] = "fasttext"
    fasttext: FastTextConfig = embedded(FastTextConfig(), only=(*_SHARED, "lr", "dim", "bucket", "threads"))
    linear: LinearConfig = embedded(LinearConfig(), only=("alpha", "features"), prefix="linear: ")
    output: Path = Path("runs/scorer")

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the classifier")
        require_at_least(1, extremes=self.extremes)
        if not 0 <= self.held_out < 1:
            raise UserError(f"held_out must be in [0, 1), got {self.held_out}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Choose the documents, train, and measure on those held out."""
    from tokenry.data import auroc, select_extremes

    texts, strength = read_strength(plan.documents)
    positive, negative = select_extremes(strength, plan.extremes)
    places, labels = np.concatenate([positive, negative]), np.repeat([1, 0], [len(positive), len(negative)])
    aside = _aside(labels, plan.held_out, plan.fasttext.seed)
    progress(f"training on {plural(int((~aside).sum()), 'document')}", 0.1)
    scorer = _trained(plan, [texts[place] for place in places[~aside]], labels[~aside])
    file = plan.output / SCORER_FILES[plan.scorer]
    scorer.save(file)
    progress("measuring", 0.9)
    scores = scorer.score([texts[place] for place in places[aside]])
    right = estimate_of_mean((scores > 0.5) == labels[aside]) if aside.any() else None
    data = {
        "kind": "select-data train",
        "scorer": str(file),
        "documents": len(texts),
        "positive": {"documents": len(positive), "lowest_strength": float(strength[positive].min())},
        "negative": {"documents": len(negative), "highest_strength": float(strength[negative].max())},
        "accuracy": None if right is None else estimate_row(right),
        "auroc": float(auroc(scores, labels[aside])) if aside.any() else None,
        "scores": {"strongest": scores[labels[aside] == 1].tolist(), "weakest": scores[labels[aside] == 0].tolist()},
        "words": [{"word": word, "weight": weight} for word, weight in scorer.top_words(_WORDS)],
        "settings": plan_settings(plan),
    }  # fmt: skip
    return Result(
        f"Classifier of {plural(len(places), 'document')}", data, lay_out(data), only_saved=("scores",)
    )


def read_strength(source: Path) -> tuple[list[str], np.ndarray]:
    """Read texts and their strength; nan for a document without one.

    Raises:
        UserError: the file cannot be read, or a row lacks one of the two.
    """
    from tokenry.core.chat.reading import read_rows

    path = source / STRENGTH_FILE if source.is_dir() else source
    if source.is_dir() and not path.exists():
        raise UserError(
            f"the folder {source} holds no {STRENGTH_FILE}: `tokenry select-data strength` writes one."
        )
    rows = read_rows(str(path))
    for number, row in enumerate(rows, start=1):
        strength = row.get("strength")
        if not isinstance(row.get("text"), str) or not (
            strength is None or isinstance(strength, int | float)
        ):
            raise UserError(
                f"{path}, row {number} needs `text` and a number under `strength`: `tokenry select-data strength` writes such rows."
            )
    return [row["text"] for row in rows], np.array([row.get("strength") for row in rows], dtype=float)


def _aside(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which documents are held out: the share of each label, never all of one."""
    draw, aside = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for label in (0, 1):
        places = draw.permutation(np.flatnonzero(labels == label))
        aside[places[: min(len(places) - 1, round(share * len(places)))]] = True
    return aside if all(aside[labels == label].any() for label in (0, 1)) else np.zeros_like(aside)


def _trained(plan: Plan, texts: Sequence[str], labels: np.ndarray) -> "TextScorer":
    from tokenry.data import FastTextScorer, LinearScorer

    if plan.scorer == "fasttext":
        return FastTextScorer.train(texts, labels, **asdict(plan.fasttext))
    shared = {name: getattr(plan.fasttext, name) for name in _SHARED}
    return LinearScorer.train(texts, labels, **(asdict(plan.linear) | shared))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what was learned from, how well it is told apart, and the words that count."""
    positive, negative, accuracy = data["positive"], data["negative"], data["accuracy"]
    blocks: list[Block] = [
        Text(
            f"{plural(positive['documents'], 'document')} of strength {positive['lowest_strength']:.3g} or more against "
            f"{plural(negative['documents'], 'document')} of {negative['highest_strength']:.3g} or less, of {data['documents']:,}.",
            "lead",
        )
    ]
    if positive["lowest_strength"] <= negative["highest_strength"]:
        blocks.append(
            Text(
                "The two kinds touch: choose fewer extremes, so that there is something to learn.", "warning"
            )
        )
    if accuracy is None:
        blocks.append(
            Text("Too few documents to hold any out: how well they are told apart is not known.", "warning")
        )
    else:
        blocks += [
            Table(
                "On documents held out",
                ("measure", "value"),
                [("told apart rightly (at 0.5)", stored_estimate(accuracy)), ("AUROC", data["auroc"])],
            ),
            _scores(data["scores"]),
        ]
    words = data["words"]
    return [
        *blocks,
        Table(
            "Words that speak for a document",
            ("word", Column("weight", "log-odds", "+.3g")),
            [(row["word"], row["weight"]) for row in words if row["weight"] > 0],
        ),
        Table(
            "Words that speak against it",
            ("word", Column("weight", "log-odds", "+.3g")),
            [(row["word"], row["weight"]) for row in reversed(words) if row["weight"] <= 0],
        ),
    ]


def _scores(scores: Mapping[str, Sequence[float]]) -> Figure:
    edges = np.linspace(0, max(1.0, *map(max, scores.values())), _BINS + 1)
    series = [
        Series(kind, edges.tolist(), np.histogram(of_kind, edges)[0].tolist())
        for kind, of_kind in scores.items()
    ]
    return Figure(
        "Scores of documents held out",
        "histogram",
        series,
        "score",
        "documents",
        f"Scores of {plural(len(scores['strongest']), 'strong document')} and {plural(len(scores['weakest']), 'weak one')}.",
    )
