"""One visual token (arXiv 2411.03312): a larger model or more visual tokens, and what a question-aware compressor saves.

Two experiments, each with its control in the same run:

    scaling law   the paper's published scores fitted anew: what size and tokens are worth, and the best choice under a budget
    digits        QueCC against the query-blind TokenPacker at one token: one of four digits is asked for

Headline: the title's, which is exact once the law is fitted. The paper's coefficients are those that it prints. The
digits have no figure in the paper. `--scale paper` runs more seeds; the paper's own training
(LLaVA-1.5-7B, 558k and 665k samples) is not run by this recipe.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import mean
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tokenry.compression.vision.published_scaling import (
    PUBLISHED_SIZES,
    PUBLISHED_TOKENS,
    Table,
    published_scores,
)
from tokenry.compression.vision.quecc import QueCC, TokenPackerCompressor
from tokenry.compression.vision.vlm_scaling import (
    ScalingFit,
    compute_optimal,
    fit_vlm_scaling,
    inference_flops,
)
from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import FEWEST_SEEDS, Estimate, exactly, shown
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.quadrant_digits import (
    DIGITS,
    QUADRANTS,
    QuadrantSetting,
    reading_accuracy,
    train_reader,
)

PAPER_RATIO = 0.077 / 0.015
CANDIDATES = (*PUBLISHED_SIZES, 14.0)
# In every one of them the largest model is out of reach with a single token.
BUDGETS = (1e9, 4e9, 1e10, 2e10)
TABLES: tuple[Table, ...] = ("reasoning", "ocr")
TITLES: Mapping[Table, str] = {"reasoning": "Reasoning", "ocr": "OCR"}
CONTROL, OURS = "query-blind", "QueCC"
MARGIN = 20.0
Accuracies = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class VisualTokenSizes:
    """Seeds of the digits, and how their readers are made and trained."""

    seeds: tuple[int, ...]
    digits: QuadrantSetting = field(default_factory=QuadrantSetting)


def digit_settings(base: QuadrantSetting | None = None) -> dict[str, QuadrantSetting]:
    """The three ways of reading the token, by name; a token of four numbers has one per digit of the image."""
    base = base or QuadrantSetting()
    return {
        "linear read-out": replace(base, read_out="linear"),
        "read-out that can use the question": base,
        "the same, token of four numbers": replace(base, token_size=QUADRANTS),
    }


@recipe("one-visual-token", laptop=VisualTokenSizes((0, 1)), paper=VisualTokenSizes(tuple(range(10))))
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Run both experiments and judge each claim."""
    sizes: VisualTokenSizes = run.sizes
    run.progress("scaling law", 0.0)
    fits = {table: fit_vlm_scaling(*published_scores(table)) for table in TABLES}
    settings = digit_settings(sizes.digits)
    accuracies = _read_digits(settings, sizes.seeds, part(run.progress, 0.02, 1.0))
    run.settings |= {
        "seeds": list(sizes.seeds),
        "fits": {
            table: asdict(fit) | {"alpha_beta_ratio": fit.alpha_beta_ratio} for table, fit in fits.items()
        },
        "held_out_sizes": held_out_sizes(),
        "budgets": list(BUDGETS),
        "digits": {name: asdict(setting) for name, setting in settings.items()},
        "accuracies": accuracies,
    }
    with run.figure(14, 4.2) as figure:
        draw(figure, fits, accuracies)
    yield from scaling_claims(fits["reasoning"], fits["ocr"])
    yield from digit_claims(accuracies)


def held_out_sizes() -> dict[str, float]:
    """Mean RMSE on sizes left out of the fit: of the law, and of the nearest size that was not left out."""
    size, tokens, error = published_scores("reasoning")
    of_law, of_nearest = [], []
    for left_out in PUBLISHED_SIZES:
        used = size != left_out
        fit = fit_vlm_scaling(size[used], tokens[used], error[used], bootstrap=0)
        nearest = min(set(PUBLISHED_SIZES) - {left_out}, key=lambda other: abs(np.log(other / left_out)))
        of_law.append(_rmse(fit.predict(size[~used], tokens[~used]), error[~used]))
        of_nearest.append(_rmse(error[size == nearest], error[~used]))
    return {"law": mean(of_law), "nearest size": mean(of_nearest)}


def scaling_claims(reasoning: ScalingFit, ocr: ScalingFit) -> Iterator[Claim]:
    """Claims on the fitted laws; the best choice under a law is exact."""
    chosen = [compute_optimal(reasoning, CANDIDATES, PUBLISHED_TOKENS, budget) for budget in BUDGETS]
    of_ocr = compute_optimal(ocr, CANDIDATES, PUBLISHED_TOKENS, BUDGETS[-1])
    affordable = [max(n for n in CANDIDATES if inference_flops(n * 1e9, 1) <= budget) for budget in BUDGETS]
    one_token = [
        best is not None and (best.n_billion, best.visual_tokens) == (largest, 1)
        for best, largest in zip(chosen, affordable, strict=True)
    ]
    yield Claim(
        "reasoning, text cached: the best choice is the largest model that can be paid, with one visual token",
        "one token at every such budget",
        measured=f"{sum(one_token)} of {len(BUDGETS)} budgets",
        control=f"OCR at {BUDGETS[-1]:.0e} FLOPs: {_choice(of_ocr)}; reasoning: {_choice(chosen[-1])}",
        verdict=exactly(all(one_token)),
    )
    yield Claim(
        "reasoning: a model twice as large is worth more than twice the visual tokens (alpha / beta above 1)",
        f"{PAPER_RATIO:.1f} (0.077 / 0.015)",
        measured=_ratio(reasoning).with_interval(),
        control="1 (worth the same)",
        verdict=shown(_ratio(reasoning), least=1.0),
    )
    yield Claim(
        "OCR: the other way round, twice the tokens are worth more (alpha / beta below 1)",
        None,
        measured=_ratio(ocr).with_interval(),
        control=f"{reasoning.alpha_beta_ratio:.2f} (reasoning)",
        verdict=shown(_ratio(ocr).scaled(-1), least=-1.0),
    )


