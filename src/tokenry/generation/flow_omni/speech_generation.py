"""Text and continuous tokens written in parallel, in batches, with a KV cache, and given out step by step.

    step s      text token s of every row that has not ended, and speech token s − delay of every row that still speaks
    stop        a speech token is the last where sigmoid(stop) > threshold, or where max_tokens is reached (which is told)

Rows that have ended are fed blanks until the last one has; prompts are padded on the left. Every row draws from a generator of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.tensors.gate import require_readable
from tokenry.core.tensors.generation import left_padded
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import output_head
from tokenry.generation.flow_omni.flow_head import Solver
from tokenry.generation.flow_omni.streams import BLANK, text_stream


@dataclass(frozen=True)
class SpeechSampling:
    """How both streams are written.

    Attributes:
        steps: steps of the flow.
        solver: euler, or midpoint with two evaluations a step.
        temperature: of the noise that speech begins as.
        guidance: how far speech goes beyond what the hidden states ask for; 0 takes half the time.
        stop_threshold: probability above which a token is taken for the last.
        min_tokens: fewest speech tokens.
        max_tokens: most speech tokens; 0 for an answer in text alone.
        max_text: most text tokens.
        text_temperature: of the text; 0 takes the likeliest token.
        seed: random seed; row i of a batch draws from seed + i, whatever stands beside it.
    """

    steps: int = 10
    solver: str = "euler"
    temperature: float = 1.0
    guidance: float = 0.0
    stop_threshold: float = 0.5
    min_tokens: int = 1
    max_tokens: int = 512
    max_text: int = 256
    text_temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps)
        require_one_of(self.solver, get_args(Solver), "solver")
        require_at_least(
            0,
            temperature=self.temperature,
            text_temperature=self.text_temperature,
            min_tokens=self.min_tokens,
            max_tokens=self.max_tokens,
            max_text=self.max_text,
            seed=self.seed,
        )
        if not 0.0 < self.stop_threshold <= 1.0:
            raise UserError(f"stop_threshold must be in (0, 1], got {self.stop_threshold}.")


class SpeechStep(NamedTuple):
    """What one step writes.

    Attributes:
        text: text token of each row; `BLANK` where it says none.
        tokens: continuous token of each row, as frames are; of no meaning where it does not speak.
        speaks: rows whose continuous token is part of their speech.
        stops: rows whose token is the last, by their own decision.
    """

    text: Int[Tensor, "batch"]
    tokens: Float[Tensor, "batch channels"]
    speaks: Bool[Tensor, "batch"]
    stops: Bool[Tensor, "batch"]


@dataclass(frozen=True)
class Spoken:
    """A whole answer.

    Attributes:
        text: token ids.
        tokens: continuous tokens.
        stopped: whether the model ended it; else it was cut off at `max_tokens`.
    """

    text: tuple[int, ...]
    tokens: Float[Tensor, "tokens channels"]
    stopped: bool

    @classmethod
    def gather(cls, rows: int, steps: Iterable[SpeechStep]) -> "list[Spoken]":
        """Put the steps of a batch together."""
        taken = list(steps)
        return [
            cls(
                tuple(int(step.text[row]) for step in taken if step.text[row] != BLANK),
                torch.stack([step.tokens[row] for step in taken if step.speaks[row]])
                if any(bool(step.speaks[row]) for step in taken)
                else torch.zeros(0, taken[0].tokens.shape[1] if taken else 0),
                any(bool(step.stops[row]) for step in taken),
            )
            for row in range(rows)
        ]


def write_streams(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: SpeechSampling,
    texts: Sequence[Sequence[int]] | None,
    input_features: Float[Tensor, "batch features time"] | None,
    heard_states: Sequence[int] | None,
    ends: Sequence[int],
) -> Iterator[SpeechStep]:
    """See `ContinuousTokenLM.stream`."""
    _require_batch(model, prompts, sampling, texts, heard_states)
    with evaluation_mode(model), torch.no_grad():
        yield from _Writer(model, len(prompts), sampling, texts, ends).write(
            *left_padded(
                [
                    text_stream(prompt, heard)
                    for prompt, heard in zip(prompts, heard_states or [0] * len(prompts), strict=True)
                ],
                BLANK,
            ),
            input_features,
        )


class _Writer:
    """The rows of a batch while they are written."""

    def __init__(
        self,
        model: Any,
        rows: int,
        sampling: SpeechSampling,
        texts: Sequence[Sequence[int]] | None,
        ends: Sequence[int],
    ) -> None:
        self.model, self.sampling, self.texts, self.ends = model, sampling, texts, set(ends)
        self.device = model.speech_blank.device
        self.generators = [Generator().manual_seed(sampling.seed + row) for row in range(rows)]
        self.writes = torch.ones(rows, dtype=torch.bool)
        self.speaks = torch.full((rows,), sampling.max_tokens > 0)
        self.head = output_head(model.language_model)

    def write(self, ids: Tensor, mask: Tensor, input_features: Tensor | None) -> Iterator[SpeechStep]:
        model = self.model
        ids, mask = ids.to(self.device), mask.to(self.device)
        features = None if input_features is None else input_features.to(self.device)
        nothing = torch.zeros_like(ids, dtype=torch.bool)
        embedded, cache, step = model._embed(ids, None, nothing, features), None, 0
        while True:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embedded.shape[1] :]
            options = {"past_key_values": cache, "position_ids": positions, "use_cache": True}
            output = model._read(embedded, mask, **options)
            cache, hidden = output.past_key_values, output.last_hidden_state[:, -1]
            text = self._text(hidden, step)
            tokens, speaks, stops = self._speech(hidden, step - model.config.delay)
            yield SpeechStep(text, model.scale.inverse(tokens).cpu(), speaks, stops)
            step += 1
            if not bool((self.writes | self.speaks).any()):
                return
            fed = text[:, None].to(self.device)
            embedded = model._embed(fed, tokens[speaks.to(self.device)], speaks[:, None].to(self.device))
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)

    def _text(self, hidden: Tensor, step: int) -> Int[Tensor, "batch"]:
        """The text token of each row, and which rows go on."""
        if self.texts is not None:
            said = [row[step] if step < len(row) else BLANK for row in self.texts]
            self.writes = torch.tensor([step + 1 < len(row) for row in self.texts])
            return torch.tensor(said)
        chosen = torch.full((len(hidden),), BLANK)
        if step >= self.sampling.max_text:
            self.writes[:] = False
        if bool(self.writes.any()):
            logits = self.head.logits(hidden[self.writes.to(self.device)]).float().cpu()
            chosen[self.writes] = torch.stack(
                [
                    self._token(row, self.generators[number])
                    for row, number in zip(logits, self.writes.nonzero()[:, 0].tolist(), strict=True)
                ]
            )
            self.writes &= ~torch.tensor([int(token) in self.ends for token in chosen])
        return chosen

    def _token(self, logits: Tensor, generator: Generator) -> Tensor:
        if not self.sampling.text_temperature:
            return logits.argmax()
        chances = (logits / self.sampling.text_temperature).softmax(0)
        return chances.multinomial(1, generator=generator)[0]

    def _speech(self, hidden: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised continuous token of each row, the rows that said it, and those that stop after it."""
        model, sampling = self.model, self.sampling
        tokens = torch.zeros(
            len(hidden), model.config.channels, device=self.device, dtype=model.scale.mean.dtype
        )
        speaks = self.speaks.clone() if number >= 0 else torch.zeros_like(self.speaks)
        if not bool(speaks.any()):
            return tokens, speaks, torch.zeros_like(speaks)
        here = speaks.to(self.device)
        rows = model._conditions(hidden[here])
        noise = torch.stack(
            [
                torch.randn(model.config.channels, generator=self.generators[row])
                for row in speaks.nonzero()[:, 0].tolist()
            ]
        )
        with torch.autocast(self.device.type, enabled=False):
            tokens[here] = model.draw_speech(rows, noise.to(rows), sampling).to(tokens.dtype)
            chance = torch.zeros(len(hidden))
            chance[speaks] = model.stop(rows)[:, 0].sigmoid().float().cpu()
        stops = speaks & (chance > sampling.stop_threshold) & (number + 1 >= sampling.min_tokens)
        self.speaks &= ~stops
        if number + 1 >= sampling.max_tokens:
            self.speaks[:] = False
        return tokens, speaks, stops


def _require_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: SpeechSampling,
    texts: Sequence[Sequence[int]] | None,
    heard_states: Sequence[int] | None,
) -> None:
    if not prompts:
        raise UserError("there are no prompts: give at least one, which may be empty.")
    for given, what in ((texts, "texts"), (heard_states, "heard_states")):
        if given is not None and len(given) != len(prompts):
            raise UserError(
                f"{len(given)} {what} and {len(prompts)} prompts do not belong together: give one each."
            )
    written = [*map(len, texts)] if texts is not None else [sampling.max_text] * len(prompts)
    spoken = model.config.delay + sampling.max_tokens
    lengths = [
        len(text_stream(prompt, heard)) + max(text, spoken) - 1
        for prompt, text, heard in zip(prompts, written, heard_states or [0] * len(prompts), strict=True)
    ]
    read = [token for row in (*prompts, *(texts or ())) for token in row]
    require_readable(model.language_model, read, lengths, "the prompts with their answers")
