"""The images of a folder and the labels of a CSV file, checked before any work starts.

What cannot be used (a damaged image, a row without an image) is named in a note and left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import nearest
from tokenry.core.io.reading import read_csv

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_NAMED = 5
"""Maximum number of names in a note."""

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on a damaged image."""

Note = Callable[[str], None]
"""Called with a sentence on what is left out."""


@dataclass(frozen=True)
class ImageFile:
    """One image.

    Attributes:
        name: its path relative to the folder, by which labels and report call it.
    """

    path: Path
    name: str


def find_images(folder: Path) -> list[ImageFile]:
    """The images of a folder and of the folders in it, sorted by name."""
    if not folder.exists():
        raise UserError(f"the folder of images {folder} does not exist.")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: name the folder that holds the images.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"{folder} holds no image ({', '.join(_SUFFIXES)}), nor does a folder in it.")
    return [ImageFile(path, path.relative_to(folder).as_posix()) for path in found]


def pick(files: Sequence[ImageFile], limit: int | None) -> list[ImageFile]:
    """`limit` images at equal distances: folders are often sorted by class, and the first ones would be of one class only."""
    if limit is None:
        return list(files)
    places = np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int)
    return [files[place] for place in places]


def pick_readable(files: Sequence[ImageFile], limit: int | None, note: Note) -> list[ImageFile]:
    """Pick as `pick` does, but only images that can be decoded: the nearest that can takes the place of one that cannot.

    Without a limit nothing is decoded here: `batches` leaves out what it cannot decode.
    """
    picked = pick(files, limit)
    if limit is None:
        return picked
    place_of = {file: place for place, file in enumerate(files)}
    tried: dict[int, bool] = {}
    for file in picked:
        for place in _outwards(place_of[file], len(files)):
            if place not in tried:
                tried[place] = _can_be_read(files[place])
                if tried[place]:
                    break
    _leave_out([files[place].name for place in sorted(tried) if not tried[place]], len(tried), note)
    return [files[place] for place in sorted(tried) if tried[place]]


def _outwards(place: int, count: int) -> Iterator[int]:
    """The places below `count`, the nearest to `place` first."""
    yield place
    for distance in range(1, count):
        yield from (near for near in (place + distance, place - distance) if 0 <= near < count)


def _leave_out(broken: Sequence[str], tried: int, note: Note) -> None:
    """Name the images that cannot be read in a note."""
    if len(broken) == tried:
        raise UserError(f"none of the {tried} images can be read, such as {broken[0]}.")
    if broken:
        note(f"left out, as they cannot be read as images: {_some(broken)}.")


def _can_be_read(file: ImageFile) -> bool:
    try:
        read_image(file.path)
    except _UNREADABLE:
        return False
    return True


def batches(
    files: Sequence[ImageFile], size: int, note: Note
) -> Iterator[tuple[list[ImageFile], list[Image.Image]]]:
    """Decode images, `size` at a time; those that cannot be decoded are left out, and named in a note at the end."""
    broken: list[str] = []
    read: list[tuple[ImageFile, Image.Image]] = []
    for file in files:
        try:
            read.append((file, read_image(file.path)))
        except _UNREADABLE:
            broken.append(file.name)
        if len(read) == size:
            yield [file for file, _ in read], [image for _, image in read]
            read = []
    if read:
        yield [file for file, _ in read], [image for _, image in read]
    _leave_out(broken, len(files), note)


def read_image(path: Path) -> Image.Image:
    """Decode an image as RGB, turned the right way up."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


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
        note(f"labelled files that are not among the images: {_some(strangers)}.")
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


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
