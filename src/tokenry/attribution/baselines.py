"""What every attribution is compared with: random scores, single replacements, gradients and attention.

    random             softmax of uniform random numbers
    leave-one-out      p(answer) − mean of p(answer) with the one token replaced
    input-x-gradient   |Σ_d embedding_d · ∂ log p(answer) / ∂ embedding_d|
    attention-last     attention of the rows that predict the answer, mean over heads, in the last layer; -mean: over all layers
    attention-rollout  the same rows of Π_l (A_l + I) / 2, A_l the mean over heads

Sources: Abnar and Zuidema (arXiv 2005.00928) for the rollout; the selection is that of ReAGent (arXiv 2402.00794).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from tokenry.attribution.attribution import (
    ATTRIBUTIONS,
    AttributionMethod,
    Question,
    TargetProbability,
    TokenScores,
    replaceable_tokens,
    require_decoder,
)
from tokenry.core.errors import require_at_least
from tokenry.core.stats import estimate_of_mean
from tokenry.core.tensors.attention import AttentionCall, attention_layers, attention_weights, tap_attention
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import backbone, causal_lm


@ATTRIBUTIONS.register("random")
@dataclass(frozen=True)
class RandomAttribution(AttributionMethod):
    """Random scores: what a method must beat."""

    seed: int = 0

    def explain(self, question: Question) -> TokenScores:
        """Draw the scores."""
        uniform = torch.rand(len(question.context), generator=Generator().manual_seed(self.seed))
        return TokenScores(uniform.softmax(dim=-1), forwards=0)


@ATTRIBUTIONS.register("leave-one-out")
@dataclass(frozen=True)
class LeaveTokenOut(AttributionMethod):
    """Replace one token at a time, for any model.

    Args:
        rounds: number of replacements tried for every token.
        chunk: number of sequences that the model reads at once.
    """

    rounds: int = 4
    chunk: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, rounds=self.rounds, chunk=self.chunk)

    def explain(self, question: Question) -> TokenScores:
        """Score every token by the drop of p(answer) without it."""
        context, units, model = question.context.cpu(), question.units.cpu(), question.model
        subject = (
            TargetProbability(model, question.target, self.chunk) if isinstance(model, nn.Module) else model
        )
        vocabulary, generator = replaceable_tokens(question).cpu(), Generator().manual_seed(self.seed)
        p_original = subject(context[None]).cpu().double()
        number = int(units.max()) + 1
        left_out = torch.eye(number, dtype=torch.bool)[:, units].repeat(self.rounds, 1)
        drawn = vocabulary[torch.randint(len(vocabulary), left_out.shape, generator=generator)]
        p = torch.cat(
            [subject(part).cpu() for part in torch.where(left_out, drawn, context).split(self.chunk)]
        )
        drops = p_original - p.double().view(self.rounds, number)
        errors = torch.tensor([estimate_of_mean(column).standard_error for column in drops.T])
        return TokenScores(drops.mean(dim=0)[units], errors[units], forwards=len(p) + 1)


@ATTRIBUTIONS.register("input-x-gradient")
@dataclass(frozen=True)
class InputXGradient(AttributionMethod):
    """The size of embedding times gradient, from one backward pass."""

    def explain(self, question: Question) -> TokenScores:
        """Score every token by the product of its embedding and the gradient of log p(answer)."""
        model = causal_lm(require_decoder(question, "input-x-gradient"))
        embedded: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
            embedded.append(output.detach().requires_grad_())
            return embedded[-1]

        hook = model.get_input_embeddings().register_forward_hook(keep)
        try:
            with evaluation_mode(model), torch.enable_grad():
                log_p = answer_log_p(model, question, input_ids=read_ids(question).to(model.device))
                (gradient,) = torch.autograd.grad(log_p.sum(), embedded)
        finally:
            hook.remove()
        products = (gradient * embedded[0].detach()).float().sum(dim=-1).abs()
        return TokenScores(products[0, : len(question.context)], forwards=2)


class _AttentionScores(AttributionMethod):
    """Scores from the attention weights of layers, all by default, of which no more than one matrix is kept."""

    of_layers: ClassVar[slice] = slice(None)

    def explain(self, question: Question) -> TokenScores:
        """Score every token by the attention that reaches it from the rows that predict the answer."""
        model = causal_lm(require_decoder(question, "attention"))
        layers = attention_layers(model)[self.of_layers]
        kept: list[Tensor] = []

        def read(call: AttentionCall) -> None:
            weights = attention_weights(call)[0].mean(dim=0)
            kept[:] = [self._next(kept[0] if kept else None, weights, len(layers))]

        with evaluation_mode(model), torch.no_grad(), tap_attention(dict.fromkeys(layers, read)):
            backbone(model)(input_ids=read_ids(question).to(model.device), use_cache=False)
        length = len(question.context)
        return TokenScores(kept[0][length - 1 :].mean(dim=0)[:length])

    @abstractmethod
    def _next(
        self, before: Float[Tensor, "seq seq"] | None, weights: Float[Tensor, "seq seq"], layers: int
    ) -> Float[Tensor, "seq seq"]:
        """What is kept after one more layer."""


@ATTRIBUTIONS.register("attention-last")
@dataclass(frozen=True)
class LastAttention(_AttentionScores):
    """Attention in the last layer."""

    of_layers: ClassVar[slice] = slice(-1, None)

    def _next(self, before: Tensor | None, weights: Tensor, layers: int) -> Tensor:
        return weights


@ATTRIBUTIONS.register("attention-mean")
@dataclass(frozen=True)
class MeanAttention(_AttentionScores):
    """Mean attention of all layers."""

    def _next(self, before: Tensor | None, weights: Tensor, layers: int) -> Tensor:
        return weights / layers if before is None else before + weights / layers


@ATTRIBUTIONS.register("attention-rollout")
@dataclass(frozen=True)
class AttentionRollout(_AttentionScores):
    """Attention multiplied through the layers, half of each for the residual stream."""

    def _next(self, before: Tensor | None, weights: Tensor, layers: int) -> Tensor:
        mixed = (weights + torch.eye(len(weights), dtype=weights.dtype, device=weights.device)) / 2
        return mixed if before is None else mixed @ before


def read_ids(question: Question) -> Tensor:
    """The context, and the answer but for its last token."""
    return torch.cat([question.context.cpu(), torch.tensor(question.target[:-1], dtype=torch.long)])[None]


def answer_log_p(model: nn.Module, question: Question, **inputs: Tensor) -> Float[Tensor, "points"]:
    """Log p(answer) with a graph, of `input_ids` or `inputs_embeds` that hold what `read_ids` gives."""
    logits = model(**inputs, use_cache=False).logits[:, len(question.context) - 1 :]
    target = torch.tensor(question.target, device=logits.device).expand(len(logits), -1)
    return logits.float().log_softmax(dim=-1).gather(2, target[..., None])[..., 0].sum(dim=1)
