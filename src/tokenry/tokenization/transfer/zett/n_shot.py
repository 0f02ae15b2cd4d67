"""After the transfer: train the whole model for a while with its new tokenizer.

    loss = language-model loss + lexical_weight · (distance of the rows to what the hypernetwork predicted)

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 4 (n-shot transfer, fewer than a billion tokens); defaults are the paper's.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.io.workspace import fingerprint
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.text.byte_level import backend_tokenizer
from tokenry.core.train.numbered import TextBatches
from tokenry.core.train.training import LoopConfig, Training
from tokenry.tokenization.transfer.model_rows import model_rows
from tokenry.tokenization.transfer.zett.losses import clm_loss, lexical_loss
from tokenry.tokenization.transfer.zett.settings import NShotConfig


class NShotTrainer:
    """Trains a transferred causal language model, its rows near what was predicted.

    Args:
        model: the model as `transfer_tokenizer` left it; it is trained in place.
        tokenizer: its new tokenizer.
        texts: texts of about `block_size` tokens.
        config: how it is trained.

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
        self._initial = [None if side is None else side.float().clone() for side in model_rows(model)]
        batches = _MicroBatches(texts, tokenizer, self.config)
        self._training = Training(
            model,
            self._loss,
            batches,
            LoopConfig(
                self.config.steps,
                lambda step: self.config.learning_rate,
                self.config.adamw,
                batches_per_step=batches.per_step,
                bfloat16=self.config.bfloat16,
                seed=self.config.seed,
                save_every=self.config.save_every,
            ),
            self._fingerprint(texts),
        )

    def train(
        self,
        folder: str | os.PathLike | None = None,
        resume: bool = False,
        progress: Progress = lambda what, share: None,
    ) -> PreTrainedModel:
        """Train the model, and return it.

        Args:
            folder: folder of the checkpoints; None to write nothing.
            resume: resume from the last checkpoint in the folder, if there is one; the trainer is given the model as it was at first.
            progress: called before each step.

        Raises:
            UserError: the folder holds another training, or one that is not to be resumed.
        """
        training = self.model.training
        try:
            self._training.run(folder, resume, progress)
        finally:
            self.model.train(training)
        return self.model

    @property
    def history(self) -> dict[str, list[float]]:
        """One value per step of learning_rate, loss, language_model (nats per token) and lexical."""
        return self._training.history

    def _loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        language_model = batch["weight"] * clm_loss(logits.float(), batch["labels"], mask)
        lexical = self._lexical()
        loss = language_model + self.config.lexical_weight * lexical
        return {"loss": loss, "language_model": language_model, "lexical": lexical}

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
        rows = [side for side in self._initial if side is not None]
        return fingerprint([settings, backend_tokenizer(self.tokenizer).to_str()], *texts, *rows)


class _MicroBatches:
    """The texts of a step in parts, weighed so that the mean of their losses is the loss over all tokens of the step."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, config: NShotConfig) -> None:
        self._texts = TextBatches(texts, config.batch_size, config.seed)
        self._tokenizer, self._block_size = tokenizer, config.block_size
        self._size = config.micro_batch_size or config.batch_size
        self.per_step = math.ceil(config.batch_size / self._size)

    def __getitem__(self, number: int) -> dict[str, Any]:
        step, part = divmod(number, self.per_step)
        encoded = self._tokenizer(self._texts[step], truncation=True, max_length=self._block_size)
        rows = [torch.tensor(ids) for ids in encoded["input_ids"]]
        ids = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        labels = torch.where(mask.bool(), ids, IGNORED)
        labels[:, 0] = IGNORED
        learned = [int((some >= 0).sum()) for some in labels.split(self._size)]
        return {
            "input_ids": ids.split(self._size)[part],
            "attention_mask": mask.split(self._size)[part],
            "labels": labels.split(self._size)[part],
            "weight": self.per_step * learned[part] / max(1, sum(learned)),
        }
