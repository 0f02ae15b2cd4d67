"""Models that write text: one interface for a model on this machine and for an endpoint (`tokenry.models.endpoint`).

model.generate(prompts, Sampling(max_new_tokens=64)) -> list[Generated]       text, log-probs of its tokens, what it took
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteriaList, StopStringCriteria

from tokenry.core.errors import UserError, require_at_least, require_share
from tokenry.core.tensors.gate import name_of, position_limit
from tokenry.core.tensors.generation import (
    Continuation,
    answer_log_probs,
    continue_prompts,
    greedy_config,
    require_answers,
)
from tokenry.core.tensors.output_head import causal_lm, is_encoder_decoder
from tokenry.core.tensors.step_loop import TokenByToken

Prompt = str | Sequence[Mapping[str, Any]]
"""A text that is continued as it is, or a conversation of `role` and `content`, the user's turn last, that is answered."""

FinishReason = Literal["stop", "length", "failed"]


@dataclass(frozen=True)
class Sampling:
    """How a text is written.

    Attributes:
        max_new_tokens: number of tokens after which it is cut off.
        temperature: 0 for the most probable token.
        top_p: share of the probability that is sampled from, the most probable tokens first.
        stop: strings that end the text, and are no part of it.
        samples: number of texts for each prompt.
        seed: random seed; None draws on.
        log_probs: ask for the log-probabilities of the tokens.
    """

    max_new_tokens: int = 256
    temperature: float | int = 0.0
    top_p: float | int = 1.0
    stop: tuple[str, ...] = ()
    samples: int = 1
    seed: int | None = None
    log_probs: bool = True

    def __post_init__(self) -> None:
        require_at_least(1, max_new_tokens=self.max_new_tokens, samples=self.samples)
        require_at_least(0, temperature=self.temperature)
        require_share(self.top_p, "top_p")
        if "" in self.stop:
            raise UserError("stop holds an empty string, which every text begins with: leave it out.")
        if self.temperature == 0 and self.samples > 1:
            raise UserError(
                f"temperature 0 writes the same text {self.samples} times: use samples=1, or a higher temperature."
            )


GREEDY = Sampling()


@dataclass(frozen=True)
class Generated:
    """A text that a model wrote.

    Attributes:
        text: without special tokens and stop string; empty where it failed.
        log_probs: of each token in nats, under the model itself (temperature 1), as far as they are known: those of a local model include
            the token that ended the text, those of an endpoint usually do not. None where there are none.
        prompt_tokens: number of tokens that were read.
        completion_tokens: number of tokens that were written.
        finish_reason: an end token or a stop string, the number of tokens, or `failed`.
        failure: the reason why there is no text, in a sentence.
    """

    text: str
    log_probs: tuple[float, ...] | None
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason = "stop"
    failure: str = ""


@runtime_checkable
class TextModel(Protocol):
    """What writes text."""

    @property
    def name(self) -> str:
        """The model's name in reports and records."""
        ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY) -> list[Generated]:
        """Write `sampling.samples` texts for each prompt; those of one prompt stand together."""
        ...


def require_generated(generated: Sequence[Generated]) -> None:
    """Raise `UserError` with the first failure if a text is missing, for a caller that cannot go on without it."""
    failed = [place for place, text in enumerate(generated) if text.finish_reason == "failed"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(generated)} texts could not be written; the first, number {failed[0]}: {generated[failed[0]].failure}"
        )


