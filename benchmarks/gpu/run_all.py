"""Runs the benchmarks of this folder, the most telling first, in at most eight minutes; what has not begun by then is left out, and said."""

import subprocess
import sys
import time
from pathlib import Path

ORDER = (
    "sstoken_step",
    "sliding_window",
    "rtd_base",
    "xar_sampling",
    "flow_head",
    "byte_lm",
    "rl_step",
    "decoding",
)
MOST_SECONDS = 480


def main() -> int:
    """Each in a process of its own: one that fails or takes too long costs the others nothing; 1 where one failed."""
    ends, failed = time.monotonic() + MOST_SECONDS, []
    for number, name in enumerate(ORDER):
        left = ends - time.monotonic()
        if left <= 0:
            print(f"left out, since {MOST_SECONDS} s are over: {', '.join(ORDER[number:])}", file=sys.stderr)
            break
        try:
            finished = subprocess.run([sys.executable, Path(__file__).with_name(f"{name}.py")], timeout=left)
            failed += [name] * bool(finished.returncode)
        except subprocess.TimeoutExpired:
            print(f"{name} was cut off; what it measured so far is stored", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
