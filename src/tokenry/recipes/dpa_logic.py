"""The logic of preference losses (arXiv 2412.17696): is every published loss a program, and does the program tell how it behaves?

    identity       each equation is decompiled into formulas and compiled again: the same loss and the same gradients as written by hand,
                   the sigmoid, hinge and IPO losses of TRL included (headline)
    entailment     of the 16 core losses, the one that entails another is never the lower one
    behaviour      tabular policies trained with each core loss to the same margin: how probable is the chosen response then?

The paper's own comparison (cCPO about as good as CPO on a model of 0.5 billion parameters) could not be checked.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from tokenry.alignment import NAMED_LOSSES, CompiledLoss, Structure, decompile, lattice, name_of
from tokenry.alignment.compiled_loss import log1mexp
from tokenry.alignment.preference_logic import Mark
from tokenry.core.stats import exactly
from tokenry.recipes.kit import Claim, RecipeRun, recipe

PROB_OF = {"pw": "W", "pl": "L"}
WITH_REFERENCE = {**PROB_OF, "qw": "Rw", "ql": "Rl"}
CORE_ROWS: Mapping[str, Mark] = {"10": "v", "01": "x"}
TOLERANCE = 1e-6

Logps = Mapping[str, Tensor]


@dataclass(frozen=True)
class Equation:
    """A published loss: its ratio as polynomials, and ρ written by hand in log-probabilities.

    Attributes:
        top: numerator, in the symbols of `WITH_REFERENCE`.
        bottom: denominator.
        rho: log top − log bottom, written by hand.
    """

    top: str
    bottom: str
    rho: Callable[[Logps], Tensor]


def _either(p: Logps) -> Tensor:
    """log(1 − p_l (1 − p_w))."""
    return log1mexp(p["L"] + log1mexp(p["W"]))


def _both(p: Logps) -> Tensor:
    """Log of p_w (1 − p_l)."""
    return p["W"] + log1mexp(p["L"])


EQUATIONS: Mapping[str, Equation] = {
    "CE": Equation("pw", "1 - pw", lambda p: p["W"] - log1mexp(p["W"])),
    "UNL": Equation("1 - pl", "pl", lambda p: log1mexp(p["L"]) - p["L"]),
    "CEUNL": Equation("pw*(1 - pl)", "1 - pw*(1 - pl)", lambda p: _both(p) - log1mexp(_both(p))),
    "CPO": Equation("pw", "pl", lambda p: p["W"] - p["L"]),
    "ORPO": Equation(
        "pw*(1 - pl)", "pl*(1 - pw)", lambda p: p["W"] - log1mexp(p["W"]) - p["L"] + log1mexp(p["L"])
    ),
    "cCPO": Equation("pw", "pl*(1 - pw)", lambda p: p["W"] - p["L"] - log1mexp(p["W"])),
    "unCPO": Equation("1 - pl*(1 - pw)", "pl*(1 - pw)", lambda p: _either(p) - p["L"] - log1mexp(p["W"])),
    "cfUNL": Equation("1 - pl", "pl*(1 - pw)", lambda p: log1mexp(p["L"]) - p["L"] - log1mexp(p["W"])),
    "qfUNL": Equation("1 - pl", "1 - pw", lambda p: log1mexp(p["L"]) - log1mexp(p["W"])),
    "DPO": Equation("pw*ql", "pl*qw", lambda p: p["W"] - p["L"] - p["Rw"] + p["Rl"]),
}

# TRL's losses of DPO's ρ as written there, the link that they are, its beta for theirs, and the factor between the two.
TRL: Mapping[str, tuple[Callable[[Tensor, float], Tensor], str, Callable[[float], float], float]] = {
    "sigmoid": (lambda rho, beta: -functional.logsigmoid(beta * rho), "logistic", lambda beta: beta, 1.0),
    "hinge": (lambda rho, beta: functional.relu(1 - beta * rho), "margin", lambda beta: 1 / beta, 0.1),
    "ipo": (lambda rho, beta: (rho - 1 / (2 * beta)) ** 2, "squared", lambda beta: beta, 1.0),
}


@dataclass(frozen=True)
class LogicSizes:
    """Size of the experiments at one scale.

    Attributes:
        rows: random pairs of probabilities.
        prompts: prompts of the tabular policies.
        responses: responses to each prompt, of which one is chosen and one rejected.
        steps: steps of gradient descent.
        margin: log p_w − log p_l at which policies are compared.
    """

    rows: int = 1000
    prompts: int = 256
    responses: int = 16
    steps: int = 3000
    margin: float = 4.0


@recipe("dpa-logic", laptop=LogicSizes(), paper=LogicSizes(rows=100_000, prompts=10_000))
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Check the identities and the entailments, train the tabular policies, and judge each claim."""
    sizes: LogicSizes = run.sizes
    run.progress("identities", 0.0)
    differences = identities(sizes.rows)
    run.progress("entailments", 0.1)
    violations, pairs = entailments(sizes.rows)
    chosen = {}
    core = lattice(fixed_rows=CORE_ROWS)
    for number, structure in enumerate(core.structures):
        run.progress(f"a policy trained with {structure}", 0.2 + 0.8 * number / len(core.structures))
        chosen[core.marks[number]] = at_margin(structure, sizes)
    run.settings |= {
        "rows": sizes.rows,
        "differences": differences,
        "violations": violations,
        "reached": {marks: int((~values.isnan()).sum()) for marks, values in chosen.items()},
        "chosen_log_prob": {marks: _mean(values) for marks, values in chosen.items()},
    }
    with run.figure(7, 5) as figure:
        draw(figure, chosen)
    yield from claims(differences, violations, pairs, chosen)


