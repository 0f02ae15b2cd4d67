"""ssToken: learn from the response tokens that the model is getting better at and that look at the prompt.

Source: Self-modulated and Semantic-aware Token Selection (arXiv 2510.18250, ICLR 2026). Per sample, over its response tokens:

    rel    = history_nll − nll                                   > 0: the model has improved on this token
    score  = balance · minmax(rel) + (1 − balance) · prompt_attention
    kept   = the ceil(share · R) highest scores, earliest position first on ties

History is the model before training. While it equals the model in training, rel is noise: the first `warmup_fraction` of
the steps therefore rank by attention alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.core.errors import require_fraction, require_one_of
from tokenry.core.tensors.choices import minmax_within, require_window, top_share, window_mean
from tokenry.core.tensors.signals import AttentionProbe, Signals
from tokenry.finetuning.folds import Folds
from tokenry.finetuning.history import HistorySource, parse_history
from tokenry.finetuning.weighing import WEIGHINGS, TokenWeighing

Progress = Literal["difference", "relative", "clipped"]
Attention = Literal["prompt", "content"]


def retrospective_excess_loss(
    history_nll: Float[Tensor, "batch seq"], nll: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Compute history − current NLL in nats: positive where the model has improved on the token.

    Warning: the sign is the opposite of RHO-1's excess loss, which is current − reference.

    Source: ssToken, retrospective excess loss (REL).
    """
    return history_nll - nll


def sstoken_score(
    rel: Float[Tensor, "batch seq"],
    prompt_attention: Float[Tensor, "batch seq"],
    learnable: Bool[Tensor, "batch seq"],
    segments: Int[Tensor, "batch seq"],
    balance: float = 0.5,
) -> Float[Tensor, "batch seq"]:
    """Mix the normalised progress of each token with its attention to the prompt; nan outside `learnable`.

    Source: ssToken, score with balance = gamma.
    """
    score = torch.where(learnable, 0.0, torch.full_like(rel, float("nan")))
    if balance > 0:
        score = score + balance * minmax_within(rel, learnable, segments)
    if balance < 1:
        score = score + (1 - balance) * prompt_attention
    return score


def select_tokens(
    score: Float[Tensor, "batch seq"],
    learnable: Bool[Tensor, "batch seq"],
    segments: Int[Tensor, "batch seq"],
    share: float = 0.6,
) -> Bool[Tensor, "batch seq"]:
    """Keep the ceil(share · R) best tokens of every sample, earliest first on ties.

    Source: ssToken, selection with share = rho.
    """
    return top_share(score, learnable, share, segments)


@WEIGHINGS.register("sstoken")
@dataclass(frozen=True, kw_only=True)
class SSToken(TokenWeighing):
    """Select by retrospective excess loss and attention to the prompt.

    Args:
        balance: weight of the loss signal against attention, in [0, 1] (gamma; 1 = loss only, 0 = attention only).
        layers: layers whose attention is read: an index (−1 = last, the released code), several, or `deep` (last third).
        attention: `prompt` = mass on all prompt tokens (the paper); `content` = sink-aware: mass on the user's words,
            without the first token and the template, renormalised per head.
        warmup_fraction: fraction of the steps that rank by attention alone (0.2 is the ratio of the released code).
        history: `base`, `adapter_off` (LoRA: no cache, one more forward), `ema`, `previous_epoch`, a checkpoint's path, or
            `crossfit`: progress is base_nll − out_of_fold_nll, which needs no warm-up (see `CrossFitted`).
        progress: `difference` (the paper), `relative` = rel / (history_nll + 0.5), `clipped` = rel within ±`clip`.
        clip: bound of the clipped progress, in nats.
        window: number of neighbouring tokens to average the progress over (odd; 1 = no averaging).
    """

    balance: float = 0.5
    layers: int | str | Sequence[int] = -1
    attention: Attention = "prompt"
    warmup_fraction: float = 0.2
    history: str | HistorySource = "base"
    progress: Progress = "difference"
    clip: float = 1.0
    window: int = 1

    def __post_init__(self) -> None:
        require_fraction(self.balance, "balance")
        require_fraction(self.warmup_fraction, "warmup_fraction")
        require_one_of(self.progress, get_args(Progress), "progress")
        require_one_of(self.attention, get_args(Attention), "attention")
        require_window(self.window)
        parse_history(self.history)
        super().__post_init__()

    @property
    def attention_probe(self) -> AttentionProbe:
        """The layers and columns asked for."""
        return AttentionProbe(self.layers, self.attention)

    @property
    def history_source(self) -> HistorySource:
        """The history asked for."""
        return parse_history(self.history)

    @property
    def needs(self) -> frozenset[str]:
        """Loss signals unless balance is 0, attention unless it is 1."""
        pair = {"base_nll", "out_of_fold_nll"} if self.history_source.folds else {"nll", "history_nll"}
        losses = pair if self.balance > 0 else set()
        return frozenset(losses | ({"prompt_attention"} if self.balance < 1 else set()))

    def score(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """Progress and attention, mixed; attention alone during the warm-up."""
        learnable = signals.learnable
        known_before = self.history_source.folds is not None
        warming = signals.progress < self.warmup_fraction and self.balance < 1 and not known_before
        balance = 0.0 if warming else self.balance
        rel = self.rel(signals) if balance > 0 else torch.zeros_like(signals.labels, dtype=torch.float32)
        attention = signals["prompt_attention"] if balance < 1 else torch.zeros_like(rel)
        return sstoken_score(rel, attention, learnable, signals.segments, balance)

    def selects(self, epoch: float) -> bool:
        """Whether selection has begun: after the warm-up, and with last epoch's losses as history from the second epoch on."""
        return super().selects(epoch) and (epoch >= 1 or not self.history_source.from_last_epoch)

    def rel(self, signals: Signals) -> Float[Tensor, "batch seq"]:
        """The progress of every token since the history, in the chosen form."""
        if self.history_source.folds:
            history, nll = signals["base_nll"], signals["out_of_fold_nll"]
        else:
            nll = signals["nll"]
            # A token without a history (its sample was left out of the last epoch) has shown no progress.
            history = torch.where(signals["history_nll"].isnan(), nll, signals["history_nll"])
        rel = retrospective_excess_loss(history, nll)
        if self.progress == "relative":
            rel = rel / (history + 0.5)
        elif self.progress == "clipped":
            rel = rel.clamp(-self.clip, self.clip)
        return rel if self.window == 1 else window_mean(rel, signals.learnable, signals.segments, self.window)

    @property
    def cross_fit(self) -> Folds:
        """The split of the history asked for."""
        return self.history_source.folds or super().cross_fit
