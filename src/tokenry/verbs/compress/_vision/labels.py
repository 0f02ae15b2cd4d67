"""The labels of images, from a CSV file, checked before any work starts; a row without an image is named in a note and left out."""

from collections.abc import Sequence
from pathlib import Path

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import nearest
from tokenry.core.io.images import ImageFile, Note, some_names
from tokenry.core.io.reading import read_csv


def read_label_rows(path: Path) -> dict[str, str]:
    """Read a CSV file with the columns `file` and `label`.

    Returns:
        The label as written, by file.
    """
    columns, rows = read_csv(path, name=f"the labels {path}")
    named = {column.strip(): column for column in columns}
    if not {"file", "label"} <= set(named):
        raise UserError(
            f"{path} has the columns {', '.join(named) or 'none'}: its first line must be `file,label`."
        )
    labels: dict[str, str] = {}
    for _, row in rows:
        name, label = (str(row[named[column]] or "").strip() for column in ("file", "label"))
        if labels.setdefault(name, label) != label:
            raise UserError(f"{path} has two labels for {name}: {labels[name]!r} and {label!r}.")
    if not labels:
        raise UserError(f"{path} has no row below its first line.")
    return labels


def match_labels(
    rows: dict[str, str],
    files: Sequence[ImageFile],
    known: Sequence[ImageFile],
    classes: Sequence[str],
    note: Note,
) -> list[int | None]:
    """The class of each image; None for those without a label.

    Args:
        rows: label by file name, relative to the folder, or bare where that is unambiguous.
        files: the images looked at.
        known: all images of the folder; a row that names none of them is named in a note.
        classes: the model's; a label is one of these names, or an index.
        note: called with the rows that name no image.
    """
    if not classes:
        raise UserError(
            "labels are given, but the model is no classifier: leave them out, and its features are compared."
        )
    by_name = {name: _class_of(label, classes) for name, label in rows.items()}
    names = _names(known)
    strangers = [name for name in by_name if name not in names]
    if len(strangers) == len(by_name):
        raise UserError(
            f"none of the {len(by_name)} labelled files is among the images, such as {strangers[0]!r}: name them relative to the folder "
            f"of images, such as {known[0].name!r}."
        )
    if strangers:
        note(f"labelled files that are not among the images: {some_names(strangers)}.")
    labels = {names[name]: label for name, label in by_name.items() if name in names}
    matched = [labels.get(file.name) for file in files]
    if not any(label is not None for label in matched):
        raise UserError("none of the images looked at has a label: raise the limit, or leave the labels out.")
    return matched


def _names(files: Sequence[ImageFile]) -> dict[str, str]:
    """Every name by which labels may call an image, and its own."""
    bare: dict[str, list[str]] = {}
    for file in files:
        bare.setdefault(file.path.name, []).append(file.name)
    clear = {short: names[0] for short, names in bare.items() if len(names) == 1}
    return clear | {file.name: file.name for file in files}


def _class_of(label: str, classes: Sequence[str]) -> int:
    if label in classes:
        return list(classes).index(label)
    if label.isdecimal() and int(label) < len(classes):
        return int(label)
    raise UserError(
        f"the label {label!r} is no class of the model{nearest(label, classes)}: give one of its {len(classes)} names, such as "
        f"{classes[0]!r}, or an index below {len(classes)}."
    )
