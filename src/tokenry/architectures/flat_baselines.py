"""The flat baseline of word-pooled models: a causal transformer that reads the same units one by one, with the same end behind every word.

    words      (t h e) (c a t)          units     t h e 0 c a t 0          nll of a word = Σ nll of its units and of its end

Units that are whole words (`whole_words`) need no end: the word-level control is the same model.

Source: Learn Your Tokens (arXiv 2310.11628). The flat models of its code have neither positions nor input dropout (`positions=False`), which
is part of their distance to the pooled ones; these have learned positions.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutput

from tokenry.architectures.words import END, Word
from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.losses import output_head, token_statistics, weighted_cross_entropy
from tokenry.core.tensors.modes import evaluation_mode


class FlatConfig(GPT2Config):
    """Sizes of a flat model: those of GPT-2.

    Attributes:
        positions: learned positions; without them, and without dropout of the input, as in the released code.
        max_words: most words of a window, where it is read in words.
        whole_words: units 1 to so many are whole words, as in `WholeWordSpelling`, and have no end behind them.
    """

    model_type = "flat_units"

    def __init__(
        self, positions: bool = True, max_words: int | None = None, whole_words: int = 0, **sizes: Any
    ) -> None:
        self.positions, self.max_words, self.whole_words = positions, max_words, whole_words
        own = {
            "activation_function": "gelu",
            "bos_token_id": None,
            "eos_token_id": None,
            "tie_word_embeddings": False,
            "loss_type": "ForCausalLM",
        }
        super().__init__(**(own | sizes | ({} if positions else {"embd_pdrop": 0.0})))

    @classmethod
    def of_sizes(
        cls,
        vocab_size: int,
        n_embd: int = 512,
        n_layer: int = 8,
        n_head: int = 8,
        max_units: int = 192,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        positions: bool = True,
        max_words: int | None = None,
        whole_words: int = 0,
    ) -> "FlatConfig":
        """The trunk of a word-pooled model, over `max_units` units."""
        drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
        sizes = {"vocab_size": vocab_size, "n_embd": n_embd, "n_layer": n_layer, "n_head": n_head}
        return cls(
            positions,
            max_words,
            whole_words,
            n_positions=max_units,
            initializer_range=initializer_range,
            **sizes,
            **drops,
        )

    @classmethod
    def over_words(cls, max_words: int, max_word_len: int, **sizes: Any) -> "FlatConfig":
        """One that reads any window of so many words, each of at most so many units and its end."""
        return cls.of_sizes(max_units=max_words * (max_word_len + 1), max_words=max_words, **sizes)


class FlatLM(GPT2LMHeadModel):
    """The model: a causal language model of transformers, which also scores words."""

    config_class = FlatConfig
    _tied_weights_keys: ClassVar[dict[str, str]] = {}

    def __init__(self, config: FlatConfig) -> None:
        super().__init__(config)
        if not config.positions:
            self.transformer.wpe = _NoPositions()

    def forward(
        self,
        input_ids: Int[Tensor, "batch units"],
        attention_mask: Int[Tensor, "batch units"] | None = None,
        labels: Int[Tensor, "batch units"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **options: Any,
    ) -> Any:
        """With labels the loss alone, which makes no (batch, units, vocabulary); without them what GPT-2 returns."""
        if labels is None:
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)
        told = labels != IGNORED
        hidden = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        total, _ = weighted_cross_entropy(hidden, labels, told.to(torch.float32), output_head(self))
        return CausalLMOutput(loss=total / (told.sum() if num_items_in_batch is None else num_items_in_batch))

    def score_words(
        self, windows: Sequence[Sequence[Word]], batch_size: int = 8
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each window of words: nll in nats of every word but the first, and whether it is spelled right."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        head = output_head(self)
        with evaluation_mode(self), torch.no_grad():
            for start in range(0, len(windows), batch_size):
                part = windows[start : start + batch_size]
                batch = {
                    name: value.to(self.device)
                    for name, value in collate_flat(part, self.config.whole_words).items()
                }
                self.require_room(batch["input_ids"].shape[1])
                hidden = self.transformer(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
                ).last_hidden_state
                told: Bool[Tensor, "batch units"] = batch["labels"] != IGNORED
                said = token_statistics(hidden, batch["input_ids"], head, told, ("nll", "rank"))
                nll, rank = (said[name].double().cpu().numpy() for name in ("nll", "rank"))
                found += [
                    _by_word(unit_counts(window, self.config.whole_words), *rows)
                    for window, *rows in zip(part, nll, rank, strict=True)
                ]
        return found

    def require_room(self, units: int) -> None:
        """Raise `UserError` where a window has more units than there are positions."""
        if units > self.config.n_positions:
            raise UserError(
                f"a window of {units} units does not fit the {self.config.n_positions} positions of the flat model: give fewer words, or a "
                "model with more."
            )


class _NoPositions(nn.Module):
    """In the place of an embedding of positions: adds nothing."""

    def forward(self, position_ids: Int[Tensor, "batch units"]) -> Tensor:
        return torch.zeros((), device=position_ids.device)


def flat_units(words: Sequence[Word], whole_words: int = 0) -> list[int]:
    """The units of words, each with its end; units up to `whole_words` are whole words without one."""
    return [unit for word in words for unit in (word if word[0] <= whole_words else (*word, END))]


def unit_counts(words: Sequence[Word], whole_words: int = 0) -> Int[np.ndarray, "words"]:
    """The number of those units of each word."""
    return np.array([len(word) + (word[0] > whole_words) for word in words])


def collate_flat(
    windows: Sequence[Sequence[Word]], whole_words: int = 0
) -> dict[str, Int[Tensor, "batch units"]]:
    """Make a batch of windows of words as flat units, padded on the right; the first word is not learned, as it is not in the pooled model.

    Returns:
        `input_ids`, `attention_mask` and `labels` of a causal language model.
    """
    rows = [flat_units(window, whole_words) for window in windows]
    longest = max(map(len, rows))
    input_ids, attention_mask, labels = (torch.full((len(rows), longest), fill) for fill in (END, 0, IGNORED))
    for number, (row, window) in enumerate(zip(rows, windows, strict=True)):
        first = len(flat_units(window[:1], whole_words))
        input_ids[number, : len(row)] = torch.tensor(row)
        attention_mask[number, : len(row)] = 1
        labels[number, first : len(row)] = torch.tensor(row[first:])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def _by_word(
    counts: Int[np.ndarray, "words"], nll: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the units of each word, without the first word."""
    ends = np.cumsum(counts)
    starts, last = ends[:-1], ends[-1]
    return (
        np.add.reduceat(nll[:last], starts),
        np.add.reduceat((rank[:last] > 0).astype(int), starts) == 0,
    )


AutoConfig.register(FlatConfig.model_type, FlatConfig, exist_ok=True)
AutoModelForCausalLM.register(FlatConfig, FlatLM, exist_ok=True)
