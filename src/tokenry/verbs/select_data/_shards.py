"""Work that is done shard by shard: in this process, or by Ray Data, whose actors each make one worker and with it load a model once."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.jobs import started_ray

START = 30.0
"""Seconds that it takes to start a local cluster and its actors."""


@dataclass(frozen=True)
class Workers:
    """Where shards are worked on.

    Attributes:
        ray: run on a Ray cluster (extra ray), which must see the same files.
        actors: number of Ray workers, each with what it loads.
    """

    ray: bool = False
    actors: int = 2

    def __post_init__(self) -> None:
        require_at_least(1, actors=self.actors)

    def over(
        self,
        shards: Sequence[str],
        worker: Callable[..., Callable[[str], str]],
        arguments: tuple[Any, ...],
        gpus: float = 0.0,
    ) -> Iterator[str]:
        """Yield what a worker finds in each shard, in any order.

        Args:
            shards: names of the shards; nothing is loaded where there are none.
            worker: makes a worker from the arguments; a class of a module.
            arguments: what the worker is made from.
            gpus: GPUs of each Ray worker.
        """
        if not shards:
            return
        if not self.ray:
            work = worker(*arguments)
            yield from map(work, shards)
            return
        started_ray()
        data = import_module("ray.data")
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        found = data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
        ).map_batches(
            RayWorker,
            fn_constructor_args=(worker, arguments),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=min(self.actors, len(shards))),
            num_gpus=gpus,
        )
        for row in found.iter_rows():
            yield row["found"]

    def pays_from(self, megabytes_per_second: float, did: str = "read") -> str:
        """The sentence that says from which size of a corpus several Ray workers are worth their start.

        Args:
            megabytes_per_second: of one process, as it was measured.
            did: what the process did with them.
        """
        megabytes = START * megabytes_per_second * self.actors / (self.actors - 1)
        return (
            f"One process {did} {megabytes_per_second:.2g} MB/s: with {self.actors} workers of that speed, Ray, which takes about "
            f"{START:.0f} s to start, pays from {megabytes:,.{2 if megabytes < 10 else 0}f} MB on."
        )


class RayWorker:
    """A worker inside an actor of Ray Data."""

    def __init__(self, worker: Callable[..., Callable[[str], str]], arguments: tuple[Any, ...]) -> None:
        self.work = worker(*arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Work on a batch of one shard."""
        return {"found": [self.work(str(shard)) for shard in batch["shard"]]}
