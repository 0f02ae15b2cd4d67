"""The scaling law of VLMs: bounded least squares against the search of the released code's grid.

The paper's reasoning table, 28 points. The released search looks at 20 % of five million grid points, one by one in Python, each with a
loop over the table; its time here is extrapolated from a sample of grid points. The vectorised search of the complete grid
(`grid_search`) is ours. The fit checks how far D can be told; its intervals are timed apart.
"""

from collections.abc import Iterator

import numpy as np
from _measure import interleaved
from _report import Result, run, speedup

from tokenry.compression.vision.published_scaling import grid_search, published_scores
from tokenry.compression.vision.vlm_scaling import fit_vlm_scaling

TARGET = 1000.0
INTERVALS_TARGET = 50.0
VECTORISED_TARGET = 1.0
GRID_POINTS = 50 * 100 * 100 * 10
SEARCHED = GRID_POINTS // 5
SAMPLES = 200


def measure(smoke: bool) -> Iterator[Result]:
    """All of them by turns; the loop on a sample of the grid."""
    table = published_scores("reasoning")
    looked_at, rounds, samples = (4, 1, 4) if smoke else (2000, 5, SAMPLES)
    points = _some_of_the_grid(looked_at)
    seconds = interleaved(
        {
            "fit": lambda: fit_vlm_scaling(*table, bootstrap=0),
            "fit with intervals": lambda: fit_vlm_scaling(*table, bootstrap=samples),
            "loop over a sample": lambda: search(points, table),
            "vectorised grid": lambda: grid_search(*table),
        },
        rounds,
        threads=1,
    )
    cpu = {name: each.cpu for name, each in seconds.items()}
    loop = cpu["loop over a sample"] / looked_at * SEARCHED
    settings = {
        "points": len(table[0]),
        "grid_points_searched": SEARCHED,
        "grid_points_timed": looked_at,
        "extrapolated": "the loop's time, from the grid points timed to those searched",
        "bootstrap": samples,
        "threads": 1,
        "rounds": rounds,
        "cpu_seconds": {name: round(each, 4) for name, each in cpu.items()}
        | {"loop, extrapolated": round(loop, 1)},
    }
    yield speedup("released grid search (20 %) / fit", loop / cpu["fit"], TARGET, **settings)
    yield speedup(
        "released grid search (20 %) / fit with intervals",
        loop / cpu["fit with intervals"],
        INTERVALS_TARGET,
        **settings,
    )
    yield speedup(
        "vectorised search of the complete grid / fit",
        cpu["vectorised grid"] / cpu["fit"],
        VECTORISED_TARGET,
        **settings,
    )


def _some_of_the_grid(number: int) -> np.ndarray:
    """Points of the released grid in random order, as it searches them."""
    draw = np.random.default_rng(0)
    axes = (
        np.linspace(0.2, 0.7, 50),
        np.linspace(0, 0.2, 100),
        np.linspace(0, 0.05, 100),
        np.linspace(0, 0.3, 10),
    )
    return np.stack([draw.choice(axis, number) for axis in axes], axis=1)


def search(
    points: np.ndarray, table: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[float, np.ndarray | None]:
    """Search as the released code does, without its progress bar: point after point, size after size, token count after token count.

    There, too, a prediction is a call, and a score is looked up by the size's name and the token count's place.
    """
    sizes, tokens = (sorted(set(column.tolist())) for column in table[:2])
    rows = iter(table[2])
    scores = {str(size): [1 - next(rows) for _ in tokens] for size in sizes}
    least, best = float("inf"), None
    for point in points:
        loss = 0.0
        for size in sizes:
            for count in tokens:
                measured = 1 - scores[str(size)][tokens.index(count)]
                loss += (predict(point, size, count) - measured) ** 2
        if loss < least:
            least, best = loss, point
    return least, best


def predict(point: np.ndarray, size: float, count: float) -> float:
    """One error, in numpy's scalars, as a grid point holds them."""
    factor, alpha, beta, floor = point
    return factor / size**alpha / count**beta + floor


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