def identities(rows: int) -> dict[str, float]:
    """The largest difference of loss and gradients between each loss by hand and its program, in float64."""
    logps, found = _random_logps(WITH_REFERENCE.values(), rows), {}
    logistic = TRL["sigmoid"][0]
    for name, equation in EQUATIONS.items():
        structure = decompile(equation.top, equation.bottom, WITH_REFERENCE if name == "DPO" else PROB_OF)
        program = CompiledLoss(structure, beta=0.1, per_token=False)
        found[name] = _difference(program, partial(_by_hand, equation.rho, logistic, 1.0), logps)
    dpo = Structure.parse(NAMED_LOSSES["DPO"])
    for name, (form, link, beta_of, factor) in TRL.items():
        by_hand = partial(_by_hand, EQUATIONS["DPO"].rho, form, factor)
        found[f"TRL {name}"] = _difference(CompiledLoss(dpo, link, beta_of(0.1)), by_hand, logps)
    return found


def _by_hand(
    rho: Callable[[Logps], Tensor], form: Callable[[Tensor, float], Tensor], factor: float, logps: Logps
) -> Tensor:
    return form(rho(logps), 0.1) / factor


def _difference(program: CompiledLoss, by_hand: Callable[[Logps], Tensor], logps: Logps) -> float:
    names = program.structure.variables
    inputs = {name: logps[name].clone().requires_grad_() for name in names}
    losses = program(inputs), by_hand(inputs)
    gradients = [torch.autograd.grad(loss.sum(), list(inputs.values()), allow_unused=True) for loss in losses]
    worst = float((losses[0] - losses[1]).detach().abs().max())
    for ours, theirs in zip(*gradients, strict=True):
        zero = torch.zeros(())
        worst = max(
            worst,
            float(((zero if ours is None else ours) - (zero if theirs is None else theirs)).abs().max()),
        )
    return worst


def entailments(rows: int) -> tuple[int, int]:
    """How often an entailing core loss is below the one it entails, and the number of entailments."""
    core = lattice(fixed_rows=CORE_ROWS)
    logps = _random_logps(PROB_OF.values(), rows)
    losses = [CompiledLoss(structure, beta=1.0, per_token=False)(logps) for structure in core.structures]
    pairs = list(core.entailments())
    return sum(int((losses[low] < losses[high] - 1e-9).sum()) for low, high in pairs), len(pairs)


