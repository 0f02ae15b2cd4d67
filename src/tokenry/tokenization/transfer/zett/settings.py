"""How the hypernetwork is trained, as options: reading them loads no library that trains.

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 3 and appendix; the defaults are the paper's.
"""

import math
from dataclasses import dataclass, field

from tokenry.core.errors import UserError, require_at_least, require_fraction, require_one_of
from tokenry.core.train.adamw import AdamWSettings
from tokenry.tokenization.transfer.zett.schedule import require_schedule, two_stage_schedule

OBJECTIVES = ("causal", "masked")
DISTANCES = ("mse", "rmse", "huber")


@dataclass(frozen=True)
class DrawingConfig:
    """How tokenizers are drawn, and what texts they cut.

    Attributes:
        batch_size: texts per step.
        block_size: tokens per text.
        vocabulary_size: mean number of tokens of a drawn tokenizer, special tokens aside.
        vocabulary_std: standard deviation of that number.
        least_vocabulary: smallest vocabulary that is drawn.
        most_vocabulary: largest vocabulary that is drawn.
        noise_median: median of the standard deviation of the noise, which is log-normal.
        noise_sigma: standard deviation of its logarithm.
        most_noise: largest standard deviation of the noise.
        max_substring: largest number of bytes of a token, plus one.
        stride: characters between the starts of substrings.
        pool: number of texts, the latest ones, from which tokenizers are drawn.
        language_exponent: with several languages each step draws one, in proportion to its number of texts to this power.
    """

    batch_size: int = 128
    block_size: int = 128
    vocabulary_size: int = 32_768
    vocabulary_std: float = 0.0
    least_vocabulary: int = 16_384
    most_vocabulary: int = 32_768
    noise_median: float = 1e-5
    noise_sigma: float = 4.0
    most_noise: float = math.inf
    max_substring: int = 16
    stride: int = 4
    pool: int = 2048
    language_exponent: float = 0.1

    def __post_init__(self) -> None:
        require_at_least(
            1,
            batch_size=self.batch_size,
            block_size=self.block_size,
            least_vocabulary=self.least_vocabulary,
            pool=self.pool,
            stride=self.stride,
        )
        for name in ("noise_median", "noise_sigma", "most_noise", "vocabulary_std"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}: use 0 for none.")
        if not self.least_vocabulary <= self.vocabulary_size <= self.most_vocabulary:
            raise UserError(
                f"vocabulary_size must lie between least_vocabulary ({self.least_vocabulary}) and most_vocabulary "
                f"({self.most_vocabulary}), got {self.vocabulary_size}."
            )
        require_fraction(self.language_exponent, "language_exponent")


@dataclass(frozen=True)
class HyperNetworkTrainingConfig:
    """How a hypernetwork is trained.

    Attributes:
        steps: number of steps, all stages together.
        identity_steps: steps of the warm-up on single tokens; 0 for none, which is enough for the residual form.
        warmup_steps: step at which the second rise of the learning rate ends.
        identity_learning_rate: learning rate at the end of the warm-up stage.
        learning_rate: learning rate of the main stage.
        alpha: share of the learning rate that remains at the end.
        identity_tokens: source tokens per step of the warm-up stage.
        drawing: how tokenizers and texts are drawn.
        micro_batch_size: texts that the model sees at once; 0 for all.
        predicted_tokens: rows predicted per step beside those of the texts; 0 for all.
        lexical_weight: weight of the distance to known rows.
        lexical_distance: `mse`, `rmse` or `huber`.
        objective: `causal`, or `masked` for a masked language model.
        adamw: the optimiser.
        bfloat16: train in mixed precision.
        seed: random seed of everything that is drawn.
        save_every: steps between checkpoints.
    """

    steps: int = 200_000
    identity_steps: int = 10_000
    warmup_steps: int = 20_000
    identity_learning_rate: float = 3e-4
    learning_rate: float = 6e-5
    alpha: float = 0.1
    identity_tokens: int = 16_384
    drawing: DrawingConfig = field(default_factory=DrawingConfig)
    micro_batch_size: int = 32
    predicted_tokens: int = 0
    lexical_weight: float = 0.5
    lexical_distance: str = "mse"
    objective: str = "causal"
    adamw: AdamWSettings = field(default_factory=AdamWSettings)
    bfloat16: bool = False
    seed: int = 0
    save_every: int = 1000

    def __post_init__(self) -> None:
        require_schedule(self._stages, self._rates, self.steps, self.alpha)
        require_at_least(
            1, steps=self.steps, identity_tokens=self.identity_tokens, save_every=self.save_every
        )
        require_not_negative(self, "micro_batch_size", "predicted_tokens", "lexical_weight")
        require_one_of(self.lexical_distance, DISTANCES, "lexical_distance")
        require_one_of(self.objective, OBJECTIVES, "objective")

    def learning_rate_of(self, step: int) -> float:
        """The two-stage schedule with these settings."""
        return two_stage_schedule(step, self._stages, self._rates, self.steps, self.alpha)

    @property
    def _stages(self) -> tuple[int, int]:
        return self.identity_steps, self.warmup_steps

    @property
    def _rates(self) -> tuple[float, float]:
        return self.identity_learning_rate, self.learning_rate


@dataclass(frozen=True)
class NShotConfig:
    """How a transferred model is trained on.

    Attributes:
        batch_size: texts per step.
        micro_batch_size: texts that the model sees at once; 0 for all.
        block_size: tokens per text.
        lexical_weight: weight of the distance to the predicted rows.
        lexical_distance: `mse`, `rmse` or `huber`.
        bfloat16: train in mixed precision.
        seed: random seed of the order of texts, and of dropout.
        save_every: steps between checkpoints.
    """

    steps: int = 50_000
    learning_rate: float = 3e-6
    batch_size: int = 32
    micro_batch_size: int = 8
    block_size: int = 512
    lexical_weight: float = 0.5
    lexical_distance: str = "mse"
    adamw: AdamWSettings = field(default_factory=AdamWSettings)
    bfloat16: bool = False
    seed: int = 0
    save_every: int = 1000

    def __post_init__(self) -> None:
        require_at_least(
            1,
            steps=self.steps,
            batch_size=self.batch_size,
            block_size=self.block_size,
            save_every=self.save_every,
        )
        require_not_negative(self, "learning_rate", "lexical_weight", "micro_batch_size")
        require_one_of(self.lexical_distance, DISTANCES, "lexical_distance")


def require_not_negative(config: object, *names: str) -> None:
    """Raise `UserError` where one of a config's numbers is below 0."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise UserError(f"{name} must not be negative, got {getattr(config, name)}.")
