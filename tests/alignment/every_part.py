"""A credit rule with every part, simple enough to be followed by hand, and a record of what it was asked."""

from dataclasses import dataclass, field

import torch

from tokenry.alignment import Tempo, TokenCredit


@dataclass(frozen=True, kw_only=True)
class EveryPart(TokenCredit):
    which: frozenset = frozenset({"advantages", "clip_range", "redistribute", "temperature"})
    factor: float = 1.0
    asked: list = field(default_factory=list)

    @property
    def parts(self):
        return self.which

    def advantages(self, rollouts):
        self.asked.append(("advantages", rollouts))
        return Tempo().advantages(rollouts)

    def entropy_signal(self, entropies, mask):
        self.asked.append(("entropy_signal", entropies.clone(), mask.clone()))
        # Entropies of an untrained model are so much alike that the order of rows would show in a mean of 32 bits.
        seen = entropies[mask].double()
        # At padding, what must never meet the loss.
        return ((entropies - seen.mean()) / seen.std()).masked_fill(~mask, torch.nan).to(entropies.dtype)

    def clip_range(self, h, low, high):
        self.asked.append(("clip_range", h, low, high))
        return low * (1 - 0.5 * h.tanh()), high * (1 + 0.5 * h.tanh())

    def redistribute(self, advantages, ratio, h, low, high):
        self.asked.append(("redistribute", advantages, ratio, h, low, high))
        return torch.where(ratio > 0.99, advantages * (1 + 0.3 * h.tanh()), advantages)

    def entropy_statistics(self, entropies, mask):
        self.asked.append(("entropy_statistics", entropies, mask))
        return float(entropies[mask].mean())

    def temperature(self, logits, statistics):
        self.asked.append(("temperature", logits, statistics))
        return torch.full((len(logits),), self.factor)

    def count(self, name):
        return sum(call[0] == name for call in self.asked)

    def calls(self, name):
        return [call[1:] for call in self.asked if call[0] == name]
