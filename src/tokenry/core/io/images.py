"""The images of a folder: found, picked at equal distances, decoded the right way up; a damaged one is named and left out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tokenry.core.errors import UserError

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
        note(f"left out, as they cannot be read as images: {some_names(broken)}.")


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


def read_image(path: Path, mode: str = "RGB") -> Image.Image:
    """Decode an image, turned the right way up."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert(mode)


def read_square(path: Path, side: int | None, mode: str = "RGB") -> Image.Image:
    """Decode the middle square of an image at one size; all of the image where no side is given.

    Raises:
        UserError: it cannot be decoded.
    """
    with _named_if_damaged(path):
        image = read_image(path, mode)
    if side is None:
        return image
    short = min(image.size)
    left, top = ((length - short) // 2 for length in image.size)
    square = image.crop((left, top, left + short, top + short))
    return square.resize((side, side), Image.Resampling.BICUBIC)


def is_grey(path: Path) -> bool:
    """Whether an image is stored in one channel.

    Raises:
        UserError: it cannot be read.
    """
    with _named_if_damaged(path), Image.open(path) as image:
        return image.mode in ("L", "1")


@contextmanager
def _named_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be read as an image ({error}): remove it.") from error


def some_names(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
