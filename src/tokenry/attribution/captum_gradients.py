"""Integrated gradients and gradient SHAP of the embeddings, computed by captum (extra `explain`).

    integrated-gradients   (e − 0) · ∫ ∂ log p(answer) / ∂ e at t e dt          sums to log p(answer) − log p(answer | zero embeddings)
    gradient-shap          mean over draws of (e + noise) · ∂ log p(answer) / ∂ e at a random point between 0 and e + noise

Source: Sundararajan et al. (arXiv 1703.01365); Lundberg and Lee (arXiv 1705.07874).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.attribution.attribution import (
    ATTRIBUTIONS,
    AttributionMethod,
    Question,
    TokenScores,
    require_decoder,
)
from tokenry.attribution.baselines import answer_log_p, read_ids
from tokenry.core.errors import UserError, require_at_least
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import causal_lm


class _CaptumScores(AttributionMethod):
    """A gradient method of captum on the embeddings of a decoder; signed, summed over their dimensions."""

    def explain(self, question: Question) -> TokenScores:
        """Score every token of the context."""
        try:
            from captum import attr as captum
        except ImportError as error:
            raise UserError("the package captum is not installed: pip install 'tokenry[explain]'.") from error
        model = causal_lm(require_decoder(question, "a gradient method"))
        with evaluation_mode(model):
            embedded = model.get_input_embeddings()(read_ids(question).to(model.device)).detach()

            def log_p(embeddings: Float[Tensor, "points seq dim"]) -> Float[Tensor, "points"]:
                return answer_log_p(model, question, inputs_embeds=embeddings)

            with torch.random.fork_rng(), torch.enable_grad():
                found, forwards = self._attributed(captum, log_p, embedded)
        return TokenScores(found[0, : len(question.context)].sum(dim=-1), forwards=2 * forwards)

    @abstractmethod
    def _attributed(self, captum: Any, log_p: Any, embedded: Tensor) -> tuple[Tensor, int]:
        """What captum says about every number of the embeddings, and how many points it read."""


@ATTRIBUTIONS.register("integrated-gradients")
@dataclass(frozen=True)
class IntegratedGradients(_CaptumScores):
    """Gradients integrated from zero embeddings.

    Args:
        steps: number of points on the way.
        chunk: number of points that are read at once.
    """

    steps: int = 32
    chunk: int = 8

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps, chunk=self.chunk)

    def _attributed(self, captum: Any, log_p: Any, embedded: Tensor) -> tuple[Tensor, int]:
        method = captum.IntegratedGradients(log_p)
        return method.attribute(embedded, n_steps=self.steps, internal_batch_size=self.chunk), self.steps


@ATTRIBUTIONS.register("gradient-shap")
@dataclass(frozen=True)
class GradientShap(_CaptumScores):
    """Gradients at random points between zero embeddings and the context, with noise.

    Args:
        draws: number of points.
        noise: standard deviation of the noise on the embeddings.
    """

    draws: int = 16
    noise: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, draws=self.draws)
        require_at_least(0, noise=self.noise)

    def _attributed(self, captum: Any, log_p: Any, embedded: Tensor) -> tuple[Tensor, int]:
        method, zero = captum.GradientShap(log_p), torch.zeros_like(embedded)
        torch.manual_seed(self.seed)
        before = np.random.get_state()  # captum draws from the global generators of both libraries
        try:
            np.random.seed(self.seed)
            return method.attribute(embedded, zero, n_samples=self.draws, stdevs=self.noise), self.draws
        finally:
            np.random.set_state(before)
