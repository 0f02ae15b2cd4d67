"""The command line answers at once: `tokenry --help` in a process of its own, against one second.

CPU seconds of the whole process, interpreter included, least of the rounds; beside it those of an interpreter that imports nothing.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator

from _report import Result, result, run

MOST_SECONDS = 1.0
HELP, NOTHING = ("-m", "tokenry", "--help"), ("-c", "pass")


def measure(smoke: bool) -> Iterator[Result]:
    """The seconds are the ratio: the target is one second."""
    rounds = 1 if smoke else 7
    helped, nothing = (min(cpu_seconds(words) for _ in range(rounds)) for words in (HELP, NOTHING))
    yield result(
        "tokenry --help: CPU seconds / one second",
        helped / MOST_SECONDS,
        1.0,
        rounds=rounds,
        cpu_seconds={"tokenry --help": round(helped, 2), "python alone": round(nothing, 3)},
    )


def cpu_seconds(words: tuple[str, ...]) -> float:
    """CPU seconds of a Python process that ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    run(measure, __doc__ or "")
