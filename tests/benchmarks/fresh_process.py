"""Scripts in processes of their own in which the libraries are imported already: seconds less for each."""

import multiprocessing
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

_LIBRARIES = [
    "torch",
    "transformers",
    "trl",
    "scipy.optimize",
    "pandas",
    "tokenry.finetuning",
    "tokenry.compression.vision",
]


@dataclass(frozen=True)
class Finished:
    """What a script left: its exit code, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def run_script(script: Path, *arguments: str, folder: Path) -> Finished:
    """Run a Python file as its own program; what it says goes through files in `folder`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    process = context.Process(target=_become, args=(script, arguments, folder))
    process.start()
    process.join()
    said = [(folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
    return Finished(process.exitcode, *said)


def _become(script: Path, arguments: tuple[str, ...], folder: Path) -> None:
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        stream.flush()
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), 1 if name == "stdout" else 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.stdout.flush()
