"""Preference losses: each one function of the log-probabilities of a chosen and a rejected response.

    dpo            −log s(β D)                                         D = (log π_w − log ref_w) − (log π_l − log ref_l)
    ipo            (D − 1 / 2β)²
    simpo          −log s(β log π_w / n_w − β log π_l / n_l − margin)  …

Whatever the loss, a gradient step on it is d_w ∇log π_w − d_l ∇log π_l with two numbers per pair, its multipliers:

    d_w = −∂loss/∂log π_w        d_l = ∂loss/∂log π_l

Automatic differentiation of these few numbers gives them for every loss, one written as a formula included:
`preference_loss("L -> W | given W or L")`.

Sources: A Common Pitfall of Margin-based Language Model Alignment: Gradient Entanglement (arXiv 2410.13828) for the view, the papers of
the losses for the losses.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from tokenry.alignment.compiled_loss import CompiledLoss, compile_loss, log1mexp
from tokenry.alignment.preference_logic import NAMED_LOSSES, REFERENCE, Structure
from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.registry import Registry


@dataclass(frozen=True)
class Responses:
    """The responses of one side of the pairs.

    Attributes:
        logp: log-probability of each response under the model, in nats.
        reference: the same under the reference model.
        length: tokens of each response.
    """

    logp: Float[Tensor, "batch"]
    reference: Float[Tensor, "batch"]
    length: Shaped[Tensor, "batch"]

    @property
    def log_ratio(self) -> Float[Tensor, "batch"]:
        """Log π − log ref."""
        return self.logp - self.reference

    @property
    def per_token(self) -> Float[Tensor, "batch"]:
        """Log π / length."""
        return self.logp / self.length


@dataclass(frozen=True)
class PreferenceLoss(ABC):
    """A loss per pair of responses.

    A subclass has its options as fields, says its `equation`, and implements `__call__`. `beta` must be above 0, other numbers 0 or more.

    Attributes:
        equation: the loss in letters, for tables.
        logic: name in `NAMED_LOSSES` of the program that its ρ is; None where it is not a link of one ρ.
        uses_reference: whether a reference model is needed.
        uses_length: whether lengths are needed.
    """

    equation: ClassVar[str]
    logic: ClassVar[str | None] = None
    uses_reference: ClassVar[bool] = True
    uses_length: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if field.name == "beta" and not (value > 0 and math.isfinite(value)):
                raise UserError(f"beta must be above 0 and finite, got {value}.")
            require_at_least(0, **{field.name: value})

    @abstractmethod
    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""

    @property
    def structure(self) -> Structure | None:
        """The program that its ρ is, where it is one."""
        return Structure.parse(NAMED_LOSSES[self.logic]) if self.logic else None


_SURE = -1e-6  # for 0, the log-probability in float32 of a short response that the model is sure of

LOSSES: Registry[PreferenceLoss] = Registry("preference loss", __name__)


def preference_loss(loss: str | Structure | PreferenceLoss, **options: Any) -> PreferenceLoss:
    """Make a preference loss from its name, its formula, or the name of a formula in `NAMED_LOSSES`.

        preference_loss("dpo:beta=0.5")
        preference_loss("L -> W | given W or L:link=margin")
        preference_loss("cCPO", beta=0.5)

    Raises:
        UserError: an unknown name or option (the nearest is suggested), a formula that cannot be read, or an option out of range.
    """
    if isinstance(loss, PreferenceLoss):
        return loss
    if isinstance(loss, Structure):
        return LOSSES.make("formula", formula=str(loss), **options)
    name, _, written = (part.strip() for part in loss.partition(":"))
    # One word that is neither a variable nor a named formula can only be the name of a loss.
    if name in LOSSES or (name.replace("-", "").isalnum() and name not in {*NAMED_LOSSES, "W", "L"}):
        return LOSSES.make(loss, **options)
    return LOSSES.make(f"formula:{written}", formula=NAMED_LOSSES.get(name, name), **options)


@LOSSES.register("dpo")
@dataclass(frozen=True)
class DPO(PreferenceLoss):
    """Direct preference optimisation (arXiv 2305.18290)."""

    equation = "-log s(beta D)"
    logic = "DPO"
    beta: float | int = 0.1

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        return -logsigmoid(self.beta * (chosen.log_ratio - rejected.log_ratio))


@LOSSES.register("rdpo")
@dataclass(frozen=True)
class RDPO(PreferenceLoss):
    """DPO with the difference of lengths in its margin (arXiv 2403.19159)."""

    equation = "-log s(beta D + length_weight (n_w - n_l))"
    uses_length = True
    beta: float | int = 0.1
    length_weight: float | int = 0.2

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        longer = self.length_weight * (chosen.length - rejected.length)
        return -logsigmoid(self.beta * (chosen.log_ratio - rejected.log_ratio) + longer)


@LOSSES.register("ipo")
@dataclass(frozen=True)
class IPO(PreferenceLoss):
    """Identity preference optimisation (arXiv 2310.12036); TRL's takes log-ratios per token, as `per_token` does."""

    equation = "(D - 1 / (2 beta))^2"
    logic = "DPO"
    beta: float | int = 0.1
    per_token: bool = False

    @property
    def uses_length(self) -> bool:  # type: ignore[override]
        """Whether log-ratios are taken per token."""
        return self.per_token

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        won, lost = chosen.log_ratio, rejected.log_ratio
        if self.per_token:
            won, lost = won / chosen.length, lost / rejected.length
        return (won - lost - 1 / (2 * self.beta)) ** 2


