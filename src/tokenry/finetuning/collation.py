"""The data collator of a weighed run: the user's own, with the index of every token beside it.

A collator may pad on either side, flatten, cut, sort or drop samples: the index of a token goes where the token goes. The layouts
of TRL's collators are recognised by comparing the ids. Any other collator lays out the same samples a second time, with a
number in the place of each token:

    samples [7, 9], [4]    →  batch  [[7, 9], [0, 4]]      (padded on the left with 0)
    numbers [0, 1], [2]    →  layout [[0, 1], [pad, 2]]    so token_index = [[0, 1], [-1, 2]]
"""

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED
from tokenry.finetuning.token_index import RUNS, expanded

Collate = Callable[..., MutableMapping[str, Any]]

# These numbers cannot be token ids, not even of padding, and fit into 32 bits.
_FIRST_NUMBER = 1 << 30


class IndexingCollator:
    """Adds `token_index` to the batches of `collate`: the index of every token, -1 at padding.

    It stands in for the collator: it shows the collator's class and attributes as its own.
    """

    _collate: Collate

    def __init__(self, collate: Collate) -> None:
        object.__setattr__(self, "_collate", collate)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._collate.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_collate"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._collate, name, value)

    def __reduce__(self) -> tuple[type, tuple[Collate]]:
        return IndexingCollator, (self._collate,)

    def __call__(
        self, examples: Sequence[Mapping[str, Any]], *args: Any, **kwargs: Any
    ) -> MutableMapping[str, Any]:
        """Lay out a batch."""
        plain = [{name: value for name, value in example.items() if name != RUNS} for example in examples]
        if any(RUNS not in example for example in examples):
            return self._collate(plain, *args, **kwargs)
        kept = [dict(example) for example in plain]  # a collator may change its examples in place
        flat = torch.cat([_ids(example) for example in plain])
        index = torch.from_numpy(np.concatenate([expanded(example[RUNS]) for example in examples]))
        if len(index) != len(flat):
            raise UserError(
                "rows of the training data have another number of tokens than when the trainer was built: build a new trainer "
                "for changed data."
            )
        batch = self._collate(plain, *args, **kwargs)
        batch["token_index"] = self._follow(kept, flat, index, batch, args, kwargs)
        return batch

    def _follow(
        self,
        examples: Sequence[Mapping[str, Any]],
        flat: Int[Tensor, "tokens"],
        index: Int[Tensor, "tokens"],
        batch: Mapping[str, Any],
        args: Any,
        kwargs: Any,
    ) -> Int[Tensor, "batch seq"]:
        laid, labels = (batch.get(name) for name in ("input_ids", "labels"))
        if not (
            isinstance(laid, Tensor)
            and isinstance(labels, Tensor)
            and laid.shape == labels.shape
            and laid.ndim == 2
        ):
            raise UserError(
                f"the data collator {self._name} must give input_ids and labels as tensors of one shape (batch, tokens), so that "
                "tokens can be weighed."
            )
        lengths = [len(_ids(example)) for example in examples]
        mask = batch.get("attention_mask")
        where = plain_layout(laid, lengths, flat, mask)
        order = None
        if where is None or not self._keeps_order(flat.split(lengths)):
            order = self._numbered_layout(examples, laid, flat, args, kwargs)
        if order is not None:
            laid_index = torch.where(order < 0, -1, index[order.clamp(min=0)])
        elif where is not None:
            laid_index = torch.full_like(laid, -1, dtype=torch.long).masked_scatter(where, index)
        else:
            raise self._refusal()
        real = (
            mask.bool()
            if isinstance(mask, Tensor) and mask.shape == laid.shape
            else torch.ones_like(laid).bool()
        )
        if bool((real & (laid_index < 0) & (labels != IGNORED))[:, 1:].any()):
            raise self._refusal()
        return laid_index

    def try_out(self, examples: Sequence[Mapping[str, Any]]) -> None:
        """Lay a batch out before training, without a trace in the collator.

        Raises:
            UserError: the collator cannot be followed.
        """
        with torch.random.fork_rng(devices=[]):
            IndexingCollator(copy.copy(self._collate))(examples)

    def _keeps_order(self, rows: Sequence[Tensor]) -> bool:
        """Whether samples that stand in order by their ids are in order: TRL's collator sorts none.

        Others are known by their ids where no sample begins with another: [1] and [1, 1] join to [1, 1, 1] in either order.
        """
        written = sorted(row.numpy().tobytes() for row in rows)
        begins_another = any(later.startswith(earlier) for earlier, later in pairwise(written))
        return lays_out_as_trl(self._collate) or not begins_another

    def _refusal(self) -> UserError:
        return UserError(
            f"the data collator {self._name} learns from other tokens than those of its samples, so their weights cannot follow "
            "them: let it pad, cut, sort or drop samples, but not change or add tokens (weighing=None takes any collator)."
        )

    def _numbered_layout(
        self, examples: Sequence[Mapping[str, Any]], laid: Tensor, flat: Tensor, args: Any, kwargs: Any
    ) -> Int[Tensor, "batch seq"] | None:
        """Which token of `flat` stands where; None where the collator changes tokens, or lays out by what they are."""
        numbers = torch.arange(_FIRST_NUMBER, _FIRST_NUMBER + len(flat))
        parts = numbers.split([len(_ids(example)) for example in examples])
        numbered = [
            {**example, "input_ids": _like(part, example["input_ids"])}
            for example, part in zip(examples, parts, strict=True)
        ]
        try:
            with torch.random.fork_rng(
                devices=[]
            ):  # another layout of the same batch is no event of the training
                found = copy.copy(self._collate)(numbered, *args, **kwargs)["input_ids"]
        except Exception:  # whatever a collator makes of ids that are none
            return None
        if found.shape != laid.shape:
            return None
        order = torch.where(found >= _FIRST_NUMBER, found.long() - _FIRST_NUMBER, -1)
        taken = order[order >= 0]
        once = len(taken.unique()) == len(taken)
        return order if once and torch.equal(flat[taken], laid[order >= 0].long()) else None

    @property
    def _name(self) -> str:
        return getattr(self._collate, "__name__", type(self._collate).__name__)


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a batch that the model reads, without a mask that only hides padding on the right.

    No token of a causal model sees what follows it. Without the mask, attention needs no (seq, seq) mask in any layer and
    skips the upper triangle.
    """
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "token_index")}
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and bool((mask[:, 1:] <= mask[:, :-1]).all()):
        del inputs["attention_mask"]
    return inputs


def lays_out_as_trl(collate: Collate) -> bool:
    """Whether it is TRL's own collator, not a subclass."""
    return collate.__class__ is DataCollatorForLanguageModeling


