"""Gradient entanglement: whether one step on a preference loss moves both log-probabilities of a pair as wanted.

A loss fixes only a combination of log π_w and log π_l, but one step moves both through the same weights. With g_w = ∇log π_w,
g_l = ∇log π_l, and the multipliers d_w and d_l of the loss, a step of length η along −∇loss = d_w g_w − d_l g_l gives, to first order,

    Δlog π_w = η (d_w |g_w|² − d_l ⟨g_w, g_l⟩)        wanted: ≥ 0
    Δlog π_l = η (d_w ⟨g_w, g_l⟩ − d_l |g_l|²)        wanted: ≤ 0

Where d_w = d_l, both move as wanted if and only if the condition ratio ⟨g_w, g_l⟩ / min(|g_w|², |g_l|²) is at most 1.

Source: A Common Pitfall of Margin-based Language Model Alignment: Gradient Entanglement (arXiv 2410.13828), whose released script
compares with |g_w|² twice; the paper's condition is computed here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from tokenry.alignment.preference_pairs import Batch, PreferencePair, pairs_in
from tokenry.core.errors import UserError
from tokenry.core.tensors.losses import backbone, causal_lm, output_head, weighted_cross_entropy
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import accumulation_dtype

CASES = ("as wanted", "both rise", "both fall", "opposite")
"""What a step does to chosen and rejected log-probability, by the code of the case: up and down, up and up, down and down, down and up."""


@dataclass(frozen=True)
class PairGradients:
    """Log-probabilities of pairs, and the inner products of their gradients.

    Attributes:
        logp_w: log-probability of the chosen response, in nats.
        inner: ⟨g_w, g_l⟩.
        norm_w: |g_w|.
        norm_l: |g_l|.
    """

    logp_w: Float[Tensor, "pairs"]
    logp_l: Float[Tensor, "pairs"]
    inner: Float[Tensor, "pairs"]
    norm_w: Float[Tensor, "pairs"]
    norm_l: Float[Tensor, "pairs"]

    @classmethod
    def of_vectors(cls, g_w: Float[Tensor, "pairs dim"], g_l: Float[Tensor, "pairs dim"]) -> "PairGradients":
        """The inner products of gradients that are given; log-probabilities are nan."""
        unknown = torch.full_like(g_w[:, 0], torch.nan)
        return cls(unknown, unknown, (g_w * g_l).sum(-1), g_w.norm(dim=-1), g_l.norm(dim=-1))

    @property
    def cosine(self) -> Float[Tensor, "pairs"]:
        """Cosine of the two gradients; nan where one is zero."""
        return self.inner / (self.norm_w * self.norm_l)

    @property
    def condition_ratio(self) -> Float[Tensor, "pairs"]:
        """⟨g_w, g_l⟩ / min(|g_w|², |g_l|²): above 1, the pair is entangled."""
        return self.inner / torch.minimum(self.norm_w, self.norm_l) ** 2


class PredictedStep(NamedTuple):
    """First-order change of both log-probabilities by one step.

    Attributes:
        chosen: Δlog π_w in nats.
        rejected: Δlog π_l in nats.
        case: index into `CASES`.
    """

    chosen: Float[Tensor, "pairs"]
    rejected: Float[Tensor, "pairs"]
    case: Int8[Tensor, "pairs"]


def predict_step(
    gradients: PairGradients,
    d_w: Float[Tensor, "#pairs"],
    d_l: Float[Tensor, "#pairs"],
    learning_rate: float | int = 1.0,
) -> PredictedStep:
    """Predict what a step on each pair alone does to its two log-probabilities.

    Args:
        gradients: of the pairs; with a preconditioner for a prediction of Adam's step.
        d_w: multipliers of the chosen responses.
        learning_rate: length η of the step.
    """
    chosen = learning_rate * (d_w * gradients.norm_w**2 - d_l * gradients.inner)
    rejected = learning_rate * (d_w * gradients.inner - d_l * gradients.norm_l**2)
    return PredictedStep(chosen, rejected, cases(chosen, rejected))


def cases(chosen: Float[Tensor, "pairs"], rejected: Float[Tensor, "pairs"]) -> Int8[Tensor, "pairs"]:
    """The case of each pair, by the changes of its log-probabilities; no change counts as wanted."""
    rises, falls = chosen >= 0, rejected <= 0
    code = torch.where(rises, torch.where(falls, 0, 1), torch.where(falls, 2, 3))
    return code.to(torch.int8)


def pair_gradients(
    model: nn.Module,
    batch: Batch | Sequence[PreferencePair],
    parameters: Iterable[nn.Parameter] | None = None,
    preconditioner: Mapping[nn.Parameter, Tensor] | None = None,
) -> PairGradients:
    """Measure the inner products of the gradients of each pair.

    Products are summed parameter by parameter, so that two sets of gradients are all that is held; weights that are tied count once.
    Each response is read without its padding.

    Args:
        model: a causal language model, wrapped or not; read in evaluation mode.
        batch: pairs, or a batch of them (see `tokenry.alignment.preference_pairs`).
        parameters: what is trained; by default all that require gradients, which are LoRA's where the model has an adapter.
        preconditioner: factors of an optimiser, by parameter (see `adam_preconditioner`): ⟨g_w, P g_l⟩ in place of ⟨g_w, g_l⟩.

    Raises:
        UserError: no trainable parameter, or a log-probability that is not finite.
    """
    trained = trained_parameters(model, parameters)
    with evaluation_mode(model):
        found = [
            BothGradients(model, pair, trained).products(preconditioner)
            for pair in (pairs_in(batch) if isinstance(batch, Mapping) else batch)
        ]
    return gathered(found)


def adam_preconditioner(optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, Tensor]:
    """The factor that Adam scales each gradient by, 1 / (√(v / (1 − β₂ᵗ)) + ε), by parameter.

    A new gradient also waits in the momentum: the share 1 − β₁ of its movement comes with this step, the rest with the following.

    Raises:
        UserError: another optimiser, or one that has made no step.
    """
    factors: dict[nn.Parameter, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" in state:
                corrected = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
                factors[parameter] = 1 / (corrected.sqrt() + group["eps"])
    if not factors:
        raise UserError(
            f"{type(optimizer).__name__} holds no second moments: the prediction is for Adam and AdamW, after their first step."
        )
    return factors


def trained_parameters(
    model: nn.Module, parameters: Iterable[nn.Parameter] | None = None
) -> list[nn.Parameter]:
    """The parameters that require gradients, each once, of those given or of all."""
    given = model.parameters() if parameters is None else parameters
    found = [parameter for parameter in dict.fromkeys(given) if parameter.requires_grad]
    if not found:
        raise UserError(
            "the model has no trainable parameter, so it has no gradients: unfreeze some weights."
        )
    return found


def response_logp(model: nn.Module, prompt: Sequence[int], response: Sequence[int]) -> Float[Tensor, ""]:
    """The log-probability of a response after its prompt in nats, with a graph where gradients are on."""
    inner = causal_lm(model)
    labels = torch.tensor([[*prompt, *response]], device=next(inner.parameters()).device)
    hidden_states = backbone(inner)(input_ids=labels, use_cache=False).last_hidden_state
    weights = torch.zeros(labels.shape, device=labels.device)
    weights[:, len(prompt) :] = 1
    total, _ = weighted_cross_entropy(hidden_states, labels, weights, output_head(inner))
    return -total


class BothGradients:
    """The gradients of both log-probabilities of one pair: two sets of the size of the trained parameters.

    Attributes:
        logps: log π_w and log π_l.
        chosen: g_w, by parameter.
        rejected: g_l.
    """

    def __init__(self, model: nn.Module, pair: PreferencePair, trained: Sequence[nn.Parameter]) -> None:
        self._trained = trained
        logps, gradients = [], []
        with torch.enable_grad():
            for response in (pair.chosen, pair.rejected):
                logp = response_logp(model, pair.prompt, response)
                gradients.append(torch.autograd.grad(logp, trained, materialize_grads=True))
                logps.append(logp.detach().double())
        self.logps, (self.chosen, self.rejected) = torch.stack(logps), gradients

    def products(self, preconditioner: Mapping[nn.Parameter, Tensor] | None = None) -> Float[Tensor, "5"]:
        """The fields of `PairGradients`: log-probabilities, ⟨g_w, P g_l⟩, and the roots of ⟨g_w, P g_w⟩ and ⟨g_l, P g_l⟩."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.logps.device)
        for parameter, *gradients in zip(self._trained, self.chosen, self.rejected, strict=True):
            exact = accumulation_dtype(parameter.dtype)
            won, lost = (gradient.flatten().to(exact) for gradient in gradients)
            scaled = won, lost
            if preconditioner is not None:
                # Without a factor, a parameter is not in the optimiser's hands and does not move.
                factor = preconditioner.get(parameter, torch.zeros_like(parameter)).flatten()
                scaled = won * factor, lost * factor
            sums += torch.stack([won.dot(scaled[1]), won.dot(scaled[0]), lost.dot(scaled[1])]).double()
        return torch.cat([self.logps, sums[:1], sums[1:].sqrt()]).cpu()


def gathered(products: Sequence[Float[Tensor, "5"]]) -> PairGradients:
    """The products of several pairs as one `PairGradients`.

    Raises:
        UserError: there is no pair, or a log-probability is not finite.
    """
    if not products:
        raise UserError("there is no pair: give at least one.")
    table = torch.stack(list(products), dim=1)
    bad = ~table[:2].isfinite().all(0)
    if bool(bad.any()):
        raise UserError(
            f"a log-probability of pair {int(bad.nonzero()[0]) + 1} is not finite: the model is damaged, or its training diverged."
        )
    return PairGradients(*table)
