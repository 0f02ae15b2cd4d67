"""Subword merging: the tokens of one identifier become one, from a layer of the encoder on.

    mean       m = mean of the group's hidden states
    learned    m = Σ softmax over the group of (w · h + b) · h                  w starts at 0, so that training starts from the mean

A group is a unit of the code (`code_units`); the collator finds them, and hands `group_ids` to the model beside `input_ids`.

    model = AutoModelForSequenceClassification.from_pretrained("microsoft/codebert-base")
    merging = SubwordMerging(after=6, policy="identifier")
    collate = merging.collator(tokenizer, language="python")
    with apply_token_reduction(model, merging) as reduction:
        model(**collate(sources)).logits

Source: Saad et al., "Token merging for pre-trained code models" (arXiv 2507.14423): averaging and a learned combination of the subtokens
of a semantic unit. The rules of groups, the form of the learned combination and the default place are those of its reproduction.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.compression.flops import LayerCost, encoder_flops
from tokenry.compression.plan import DROPPED, EMPTY, MergePlan
from tokenry.compression.reducer import Attention, LayerReducer, Positions, Tokens
from tokenry.compression.text.code_units import Policy, backend_for, group_tokens, semantic_units
from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.tensors.gate import name_of, position_limit
from tokenry.core.tensors.patching import Encoder

Mode = Literal["mean", "learned"]


# --- the merge ----------------------------------------------------------------------------------------------------------------------


class MemberScorer(nn.Module):
    """The score of a token among the members of its group, w · h + b; a bias is the same for all, and changes nothing.

    Args:
        hidden: width of the hidden states.
        inner: width of a layer before it, v · tanh(W h) in the place of w · h; None for none.
    """

    def __init__(self, hidden: int, inner: int | None = None) -> None:
        super().__init__()
        self.inner = None if inner is None else nn.Linear(hidden, inner, bias=False)
        self.score = nn.Linear(inner or hidden, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch 1"]:
        """Return one score per token."""
        inside = hidden_states if self.inner is None else self.inner(hidden_states).tanh()
        scores: Tensor = self.score(inside)
        return scores


class Merged(NamedTuple):
    """Texts whose groups are one token each.

    Attributes:
        hidden: hidden states, 0 at empty places.
        mask: False at places that a shorter text does not need.
        first_index: the first token of each group; -1 at empty places.
        sizes: number of tokens of each group.
    """

    hidden: Float[Tensor, "batch groups hidden"]
    mask: Bool[Tensor, "batch groups"]
    first_index: Int[Tensor, "batch groups"]
    sizes: Int[Tensor, "batch groups"]


def merge_tokens(
    hidden: Float[Tensor, "batch seq hidden"],
    group_ids: Int[Tensor, "batch seq"],
    mode: str = "mean",
    scorer: Callable[[Tensor], Tensor] | None = None,
) -> Merged:
    """Make one token of each group.

    Args:
        group_ids: group of each token, from 0 in every text; -1 for padding.
        mode: how they are combined.
        scorer: scores the tokens, one number each, for the learned combination: a `MemberScorer`, or any function.

    Raises:
        UserError: groups that do not follow each other, no such mode, no scorer.
    """
    require_one_of(mode, get_args(Mode), "mode")
    if mode == "learned" and scorer is None:
        raise UserError("the learned combination needs a scorer: give MemberScorer(hidden_size).")
    plan = MergePlan.from_groups(group_ids)
    weight = None
    if mode == "learned" and scorer is not None:
        weight = member_weights(scorer(hidden).reshape(*group_ids.shape, 1), plan)
    merged, _ = plan.merge_weighted(hidden, weight)
    return Merged(
        merged,
        plan.kept != EMPTY,
        plan.kept,
        plan.merge(torch.ones_like(group_ids), "sum"),
    )


def unmerge(
    merged: Merged | Float[Tensor, "batch groups hidden"], group_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq hidden"]:
    """Give each token the state of its group; 0 for padding."""
    hidden = merged.hidden if isinstance(merged, Merged) else merged
    return MergePlan.from_groups(group_ids).unmerge(hidden)


def member_weights(scores: Float[Tensor, "batch seq 1"], plan: MergePlan) -> Float[Tensor, "batch seq 1"]:
    """exp(score − highest score of the group): weights whose weighted mean is that of the softmax over a group."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    highest = plan.merge(scores.detach(), "amax")
    return (scores - plan.unmerge(highest, dropped=scores.detach())).exp()


def merge_flops(
    num_layers: int, merge_after: int, seq_len: int, merged_len: int, hidden: int, intermediate: int
) -> dict[str, int | float]:
    """FLOPs of an encoder with and without merging after a layer, a multiply-add as two, and the share saved.

        layer(S) = 8 S hidden² + 4 S² hidden + 4 S hidden · intermediate

    The merge itself is not counted: 2 S hidden for the mean, 4 S hidden for the learned combination.
    """
    _require_place(merge_after, num_layers)
    costs = [LayerCost(4 * hidden**2, 2 * hidden * intermediate, hidden)] * num_layers
    counts = [seq_len] * merge_after + [merged_len] * (num_layers - merge_after)
    base, merged = (2 * encoder_flops(costs, each, each) for each in ([seq_len] * num_layers, counts))
    return {"flops_base": base, "flops_merged": merged, "saving": 1 - merged / base}


