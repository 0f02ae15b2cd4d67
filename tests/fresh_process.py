"""Programs in processes of their own in which the libraries are imported already: seconds less for each."""

import gc
import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
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
    """What a program left: its exit code (none where it had to be stopped), and what it said."""

    returncode: int | None
    stdout: str
    stderr: str


def run_script(script: Path, *arguments: str, folder: Path) -> Finished:
    """Run a Python file as its own program; what it says goes through files in `folder`."""
    return _finished(_start(_run_path, (str(script), *arguments), {}, folder), folder)


def run_ranks(module: str, *arguments: str, folder: Path, ranks: int = 2) -> list[Finished]:
    """Run a module as the ranks of one job, as `torchrun` does."""
    processes = start_ranks(module, *arguments, folder=folder, ranks=ranks)
    return [_finished(process, folder / f"rank-{rank}") for rank, process in enumerate(processes)]


def start_ranks(module: str, *arguments: str, folder: Path, ranks: int = 2) -> list[BaseProcess]:
    """Start a module as the ranks of one job and go on; what each says stands in the folder `rank-N`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank in range(ranks):
        said = folder / f"rank-{rank}"
        said.mkdir(parents=True)
        ranked = {name: str(value) for name, value in {**job, "RANK": rank, "LOCAL_RANK": rank}.items()}
        processes.append(_start(_run_module, (module, *arguments), {**os.environ, **ranked}, said))
    return processes


def _start(
    run: Callable[[str], object], argv: tuple[str, ...], environment: Mapping[str, str], folder: Path
) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    process = context.Process(target=_become, args=(run, argv, environment, folder))
    process.start()
    return process


def _finished(process: BaseProcess, folder: Path) -> Finished:
    process.join(timeout=400)
    process.kill()
    said = [(folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
    return Finished(process.exitcode, *said)


def _run_path(path: str) -> None:
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def _run_module(module: str) -> None:
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _become(
    run: Callable[[str], object], argv: tuple[str, ...], environment: Mapping[str, str], folder: Path
) -> None:
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        stream.flush()
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), 1 if name == "stdout" else 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = [*argv]
    os.environ.update(environment)
    gc.freeze()  # every training collects garbage, of which imported modules are none
    try:
        run(argv[0])
    finally:
        sys.stdout.flush()