class LocalText:
    """A language model of transformers as a `TextModel`: causal, or an encoder-decoder (T5, BART).

    Texts are the same in any batch when greedy; sampled ones depend on the batch. Log-probabilities come out of the steps that choose the
    tokens (`TokenByToken`). An encoder-decoder without a chat template reads the contents of a conversation as one text, with empty lines
    between its turns.

    Args:
        model: language model, wrapped or not; its own generation defaults are left aside.
        tokenizer: its tokenizer; with a chat template, if prompts for a causal language model are conversations.
        batch_size: number of texts that are written at once.
        name: name in reports; by default the model's own.
        share_prefix: whether what all prompts of a call begin with is read once only, where the layers of the model all attend.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 8,
        name: str | None = None,
        share_prefix: bool = False,
    ) -> None:
        require_at_least(1, batch_size=batch_size)
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.name = name or name_of(causal_lm(model))
        self.share_prefix = share_prefix
        self._has_encoder = is_encoder_decoder(model)

    def __repr__(self) -> str:
        return f"<LocalText: {self.name}>"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY) -> list[Generated]:
        """Write texts after each prompt.

        Raises:
            UserError: a prompt is empty, too long for the model, or a conversation for which there is no chat template.
        """
        encoded = [self._encode(number, prompt) for number, prompt in enumerate(prompts)]
        encoded = [ids for ids in encoded for _ in range(sampling.samples)]
        require_answers(self.model, encoded, sampling.max_new_tokens, encoder_decoders=True)
        config = self._config(sampling)
        stop = [StopStringCriteria(self.tokenizer, list(sampling.stop))] if sampling.stop else []
        with nullcontext() if sampling.seed is None else torch.random.fork_rng():
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            continuations = continue_prompts(
                self.model,
                encoded,
                config,
                self.batch_size,
                TokenByToken(),
                share_prefix=self.share_prefix,
                stopping_criteria=StoppingCriteriaList(stop),
            )
        return [
            self._generated(len(ids), continuation, config, sampling)
            for ids, continuation in zip(encoded, continuations, strict=True)
        ]

    def log_probs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[tuple[float, ...]]:
        """Log-probabilities in nats of the tokens of given answers and of the end after them, as those of `Generated`.

        Raises:
            UserError: prompts as in `generate`, another number of answers, or a tokenizer without an end token.
        """
        if len(prompts) != len(answers):
            raise UserError(f"{len(answers)} answers to {len(prompts)} prompts: give one per prompt.")
        end = self.tokenizer.eos_token_id
        if end is None:
            raise UserError(f"the tokenizer of {self.name} has no end token: set tokenizer.eos_token.")
        encoded = [self._encode(number, prompt) for number, prompt in enumerate(prompts)]
        written = [
            [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], end] for answer in answers
        ]
        require_answers(self.model, encoded, max(map(len, written), default=1), encoder_decoders=True)
        return answer_log_probs(self.model, encoded, written, self.batch_size)

    @property
    def positions(self) -> int | float:
        """The maximum number of tokens of a prompt and its text together (of either, with an encoder); infinite where positions are computed."""
        return position_limit(self.model)

    def prompt_tokens(self, prompt: Prompt) -> int:
        """The number of tokens of a prompt."""
        return len(self._encode(0, prompt))

    def _encode(self, number: int, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str) and self._has_encoder and self.tokenizer.chat_template is None:
            prompt = "\n\n".join(str(message["content"]) for message in prompt)
        if isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"]
        elif self.tokenizer.chat_template is None:
            raise UserError(
                f"prompt {number} is a conversation and the tokenizer of {self.name} has no chat template: set tokenizer.chat_template, "
                "or give the text of the prompt."
            )
        else:
            ids = self.tokenizer.apply_chat_template(
                list(prompt), add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
        if not ids:
            raise UserError(f"prompt {number} has no tokens: a text that is to go on must begin.")
        return list(ids)

    def _config(self, sampling: Sampling) -> GenerationConfig:
        config = greedy_config(self.model, self.tokenizer, sampling.max_new_tokens)
        if sampling.temperature:
            # What is left open here would be taken from the model's own defaults.
            config.update(
                do_sample=True,
                temperature=float(sampling.temperature),
                top_p=float(sampling.top_p),
                top_k=0,
                min_p=0.0,
                typical_p=1.0,
                epsilon_cutoff=0.0,
                eta_cutoff=0.0,
            )
        return config

    def _generated(
        self, prompt_tokens: int, written: Continuation, config: GenerationConfig, sampling: Sampling
    ) -> Generated:
        text = self.tokenizer.decode(list(written.token_ids), skip_special_tokens=True)
        ends = [text.index(string) for string in sampling.stop if string in text]
        is_stopped = bool(ends) or len(written.token_ids) < sampling.max_new_tokens
        is_stopped |= written.token_ids[-1] in (config.eos_token_id or ())
        return Generated(
            text[: min(ends)] if ends else text,
            written.log_probs if sampling.log_probs else None,
            prompt_tokens,
            len(written.token_ids),
            "stop" if is_stopped else "length",
        )