def flops_saved(costs: Sequence[LayerCost], merge_after: int, code: "GroupedCode") -> float:
    """Share of the FLOPs that merging after a layer saves for one source, in an encoder whose layers cost this."""
    counts = [len(code)] * merge_after + [code.merged_length] * (len(costs) - merge_after)
    whole = [len(code)] * len(costs)
    return 1 - encoder_flops(costs, counts, counts) / encoder_flops(costs, whole, whole)


def _require_place(after: int, layers: int) -> None:
    if not 0 <= after <= layers:
        raise UserError(
            f"tokens are merged after one of the {layers} layers, or after 0 for the embeddings: give a number from 0 to {layers}, "
            f"got {after}."
        )


# --- in an encoder -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SubwordMerging:
    """Merging in an encoder, for `apply_token_reduction`; the batches come from its `collator`.

    Attributes:
        after: number of layers before it; 0 merges what the embeddings put out, None is half of the layers.
        mode: `mean`, or `learned` with one trained weight per hidden dimension.
        policy: the units of which one token is made.
        position: for the relative bias of T5, a group stands where its first token stood, or the groups stand side by side (`compact`).
        proportional_attention: count a merged token by its size in attention, as ToMe does; the paper does not.
        scorer: scores of the learned combination; a new `MemberScorer` by default. It is `token_reduction` of the patched model, and is
            trained and saved with it.
    """

    after: int | None = None
    mode: str = "mean"
    policy: str = "identifier"
    position: str = "first"
    proportional_attention: bool = False
    scorer: nn.Module | None = field(default=None, repr=False, compare=False)
    inputs: tuple[str, ...] = field(default=("group_ids",), init=False, repr=False)
    pair_masks: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        require_one_of(self.mode, get_args(Mode), "mode")
        require_one_of(self.policy, get_args(Policy), "policy")
        require_one_of(self.position, get_args(Positions), "position")
        require_at_least(0, after=self.after)

    def place(self, layers: int) -> int:
        """Number of layers before the merging, in an encoder of so many."""
        after = layers // 2 if self.after is None else self.after
        _require_place(after, layers)
        return after

    def layer_reducers(self, encoder: Encoder) -> Sequence[LayerReducer | None]:
        """Merge once, after the layer; see `TokenReducer`."""
        layers = len(encoder.layers)
        after = self.place(layers)
        if encoder.modality != "text":
            raise UserError(
                f"{type(encoder.model).__name__} reads images: subwords are merged in encoders of text."
            )
        scorer = None
        if self.mode == "learned":
            scorer = self.scorer or MemberScorer(encoder.model.config.hidden_size)
            scorer.to(device=encoder.model.device, dtype=encoder.model.dtype)
        merging = _MergeGroups(after == 0, self.position, scorer)
        return [merging if number == max(after - 1, 0) else None for number in range(layers)]

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, language: str = "python", **options: Any
    ) -> "CodeMergeCollator":
        """A collator that groups by this policy; options as those of `CodeMergeCollator`."""
        return CodeMergeCollator(tokenizer, language, self.policy, **options)