def plain_layout(
    laid: Int[Tensor, "batch seq"],
    lengths: Sequence[int],
    flat: Int[Tensor, "tokens"],
    attention_mask: Tensor | None = None,
) -> Bool[Tensor, "batch seq"] | None:
    """The places of the samples in a batch that holds them whole and in order; None for any other layout.

    Tried are the batch's own mask, padding on the right, padding on the left, and one flattened row.
    """
    rows, width = laid.shape
    size = torch.tensor(lengths)[:, None]
    columns = torch.arange(width)
    layouts: list[Tensor] = []
    if attention_mask is not None and attention_mask.shape == laid.shape:
        layouts.append(attention_mask.bool())
    if rows == len(lengths):
        layouts += [columns < size, columns >= width - size]
    layouts.append((torch.arange(laid.numel()) < len(flat)).view(laid.shape))
    for layout in layouts:
        where = layout.to(laid.device)
        if int(where.sum()) == len(flat) and torch.equal(laid[where].long().cpu(), flat):
            return where
    return None


def _ids(example: Mapping[str, Any]) -> Int[Tensor, "tokens"]:
    return torch.as_tensor(example["input_ids"], dtype=torch.long).cpu()


def _like(numbers: Tensor, ids: Any) -> Any:
    if isinstance(ids, Tensor):
        return numbers.to(ids.device)
    return numbers.numpy() if isinstance(ids, np.ndarray) else numbers.tolist()
