"""Tokenizers on disk: a tokenizer of any kind is loaded by its name, and saved so that it loads again.

A stock tokenizer is a folder that `AutoTokenizer.from_pretrained` reads, a `tokenizer.json`, or a model's name; a BoundlessBPE
tokenizer is a file `boundless.json`, or the folder it is in.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.io.reading import open_text
from tokenry.core.text.token_counts import AnyTokenizer
from tokenry.models import load_tokenizer
from tokenry.tokenization.special_roles import as_fast
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE

_BOUNDLESS = "boundless.json"


def load_any_tokenizer(source: str | Path) -> AnyTokenizer:
    """Load a tokenizer of any kind from a file, a folder, or the name of a model."""
    path = Path(source)
    if (path / _BOUNDLESS).is_file():
        return BoundlessBPE.load(path / _BOUNDLESS)
    if not path.is_file():
        return load_tokenizer(str(source))
    if path.name == _BOUNDLESS:
        return BoundlessBPE.load(path)
    try:
        return _read_file(path)
    except UserError as error:
        try:
            return BoundlessBPE.load(path)
        except UserError:
            raise error from None


def load_fast_tokenizer(source: str | os.PathLike) -> PreTrainedTokenizerBase:
    """Load a tokenizer for a model of transformers.

    Args:
        source: a `tokenizer.json`, a folder, or the name of a model; the special tokens of a bare file get the roles that their names
            tell.
    """
    path = Path(source)
    if path.name == _BOUNDLESS or (path / _BOUNDLESS).is_file():
        raise UserError(
            f"{source} is a BoundlessBPE tokenizer, whose tokens no tokenizer of transformers can write: for a model train bpe, unigram or "
            "superbpe."
        )
    if not path.is_file():
        return load_tokenizer(source)
    return as_fast(_read_file(path))


def save_tokenizer(tokenizer: Tokenizer | BoundlessBPE, folder: Path) -> Path:
    """Save a tokenizer into a folder from which transformers or this library loads it; returns its main file.

    Special tokens get the roles (bos, eos, …) that their names tell.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, BoundlessBPE):
        tokenizer.save(folder / _BOUNDLESS)
        return folder / _BOUNDLESS
    as_fast(tokenizer).save_pretrained(folder)
    return folder / "tokenizer.json"


def _read_file(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise UserError(f"{path} is not a tokenizer file ({error}): give a tokenizer.json.") from error


@dataclass(frozen=True)
class TextLines:
    """The lines of text files, read anew each time; the files stay on disk.

    Attributes:
        files: text files in UTF-8.
        whole_files: whether a text is a whole file and not a line.
    """

    files: tuple[Path, ...]
    whole_files: bool = False

    def __post_init__(self) -> None:
        missing = [str(file) for file in self.files if not Path(file).is_file()]
        if missing or not self.files:
            raise UserError(f"there is no text file {', '.join(missing) or 'at all'}: name at least one.")

    def __iter__(self) -> Iterator[str]:
        for file in self.files:
            with open_text(Path(file)) as opened:
                if self.whole_files:
                    yield opened.read()
                else:
                    yield from (line.rstrip("\n") for line in opened)


def text_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """List the files; a folder stands for all its `.txt` files, in order."""
    found: list[Path] = []
    for path in map(Path, paths):
        found += sorted(path.glob("**/*.txt")) if path.is_dir() else [path]
    return tuple(found)
