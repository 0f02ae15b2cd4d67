"""The cache folder: results that are expensive to compute and can always be computed again.

`TOKENRY_CACHE` names the folder, else `XDG_CACHE_HOME/tokenry`, else `~/.cache/tokenry`.
A folder in it is either whole or absent, however many processes ask for it at once and whenever one of them is killed.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tokenry.core.errors import UserError


def cache_folder(*parts: str) -> Path:
    """The cache folder, or a place inside it; nothing is created."""
    chosen = os.environ.get("TOKENRY_CACHE")
    if chosen:
        return Path(chosen).expanduser().joinpath(*parts)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "tokenry", *parts)


@dataclass(frozen=True)
class CacheEntry:
    """One entry of the cache.

    Attributes:
        name: name in the cache folder.
        bytes: size on disk.
        modified: time of the last change, in seconds since the epoch.
    """

    name: str
    bytes: int
    modified: float


def cache_entries() -> list[CacheEntry]:
    """The entries of the cache, largest first."""
    root = cache_folder()
    places = [place for place in root.glob("*") if place.suffix != ".lock"]
    entries = []
    for place in places:
        files = [path for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()]
        if files:
            stats = [path.stat() for path in files]
            entries.append(
                CacheEntry(
                    place.name,
                    sum(stat.st_size for stat in stats),
                    max(stat.st_mtime for stat in stats),
                )
            )
    return sorted(entries, key=lambda entry: -entry.bytes)


def remove_entry(entry: CacheEntry) -> None:
    """Remove an entry; one that another process is building stays."""
    place = cache_folder(entry.name)
    with FileLock(place.with_name(f"{place.name}.lock")):
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def build_once(folder: Path, build: Callable[[Path], None], needed_bytes: int = 0) -> Path:
    """Return `folder`, after `build` has filled it if it is not there yet.

    One process builds, in a folder beside it that is renamed when complete; the others wait for it.

    Args:
        folder: folder of the result; it exists only when it is complete.
        build: fills the empty folder it is given.
        needed_bytes: free space that building needs.

    Raises:
        UserError: the cache cannot be written, or has too little space.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                _require_space(folder.parent, needed_bytes)
                _build_beside(folder, build)
    except OSError as error:
        raise UserError(
            f"the cache {folder.parent} cannot be written ({error.strerror or error}): free some space or name another "
            "folder in the environment variable TOKENRY_CACHE."
        ) from error
    return folder


def _build_beside(folder: Path, build: Callable[[Path], None]) -> None:
    # The lock makes this name ours alone, so what a killed process left under it can be removed.
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        build(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UserError(
            f"the cache {folder} has {free / 1e6:.0f} MB of space left and {needed_bytes / 1e6:.0f} MB are needed: free some "
            "space or name another folder in the environment variable TOKENRY_CACHE."
        )
