"""What the authors of the VLM scaling law published: their table of scores, and their fit, a search over a grid.

Source: Inference Optimal VLMs Need Only One Visual Token but Larger Models (arXiv 2411.03312), paper and released code.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from tokenry.compression.vision.vlm_scaling import Numbers, ScalingFit, scaling_points

Table = Literal["reasoning", "ocr"]

PUBLISHED_SIZES = (0.5, 1.8, 4.0, 7.0)
PUBLISHED_TOKENS = (1, 4, 16, 36, 64, 144, 576)
# Average scores, one row per size and one column per number of tokens, from the authors' repository. Its OCR figures stand in
# comments only; the last of 7B repeats the one of 4B.
PUBLISHED_SCORES: Mapping[Table, tuple[tuple[float, ...], ...]] = {
    "reasoning": (
        (0.3855, 0.3917, 0.4078, 0.4133, 0.4151, 0.4244, 0.4320),
        (0.4333, 0.4519, 0.4528, 0.4597, 0.4609, 0.4758, 0.4808),
        (0.4630, 0.4692, 0.4858, 0.4916, 0.5023, 0.5092, 0.5185),
        (0.4810, 0.4971, 0.5050, 0.5141, 0.5172, 0.5238, 0.5354),
    ),
    "ocr": (
        (0.09786452795, 0.1182958067, 0.1550942008, 0.1910774145, 0.1941969882, 0.221068366, 0.2608343672),
        (0.1052476426, 0.1374539054, 0.1752941354, 0.2073164965, 0.2205697757, 0.2585236455, 0.3095503029),
        (0.1268003646, 0.155895545, 0.1927482015, 0.2320252514, 0.2603975472, 0.2882145317, 0.3460536811),
        (0.1390784633, 0.1642774799, 0.205, 0.2391638418, 0.2618315143, 0.2880269247, 0.3460536811),
    ),
}


# The grid of the released fit, which looks at a random fifth of its five million points.
_A = np.linspace(0.2, 0.7, 50)
_ALPHA = np.linspace(0.0, 0.2, 100)
_BETA = np.linspace(0.0, 0.05, 100)
_D = np.linspace(0.0, 0.3, 10)


def published_scores(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The paper's table as (sizes in billions, visual tokens, errors), one entry per point."""
    size, tokens = np.meshgrid(PUBLISHED_SIZES, PUBLISHED_TOKENS, indexing="ij")
    return size.ravel(), tokens.ravel().astype(float), 1 - np.asarray(PUBLISHED_SCORES[table]).ravel()


def grid_search(n_billion: Numbers, tokens: Numbers, error: Numbers) -> ScalingFit:
    """Find the best point of the released fit's complete grid (5 million points), for comparison.

    With p = N^-alpha V^-beta the sum of squares is a polynomial of sums over the points,
    A^2 sum(p^2) - 2 A sum(p (error - D)) + sum((error - D)^2), so the points are summed once per (alpha, beta) only.

    Source: arXiv 2411.03312, released fitting code (grid), which evaluates 20 % of it in random order.
    """
    size, count, target = scaling_points(n_billion, tokens, error)
    factor, rest = _A[:, None], target[:, None] - _D
    exponents = np.stack(np.meshgrid(_ALPHA, _BETA, indexing="ij"), axis=-1).reshape(-1, 2)
    sse = np.empty((len(exponents), len(_A), len(_D)))
    for number, (alpha, beta) in enumerate(exponents):
        power = size**-alpha * count**-beta
        sse[number] = factor**2 * (power @ power) - 2 * factor * (power @ rest) + (rest**2).sum(axis=0)
    # The polynomial loses digits where it is small: the nearly best points are evaluated again, one by one.
    near = np.argwhere(sse <= sse.min() + 1e-9)
    fits = []
    for number, place, level in near:
        alpha, beta = map(float, exponents[number])
        fits.append(ScalingFit(float(_A[place]), alpha, beta, float(_D[level]), points=len(target)))
    errors = [float(((fit.predict(size, count) - target) ** 2).sum()) for fit in fits]
    return replace(fits[int(np.argmin(errors))], sse=min(errors))
