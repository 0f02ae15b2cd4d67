"""Training the hypernetwork of one frozen language model, in two stages.

    warm-up    source tokens, each spelled by itself: identity loss
    main       a tokenizer drawn from the texts, its rows predicted, the frozen model run on texts that it cuts:
               language-model loss + lexical_weight · lexical loss

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 3 and appendix; the defaults are the paper's.

The language model sees micro-batches on detached rows; their summed gradients go through the hypernetwork once.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.io.workspace import fingerprint
from tokenry.core.text.byte_level import backend_tokenizer
from tokenry.core.train.numbered import step_generator
from tokenry.core.train.training import LoopConfig, Training
from tokenry.tokenization.transfer.model_rows import (
    ModelRows,
    logits_with,
    model_rows,
    source_rows,
    split_sides,
    with_source_rows,
)
from tokenry.tokenization.transfer.zett.byte_conversion import ConvertedTokenizer, to_byte_level
from tokenry.tokenization.transfer.zett.drawn_batches import DrawnBatch, DrawnBatches, masked, next_tokens
from tokenry.tokenization.transfer.zett.hypernetwork import (
    EmbeddingHyperNetwork,
    HyperNetworkConfig,
    own_forms,
)
from tokenry.tokenization.transfer.zett.losses import clm_loss, identity_loss, lexical_loss, masked_lm_loss
from tokenry.tokenization.transfer.zett.settings import HyperNetworkTrainingConfig
from tokenry.tokenization.transfer.zett.surface_forms import mask_id
from tokenry.tokenization.written import WrittenVocabulary


def hypernetwork_for(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | ConvertedTokenizer,
    *,
    seed: int = 0,
    **settings: Any,
) -> EmbeddingHyperNetwork:
    """Make an untrained hypernetwork that fits a model.

    Args:
        model: a language model, tied or untied, with or without an output bias.
        **settings: fields of `HyperNetworkConfig` that do not follow from model and tokenizer.

    Raises:
        UserError: a tokenizer without pad and eos, with more tokens than the model has rows, or that cannot be written in bytes.
    """
    source = tokenizer if isinstance(tokenizer, ConvertedTokenizer) else to_byte_level(tokenizer)
    rows = model_rows(model)
    vocabulary = len(source.tokens) - source.extra_tokens
    config = HyperNetworkConfig(
        vocabulary=vocabulary,
        embedding_size=rows.input.shape[1],
        pad_id=mask_id(source.tokenizer),
        tied=rows.output is None,
        fallback_rows=source.extra_tokens,
        predict_bias=rows.bias is not None,
        **settings,
    )
    embeddings = source_rows(model, vocabulary).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EmbeddingHyperNetwork(config, source.tokenizer)
        never = WrittenVocabulary.of(source.tokenizer, pieces=False).never
        network.fit_rescalers(embeddings, torch.Generator().manual_seed(seed), untrained=never)
    return network


class HyperNetworkTrainer:
    """Trains a hypernetwork for one frozen language model.

    Args:
        model: any causal (or masked) language model of transformers, tied or untied; its weights stay as they are.
        texts: texts of about `block_size` tokens; by language for a hypernetwork that tells languages apart.
        config: how it is trained.
        hypernetwork: the hypernetwork to train, see `hypernetwork_for`; None for one of the paper's sizes.

    Raises:
        UserError: no texts, or too few for the vocabularies; languages that do not fit the hypernetwork; a masked objective without a
            mask token; or what `hypernetwork_for` refuses.

    Source: arXiv 2405.07883, section 3.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str] | Mapping[str, Sequence[str]],
        config: HyperNetworkTrainingConfig | None = None,
        hypernetwork: EmbeddingHyperNetwork | None = None,
    ) -> None:
        self.config = config or HyperNetworkTrainingConfig()
        self.model = model
        source = to_byte_level(tokenizer)
        self._mask = source.tokenizer.mask_token_id
        if self.config.objective == "masked" and self._mask is None:
            raise UserError(
                "a masked objective needs a mask token, and the tokenizer has none: use objective='causal'."
            )
        self.network = hypernetwork or hypernetwork_for(model, source, seed=self.config.seed)
        self.network.to(model.device)
        of_language = texts if isinstance(texts, Mapping) else {"all": texts}
        told = self.network.config.languages
        if told and told != len(of_language):
            raise UserError(
                f"the hypernetwork tells {told} languages apart, but there are texts of {len(of_language)}: give texts as a mapping with "
                f"{told} languages."
            )
        never = WrittenVocabulary.of(source.tokenizer, pieces=False).never
        self._trained = torch.tensor([n not in never for n in range(self.network.config.vocabulary)])
        self._rows = model_rows(model)
        self._embeddings = source_rows(model, self.network.config.vocabulary)
        self._drawn = DrawnBatches(
            source, of_language, self.config.drawing, self.network.config.max_length, self.config.seed
        )
        if self.config.identity_steps < self.config.steps:
            self._drawn.tokenizer(self.config.identity_steps)  # texts that are too few show now
        self._training = Training(
            self.network,
            self._loss,
            range(self.config.steps),
            LoopConfig(
                self.config.steps,
                self.config.learning_rate_of,
                self.config.adamw,
                bfloat16=self.config.bfloat16,
                seed=self.config.seed,
                save_every=self.config.save_every,
            ),
            self._fingerprint(tokenizer, of_language),
        )

    def train(
        self,
        folder: str | os.PathLike | None = None,
        resume: bool = False,
        progress: Progress = lambda what, share: None,
    ) -> EmbeddingHyperNetwork:
        """Train the hypernetwork, and return it.

        Args:
            folder: folder of the checkpoints and, in the end, of the hypernetwork; None to write nothing.
            resume: resume from the last checkpoint in the folder, if there is one.
            progress: called before each step.

        Raises:
            UserError: the folder holds another training, or one that is not to be resumed.
        """
        trainable = [weight for weight in self.model.parameters() if weight.requires_grad]
        training = self.model.training
        self.model.eval().requires_grad_(False)
        self.network.train()
        try:
            self._training.run(folder, resume, progress, self._stage)
        finally:
            self.network.eval()
            self.model.train(training)
            for weight in trainable:
                weight.requires_grad_(True)
        if folder is not None:
            self.network.save(folder)
        return self.network

    @property
    def history(self) -> dict[str, list[float]]:
        """One value per step of learning_rate, loss, language_model (nats per token) and lexical (nan in the warm-up stage)."""
        return self._training.history

    def _stage(self, number: int) -> str:
        return "warm-up on single tokens" if number < self.config.identity_steps else "training"

    def _loss(self, number: int) -> dict[str, Tensor | float]:
        stage = self._identity_stage if number < self.config.identity_steps else self._main_stage
        return stage(number)

    def _identity_stage(self, number: int) -> dict[str, Tensor | float]:
        config = self.network.config
        generator = step_generator(self.config.seed, number, "tokens")
        ids = torch.randperm(config.vocabulary, generator=generator)
        ids = ids[self._trained[ids]][: self.config.identity_tokens]
        ids = ids.to(self._embeddings.device)
        predicted = self.network(own_forms(ids, config), self._embeddings, self._language(number))
        source_input, source_output = self._sides()
        loss = identity_loss(predicted.input, source_input, ids, predicted.output, source_output)
        return {"loss": loss, "language_model": math.nan, "lexical": math.nan}

    def _main_stage(self, number: int) -> dict[str, Tensor | float]:
        batch = self._drawn[number]
        if self.config.predicted_tokens:
            generator = step_generator(self.config.seed, number, "others")
            batch = batch.only(self.config.predicted_tokens, generator)
        forms = batch.forms.to(self._embeddings.device)
        predicted = self.network(forms, self._embeddings, self._language(number))
        rows = with_source_rows(
            ModelRows(predicted.input, predicted.output, None if self._rows.bias is None else predicted.bias),
            self._rows,
            batch.special,
            batch.special_in_source,
        )
        gradients, language_model = self._language_model(rows, batch, number)
        source_input, source_output = self._sides()
        lexical = lexical_loss(
            rows.input,
            source_input,
            forms,
            self.network.config.pad_id,
            rows.output,
            source_output,
            self.config.lexical_distance,
        )
        known: Tensor = _KnownLoss.apply(language_model, gradients, *rows.there())
        loss = known + self.config.lexical_weight * lexical
        return {"loss": loss, "language_model": language_model, "lexical": lexical}

    def _language_model(self, rows: ModelRows, batch: DrawnBatch, number: int) -> tuple[list[Tensor], float]:
        """The language model's loss, and its gradients with respect to the rows."""
        shown, labels = self._task(batch, number)
        detached = rows.each(lambda side: side.detach().requires_grad_())
        in_model = detached.each(lambda side: side.to(self._rows.input.dtype))
        leaves = detached.there()
        count = int((labels >= 0).sum())
        size = self.config.micro_batch_size or len(shown)
        total = 0.0
        for part in zip(shown.split(size), labels.split(size), batch.attention_mask.split(size), strict=True):
            ids, of_part, mask = (tensor.to(self.model.device) for tensor in part)
            logits = logits_with(self.model, in_model, {"input_ids": ids, "attention_mask": mask}).float()
            share = int((of_part >= 0).sum()) / max(1, count)
            if self.config.objective == "masked":
                loss = share * masked_lm_loss(logits, of_part)
            else:
                loss = share * clm_loss(logits, of_part, mask)
            loss.backward(inputs=leaves, retain_graph=True)
            total += float(loss.detach())
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves], total

    def _task(self, batch: DrawnBatch, number: int) -> tuple[Tensor, Tensor]:
        """What the model is shown, and what it is to predict."""
        if self.config.objective == "causal":
            return batch.input_ids, next_tokens(batch)
        place = int(batch.special[batch.special_in_source == self._mask])
        return masked(batch, place, step_generator(self.config.seed, number, "mask"))

    def _language(self, number: int) -> int | None:
        return self._drawn.language(number) if self.network.config.languages else None

    def _sides(self) -> tuple[Tensor, Tensor | None]:
        return split_sides(self._embeddings, self.network.config.embedding_size)

    def _fingerprint(self, tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, Sequence[str]]) -> str:
        settings = {**asdict(self.config), "save_every": None}
        spoken = [text for language, of_language in texts.items() for text in (language, *of_language)]
        fixed = [weight for weight in self.network.parameters() if not weight.requires_grad]
        return fingerprint(
            [settings, asdict(self.network.config), backend_tokenizer(tokenizer).to_str()],
            *spoken,
            *(weight.float() for weight in (self._embeddings, *fixed)),
        )


class _KnownLoss(torch.autograd.Function):
    """A loss whose value and gradients were computed before, in micro-batches."""

    @staticmethod
    def forward(ctx: Any, value: float, gradients: list[Tensor], *rows: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return rows[0].new_tensor(value, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(upstream[0] * gradient for gradient in ctx.saved_tensors)
