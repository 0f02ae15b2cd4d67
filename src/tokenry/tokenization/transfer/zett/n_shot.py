"""After the transfer: train the whole model for a while with its new tokenizer.

    loss = language-model loss + lexical_weight · (distance of the rows to what the hypernetwork predicted)

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 4 (n-shot transfer, fewer than a billion tokens); defaults are the paper's.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.text.byte_level import backend_tokenizer
from tokenry.tokenization.transfer.model_rows import model_rows
from tokenry.tokenization.transfer.zett.losses import clm_loss, lexical_loss
from tokenry.tokenization.transfer.zett.resumable import (
    AdamWSettings,
    Progress,
    ResumableTraining,
    TextBatches,
)


@dataclass(frozen=True)
class NShotConfig:
    """How a transferred model is trained on.

    Attributes:
        steps: in all.
        learning_rate: constant.
        batch_size: texts per step.
        micro_batch_size: texts at once, whose logits are in memory together; 0 for all of a batch.
        block_size: tokens per text.
        lexical_weight: of the distance to the predicted rows.
        lexical_distance: `mse`, `rmse` or `huber`.
        adamw: the optimiser.
        bfloat16: run in mixed precision.
        seed: of the order of texts, and of dropout.
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
        for name in ("steps", "batch_size", "block_size", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "lexical_weight", "micro_batch_size"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}.")
        require_one_of(self.lexical_distance, ("mse", "rmse", "huber"), "lexical_distance")


class NShotTrainer:
    """Trains a transferred causal language model, its rows near what was predicted.

    Args:
        model: as `transfer_tokenizer` left it; it is trained in place.
        tokenizer: its new one.
        texts: of about `block_size` tokens each.
        config: of the training.

    Raises:
        UserError: no texts, or empty ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str],
        config: NShotConfig | None = None,
    ) -> None:
        self.config = config or NShotConfig()
        if not texts or not all(texts):
            raise UserError("training needs texts, and none that is empty.")
        self.model, self.tokenizer = model, tokenizer
        self._initial = [None if each is None else each.float().clone() for each in model_rows(model)]
        self._batches = TextBatches(texts, self.config.batch_size, self.config.seed)
        self._training = ResumableTraining(
            model,
            self._step,
            lambda step: self.config.learning_rate,
            self.config.steps,
            self._fingerprint(texts),
            self.config.adamw,
            self.config.save_every,
        )

    def train(
        self,
        folder: Path | None = None,
        resume: bool = False,
        progress: Progress = lambda what, share: None,
    ) -> PreTrainedModel:
        """Train the model, and return it.

        Args:
            folder: for checkpoints; None to write nothing.
            resume: go on from the checkpoint in the folder, if there is one; the trainer is given the model as it was at first.
            progress: told what is being done.

        Raises:
            UserError: the folder holds a training that is another, or not to be resumed.
        """
        training = self.model.training
        self.model.train()
        try:
            self._training.run(folder, resume, progress, lambda step: "training")
        finally:
            self.model.train(training)
        return self.model

    @property
    def history(self) -> dict[str, list[float]]:
        """Of each step: learning_rate, loss, language_model (nats per token) and lexical."""
        return self._training.history

    def _step(self, number: int) -> dict[str, float]:
        device = self.model.device
        encoded = self.tokenizer(self._batches[number], truncation=True, max_length=self.config.block_size)[
            "input_ids"
        ]
        rows = [torch.tensor(each, device=device) for each in encoded]
        ids = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones_like(each) for each in rows], batch_first=True)
        labels = torch.where(mask.bool(), ids, IGNORED)
        labels[:, 0] = IGNORED
        size, count, total = self.config.micro_batch_size or len(ids), int((labels >= 0).sum()), 0.0
        for part in zip(ids.split(size), labels.split(size), mask.split(size), strict=True):
            share = int((part[1] >= 0).sum()) / max(1, count)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bfloat16):
                logits = self.model(input_ids=part[0], attention_mask=part[2], use_cache=False).logits
            loss = share * clm_loss(logits.float(), part[1], part[2])
            loss.backward()
            total += float(loss.detach())
        lexical = self._lexical()
        (self.config.lexical_weight * lexical).backward()
        lexical_value = float(lexical.detach())
        return {
            "loss": total + self.config.lexical_weight * lexical_value,
            "language_model": total,
            "lexical": lexical_value,
        }

    def _lexical(self) -> torch.Tensor:
        embeddings, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        source, source_output, _ = self._initial
        assert source is not None
        every = torch.arange(len(source), device=source.device)[:, None]
        output = None if source_output is None else head.weight.float()
        return lexical_loss(
            embeddings.weight.float(), source, every, 0, output, source_output, self.config.lexical_distance
        )

    def _fingerprint(self, texts: Sequence[str]) -> str:
        settings = {**asdict(self.config), "save_every": None}
        described = json.dumps([settings, backend_tokenizer(self.tokenizer).to_str()], sort_keys=True)
        digest = hashlib.sha256(described.encode())
        for text in texts:
            digest.update(text.encode(errors="surrogatepass") + b"\0")
        for each in self._initial:
            if each is not None:
                digest.update(each.cpu().numpy().tobytes())
        return digest.hexdigest()
