"""Texts with labels from a file, and stored predictions for them.

One object per text, in any format that data is read from:

    {"text": "…", "labels": ["cyst", "nodule"], "split": "test"}          any number of labels; an empty list for none
    {"text": "…", "label": "cyst"}                                       exactly one

`split` is train, validation or test. Without it, 70, 10 and 20 % of the texts are drawn. A stored prediction is an object per test text:

    {"text": "…", "probabilities": {"cyst": 0.91, "nodule": 0.08}}       the text may be left out
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_one_of

if TYPE_CHECKING:
    from numpy import ndarray

    from tokenry.evaluation.encoders import EncoderData, LabelledTexts

SPLITS = ("train", "validation", "test")
_SHARES = (0.7, 0.1, 0.2)


@dataclass(frozen=True)
class LabelledRow:
    """One text with the names of its labels, and where it is read."""

    text: str
    labels: tuple[str, ...]
    split: str | None


@dataclass(frozen=True)
class LabelledFile:
    """All texts of a file.

    Attributes:
        multi_label: whether a text may have any number of labels.
    """

    rows: Sequence[LabelledRow]
    multi_label: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all labels, sorted."""
        return tuple(sorted({label for row in self.rows for label in row.labels}))

    def parts(self, seed: int) -> dict[str, list[LabelledRow]]:
        """The texts by their split; drawn where the file names none."""
        import numpy as np

        if self.rows[0].split is not None:
            return {split: [row for row in self.rows if row.split == split] for split in SPLITS}
        order = np.random.default_rng(seed).permutation(len(self.rows))
        ends = np.cumsum([round(share * len(order)) for share in _SHARES[:2]])
        return {
            split: [self.rows[place] for place in places]
            for split, places in zip(SPLITS, np.split(order, ends), strict=True)
        }


def read_labelled(path: str | Path) -> LabelledFile:
    """Read labelled texts."""
    from tokenry.core.chat.reading import read_rows

    rows = read_rows(path)
    multi_label = "labels" in rows[0]
    found = [_row(row, f"{path}, text {number}", multi_label) for number, row in enumerate(rows, start=1)]
    if len({row.split is None for row in found}) > 1:
        raise UserError(f"{path} names a split for some texts only: give one to every text, or to none.")
    return LabelledFile(found, multi_label)


def _row(row: Mapping[str, Any], where: str, multi_label: bool) -> LabelledRow:
    text, name = row.get("text"), "labels" if multi_label else "label"
    if not isinstance(text, str):
        raise UserError(f"{where} has no text under text, got {text!r}.")
    if name not in row:
        raise UserError(
            f"{where} has no {name}: give labels (a list of names), or label (one name), alike for every text."
        )
    given = row[name]
    labels = given if multi_label else [given]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        expected = 'a list of names, such as ["cyst", "nodule"]' if multi_label else "one name, such as cyst"
        raise UserError(f"{where}: {name} must be {expected}, got {given!r}.")
    split = row.get("split")
    if split is not None:
        require_one_of(str(split), SPLITS, f"{where}: split")
    return LabelledRow(text, tuple(labels), split)


def matrix(rows: Sequence[LabelledRow], names: Sequence[str]) -> "LabelledTexts":
    """The texts with one column for each label."""
    import numpy as np

    from tokenry.evaluation.encoders import LabelledTexts

    labels = np.array([[int(name in row.labels) for name in names] for row in rows])
    return LabelledTexts([row.text for row in rows], labels.reshape(len(rows), len(names)))


def encoder_data(source: LabelledFile, external: LabelledFile | None, seed: int) -> "EncoderData":
    """The task of a file and, if there is one, of a file from elsewhere."""
    from tokenry.evaluation.encoders import EncoderData

    parts, names = source.parts(seed), source.names
    if empty := [split for split in SPLITS if not parts[split]]:
        raise UserError(
            f"the data have no {' and no '.join(empty)} texts: encoders need texts of each split ({', '.join(SPLITS)})."
        )
    if external is not None:
        if external.multi_label != source.multi_label:
            raise UserError(
                "the external texts have label where the others have labels, or the other way round: give both alike."
            )
        if unknown := sorted(set(external.names) - set(names)):
            raise UserError(
                f"the external texts have labels that the data do not have: {', '.join(unknown)}."
            )
    train, validation, test = (matrix(parts[split], names) for split in SPLITS)
    return EncoderData(
        names,
        train,
        validation,
        test,
        external=None if external is None else matrix(external.rows, names),
        multi_label=source.multi_label,
    )


def read_predictions(path: Path, texts: Sequence[str], names: Sequence[str]) -> "ndarray":
    """Read the stored probabilities of the test texts, in the order of the labels."""
    import numpy as np

    from tokenry.core.chat.reading import read_rows

    rows = read_rows(path)
    if len(rows) != len(texts):
        raise UserError(
            f"{path} has {len(rows)} predictions for {len(texts)} test texts: give one for each, in the same order."
        )
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), start=1):
        if row.get("text", text) != text:
            raise UserError(
                f"{path}, prediction {number} is of another text than the data have there: {str(row['text'])[:60]!r}, not {text[:60]!r}."
            )
        given = row.get("probabilities")
        if not isinstance(given, dict) or set(given) != set(names):
            found = ", ".join(map(str, given)) if isinstance(given, dict) else repr(given)
            raise UserError(
                f"{path}, prediction {number} must have a probability for each of {', '.join(names)} under probabilities, got {found}."
            )
    try:
        return np.array([[float(row["probabilities"][name]) for name in names] for row in rows])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} holds a probability that is no number: {error}.") from error
