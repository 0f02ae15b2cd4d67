"""Learning rates of a million steps at once: seconds, and against transformers' cosine with a minimum, one step after the other."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from _measure import interleaved
from _report import Result, result, run, speedup
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from tokenry.pretraining import InfiniteSchedule, RateSchedule, RewarmSchedule
from tokenry.pretraining.schedules import STYLES

SECONDS_TARGET, SPEED_TARGET = 0.1, 1.0


def measure(smoke: bool) -> Iterator[Result]:
    """Every schedule on all steps, the peer on some of them, by turns."""
    steps, timed, rounds = (1000, 10, 1) if smoke else (10**6, 20_000, 5)
    schedules: dict[str, RateSchedule] = {"re-warming": RewarmSchedule(steps, steps // 100, 3e-4)}
    schedules |= {
        f"infinite, {style}": InfiniteSchedule.over(steps, steps // 100, 3e-4, style=style)
        for style in STYLES
    }
    at_once = np.arange(steps)

    def all_of(schedule: RateSchedule) -> Callable[[], None]:
        return lambda: (schedule(at_once), None)[1]

    seconds = interleaved(
        {name: all_of(schedule) for name, schedule in schedules.items()}
        | {"transformers": lambda: one_by_one(steps, timed)},
        rounds,
        threads=1,
    )
    cpu = {name: taken.cpu for name, taken in seconds.items()}
    peer = cpu["transformers"] / timed * steps
    settings = {
        "steps": steps,
        "steps_timed_of_transformers": timed,
        "threads": 1,
        "rounds": rounds,
        "cpu_seconds": {name: round(cpu[name], 4) for name in schedules}
        | {"transformers, extrapolated": round(peer, 2)},
    }
    for name in schedules:
        yield result(
            f"seconds of a million steps: {name}", cpu[name] / steps * 10**6, SECONDS_TARGET, **settings
        )
    yield speedup(
        "transformers step by step / re-warming at once", peer / cpu["re-warming"], SPEED_TARGET, **settings
    )


def one_by_one(steps: int, timed: int) -> None:
    """The rates of the first steps from the scheduler's own function, without its optimiser."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = get_cosine_with_min_lr_schedule_with_warmup(optimizer, steps // 100, steps, min_lr_rate=0.1)
    (rate,) = scheduler.lr_lambdas
    for step in range(timed):
        rate(step)


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