@LOSSES.register("hinge")
@dataclass(frozen=True)
class Hinge(PreferenceLoss):
    """SLiC's margin on DPO's difference, as TRL's `hinge` (arXiv 2309.06657)."""

    equation = "max(0, 1 - beta D)"
    logic = "DPO"
    beta: float | int = 0.1

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        return relu(1 - self.beta * (chosen.log_ratio - rejected.log_ratio))


@LOSSES.register("simpo")
@dataclass(frozen=True)
class SimPO(PreferenceLoss):
    """Simple preference optimisation: probabilities per token, a margin in place of a reference (arXiv 2405.14734)."""

    equation = "-log s(beta log pi_w / n_w - beta log pi_l / n_l - margin)"
    logic = "DPO"  # with a reference that is set by hand: its log-ratio is margin / beta
    uses_reference, uses_length = False, True
    beta: float | int = 0.1
    margin: float | int = 0.5

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        return -logsigmoid(self.beta * (chosen.per_token - rejected.per_token) - self.margin)


@LOSSES.register("slic")
@dataclass(frozen=True)
class SLiC(PreferenceLoss):
    """Sequence likelihood calibration with human feedback (arXiv 2305.10425)."""

    equation = "max(0, margin - (log pi_w - log pi_l)) - sft_weight log pi_w"
    uses_reference = False
    margin: float | int = 1.0
    sft_weight: float | int = 0.1

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        return relu(self.margin - (chosen.logp - rejected.logp)) - self.sft_weight * chosen.logp


@LOSSES.register("rrhf")
@dataclass(frozen=True)
class RRHF(PreferenceLoss):
    """Rank responses to align with human feedback (arXiv 2304.05302)."""

    equation = "max(0, log pi_l / n_l - log pi_w / n_w) - sft_weight log pi_w"
    uses_reference, uses_length = False, True
    sft_weight: float | int = 1.0

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        return relu(rejected.per_token - chosen.per_token) - self.sft_weight * chosen.logp


@LOSSES.register("cpo")
@dataclass(frozen=True)
class CPO(PreferenceLoss):
    """Contrastive preference optimisation (arXiv 2401.08417)."""

    equation = "-log s(beta (log pi_w - log pi_l)) - sft_weight log pi_w"
    uses_reference = False
    beta: float | int = 0.1
    sft_weight: float | int = 1.0

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        return -logsigmoid(self.beta * (chosen.logp - rejected.logp)) - self.sft_weight * chosen.logp


@LOSSES.register("dpop")
@dataclass(frozen=True)
class DPOP(PreferenceLoss):
    """DPO-positive, which penalises a chosen response below its reference; also called Smaug (arXiv 2402.13228)."""

    equation = "-log s(beta (D - penalty max(0, log ref_w - log pi_w)))"
    beta: float | int = 0.1
    penalty: float | int = 50.0

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        below = relu(-chosen.log_ratio)
        return -logsigmoid(self.beta * (chosen.log_ratio - rejected.log_ratio - self.penalty * below))


@LOSSES.register("kto")
@dataclass(frozen=True)
class KTO(PreferenceLoss):
    """Kahneman-Tversky optimisation of a pair, its baseline z0 taken as given (arXiv 2402.01306)."""

    equation = (
        "-chosen_weight s(beta r_w - baseline) - rejected_weight s(baseline - beta r_l), r = log pi - log ref"
    )
    beta: float | int = 0.1
    baseline: float | int = 0.1
    chosen_weight: float | int = 1.0
    rejected_weight: float | int = 1.0

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        won = torch.sigmoid(self.beta * chosen.log_ratio - self.baseline)
        lost = torch.sigmoid(self.baseline - self.beta * rejected.log_ratio)
        return -self.chosen_weight * won - self.rejected_weight * lost


@LOSSES.register("sppo")
@dataclass(frozen=True)
class SPPO(PreferenceLoss):
    """Self-play preference optimisation with hard labels (arXiv 2405.00675)."""

    equation = "(r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2, r = log pi - log ref"
    beta: float | int = 0.1

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        target = 1 / (2 * self.beta)
        return (chosen.log_ratio - target) ** 2 + (rejected.log_ratio + target) ** 2


@LOSSES.register("unlikelihood")
@dataclass(frozen=True)
class Unlikelihood(PreferenceLoss):
    """Supervised fine-tuning with unlikelihood of the rejected response, per token (arXiv 1908.04319)."""

    equation = "-log pi_w - weight log(1 - p), p = pi_l^(1 / n_l)"
    uses_reference, uses_length = False, True
    weight: float | int = 0.1

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        return -chosen.logp - self.weight * log1mexp(rejected.per_token.clamp(max=_SURE))


