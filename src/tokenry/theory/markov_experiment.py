"""The experiment of the theory: one small transformer on symbols or on tokens of the same source, and what it costs per symbol.

    curve[step] = loss in nats per token · tokens / symbols      beside H_inf, H(π) and the best unigram over the tokens

Every step reads new text, and the loss is measured on text that is never trained on.

Source: Toward a Theory of Tokenization in LLMs (arXiv 2404.08335), section 5; set-up after Makkuva et al. (arXiv 2402.04161).
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.train.adamw import AdamWSettings
from tokenry.core.train.training import LoopConfig, Training
from tokenry.theory.dictionaries import SymbolTokenizer
from tokenry.theory.markov_source import MarkovSource


@dataclass(frozen=True)
class MarkovExperimentConfig:
    """A transformer, its training, and when it is measured.

    Attributes:
        layers: transformer layers.
        width: width of the hidden states.
        heads: attention heads.
        length: tokens of a window.
        batch_size: windows of a step.
        learning_rate: learning rate, held constant.
        measure_at: steps after which the loss is measured; the last one always is.
        held_out: symbols of the text that it is measured on.
        seed: random seed of the weights and of the text.
    """

    layers: int = 2
    width: int = 32
    heads: int = 4
    length: int = 64
    batch_size: int = 16
    steps: int = 600
    learning_rate: float = 1e-3
    adamw: AdamWSettings = field(
        default_factory=lambda: AdamWSettings(weight_decay=1e-3, max_gradient_norm=1.0)
    )
    measure_at: tuple[int, ...] = (0, 100, 200, 300)
    held_out: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, layers=self.layers, heads=self.heads, batch_size=self.batch_size)
        require_at_least(0, steps=self.steps, seed=self.seed)
        require_at_least(2, length=self.length)
        if self.width % self.heads:
            raise UserError(f"width must be a multiple of heads, got {self.width} and {self.heads}.")


@dataclass(frozen=True)
class MarkovCurve:
    """What a transformer costs while it learns.

    Attributes:
        steps: steps after which it was measured.
        nats_per_symbol: what the held-out text cost then.
        tokens_per_symbol: tokens that a symbol of the held-out text needs.
    """

    steps: tuple[int, ...]
    nats_per_symbol: tuple[float, ...]
    tokens_per_symbol: float

    def at(self, step: int) -> float:
        """Nats per symbol after a step."""
        return self.nats_per_symbol[self.steps.index(step)]


def markov_experiment(
    source: MarkovSource,
    tokenizer: SymbolTokenizer | None = None,
    config: MarkovExperimentConfig | None = None,
    model: PreTrainedModel | None = None,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    progress: Progress = lambda what, share: None,
) -> MarkovCurve:
    """Train a small causal language model on text of a source, and measure it while it learns.

    Args:
        source: what writes the text.
        tokenizer: cuts the text into tokens; None for its symbols.
        config: transformer, training, and when it is measured.
        model: the model to train, from any causal language model's config; by default a GPT-2 of the sizes of `config`.
        folder: folder of checkpoints; None to keep none.
        resume: resume from the last checkpoint in the folder.
        progress: called before each step.

    Raises:
        UserError: the model's vocabulary is smaller than the dictionary, or the folder holds another training.
    """
    config = config or MarkovExperimentConfig()
    size = source.alphabet if tokenizer is None else len(tokenizer.dictionary)
    model = _gpt2(size, config) if model is None else model
    if model.config.get_text_config().vocab_size < size:
        raise UserError(
            f"the model has {model.config.get_text_config().vocab_size} tokens and the dictionary {size}: make a model for it."
        )
    text = _TokenStream(source, tokenizer, config)

    def values(batch: tuple[int, Tensor]) -> dict[str, Tensor | float]:
        number, ids = batch
        measured = text.cost(model) if number in config.measure_at else math.nan
        return {"loss": model(input_ids=ids, labels=ids).loss, "nats_per_symbol": measured}

    training = Training(
        model,
        values,
        text,
        LoopConfig(config.steps, lambda step: config.learning_rate, config.adamw, seed=config.seed),
        fingerprint=f"{config} {size} {type(tokenizer).__name__}",
    )
    if config.steps:
        training.run(folder, resume, progress)
    measured = training.history.get("nats_per_symbol", [])
    costs = {step: cost for step, cost in enumerate(measured) if not math.isnan(cost)}
    costs[config.steps] = text.cost(model)
    return MarkovCurve(tuple(costs), tuple(costs.values()), text.tokens_per_symbol)


class _TokenStream:
    """Batches by number, each of new text, and the text that is held out."""

    def __init__(
        self, source: MarkovSource, tokenizer: SymbolTokenizer | None, config: MarkovExperimentConfig
    ) -> None:
        self._source, self._tokenizer, self._config = source, tokenizer, config
        held_out = self._tokens(config.held_out, 1, (config.seed, 0))[0]
        self.tokens_per_symbol = len(held_out) / config.held_out
        windows = len(held_out) // config.length
        if windows < 1:
            raise UserError(
                f"{config.held_out} symbols are no window of {config.length} tokens: set held_out to more."
            )
        self._held_out = torch.from_numpy(held_out[: windows * config.length]).view(windows, -1)

    def __getitem__(self, number: int) -> tuple[int, Int[Tensor, "batch length"]]:
        length, rows = self._config.length, self._config.batch_size
        symbols = int(1.3 * length / self.tokens_per_symbol) + 16
        while True:
            tokens = self._tokens(symbols, rows, (self._config.seed, 1 + number))
            if min(map(len, tokens)) >= length:
                return number, torch.from_numpy(np.stack([row[:length] for row in tokens]))
            symbols *= 2

    def cost(self, model: nn.Module) -> float:
        """What the held-out text costs a model, nats per symbol."""
        device = next(model.parameters()).device
        with evaluation_mode(model), torch.no_grad():
            parts = [ids.to(device) for ids in self._held_out.split(64)]
            nll = sum(float(model(input_ids=ids, labels=ids).loss) * len(ids) for ids in parts)
        return nll / len(self._held_out) * self.tokens_per_symbol

    def _tokens(self, symbols: int, rows: int, seed: tuple[int, int]) -> list[Int[np.ndarray, "tokens"]]:
        drawn = self._source.sample(symbols, rows, seed)
        return [*drawn] if self._tokenizer is None else [self._tokenizer.encode(row) for row in drawn]


def _gpt2(size: int, config: MarkovExperimentConfig) -> GPT2LMHeadModel:
    torch.manual_seed(config.seed)
    sizes: Mapping[str, Any] = {
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_positions": config.length,
    }
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=size, **sizes, **quiet))