def at_margin(structure: Structure, sizes: LogicSizes) -> Tensor:
    """The log-probability of each prompt's chosen response when its margin is first reached; nan where it never is."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(sizes.prompts, sizes.responses, generator=generator).requires_grad_()
    program = CompiledLoss(structure, beta=1.0, per_token=False)
    reached = torch.full((sizes.prompts,), torch.nan)
    for _ in range(sizes.steps):
        log_probs = table.log_softmax(-1)
        with torch.no_grad():
            now = (log_probs[:, 0] - log_probs[:, 1] >= sizes.margin) & reached.isnan()
            reached[now] = log_probs[now, 0]
        (gradient,) = torch.autograd.grad(program({"W": log_probs[:, 0], "L": log_probs[:, 1]}).sum(), table)
        with torch.no_grad():
            table -= 0.05 * gradient
    return reached


def claims(
    differences: Mapping[str, float], violations: int, pairs: int, chosen: Mapping[str, Tensor]
) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    worst = max(differences.values())
    yield Claim(
        "every loss is a program: decompiled and compiled again, it has the same loss and gradients as written by hand",
        paper="more than ten published losses (the paper's table could not be read)",
        measured=f"{len(differences)} losses, largest difference {worst:.1e}",
        control=f"{TOLERANCE:.0e} (float64)",
        verdict=exactly(worst <= TOLERANCE),
    )
    yield Claim(
        "a loss that entails another is never the lower one",
        paper=None,
        measured=f"{violations} violations of {pairs} entailments",
        control="0",
        verdict=exactly(violations == 0 and pairs == 81),
    )
    ours, theirs = chosen[_marks_of("cCPO")], chosen[_marks_of("CPO")]
    both = ~(ours.isnan() | theirs.isnan())
    yield Claim.above(
        "at the same margin, the chosen response is more probable with cCPO than with CPO",
        ours[both].tolist(),
        theirs[both].tolist(),
        "CPO",
        spec=".3f",
        unit=" nats",
        paper="cCPO competitive with CPO (not significant, by the reviews)",
    )


def _mean(values: Tensor) -> float | None:
    return None if bool(values.isnan().all()) else float(values.nanmean())


def _marks_of(name: str) -> str:
    return Structure.parse(NAMED_LOSSES[name], variables=("W", "L")).marks()


def _random_logps(names: Iterable[str], rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(rows, generator=generator, dtype=torch.float64).clamp(1e-3, 1 - 1e-3).log()
        for name in names
    }


def draw(figure: Figure, chosen: Mapping[str, Tensor]) -> None:
    """The lattice of the core losses: the strictest below, coloured by the probability of the chosen response at the margin."""
    core, axes = lattice(fixed_rows=CORE_ROWS), figure.subplots()
    rank_of = {"x": 0, "-": 1, "b": 1, "v": 2}
    heights = [sum(rank_of[mark] for mark in marks) for marks in core.marks]
    rows = {height: [i for i, other in enumerate(heights) if other == height] for height in set(heights)}
    places = {
        index: (rank - (len(row) - 1) / 2, height)
        for height, row in rows.items()
        for rank, index in enumerate(row)
    }
    for index, above in enumerate(core.covers):
        for cover in above:
            (left, low), (right, high) = places[index], places[cover]
            axes.plot([left, right], [low, high], color="0.8", linewidth=1, zorder=1)
    across, up = zip(*(places[index] for index in range(len(core.marks))), strict=True)
    means = [_mean(chosen[marks]) for marks in core.marks]
    colours = [math.nan if value is None else math.exp(value) for value in means]
    points = axes.scatter(across, up, c=colours, s=260, zorder=2, plotnonfinite=True)
    for index, structure in enumerate(core.structures):
        axes.annotate(name_of(structure) or core.marks[index], places[index], xytext=(0, -20), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip
    axes.set_axis_off()
    axes.margins(0.12)
    figure.colorbar(points, label="probability of the chosen response at the margin")
