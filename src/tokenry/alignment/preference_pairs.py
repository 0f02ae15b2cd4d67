"""Preference pairs as token ids: one prompt, a chosen and a rejected response, and the batches that TRL makes of them.

A batch holds the chosen rows first and the rejected rows second, with `input_ids`, `attention_mask` and `completion_mask` (1 on the
tokens of the response), as TRL's `DataCollatorForPreference` makes it; padding may be on either side.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with two responses, as token ids.

    Attributes:
        prompt: ids that are not learned from.
        chosen: ids of the response that is wanted.
        rejected: ids of the one that is not.

    Raises:
        UserError: a response or the prompt is empty.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("chosen", "rejected"):
            if not getattr(self, name):
                raise UserError(f"the {name} response has no tokens: give both responses of every pair.")
        if not self.prompt:
            raise UserError(
                "the prompt has no tokens, so nothing predicts the first of a response: give a prompt."
            )

    @classmethod
    def from_whole(
        cls, prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]
    ) -> "PreferencePair":
        """Make a pair of responses that were tokenised together with their prompt.

        Raises:
            UserError: the prompt is not the beginning of both.
        """
        for name, whole in (("chosen", chosen), ("rejected", rejected)):
            if list(whole[: len(prompt)]) != list(prompt):
                raise UserError(
                    f"the prompt is not a prefix of the tokens of prompt and {name} response (tokens merge at the boundary): "
                    "tokenise prompt and responses separately."
                )
        return cls(tuple(prompt), tuple(chosen[len(prompt) :]), tuple(rejected[len(prompt) :]))

    @property
    def is_equal(self) -> bool:
        """Whether both responses are the same, so that the pair teaches nothing."""
        return self.chosen == self.rejected


def collate_pairs(
    pairs: Sequence[PreferencePair], pad_token_id: int = 0, left: bool = False
) -> dict[str, Tensor]:
    """Make a batch of pairs, as TRL's collator does; `left` pads on the left."""
    rows = [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]
    prompts = [len(pair.prompt) for pair in pairs] * 2
    longest = max(map(len, rows))
    batch = {
        "input_ids": torch.full((len(rows), longest), pad_token_id),
        "attention_mask": torch.zeros(len(rows), longest, dtype=torch.long),
        "completion_mask": torch.zeros(len(rows), longest, dtype=torch.long),
    }
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        start = longest - len(row) if left else 0
        batch["input_ids"][number, start : start + len(row)] = torch.tensor(row)
        batch["attention_mask"][number, start : start + len(row)] = 1
        batch["completion_mask"][number, start + prompt : start + len(row)] = 1
    return batch


def pairs_in(batch: Batch) -> Iterator[PreferencePair]:
    """The pairs of a batch, without padding.

    Raises:
        UserError: no even number of rows, or a row without a response.
    """
    ids, mask = batch["input_ids"], batch["completion_mask"].bool()
    real = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(mask)
    if ids.shape[0] % 2 or not ids.shape[0]:
        raise UserError(
            f"a batch of pairs holds the chosen rows first and the rejected rows second, got {ids.shape[0]} rows."
        )
    number = ids.shape[0] // 2
    for row in range(number):
        responses = [ids[side][mask[side] & real[side]].tolist() for side in (row, row + number)]
        prompts = [ids[side][~mask[side] & real[side]].tolist() for side in (row, row + number)]
        if prompts[0] != prompts[1]:
            raise UserError(f"the rows of pair {row + 1} have different prompts: pair the rows in order.")
        yield PreferencePair(tuple(prompts[0]), tuple(responses[0]), tuple(responses[1]))


def require_pairs(rows: Iterable[Mapping[str, Any]], first: int = 1) -> None:
    """Refuse rows of text or messages of which nothing can be learned; `first` is the number of the first.

    Raises:
        UserError: a row without `chosen` and `rejected`, one whose response is empty or no text, or one whose responses are equal.
    """
    for number, row in enumerate(rows, start=first):
        for name in ("chosen", "rejected"):
            if name not in row:
                raise UserError(
                    f"row {number} has no {name!r}: a pair has a prompt, a chosen and a rejected response; there are {', '.join(row)}."
                )
            said = row[name]
            if not isinstance(said, str | list | None):
                raise UserError(
                    f"the {name} response of pair {number} is {said!r}: give text, or a list of messages."
                )
            last = said[-1].get("content") if isinstance(said, list) and said else said
            if not last or (isinstance(last, str) and not last.strip()):
                raise UserError(
                    f"pair {number} has an empty {name} response: give both responses, or drop the pair."
                )
        if row["chosen"] == row["rejected"]:
            raise UserError(
                f"pair {number} has equal responses, so there is no preference to learn: drop the pair."
            )


def encode_pair(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, number: int = 1
) -> PreferencePair:
    """Encode a row of texts or messages; the prompt may be a column, or the beginning of both responses.

    Texts are tokenised apart, so that no token spans prompt and response, and end with the tokenizer's end of text, as in TRL. Messages
    are rendered by the chat template.

    Args:
        row: `chosen`, `rejected` and perhaps `prompt`.
        tokenizer: the tokenizer of the model.
        number: of the row, for error messages.

    Raises:
        UserError: as `require_pairs`, there is no template for messages, or it renders the prompt alone in another way than before a
            response.
    """
    from trl.data_utils import extract_prompt, is_conversational

    require_pairs([row], number)
    row = row if row.get("prompt") else extract_prompt(dict(row))
    if is_conversational(row):
        if tokenizer.chat_template is None:
            raise UserError(
                f"pair {number} is a conversation, and the tokenizer has no chat template: give prompt, chosen and rejected as text."
            )
        prompt, chosen, rejected = (
            tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=messages is row["prompt"], return_dict=True
            )["input_ids"]
            for messages in (row["prompt"], row["prompt"] + row["chosen"], row["prompt"] + row["rejected"])
        )
        return PreferencePair.from_whole(prompt, chosen, rejected)
    end = tokenizer.eos_token or ""
    responses = [row[name] if row[name].endswith(end) else row[name] + end for name in ("chosen", "rejected")]
    return PreferencePair(
        tuple(tokenizer(row["prompt"])["input_ids"]),
        *(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in responses),
    )
