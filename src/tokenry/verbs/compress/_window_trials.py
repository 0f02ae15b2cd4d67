"""Fine-tuning on raw and on shortened texts at every window, each after a search of its own with the same number of trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress, part

if TYPE_CHECKING:
    from tokenry.compression.text import SearchResult, TextSplits, WindowTrial
    from tokenry.verbs.compress.long_text import Plan

ORDER = ("learning_rate", "batch_size", "dropout")
RAW, SHORT = "raw", "shortened"


@dataclass(frozen=True)
class TextSource:
    """Texts as they were given.

    Attributes:
        rows: one object for each text, with `text`.
        train: the texts that low frequency is fitted on.
        splits: texts with labels, for fine-tuning; None without.
        split_given: whether the data name the training texts.
    """

    rows: Sequence[Mapping[str, Any]]
    train: Sequence[str]
    splits: "TextSplits | None"
    split_given: bool


def read_source(path: Path, seed: int, labelled: bool) -> TextSource:
    """Read texts; where they are to be fine-tuned on, with one label each."""
    from tokenry.verbs.detect._detectors import read_documents

    rows = read_documents(path)
    if labelled:
        splits = _splits(path, seed)
        return TextSource(rows, splits.train.texts, splits, split_given=True)
    train = [row["text"] for row in rows if row.get("split") == "train"]
    return TextSource(rows, train or [row["text"] for row in rows], None, split_given=bool(train))


def _splits(path: Path, seed: int) -> "TextSplits":
    from tokenry.compression.text import ClassifiedTexts, TextSplits
    from tokenry.verbs.evaluate._labelled_texts import encoder_data, read_labelled

    data = encoder_data(read_labelled(path), None, seed)
    if data.multi_label:
        raise UserError(f"{path} has labels: --trials fine-tunes on one label per text, under label.")
    parts = (data.train, data.validation, data.test)
    return TextSplits(
        data.names, *(ClassifiedTexts(part.texts, part.labels.argmax(axis=1)) for part in parts)
    )


@dataclass(frozen=True)
class WindowStudy:
    """One model on raw and on shortened texts.

    Attributes:
        plan: the plan of the verb.
        windows: windows in tokens, the longest last.
        output: folder of the ledgers.
    """

    plan: "Plan"
    model: str
    windows: Sequence[int]
    output: Path

    def rows(self, raw: "TextSplits", short: "TextSplits", progress: Progress) -> list[dict[str, Any]]:
        """Search on each kind of texts at the longest window, and fine-tune with what was best at every window."""
        found = []
        for number, (kind, texts) in enumerate(((RAW, raw), (SHORT, short))):
            stage = part(progress, number / 2, (number + 1) / 2)
            searched = self.searched(kind, texts, part(stage, 0.0, 0.7))
            for place, window in enumerate(self.windows):
                stretch = part(stage, *(0.7 + 0.3 * end / len(self.windows) for end in (place, place + 1)))
                found.append((kind, window, searched, self.trained(texts, window, searched.best, stretch)))
        whole = next(trial for kind, window, _, trial in found if (kind, window) == (RAW, self.windows[-1]))
        return [
            {
                "texts": kind,
                "window": window,
                **beside(trial, whole, self.plan.margin),
                "settings": dict(searched.best),
                "trials": len(searched.trials),
                "ended": searched.ended,
            }
            for kind, window, searched, trial in found
        ]

    def searched(self, kind: str, texts: "TextSplits", progress: Progress) -> "SearchResult":
        """Search on one kind of texts; its ledger is resumed."""
        from tokenry.compression.text import gradual_search
        from tokenry.core.io.workspace import fingerprint

        plan, window = self.plan, self.windows[-1]
        stretches = (part(progress, n / plan.trials, (n + 1) / plan.trials) for n in range(plan.trials))
        grids = dict(zip(ORDER, (plan.learning_rates, plan.batch_sizes, plan.dropouts), strict=True))
        read = (*texts.train.texts, *texts.validation.texts, texts.train.labels)
        return gradual_search(
            lambda config: self.trained(texts, window, config, next(stretches)).validation_f1,
            grids,
            ORDER,
            {name: sorted(grid)[(len(grid) - 1) // 2] for name, grid in grids.items()},
            max_trials=plan.trials,
            extend={"learning_rate": 2},
            ledger=self.output / f"search-{kind}.jsonl",
            task={
                "model": self.model,
                "window": window,
                "head": plan.head,
                "epochs": plan.training.epochs,
                "seed": plan.seed,
                "texts": fingerprint(*read, length=16),
            },
        )

    def trained(
        self, texts: "TextSplits", window: int, config: Mapping[str, Any], progress: Progress
    ) -> "WindowTrial":
        """Fine-tune a new head and the encoder under it."""
        from torch import nn

        from tokenry.compression.text import NEWS, window_trial
        from tokenry.models import load_text_classifier

        plan = self.plan
        classifier = load_text_classifier(
            self.model, texts.names, max_length=window, dtype="float32", seed=plan.seed
        )
        classifier.model.to(plan.hardware.place())
        for module in classifier.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = config["dropout"]
        settings = replace(
            NEWS,
            epochs=plan.training.epochs,
            bfloat16=plan.training.bfloat16,
            learning_rate=config["learning_rate"],
            batch_size=config["batch_size"],
            seed=plan.seed,
        )
        return window_trial(replace(classifier, head=plan.head), texts, settings, progress)


def beside(trial: "WindowTrial", whole: "WindowTrial", margin: float) -> dict[str, Any]:
    """A fine-tuning beside that on raw texts at the longest window."""
    from tokenry.core.stats import paired_difference, shown

    difference = paired_difference(trial.right, whole.right)
    return {
        "macro_f1": trial.test_f1,
        "validation_f1": trial.validation_f1,
        "right": float(trial.right.mean()),
        "difference": asdict(difference),
        "not_worse": shown(difference, -margin),
        "seconds": trial.seconds,
    }
