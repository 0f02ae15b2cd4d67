"""Statistics of a weighing during training: share kept, NLL of kept and dropped tokens, mean signals, agreement with last epoch.

`entropy` and `mean_token_accuracy` have TRL's names but are means over the tokens that are learned from (weight above 0), as only
their logits exist. TRL's are over all response tokens, and means of means over micro-batches.

Sums stay on the device and are read once per log line, over all ranks.
"""

from collections import defaultdict
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.core.tensors.signals import Signals


class TokenMonitor:
    """Weighted means of numbers per token since the last read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))

    def observe(
        self,
        weights: Float[Tensor, "batch seq"],
        nll: Float[Tensor, "batch seq"],
        signals: Signals,
        last_weights: Float[Tensor, "batch seq"] | None,
        learned: Mapping[str, Float[Tensor, "batch seq"]] | None = None,
    ) -> None:
        """Add one micro-batch.

        A token with weight 1 (or the highest weight of the batch, if that is more) counts as kept, one with weight 0 as
        dropped, others in proportion. `learned` holds further numbers by name, nan at tokens that are not learned from.
        """
        learnable = signals.learnable
        kept = (weights / weights.max().clamp(min=1.0))[learnable].double()
        losses = nll[learnable].double()
        self._add("tokens/share_kept", kept)
        self._add("tokens/nll_kept", losses, kept)
        self._add("tokens/nll_dropped", losses, 1 - kept)
        for name, values in (learned or {}).items():
            self._add(name, values[learnable].double())
        for name in signals.values:
            if name != "kept":
                self._add(f"signals/{name}", signals[name][learnable].double())
        if last_weights is not None:
            last = last_weights[learnable].double()
            self._add(
                "tokens/agreement_with_last_epoch",
                torch.where(last.isnan(), last, ((last > 0.5) == (weights[learnable] > 0.5)).double()),
            )

    def read(self) -> dict[str, float]:
        """Return the means since the last read, over all ranks, and reset them."""
        names = sorted(self._sums)
        if not names:
            return {}
        pairs = torch.stack([torch.stack([self._sums[name], self._weights[name]]) for name in names])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(pairs)
        self._sums.clear()
        self._weights.clear()
        return {
            name: total / weight
            for name, (total, weight) in zip(names, pairs.tolist(), strict=True)
            if weight > 0
        }

    def _add(self, name: str, values: Tensor, weights: Tensor | None = None) -> None:
        weights = torch.ones_like(values) if weights is None else weights
        known = weights * ~values.isnan()
        total, weight = (values.nan_to_num(0.0) * known).sum(), known.sum()
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._weights[name] = self._weights[name].to(weight.device) + weight