def digit_claims(accuracies: Accuracies) -> Iterator[Claim]:
    """The gap between QueCC and the query-blind compressor in each setting, seed by seed."""
    for name, of_kind in accuracies.items():
        yield Claim.above(
            f"digits, one token, {name}: QueCC is right at least {MARGIN:g} points more often",
            100 * np.array(of_kind[OURS]),
            100 * np.array(of_kind[CONTROL]),
            f"{CONTROL}; guessing {100 / DIGITS:.0f} %",
            least=MARGIN,
            fewest=FEWEST_SEEDS,
            unit=" %",
        )


def _ratio(fit: ScalingFit) -> Estimate:
    """Alpha / beta with its bootstrap interval."""
    return Estimate(fit.alpha_beta_ratio, math.nan, fit.points, *fit.ci["alpha_beta_ratio"])


def _read_digits(
    settings: Mapping[str, QuadrantSetting], seeds: Sequence[int], progress: Progress
) -> dict[str, dict[str, list[float]]]:
    kinds = {OURS: QueCC, CONTROL: TokenPackerCompressor}
    runs = [(name, kind, seed) for name in settings for kind in kinds for seed in seeds]
    accuracies: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in kinds} for name in settings}
    for number, (name, kind, seed) in enumerate(runs):
        progress(f"digits, {name}: {kind}, seed {seed}", number / len(runs))
        reader = train_reader(kinds[kind], seed, settings[name])
        accuracies[name][kind].append(reading_accuracy(reader, seed, settings[name]))
    return accuracies


def _rmse(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(np.sqrt(((predicted - measured) ** 2).mean()))


def _choice(best: Any) -> str:
    return "nothing" if best is None else f"{best.n_billion:g}B with {best.visual_tokens}"


def draw(figure: Figure, fits: Mapping[Table, ScalingFit], accuracies: Accuracies) -> None:
    """The published errors with their law over the FLOPs of a query, and the digits seed by seed."""
    axes = figure.subplots(1, 3)
    tokens = np.geomspace(PUBLISHED_TOKENS[0], PUBLISHED_TOKENS[-1], 60)
    for axis, table in zip(axes[:2], TABLES, strict=True):
        size, count, error = published_scores(table)
        for place, billions in enumerate(PUBLISHED_SIZES):
            here, grey = size == billions, str(0.65 - 0.2 * place)
            flops = inference_flops(billions * 1e9, count[here])
            axis.plot(flops, error[here], "osD^"[place], color=grey, markersize=4)
            axis.plot(
                inference_flops(billions * 1e9, tokens),
                fits[table].predict(billions, tokens),
                color=grey,
                label=f"{billions:g}B",
            )
        budgets = np.geomspace(1e9, 8e12, 80)
        best = [
            compute_optimal(fits[table], PUBLISHED_SIZES, PUBLISHED_TOKENS, float(budget))
            for budget in budgets
        ]
        axis.step(
            budgets, [choice.error for choice in best if choice], where="post", color="black", linewidth=0.8,
            linestyle="--", label="best choice",
        )  # fmt: skip
        axis.set(
            xscale="log",
            xlabel="FLOPs per query (text cached)",
            ylabel="error (1 − average score)",
            title=f"{TITLES[table]}: alpha / beta = {fits[table].alpha_beta_ratio:.2f}",
        )
        axis.legend(fontsize=8, frameon=False, title="points: published, lines: law", title_fontsize=8)
    _draw_digits(axes[2], accuracies)


def _draw_digits(axis: Any, accuracies: Accuracies) -> None:
    for place, of_kind in enumerate(accuracies.values()):
        for shift, marker, kind in ((-0.1, "o", OURS), (0.1, "s", CONTROL)):
            axis.plot(
                np.full(len(of_kind[kind]), place + shift),
                of_kind[kind],
                marker,
                color="black",
                fillstyle="full" if kind == OURS else "none",
                markersize=6,
                label=kind if place == 0 else None,
            )
    axis.axhline(1 / DIGITS, color="0.5", linewidth=0.8, linestyle="--", label="guessing")
    axis.set_xticks(range(len(accuracies)), [fill(name, 20) for name in accuracies], fontsize=8)
    axis.set(
        xlim=(-0.5, len(accuracies) - 0.5),
        ylim=(0, 1.03),
        ylabel="right answers, unseen digits",
        title="One token, one of four digits asked for",
    )
    axis.legend(fontsize=8, frameon=False, loc="center")