@LOSSES.register("formula")
@dataclass(frozen=True)
class FormulaLoss(PreferenceLoss):
    """A loss that is written as a formula, or by the name of one, and compiled.

    Attributes:
        formula: such as `L -> W | given W or L`, or `cCPO`.
    """

    formula: str
    link: str = "logistic"
    beta: float | int | None = None
    per_token: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # The defaults of beta and per_token depend on the formula.
        for name in ("beta", "per_token"):
            object.__setattr__(self, name, getattr(self.compiled, name))

    @property
    def compiled(self) -> CompiledLoss:
        """The formula as a function of log-probabilities."""
        text = NAMED_LOSSES.get(self.formula, self.formula)
        return compile_loss(text, self.link, self.beta, self.per_token)

    @property
    def structure(self) -> Structure:
        """What the formula says."""
        return self.compiled.structure

    @property
    def equation(self) -> str:  # type: ignore[override]
        """The link, of ρ."""
        beta = f"{self.beta:g}"
        forms = {
            "logistic": f"-log s({beta} rho)",
            "squared": f"(rho - 1 / (2 * {beta}))^2",
            "margin": f"max(0, {beta} - rho)",
        }
        return f"{forms[self.link]}, rho = log P_f / P_not_f of {self.structure}"

    @property
    def uses_reference(self) -> bool:  # type: ignore[override]
        """Whether the formula names the reference."""
        return bool(set(self.structure.variables) & set(REFERENCE))

    @property
    def uses_length(self) -> bool:  # type: ignore[override]
        """Whether probabilities are taken per token."""
        return self.compiled.per_token

    def __call__(self, chosen: Responses, rejected: Responses) -> Float[Tensor, "batch"]:
        """The loss of each pair."""
        given = {"W": chosen.logp, "L": rejected.logp, "Rw": chosen.reference, "Rl": rejected.reference}
        logps = {name: torch.where(logp == 0, _SURE, logp) for name, logp in given.items()}
        return self.compiled(logps, {"W": chosen.length, "L": rejected.length})


class Multipliers(NamedTuple):
    """What a loss does with a pair.

    Attributes:
        chosen: d_w, the weight of ∇log π_w in a gradient step.
        rejected: d_l, the weight of −∇log π_l.
    """

    loss: Float[Tensor, "batch"]
    chosen: Float[Tensor, "batch"]
    rejected: Float[Tensor, "batch"]


def multipliers(
    loss: str | Structure | PreferenceLoss, chosen: Responses, rejected: Responses, **options: Any
) -> Multipliers:
    """The loss of each pair, and its multipliers d_w and d_l.

    Raises:
        UserError: as `preference_loss`, or a log-probability that is not finite.
    """
    form = preference_loss(loss, **options)
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        bad = ~(side.logp.isfinite() & side.reference.isfinite())
        if bool(bad.any()):
            raise UserError(
                f"the log-probability of the {name} response of pair {int(bad.nonzero()[0]) + 1} is not finite: "
                "is the model damaged, or did its training diverge?"
            )
    with torch.enable_grad():
        sides = [
            Responses(side.logp.detach().requires_grad_(), side.reference, side.length)
            for side in (chosen, rejected)
        ]
        losses = form(*sides)
        slopes = torch.autograd.grad(losses.sum(), [side.logp for side in sides], materialize_grads=True)
    return Multipliers(losses.detach(), -slopes[0], slopes[1])


def margin_multipliers(
    loss: str | Structure | PreferenceLoss,
    logp_w: Float[Tensor, "batch"],
    logp_l: Float[Tensor, "batch"],
    ref_w: Float[Tensor, "batch"] | None = None,
    ref_l: Float[Tensor, "batch"] | None = None,
    len_w: Shaped[Tensor, "batch"] | None = None,
    len_l: Shaped[Tensor, "batch"] | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """The multipliers (d_w, d_l) of a loss at given log-probabilities.

    Args:
        loss: name with options, formula, or the loss itself.
        logp_w: log-probabilities of chosen responses in nats.
        ref_w: log-probabilities of chosen responses under the reference.
        len_w: tokens of the chosen responses.

    Raises:
        UserError: as `multipliers`, or the loss needs a reference or lengths that are not given.
    """
    form = preference_loss(loss, **options)
    if form.uses_reference and (ref_w is None or ref_l is None):
        raise UserError(f"the loss {name_of_loss(form)} compares with a reference: give ref_w and ref_l.")
    if form.uses_length and (len_w is None or len_l is None):
        raise UserError(f"the loss {name_of_loss(form)} depends on lengths: give len_w and len_l.")
    sides = [
        Responses(
            logp,
            torch.zeros_like(logp) if reference is None else reference,
            torch.ones_like(logp) if length is None else length,
        )
        for logp, reference, length in ((logp_w, ref_w, len_w), (logp_l, ref_l, len_l))
    ]
    return multipliers(form, *sides)[1:]


def name_of_loss(loss: PreferenceLoss) -> str:
    """The registered name of a loss; the formula of one that is a formula."""
    return loss.formula if isinstance(loss, FormulaLoss) else LOSSES.name_of(loss)
