"""Files that a page sends: each is checked by its content, whatever it is called, and copied under a name of our own making."""

import json
import re
from enum import Enum
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write


class Kind(Enum):
    """What a file must be: how it is called in a sentence, and the endings that a page offers."""

    TEXT = ("a text file in UTF-8", (".txt", ".md"))
    TOKENIZER = ("a tokenizer.json", (".json",))
    ROWS = ("rows in JSON lines, JSON or CSV", (".jsonl", ".json", ".csv"))
    RUNS = ("a table in CSV", (".csv",))
    IMAGE = ("an image (PNG, JPEG or WebP)", (".png", ".jpg", ".jpeg", ".webp"))

    @property
    def noun(self) -> str:
        """What it is, in words."""
        return self.value[0]

    @property
    def endings(self) -> tuple[str, ...]:
        """The endings of its files."""
        return self.value[1]


def take(file: Path, kind: Kind, folder: Path) -> Path:
    """Check an upload, and copy it into `folder`.

    Raises:
        UserError: its content is not of the kind.
    """
    content = file.read_bytes()
    ending = _image_ending(file) if kind is Kind.IMAGE else file.suffix.lower()
    if ending not in kind.endings or (kind is not Kind.IMAGE and not _is_text(content, kind)):
        raise UserError(f"{file.name} is not {kind.noun}: choose another file.")
    stem = re.sub(r"[^\w-]+", "-", file.stem).strip("-")[:60] or "upload"
    copy = folder / f"{stem}{ending}"
    number = 2
    while copy.exists():
        copy, number = folder / f"{stem}-{number}{ending}", number + 1
    with atomic_write(copy) as partial:
        partial.write_bytes(content)
    return copy


def _is_text(content: bytes, kind: Kind) -> bool:
    try:
        text = content.decode()
        return "\0" not in text and (kind is not Kind.TOKENIZER or _is_tokenizer(json.loads(text)))
    except ValueError:
        return False


def _is_tokenizer(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get("model"), dict)


def _image_ending(file: Path) -> str:
    """The ending that belongs to the content; empty where it is no image."""
    from PIL import Image

    endings = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
    try:
        with Image.open(file, formats=list(endings)) as image:
            image.verify()
            return endings[str(image.format)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
