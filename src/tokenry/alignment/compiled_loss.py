"""From formulas to a loss: log-probabilities of responses in, one loss per pair out, with gradients.

    ρ = log WMC(P_f) − log WMC(P_not_f)

    logistic   −log sigmoid(β ρ)        DPO, CPO, ORPO, SimPO
    squared    (ρ − 1 / 2β)²            IPO
    margin     max(0, β − ρ)            SLiC

A side is compiled once into disjoint cubes, such as `W and not L`; its count is a sum over cubes of products, computed in log space:

    log WMC = logsumexp over cubes of  Σ log p_v where v is true + Σ log(1 − p_v) where it is false

Probabilities of whole responses are near e^−100, where 1 − p is 1 and its gradient is lost. A structure in which a variable of the
model is negated therefore takes probabilities per token, exp(log p / length), wherever lengths are given.

Source: Understanding the Logic of Direct Preference Alignment through Logic (arXiv 2412.17696).
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from tokenry.alignment.preference_logic import REFERENCE, Structure, warn_of_equal_sides
from tokenry.alignment.truth_functions import Cube
from tokenry.core.errors import UserError, require_one_of

LINKS = ("logistic", "squared", "margin")
DEFAULT_BETA = {True: 0.1, False: 1.0}  # by whether there is a reference

# A probability of exactly 1 leaves nothing for the rows where it is false.
_HIGHEST_LOG_PROB = -1e-6


class CompiledLoss:
    """A preference loss as a function of the log-probabilities of its variables.

    Attributes:
        structure: what it says.
        link: how ρ becomes a loss.
        beta: factor, target or margin of the link.
        per_token: whether the model's log-probabilities are divided by lengths, where these are given.
    """

    def __init__(
        self,
        structure: Structure,
        link: str = "logistic",
        beta: float | int | None = None,
        per_token: bool | None = None,
    ) -> None:
        require_one_of(link, LINKS, "link")
        chosen = DEFAULT_BETA[bool(set(structure.variables) & set(REFERENCE))] if beta is None else beta
        if not (chosen > 0 and math.isfinite(chosen)):
            raise UserError(f"beta must be above 0 and finite, got {chosen}.")
        warn_of_equal_sides(structure)
        self.structure, self.link, self.beta = structure, link, float(chosen)
        cubes = [structure.functions.cubes(side) for side in structure.side_functions]
        for side, found in zip(("P_f", "P_not_f"), cubes, strict=True):
            if not found:
                raise UserError(
                    f"{side} of {structure} can never hold, so ρ would be infinite: weaken P_C, or add to P_A."
                )
        self.cubes: tuple[list[Cube], list[Cube]] = (cubes[0], cubes[1])
        negated = {name for side in cubes for cube in side for name, value in cube.items() if not value}
        self.per_token = bool(negated - set(REFERENCE)) if per_token is None else per_token

    def rho(
        self,
        logps: Mapping[str, Float[Tensor, " batch"]],
        lengths: Mapping[str, Shaped[Tensor, " batch"]] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The log-ratio ρ that the loss wants high, in nats.

        Args:
            logps: log-probability of each variable, in nats.
            lengths: tokens of each response; used where `per_token`.

        Raises:
            UserError: a variable without log-probabilities, or a log-probability that is not finite and below 0.
        """
        literals = self._literals(logps, lengths)
        # A side that always holds has no literal, and counts 1 for every pair.
        one = torch.zeros_like(next(iter((literals or logps).values())))
        winning, losing = (_log_count(cubes, literals, one) for cubes in self.cubes)
        return winning - losing

    def __call__(
        self,
        logps: Mapping[str, Float[Tensor, " batch"]],
        lengths: Mapping[str, Shaped[Tensor, " batch"]] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The loss of each pair; arguments as of `rho`."""
        rho = self.rho(logps, lengths)
        if self.link == "logistic":
            return -functional.logsigmoid(self.beta * rho)
        if self.link == "squared":
            return (rho - 1 / (2 * self.beta)) ** 2
        return functional.relu(self.beta - rho)

    def _literals(
        self, logps: Mapping[str, Tensor], lengths: Mapping[str, Tensor] | None
    ) -> dict[tuple[str, bool], Tensor]:
        """Log p and log(1 − p) of each variable that a cube names, the latter only where one negates it."""
        literals = {}
        for name, value in sorted({item for side in self.cubes for cube in side for item in cube.items()}):
            if (name, True) not in literals:
                literals[name, True] = self._log_prob(name, logps, lengths)
            if not value:
                literals[name, False] = log1mexp(literals[name, True])
        return literals

    def _log_prob(
        self, name: str, logps: Mapping[str, Tensor], lengths: Mapping[str, Tensor] | None
    ) -> Tensor:
        if name not in logps:
            raise UserError(
                f"the loss {self.structure} needs log-probabilities of {name}: given are {', '.join(logps)}."
            )
        logp = logps[name].to(torch.promote_types(logps[name].dtype, torch.float32))
        if not bool(((logp < 0) & logp.isfinite()).all()):
            raise UserError(
                f"the log-probabilities of {name} must be finite and below 0: give log p in nats, not p."
            )
        if self.per_token and lengths is not None and name not in REFERENCE:
            logp = logp / lengths[name]
        return logp.clamp(max=_HIGHEST_LOG_PROB)

    def __repr__(self) -> str:
        return f"CompiledLoss({str(self.structure)!r}, link={self.link!r}, beta={self.beta:g}, per_token={self.per_token})"


def compile_loss(
    structure: Structure | str,
    link: str = "logistic",
    beta: float | int | None = None,
    per_token: bool | None = None,
) -> CompiledLoss:
    """Compile a structure, or its text such as `L -> W | given W or L`; losses are kept by their truth functions' text."""
    return _compiled(
        str(structure),
        structure.variables if isinstance(structure, Structure) else None,
        link,
        beta,
        per_token,
    )


@lru_cache(maxsize=256)
def _compiled(
    text: str, variables: Sequence[str] | None, link: str, beta: float | int | None, per_token: bool | None
) -> CompiledLoss:
    return CompiledLoss(Structure.parse(text, variables), link, beta, per_token)


def log1mexp(log_prob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 − p) of log p, exact at both ends: by expm1 where p is above one half, by log1p below."""
    high = log_prob > -math.log(2)
    # Each branch sees only values that it is finite for: where() passes the gradients of both on.
    above = torch.where(high, log_prob, -math.log(2))
    below = torch.where(high, -math.log(2), log_prob)
    return torch.where(high, (-torch.expm1(above)).log(), torch.log1p(-below.exp()))


def _log_count(cubes: Sequence[Cube], literals: Mapping[tuple[str, bool], Tensor], one: Tensor) -> Tensor:
    """Log WMC of disjoint cubes; `one` is the logarithm of 1 for every pair."""
    products = [sum((literals[item] for item in cube.items()), one) for cube in cubes]
    return products[0] if len(products) == 1 else torch.stack(products).logsumexp(0)
