"""The one loop of decoders: step, append, stop; every row of a batch grows at its own length.

    for block in decoder.blocks(…):       what the decoder adds to each row in one step: a token, or several
        batch.append(block)               as far as the first end of each row; it runs on while a row does

A decoder is a callable for `model.generate(…, custom_generate=decoder)`: `generate` prepares logits processors, stopping criteria and
the attention mask as for its own decoding. Processors and criteria are shown each row up to its own last token, so that what a row says
depends neither on the lengths of the others nor on how many tokens a step adds.

    log p(token) = logits[token] − logsumexp(logits)      of the model itself: before processors and temperature

Source: transformers, custom generation methods (GenerationMixin.generate).
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import EosTokenCriteria, GenerateDecoderOnlyOutput, MaxLengthCriteria

from tokenry.core.errors import UserError

# Older versions of transformers cut the input by its place in the cache instead.
_CUTS_INPUT = (
    "next_sequence_length" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)


class Block(NamedTuple):
    """What one step adds to each row of a batch.

    Attributes:
        tokens: new tokens of each row.
        counts: how many of them belong to the row; None for all.
        log_probs: of the tokens under the model, in nats; None where they are not computed.
        sources: which of several models wrote each token, from 0; None where there is one.
    """

    tokens: Int[Tensor, "batch block"]
    counts: Int[Tensor, "batch"] | None = None
    log_probs: Float[Tensor, "batch block"] | None = None
    sources: Int[Tensor, "batch block"] | None = None


_OF_LAST_TOKEN = (MaxLengthCriteria, EosTokenCriteria)
"""Criteria that look at the last token and its place only."""

_BESIDE = {"log_probs": float("nan"), "sources": -1}
"""What is kept beside the new tokens, and what stands there after the end of a row."""


class GrowingBatch:
    """The sequences of a batch while a decoder lengthens them: prompts, padded on the left, then the new tokens of each row.

    Args:
        input_ids: the prompts.
        stopping_criteria: what ends a row; the maximum length among them.
        pad_token: id that stands after the end of a row.
        attention_mask: real tokens of the prompts; None where nothing is padding.

    Attributes:
        input_ids: prompts, new tokens, padding; with room for more.
        prompt_length: tokens of the prompts, padding included.
        lengths: tokens of each row so far, the padding of its prompt included.
        length: tokens of the longest row.
        running: rows that have not ended.
        log_probs: of the new tokens, nan where there is none; None if no block had any.
        sources: of the new tokens, -1 where there is none; None if no block had any.
    """

    def __init__(
        self,
        input_ids: Int[Tensor, "batch prompt"],
        stopping_criteria: StoppingCriteriaList,
        pad_token: int = 0,
        attention_mask: Int[Tensor, "batch prompt"] | None = None,
    ) -> None:
        rows, self.prompt_length = input_ids.shape
        self._criteria, self._pad_token = stopping_criteria, pad_token
        self._prompt_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self.input_ids = input_ids
        self.lengths = torch.full((rows,), self.prompt_length, device=input_ids.device)
        self.length = self.prompt_length
        self._limit = math.inf if stopping_criteria.max_length is None else stopping_criteria.max_length
        self.running = torch.full_like(self.lengths, self._limit > self.prompt_length, dtype=torch.bool)
        self.log_probs: Tensor | None = None
        self.sources: Tensor | None = None

    def attention_mask(self) -> Bool[Tensor, "batch length"]:
        """The real tokens among `input_ids`, up to the end of the longest row."""
        places = torch.arange(self.length, device=self.lengths.device)
        mask = places < self.lengths[:, None]
        mask[:, : self.prompt_length] = self._prompt_mask.bool()
        return mask

    def sequences(self) -> Int[Tensor, "batch length"]:
        """Prompts and new tokens, up to the end of the longest row."""
        return self.input_ids[:, : self.length]

    def prefixes(
        self, rows: Bool[Tensor, "batch"]
    ) -> Iterator[tuple[Bool[Tensor, "batch"] | slice, Int[Tensor, "some length"]]]:
        """Cut `rows` into those of one length each, and yield the tokens of each part.

        Where all that run have one length the whole batch comes, as `generate` shows it to processors and criteria, ended rows padded.
        """
        lengths = self.lengths[rows].unique().tolist()
        if len(lengths) == 1 and bool((self.lengths[self.running] == lengths[0]).all()):
            yield slice(None), self.input_ids[:, : lengths[0]]
            return
        for length in lengths:
            part = rows & (self.lengths == length)
            yield part, self.input_ids[part, :length]

    def append(self, block: Block) -> Int[Tensor, "batch"]:
        """Add tokens to the rows that run, each until it ends; returns how many were kept of each row."""
        columns = block.tokens.shape[1]
        counts = torch.full_like(self.lengths, columns) if block.counts is None else block.counts
        before = self.lengths.clone()
        self._make_room(self.length + columns, block)
        if all(type(criterion) in _OF_LAST_TOKEN for criterion in self._criteria):
            self._append_at_once(block, counts)
        else:
            self._append_one_by_one(block, counts)
        self.length = int(self.lengths.max())
        return self.lengths - before

    def _append_at_once(self, block: Block, counts: Int[Tensor, "batch"]) -> None:
        """Add all tokens up to the first end: what ends a row is known from a token and its place."""
        columns = torch.arange(block.tokens.shape[1], device=counts.device)
        lengths, ends = self.lengths[:, None] + columns + 1, torch.zeros_like(block.tokens, dtype=torch.bool)
        for criterion in self._criteria:
            if isinstance(criterion, MaxLengthCriteria):
                ends |= lengths >= criterion.max_length
            else:
                ends |= torch.isin(block.tokens, criterion.eos_token_id.to(ends.device))
        goes_on = ends.logical_not().long().cumprod(1)
        kept = torch.minimum(counts, 1 + goes_on[:, :-1].sum(1)) * self.running
        added = columns < kept[:, None]
        rows, of_block = added.nonzero(as_tuple=True)
        self._write(block, rows, of_block, self.lengths[rows] + of_block)
        self.lengths += kept
        self.running &= ~(added & ends).any(1)

    def _append_one_by_one(self, block: Block, counts: Int[Tensor, "batch"]) -> None:
        """Ask the criteria after every token about the text up to it."""
        for column in range(block.tokens.shape[1]):
            growing = self.running & (column < counts)
            if not bool(growing.any()):
                break
            rows = growing.nonzero()[:, 0]
            self._write(block, rows, torch.full_like(rows, column), self.lengths[rows])
            self.lengths += growing
            for part, prefixes in self.prefixes(growing):
                self.running[part] &= ~self._criteria(prefixes, None)

    def _write(
        self,
        block: Block,
        rows: Int[Tensor, "new"],
        columns: Int[Tensor, "new"],
        places: Int[Tensor, "new"],
    ) -> None:
        """Put tokens of a block, and what is known of them, into their places."""
        self.input_ids[rows, places] = block.tokens[rows, columns]
        for name in _BESIDE:
            if (values := getattr(block, name)) is not None:
                getattr(self, name)[rows, places - self.prompt_length] = values[rows, columns]

    def _make_room(self, length: int, block: Block) -> None:
        """Twice the room that is needed, as far as rows can grow, so that a long answer is copied a few times only."""
        if length > self.input_ids.shape[1]:
            room = max(length, int(min(2 * length, self._limit)))
            self.input_ids = _widened(self.input_ids, room, self._pad_token)
        room = self.input_ids.shape[1] - self.prompt_length
        for name, fill in _BESIDE.items():
            values, known = getattr(block, name), getattr(self, name)
            if values is not None and (known is None or known.shape[1] < room):
                setattr(self, name, _widened(values[:, :0] if known is None else known, room, fill))


class TokenChoice:
    """What `generate` was asked for: processed scores, then the most probable token or a drawn one."""

    def __init__(self, logits_processor: LogitsProcessorList, do_sample: bool = False) -> None:
        self.logits_processor, self.do_sample = logits_processor, do_sample

    @property
    def is_greedy(self) -> bool:
        """Whether a choice is the most probable token by the model's own logits, whatever the text is."""
        return not self.logits_processor and not self.do_sample

    def __call__(
        self, batch: GrowingBatch, logits: Float[Tensor, "batch vocabulary"]
    ) -> Int[Tensor, "batch"]:
        """Choose the token after each row that runs, from the model's logits there; what comes out for the others has no meaning."""
        if not self.logits_processor:
            return self.of_scores(logits)
        scores = logits.clone()
        for rows, prefixes in batch.prefixes(batch.running):
            scores[rows] = self.logits_processor(prefixes, scores[rows])
        return self.of_scores(scores)

    def of_scores(self, scores: Float[Tensor, "rows vocabulary"]) -> Int[Tensor, "rows"]:
        """Choose from scores that are processed already."""
        return torch.multinomial(scores.softmax(-1), 1)[:, 0] if self.do_sample else scores.argmax(-1)


