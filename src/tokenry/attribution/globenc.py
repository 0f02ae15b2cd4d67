"""GlobEnc: how much each token feeds each position of an encoder, by the norms of what a layer adds up, rolled out over the layers.

    part_{i<-j} = Σ_h P_h[i, j] W_O^h v_j^h + 1[i = j] x_j           (no biases but that of the values)
    e_{i<-j}    = LN2 of (LN1 of part), both linear, divided by the deviations of the true vectors; the MLP is left out
    R_1 = ‖e‖ of layer 1,   R_l = ‖e‖ of layer l · R_{l-1},          scores: row 0 of the last R

Norms need no (seq, seq, dim) tensor: part is linear in v^h, so ‖M part‖² = P[i, j]^T G_j P[i, j] with G_j the products of the heads' M W_O^h v_j^h.

Source: GlobEnc (NAACL 2022, arXiv 2205.03286).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from tokenry.attribution.attribution import ATTRIBUTIONS, AttributionMethod, Question, TokenScores, stacked
from tokenry.attribution.post_norm_encoder import LayerState, read_encoder
from tokenry.core.errors import UserError

STAGES = ("N", "N_Res", "N_ResLN", "N_Enc")
"""Norms after attention, with the residual, after LN1, after LN2."""


@dataclass(frozen=True)
class GlobEncOutput:
    """What GlobEnc says about a batch.

    Attributes:
        attribution: the last rollout, rows of padding zero.
        rollouts: the rollout after each layer, padding not masked.
        norms: by stage, the norm of each part, by layer.
        heads: the norm of each head's part, P_h ‖W_O^h v^h‖, by layer.
        ratios: by stage, the share of each position that comes from other positions, by layer.
    """

    attribution: Float[Tensor, "batch seq seq"]
    rollouts: Float[Tensor, "layers batch seq seq"]
    norms: dict[str, Float[Tensor, "layers batch seq seq"]]
    heads: Float[Tensor, "layers batch heads seq seq"]
    ratios: dict[str, Float[Tensor, "layers batch seq"]]

    @property
    def scores(self) -> Float[Tensor, "batch seq"]:
        """What feeds the first token, from which classes are read."""
        return self.attribution[:, 0]


def globenc(
    model: nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Num[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None = None,
) -> GlobEncOutput:
    """Take the layers of an encoder classifier apart, and roll them out.

    Raises:
        UserError: a decoder, or an encoder whose norms come before attention.
    """
    reading = read_encoder(model, input_ids, attention_mask, "globenc")
    layers = [_layer_norms(state) for state in reading.layers]
    norms = {stage: torch.stack([norms[stage] for norms, _, _ in layers]) for stage in STAGES}
    ratios = {stage: torch.stack([ratios[stage] for _, ratios, _ in layers]) for stage in STAGES}
    plain = rollout(norms["N_Enc"])
    masked = rollout(norms["N_Enc"] * reading.real[:, :, None])
    return GlobEncOutput(masked[-1], plain, norms, torch.stack([heads for _, _, heads in layers]), ratios)


def rollout(matrices: Float[Tensor, "layers batch seq seq"]) -> Float[Tensor, "layers batch seq seq"]:
    """The product of the layers so far, for every layer."""
    running = [matrices[0]]
    for matrix in matrices[1:]:
        running.append(matrix @ running[-1])
    return torch.stack(running)


def min_max(scores: Float[Tensor, "seq"]) -> Float[Tensor, "seq"]:
    """Scale scores to [0, 1]; 0.5 where all are equal."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else torch.full_like(scores, 0.5)


@ATTRIBUTIONS.register("globenc")
@dataclass(frozen=True)
class GlobEnc(AttributionMethod):
    """What feeds the first token of an encoder classifier; scaled to [0, 1], and the same for every class."""

    def explain(self, question: Question) -> TokenScores:
        """Score every token by the row of the first position."""
        return self.explain_all([question])[0]

    def explain_all(self, questions: Sequence[Question]) -> list[TokenScores]:
        """The same of several texts in one forward."""
        model = questions[0].model
        if not isinstance(model, nn.Module):
            raise UserError("globenc looks into an encoder classifier, got a function: use reagent.")
        rows = globenc(model, *stacked(questions)).scores
        return [
            TokenScores(min_max(row[: len(question.context)]))
            for row, question in zip(rows, questions, strict=True)
        ]


def _layer_norms(
    state: LayerState,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Float[Tensor, "batch heads seq seq"]]:
    """Norms and mixing ratios of one layer by stage, and the norms by head."""
    first, second = state.first_norm, state.second_norm
    one, two = first.deviation(state.before_first_norm), second.deviation(state.before_second_norm)
    stages: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, bool]] = {
        "N": (lambda parts: parts, torch.ones_like(one), False),
        "N_Res": (lambda parts: parts, torch.ones_like(one), True),
        "N_ResLN": (first.linear, one, True),
        "N_Enc": (lambda parts: second.linear(first.linear(parts)), one * two, True),
    }
    weights = state.heads(state.output.weight[None])[0]
    values = torch.einsum("bshd,ohd->bsho", state.heads(state.value(state.x)), weights)
    norms, ratios = {}, {}
    for stage, (linear, deviation, has_residual) in stages.items():
        norms[stage], ratios[stage] = _norms(
            state.probabilities, linear(values), linear(state.x) if has_residual else None, deviation
        )
    heads = state.probabilities * values.norm(dim=-1).transpose(1, 2)[:, :, None]
    return norms, ratios, heads


def _norms(
    probabilities: Float[Tensor, "batch heads seq seq"],
    values: Float[Tensor, "batch seq heads dim"],
    residual: Float[Tensor, "batch seq dim"] | None,
    deviation: Float[Tensor, "batch seq 1"],
) -> tuple[Float[Tensor, "batch seq seq"], Float[Tensor, "batch seq"]]:
    """‖Σ_h P_h[i, j] values_j^h + 1[i = j] residual_j‖ / deviation_i, and the share that comes from j ≠ i."""
    products = values @ values.transpose(-1, -2)
    square = torch.einsum("bhij,bjhg,bgij->bij", probabilities, products, probabilities)
    own = torch.einsum("bhi,bihd->bid", probabilities.diagonal(dim1=2, dim2=3), values)
    total = torch.einsum("bhij,bjhd->bid", probabilities, values)
    if residual is not None:
        own, total = own + residual, total + residual
    norms = square.clamp(min=0).sqrt()
    norms = torch.diagonal_scatter(norms, own.norm(dim=-1), dim1=1, dim2=2)
    others, mine = (total - own).norm(dim=-1), own.norm(dim=-1)
    return norms / deviation, others / (others + mine)
