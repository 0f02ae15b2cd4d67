"""Independent jobs, done one after another in this process, or side by side in several processes or on a Ray cluster."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from typing import Any, TypeVar

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress

Job = TypeVar("Job")
Found = TypeVar("Found")


def over(
    jobs: Sequence[Job],
    run: Callable[..., Iterable[Found]],
    arguments: Callable[[Job], tuple[Any, ...]],
    name: Callable[[Job], str],
    progress: Progress,
    ray: bool = False,
    processes: int = 1,
) -> Iterator[Found]:
    """Yield what each job finds: as soon as it is found in this process, when the job is done elsewhere.

    Args:
        run: does one job; a function of a module, given the job's arguments.
        arguments: makes the arguments of a job when it begins, so that only what is being worked on is in memory.
        name: names a job for the progress.
        progress: called after each job with the share of jobs that are done.
        ray: use the running Ray cluster, else a local one (extra `tokenry[ray]`).
        processes: without Ray, number of processes of one thread each; 1 is this process.
    """
    if ray or processes == 1:
        running = (_on_ray if ray else _here)(jobs, run, arguments)
    else:
        running = _side_by_side(jobs, run, arguments, processes)
    for done, (job, found) in enumerate(running, start=1):
        yield from found
        progress(name(job), done / len(jobs))


def started_ray() -> Any:
    """The module `ray`, connected to the running cluster, else to a local one."""
    # What it reads when it is imported: no token file in the home folder.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'tokenry[ray]', or run without it.") from error
    if not ray.is_initialized():
        plain = {"env_vars": {"TOKENIZERS_PARALLELISM": "false"}}
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR", runtime_env=plain)
    return ray


def _here(
    jobs: Sequence[Job], run: Callable[..., Iterable[Found]], arguments: Callable[[Job], tuple[Any, ...]]
) -> Iterator[tuple[Job, Iterable[Found]]]:
    return ((job, run(*arguments(job))) for job in jobs)


def _side_by_side(
    jobs: Sequence[Job],
    run: Callable[..., Iterable[Found]],
    arguments: Callable[[Job], tuple[Any, ...]],
    processes: int,
) -> Iterator[tuple[Job, Iterable[Found]]]:
    with ProcessPoolExecutor(processes, get_context("spawn"), _in_one_thread) as pool:
        begun = [pool.submit(_whole, run, *arguments(job)) for job in jobs]
        yield from ((job, done.result()) for job, done in zip(jobs, begun, strict=True))


def _in_one_thread() -> None:
    """Before the process imports what reads it."""
    os.environ["OMP_NUM_THREADS"] = "1"


def _on_ray(
    jobs: Sequence[Job], run: Callable[..., Iterable[Found]], arguments: Callable[[Job], tuple[Any, ...]]
) -> Iterator[tuple[Job, Iterable[Found]]]:
    ray = started_ray()
    remote = ray.remote(_whole)
    room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = deque(jobs)
    running: dict[Any, Job] = {}
    while waiting or running:
        while waiting and len(running) < room:
            job = waiting.popleft()
            running[remote.remote(run, *arguments(job))] = job
        (ready, *_), _ = ray.wait(list(running), num_returns=1)
        yield running.pop(ready), ray.get(ready)


def _whole(run: Callable[..., Iterable[Found]], *given: Any) -> list[Found]:
    return list(run(*given))
