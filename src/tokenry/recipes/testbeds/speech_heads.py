"""The heads that Flow-Omni is compared with, on the same language model with the same streams: a codebook and a regression.

codebook     k-means over continuous tokens; the head is a softmax over the codes, and what is fed back is the code drawn
regression   the head says the token itself; squared error
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor, nn

from tokenry.generation.flow_omni.continuous_tokens import ContinuousTokenLM
from tokenry.generation.flow_omni.speech_generation import SpeechSampling


class Codebook(nn.Module):
    """The nearest of `codes` vectors stands for a continuous token.

    Args:
        codes: number of them.
        channels: of a token.
    """

    vectors: Tensor

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(codes, channels))

    def fit(self, tokens: Float[Tensor, "rows channels"], seed: int) -> None:
        """Find the vectors by k-means."""
        found = KMeans(len(self.vectors), n_init=1, max_iter=50, random_state=seed).fit(tokens.numpy())
        self.vectors.copy_(torch.from_numpy(found.cluster_centers_))

    def forward(self, tokens: Float[Tensor, "rows channels"]) -> Int[Tensor, "rows"]:
        """The number of the nearest vector."""
        return torch.cdist(tokens, self.vectors).argmin(1)


class CodebookSpeechLM(ContinuousTokenLM):
    """Speech as one code a token."""

    def __init__(
        self, config: Any, language_model: Any = None, encoder: Any = None, codes: int = 512
    ) -> None:
        super().__init__(config, language_model, encoder)
        self.codebook = Codebook(codes, config.channels)
        self.speech_head = nn.Linear(config.text_config.hidden_size, codes)

    def speech_loss(self, tokens: Tensor, hidden: Tensor, elements: Tensor | None) -> Tensor:
        """The NLL of the nearest code."""
        return nn.functional.cross_entropy(self.speech_head(hidden), self.codebook(tokens))

    def draw_speech(self, hidden: Tensor, noise: Tensor, sampling: SpeechSampling) -> Tensor:
        """Draw a code, at the quantile that the first number of the noise stands at."""
        quantile = torch.special.ndtr(noise[:, :1])
        chosen = (self.speech_head(hidden).softmax(1).cumsum(1) < quantile).sum(1)
        return self.codebook.vectors[chosen.clamp(max=len(self.codebook.vectors) - 1)]


class RegressionSpeechLM(ContinuousTokenLM):
    """Speech as the mean of what may come."""

    def __init__(self, config: Any, language_model: Any = None, encoder: Any = None) -> None:
        super().__init__(config, language_model, encoder)
        self.speech_head = nn.Sequential(
            nn.Linear(config.text_config.hidden_size, config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.channels),
        )

    def speech_loss(self, tokens: Tensor, hidden: Tensor, elements: Tensor | None) -> Tensor:
        """The squared error."""
        return nn.functional.mse_loss(self.speech_head(hidden), tokens)

    def draw_speech(self, hidden: Tensor, noise: Tensor, sampling: SpeechSampling) -> Tensor:
        """Say the mean."""
        return self.speech_head(hidden)