def token_log_probs(
    logits: Float[Tensor, "rows vocabulary"], tokens: Int[Tensor, "rows"]
) -> Float[Tensor, "rows"]:
    """The log-probability in nats of one token of each row of logits: one gather."""
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


class NextLogits:
    """A model's logits after the last token of each row, all rows at one length; a call computes what is new since the last one.

    Args:
        model: language model of transformers.
        generation_config: as `generate` prepared it.
        model_kwargs: what `generate` hands on to the model: attention mask, positions, cache.

    Attributes:
        outputs: what the model returned last (hidden states too, where `generate` was asked for them).
    """

    def __init__(self, model: Any, generation_config: GenerationConfig, model_kwargs: dict[str, Any]) -> None:
        self._model, self._config, self._kwargs = model, generation_config, dict(model_kwargs)
        self.outputs: Any = None

    def __call__(self, input_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch vocabulary"]:
        """Read the whole prompt at first, then one token of each row."""
        if self.outputs is None:
            self.outputs = self._model._prefill(input_ids, self._config, self._kwargs)
        else:
            one_token = {"next_sequence_length": 1} if _CUTS_INPUT and self._kwargs.get("use_cache") else {}
            inputs = self._model.prepare_inputs_for_generation(input_ids, **one_token, **self._kwargs)
            self.outputs = self._model(**inputs, return_dict=True)
        self._kwargs = self._model._update_model_kwargs_for_generation(
            self.outputs, self._kwargs, is_encoder_decoder=self._model.config.is_encoder_decoder
        )
        return self.outputs.logits[:, -1].float()


@dataclass
class Decoded(GenerateDecoderOnlyOutput):
    """What a decoder returns where `generate` is asked for a dictionary.

    Attributes:
        new_tokens: number of each row's new tokens, the one that ended it included.
        log_probs: of the new tokens in nats, nan after the end of a row; None where the decoder computes none.
        sources: which model wrote each of the new tokens, -1 after the end of a row; None where there is one model.
    """

    new_tokens: Tensor | None = None
    log_probs: Tensor | None = None
    sources: Tensor | None = None


class Decoder(ABC):
    """A way of decoding: `model.generate(…, custom_generate=decoder)`.

    Attributes:
        takes_encoder_decoders: whether a model may read its prompt in an encoder: the batch then holds the answer alone, from its start token.
    """

    takes_encoder_decoders: ClassVar[bool] = False

    @abstractmethod
    def blocks(
        self,
        model: Any,
        batch: GrowingBatch,
        choose: TokenChoice,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
    ) -> Iterator[Block]:
        """Yield what each step adds; the loop has appended it to `batch` when the next one is asked for.

        Args:
            model: the model that generates.
            batch: the rows as they stand; the decoder only reads them.
            choose: chooses tokens as `generate` was asked to.
            generation_config: as `generate` prepared it.
            model_kwargs: what `generate` hands on to the model. Its cache was made from the model's config: a decoder that takes rows
                back must make its own.
        """

    def __call__(
        self,
        model: Any,
        input_ids: Int[Tensor, "batch prompt"],
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Decoded | Int[Tensor, "batch length"]:
        """Decode; called by `generate`.

        Raises:
            UserError: beam search, or an encoder-decoder where the decoder takes none.
        """
        self._require_single_sequences(model, generation_config)
        pad_token = generation_config._pad_token_tensor
        batch = GrowingBatch(
            input_ids,
            stopping_criteria,
            0 if pad_token is None else int(pad_token),
            None if model.config.is_encoder_decoder else model_kwargs.get("attention_mask"),
        )
        choose = TokenChoice(logits_processor, generation_config.do_sample)
        if bool(batch.running.any()):
            for block in self.blocks(model, batch, choose, generation_config, model_kwargs):
                batch.append(block)
                if not bool(batch.running.any()):
                    break
        if not generation_config.return_dict_in_generate:
            return batch.sequences()
        written = batch.length - batch.prompt_length
        return Decoded(
            sequences=batch.sequences(),
            new_tokens=batch.lengths - batch.prompt_length,
            log_probs=None if batch.log_probs is None else batch.log_probs[:, :written],
            sources=None if batch.sources is None else batch.sources[:, :written],
        )

    def _require_single_sequences(self, model: Any, generation_config: GenerationConfig) -> None:
        name = type(self).__name__
        if generation_config.num_beams != 1:
            raise UserError(
                f"num_beams is {generation_config.num_beams}, and {name} follows one sequence per row: use num_beams=1 "
                "(num_return_sequences with do_sample=True for several answers)."
            )
        if model.config.is_encoder_decoder and not self.takes_encoder_decoders:
            raise UserError(
                f"{type(model).__name__} is an encoder-decoder, and {name} needs a decoder-only model."
            )


class TokenByToken(Decoder):
    """The decoding of `generate` itself, greedy or sampled, with the log-probability of every new token: no second forward."""

    takes_encoder_decoders = True

    def blocks(
        self,
        model: Any,
        batch: GrowingBatch,
        choose: TokenChoice,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
    ) -> Iterator[Block]:
        """One token per row and step."""
        next_logits = NextLogits(model, generation_config, model_kwargs)
        while True:
            logits = next_logits(batch.sequences())
            tokens = choose(batch, logits)
            yield Block(tokens[:, None], log_probs=token_log_probs(logits, tokens)[:, None])


def _widened(values: Tensor, width: int, fill: float | int) -> Tensor:
    wide = values.new_full((len(values), width), fill)
    wide[:, : values.shape[1]] = values
    return wide
