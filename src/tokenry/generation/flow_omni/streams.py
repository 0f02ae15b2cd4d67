"""Text and speech on one axis of positions: two streams that advance in parallel.

    position    0 … P − 1           P …
    text        prompt              answer, then blank
    speech      blank               token j at P + delay + j

What stands at position t is predicted from the hidden state at t − 1, in either stream: the library's alignment rule, and its only shift.
Where a stream has nothing to say it is blank. Speech that is heard stands before the prompt: begin, states of the encoder, end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.tensors.alignment import IGNORED
from tokenry.generation.flow_omni.speech_frames import group_frames, pad_frames

BLANK, HEARD = -1, -2
"""What stands in the text stream in the place of a token: nothing, or speech that is heard."""


@dataclass(frozen=True)
class SpokenSample:
    """A sample of training: any of its parts may be missing, but not all that is learned.

    Attributes:
        prompt: tokens that are given.
        text: tokens of the answer, with the one that ends it; they are learned.
        frames: real-valued frames of the answer; they are learned.
        heard: input of the speech encoder, shape (features, time).
        heard_states: states of the encoder that belong to it, after stacking.
    """

    prompt: Sequence[int] = ()
    text: Sequence[int] = ()
    frames: Float[Tensor, "frames mels"] | None = None
    heard: Float[Tensor, "features time"] | None = None
    heard_states: int = 0

    def __post_init__(self) -> None:
        if not self.text and self.frames is None:
            raise UserError("a sample with neither text nor speech to learn teaches nothing: leave it out.")
        if (self.heard is None) != (self.heard_states == 0):
            raise UserError(
                "heard speech needs its number of states, and they need it: give both, or neither."
            )


def text_stream(prompt: Sequence[int], heard_states: int = 0) -> list[int]:
    """What stands before the answer: heard speech between its two marks, the prompt, or a blank where there is neither."""
    heard = [HEARD] * (heard_states + 2) if heard_states else []
    return [*heard, *prompt] or [BLANK]


@dataclass(frozen=True)
class StreamCollator:
    """Samples as a batch for `ContinuousTokenLM`, padded on the right.

    Attributes:
        group: frames of a token.
        delay: positions from the begin of the answer to its first speech token.
        learn_text: whether the text of answers is learned.
    """

    group: int = 2
    delay: int = 1
    learn_text: bool = True

    def __post_init__(self) -> None:
        require_at_least(1, group=self.group)
        require_at_least(0, delay=self.delay)

    def length(self, sample: SpokenSample) -> int:
        """Positions of a sample."""
        count = self._tokens(sample)
        answer = max(len(sample.text), self.delay + count if count else 0)
        return len(text_stream(sample.prompt, sample.heard_states)) + answer

    def _tokens(self, sample: SpokenSample) -> int:
        return 0 if sample.frames is None else -(-len(sample.frames) // self.group)

    def __call__(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Make the batch; its keys are arguments of the model.

        Raises:
            UserError: no samples.
        """
        if not samples:
            raise UserError("there are no samples: give at least one.")
        spoken = [sample.frames for sample in samples if sample.frames is not None]
        ids, labels, starts, lengths = [], [], [], []
        for sample in samples:
            before = text_stream(sample.prompt, sample.heard_states)
            blanks = self.length(sample) - len(before) - len(sample.text)
            ids.append(torch.tensor([*before, *sample.text, *[BLANK] * blanks]))
            learned = [*sample.text] if self.learn_text else [IGNORED] * len(sample.text)
            labels.append(torch.tensor([*[IGNORED] * len(before), *learned, *[IGNORED] * blanks]))
            starts.append(len(before) + self.delay)
            lengths.append(self._tokens(sample))
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=BLANK),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }
        if spoken:
            grouped = group_frames(*pad_frames(spoken), self.group)
            rows = torch.tensor(
                [number for number, sample in enumerate(samples) if sample.frames is not None]
            )
            shape = (len(samples), *grouped.tokens.shape[1:])
            batch["speech"] = grouped.tokens.new_zeros(shape).index_copy(0, rows, grouped.tokens)
            batch["element_mask"] = grouped.tokens.new_zeros(shape).index_copy(0, rows, grouped.element_mask)
            batch["speech_lengths"], batch["speech_starts"] = torch.tensor(lengths), torch.tensor(starts)
        heard = [sample.heard for sample in samples if sample.heard is not None]
        if heard:
            batch["input_features"] = torch.stack(heard)
        return batch
