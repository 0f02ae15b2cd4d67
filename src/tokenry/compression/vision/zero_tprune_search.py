"""Search a schedule for Zero-TPrune: draw layers, keep rates and r at random, keep what meets the FLOPs target, try it on images.

Source: Zero-TPrune (arXiv 2305.17328), Monte-Carlo search of the hyper-parameters.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.flops import encoder_flops, layer_costs
from tokenry.compression.vision.zero_tprune import ZeroTPrune, ZeroTPruneConfig, token_trace
from tokenry.core.errors import UserError
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.patching import find_encoder

Batches = Sequence[Mapping[str, Tensor]]
Progress = Callable[[str, float], None]
"""Called with a description of the work and the share that is done, in [0, 1]."""

_RATES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_MOST_DRAWS = 20_000


@dataclass(frozen=True)
class Trial:
    """One schedule that was tried.

    Attributes:
        accuracy: share of the images that are classified correctly (without labels: as by the unpruned model).
        flops: its multiply-adds as a share of the unpruned encoder's.
    """

    config: ZeroTPruneConfig
    accuracy: float
    flops: float


def search_config(
    model: PreTrainedModel,
    batches: Batches,
    target_flops: float,
    trials: int = 50,
    *,
    options: ZeroTPruneConfig | None = None,
    tolerance: float = 0.02,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Trial]:
    """Try random schedules (layers, keep rates, r) that meet a FLOPs target; the best comes first.

    Draws one to five layers, for each a keep rate of 0.5, 0.6, ..., 1 and an r of up to a quarter of the tokens that are left to prune.
    Rounds of votes by depth as in the paper: 30 in the first quarter of the layers, 1 in the last, 5 between.

    Args:
        model: a classifier.
        batches: its inputs; its answers are compared with the `labels` in them, or with its own unpruned answers where there are none.
        target_flops: share of the unpruned encoder's FLOPs, in (0, 1).
        trials: number of schedules to try.
        options: all options but the schedule; None for the defaults.
        tolerance: a schedule counts as meeting the target if its FLOPs are at most this much below it.
        progress: called with the progress.

    Raises:
        UserError: there is nothing to try, or no schedule was found that meets the target.

    Source: Zero-TPrune, Monte-Carlo search of the hyper-parameters.
    """
    if not 0 < target_flops < 1:
        raise UserError(
            f"target_flops must be between 0 and 1, got {target_flops}: it is a share of the unpruned FLOPs."
        )
    if trials < 1 or not batches:
        raise UserError(f"got {trials} trials and {len(batches)} batches: at least one of each is needed.")
    options = options or ZeroTPruneConfig()
    with evaluation_mode(model):
        unpruned = replace(options, layers=(), keep_rates=(), r=(), iterations=())
        with apply_token_reduction(model, ZeroTPrune(unpruned)) as reduction:
            answers = [batch.get("labels", _answers(model, batch)) for batch in batches]
            tokens = reduction.token_counts[0]
        schedules = _Schedules(model, tokens, options, random.Random(seed))
        tried = []
        for number in range(trials):
            if progress:
                progress(f"schedule {number + 1} of {trials}", number / trials)
            config, flops = schedules.draw(target_flops, tolerance)
            with apply_token_reduction(model, ZeroTPrune(config)):
                correct = [
                    _answers(model, batch) == answer for batch, answer in zip(batches, answers, strict=True)
                ]
            tried.append(Trial(config, float(torch.cat(correct).float().mean()), flops))
    return sorted(tried, key=lambda trial: (-trial.accuracy, trial.flops))


def _answers(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        return model(**inputs).logits.argmax(dim=-1)


class _Schedules:
    """Random schedules for one model and number of tokens."""

    def __init__(
        self, model: PreTrainedModel, tokens: int, options: ZeroTPruneConfig, draws: random.Random
    ) -> None:
        encoder = find_encoder(model)
        self._costs, self._special = layer_costs(encoder), encoder.special_tokens
        self._tokens, self._options, self._draws = tokens, options, draws

    def draw(self, target: float, tolerance: float) -> tuple[ZeroTPruneConfig, float]:
        """One that costs from target - tolerance to target, and that share."""
        for _ in range(_MOST_DRAWS):
            config = self._any()
            counts = token_trace(config, self._tokens, len(self._costs), self._special)
            flops = self._flops(counts[:-1]) / self._flops([self._tokens] * len(self._costs))
            if target - tolerance <= flops <= target:
                return config, flops
        raise UserError(
            f"no schedule with {target - tolerance:.2f} to {target:.2f} of the FLOPs was found among {_MOST_DRAWS} random ones: "
            "raise target_flops or tolerance."
        )

    def _any(self) -> ZeroTPruneConfig:
        depth = len(self._costs)
        number = self._draws.randint(1, min(5, max(1, depth - 1)))
        # After the last layer there is nothing to save.
        layers = sorted(self._draws.sample(range(1, max(2, depth)), number))
        rates, r, free = [], [], self._tokens - self._special
        for _ in layers:
            rates.append(self._draws.choice(_RATES))
            r.append(self._draws.randint(0, free // 4))
            free = max(1, int((free - r[-1]) * rates[-1] + 1e-9))
        rounds = [30 if layer <= depth / 4 else 5 if layer <= depth * 3 / 4 else 1 for layer in layers]
        return replace(self._options, layers=layers, keep_rates=rates, r=r, iterations=rounds)

    def _flops(self, counts: Sequence[int]) -> int:
        return encoder_flops(self._costs, counts, counts)