class _MergeGroups(LayerReducer):
    """Merges the groups of a batch: before the layer, or after it."""

    after = "layer"

    def __init__(self, before: bool, positions: str, scorer: nn.Module | None) -> None:
        self.before, self.positions, self.module = before, positions, scorer

    def enter(self, hidden_states: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        return self._merged(hidden_states, tokens) if self.before else (hidden_states, tokens)

    def reduce(self, hidden_states: Tensor, tokens: Tokens, attention: Attention) -> tuple[Tensor, Tokens]:
        return (hidden_states, tokens) if self.before else self._merged(hidden_states, tokens)

    def _merged(self, hidden_states: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        group_ids = tokens.inputs.get("group_ids")
        if group_ids is None:
            raise UserError(
                "the model got no group_ids, so nothing says which tokens to merge: make batches with the collator of SubwordMerging, or "
                "call remove() to run the model without merging."
            )
        if group_ids.shape != hidden_states.shape[:2]:
            raise UserError(
                f"group_ids are of {tuple(group_ids.shape)} tokens, but the model reads {tuple(hidden_states.shape[:2])}: make input_ids and "
                "group_ids together, with the collator of SubwordMerging."
            )
        plan = MergePlan.from_groups(group_ids.to(hidden_states.device))
        weight = None if self.module is None else member_weights(self.module(hidden_states), plan)
        return tokens.merge(hidden_states, plan, weight=weight)


# --- batches -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupedCode(Sequence[int]):
    """One source as a model reads it: a sequence of token ids, with their groups.

    Attributes:
        input_ids: its tokens, special ones included.
    """

    input_ids: Int[ndarray, "tokens"]
    group_ids: Int[ndarray, "tokens"]

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, place: Any) -> Any:
        return self.input_ids[place].tolist()

    @property
    def merged_length(self) -> int:
        """Number of groups."""
        return int(self.group_ids[-1]) + 1 if len(self) else 0


@dataclass
class CodeMergeCollator:
    """Makes batches of source code with `group_ids`; what it has read it keeps, since every epoch reads the same.

    Rows are sources, or mappings with the source in `column` and any numbers, such as labels, beside it (`remove_unused_columns=False` in
    `TrainingArguments`). Batches of about one *merged* length (`merged_lengths`) waste least.

    Attributes:
        tokenizer: a fast tokenizer, that of the model.
        policy: the units of which one token is made.
        backend: what finds them; see `semantic_units`.
        max_length: maximum number of tokens; longer sources are cut, and so are their units.
        column: name of the source in a row.
        model: the model, to check that the tokenizer is its own; None for no check.
    """

    tokenizer: PreTrainedTokenizerBase
    language: str = "python"
    policy: str = "identifier"
    backend: str = "auto"
    max_length: int = 512
    column: str = "code"
    model: PreTrainedModel | None = field(default=None, repr=False)
    _read: dict[bytes, GroupedCode] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        require_at_least(1, max_length=self.max_length)
        require_one_of(self.policy, get_args(Policy), "policy")
        if not getattr(self.tokenizer, "is_fast", False):
            raise UserError(
                f"{type(self.tokenizer).__name__} is a slow tokenizer without offsets, so its tokens cannot be grouped: load it with "
                "use_fast=True."
            )
        if self.tokenizer.pad_token_id is None:
            raise UserError("the tokenizer has no padding token: batches of sources need one.")
        if self.model is not None:
            require_own_tokenizer(self.model, self.tokenizer)
            if self.max_length > (limit := position_limit(self.model)):
                raise UserError(
                    f"max_length must be at most {limit}, the number of positions of {name_of(self.model)}, got {self.max_length}."
                )
        # Asked now, so that a missing grammar is told once and before any work.
        self.backend = backend_for(self.language, self.policy, self.backend)

    def read(self, sources: Sequence[str]) -> list[GroupedCode]:
        """Tokens and groups of each source."""
        keys = [
            blake2b(source.encode("utf-8", "surrogatepass"), digest_size=16).digest() for source in sources
        ]
        unread = {key: source for key, source in zip(keys, sources, strict=True) if key not in self._read}
        if unread:
            self._read.update(zip(unread, self._grouped(list(unread.values())), strict=True))
        return [self._read[key] for key in keys]

    def merged_lengths(self, sources: Sequence[str]) -> list[int]:
        """Number of groups of each source, to sort batches by."""
        return [code.merged_length for code in self.read(sources)]

    def __call__(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Make a batch, padded on the right."""
        read = self.read([row if isinstance(row, str) else row[self.column] for row in rows])
        batch = pad_groups(read, self.tokenizer.pad_token_id)
        others = [] if isinstance(rows[0], str) else [name for name in rows[0] if name != self.column]
        for name in others:
            batch["labels" if name == "label" else name] = torch.as_tensor([row[name] for row in rows])
        return batch

    def _grouped(self, sources: Sequence[str]) -> Iterator[GroupedCode]:
        encoded = self.tokenizer(
            list(sources),
            truncation=True,
            max_length=self.max_length,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        for number, source in enumerate(sources):
            units = semantic_units(source, self.language, self.policy, self.backend)
            special = encoded["special_tokens_mask"][number]
            groups = group_tokens(encoded["offset_mapping"][number], special, units, source)
            yield GroupedCode(np.asarray(encoded["input_ids"][number], dtype=np.int64), groups)


def pad_groups(rows: Sequence[GroupedCode], pad_token_id: int) -> dict[str, Int[Tensor, "batch seq"]]:
    """Sources as one batch: input_ids, attention_mask and group_ids, padded on the right."""
    shape = (len(rows), max(map(len, rows)))
    ids, groups = np.full(shape, pad_token_id), np.full(shape, DROPPED)
    for place, row in enumerate(rows):
        ids[place, : len(row)], groups[place, : len(row)] = row.input_ids, row.group_ids
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy((groups != DROPPED).astype(np.int64)),
        "group_ids": torch.from_numpy(groups),
    }


def require_own_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` where a tokenizer is seen not to be that of a model: more tokens than embeddings, or another padding token."""
    embeddings: Any = model.get_input_embeddings()
    rows, padding = embeddings.weight.shape[0], model.config.pad_token_id
    if len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens, but {name_of(model)} only {rows:,} embeddings: give the tokenizer of the model."
        )
    if padding is not None and tokenizer.pad_token_id != padding:
        raise UserError(
            f"the padding token of the tokenizer is {tokenizer.pad_token_id}, but that of {name_of(model)} is {padding}: give the tokenizer "
            "of the model."
        )
