"""Multi-token decoding: the model verifies its own drafts, so that it writes what it would write token by token, in fewer steps.

One step reads, for every text of the batch, its last token, the drafted tokens after it and blocks of masks (`layout`):

    token rows    the model's own choice after each, as far as the drafted tokens equal it; then one more of its own
    mask rows     the next draft, from the block behind the last token that was right

    kept in the cache: the token rows that were right; masks and the rest are forgotten

Each choice is made from the model's logits by whatever processors and sampling `generate` was asked for, and a drafted token stays if it
is what was chosen. So a sampled text has the model's distribution: that is speculative sampling with a draft of probability 1.

    model.generate(**inputs, custom_generate=MultiTokenDecoding(drafter))

Source: Your LLM Knows the Future (arXiv 2507.11851), section 3.4; batches, `auto` and prompt lookup within it are ours.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.gate import name_of, position_limit
from tokenry.core.tensors.output_head import causal_lm
from tokenry.core.tensors.step_loop import Block, Decoder, GrowingBatch, TokenChoice, token_log_probs
from tokenry.core.tensors.tree_attention import TreeAttention
from tokenry.decoding.multi_token.drafter import Drafter
from tokenry.decoding.multi_token.layout import MaskLayout, block_layout
from tokenry.decoding.multi_token.schedule import MODES, Pace, RunningPace, prompt_lookup_draft

_NGRAM = 3


@dataclass
class DraftAccount:
    """What the last texts took.

    Attributes:
        lengths: tokens of each text before each step, and at the end.
        rows: rows of each step in each text.
    """

    lengths: list[Int[Tensor, "batch"]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @property
    def blocks(self) -> list[list[int]]:
        """Number of tokens that each step added to each text; the last of them is the model's own, those before it were drafted."""
        if not self.lengths:
            return []
        added = torch.stack(self.lengths, 1).diff(dim=1)
        return [[count for count in text if count] for text in added.tolist()]

    @property
    def tokens_per_step(self) -> float:
        """Tokens of all texts over the steps in which they ran."""
        blocks = self.blocks
        return sum(map(sum, blocks)) / max(1, sum(map(len, blocks)))


class _Drafts(NamedTuple):
    """Drafted tokens of each text, and how many there are; whether masks made them."""

    tokens: Int[Tensor, "batch drafted"]
    counts: Int[Tensor, "batch"]
    by_masks: Bool[Tensor, "batch"]


class MultiTokenDecoding(Decoder):
    """Decoding with a drafter.

    Args:
        mode: quadratic, a block of masks behind every token; linear, one behind the last; or auto, which chooses mode, number of masks
            and drafts of masks or from the text itself, by what was accepted and what steps take. Texts are the same in all modes when
            greedy; sampled ones depend on the steps.
        sampler: whether the sampler chooses drafted tokens, or the head by itself.

    Attributes:
        account: steps and rows of the last call.
    """

    def __init__(self, drafter: Drafter, mode: str = "auto", sampler: bool = True) -> None:
        require_one_of(mode, MODES, "mode")
        self.drafter, self.mode, self.sampler = drafter, mode, sampler
        self.account = DraftAccount()

    def blocks(
        self,
        model: Any,
        batch: GrowingBatch,
        choose: TokenChoice,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
    ) -> Iterator[Block]:
        """One step after another; what is verified in a step is added token by token.

        Raises:
            UserError: the drafter stands on another model, or a block would overrun the model's positions.
        """
        self._require(model, generation_config)
        account, running = DraftAccount(), RunningPace(self.drafter.k)
        self.account, head = account, self.drafter.head
        wants_log_probs = bool(generation_config.return_dict_in_generate)
        tree, prompts, real = TreeAttention(model), batch.sequences(), batch.attention_mask()
        starts = (batch.prompt_length - real.sum(1)).tolist()
        if prompts.shape[1] > 1:
            tree.read(prompts[:, :-1], real=real[:, :-1])
        last = prompts[:, -1]
        drafts = self._looked_up(batch, starts, _no_drafts(last), running)
        try:
            while True:
                before = batch.lengths.clone()
                account.lengths.append(before)
                started = time.perf_counter()
                pace = (
                    running.choose()
                    if self.mode == "auto"
                    else Pace(self.drafter.k, self.mode == "quadratic")
                )
                hidden, layout = self._read(tree, last, drafts, pace)
                account.rows.append(hidden.shape[1])
                logits = head.logits(hidden[:, : layout.tokens].flatten(0, 1)).unflatten(0, (len(last), -1))
                yield from _verified(batch, choose, logits, drafts, wants_log_probs)
                right = (batch.lengths - before - 1).clamp(min=0)
                last = batch.input_ids.gather(1, batch.lengths[:, None] - 1)[:, 0]
                if self.mode == "auto":
                    running.observe(right, drafts.counts, drafts.by_masks)
                drafts = self._looked_up(
                    batch, starts, self._drafted(hidden, last, drafts, right, pace), running
                )
                _keep_right(tree, layout, right, batch.running)
                if self.mode == "auto":
                    running.timed(hidden.shape[1], time.perf_counter() - started)
        finally:
            account.lengths.append(batch.lengths.clone())

    def _require(self, model: Any, generation_config: GenerationConfig) -> None:
        inner, k = causal_lm(model), self.drafter.k
        if inner is not self.drafter.model:
            raise UserError(
                f"the drafter stands on another model than {name_of(inner)}: make or load one on this model, with Drafter.load(folder, model)."
            )
        limit, wanted = position_limit(inner), generation_config.max_length
        if wanted is not None and wanted - 1 + 2 * k > limit:
            raise UserError(
                f"blocks of {k} masks reach {2 * k} positions beyond the text, and {name_of(inner)} has {limit}: prompt and max_new_tokens may "
                f"have {limit + 1 - 2 * k} tokens together, and have {wanted}."
            )

    def _read(
        self, tree: TreeAttention, last: Int[Tensor, "batch"], drafts: _Drafts, pace: Pace
    ) -> tuple[Float[Tensor, "batch rows width"], MaskLayout]:
        """Read the last token of each text, its draft and blocks of masks."""
        tokens, kept = torch.cat([last[:, None], drafts.tokens], 1), tree.tokens
        known = tree.real.sum(1) if kept else torch.zeros_like(last)
        layout = (
            _quadratic_layout(tokens.shape[1], pace.masks, last.device)
            if pace.quadratic
            else block_layout(tokens.shape[1], drafts.counts[:, None], pace.masks)
        )
        sees = torch.cat([layout.attn_allowed.new_ones(*layout.group.shape, kept), layout.attn_allowed], 2)
        with self.drafter.lora.gate.on(layout.gate.expand(len(last), -1)):
            hidden = tree.read(
                self.drafter.rows(tokens, layout),
                known[:, None] + layout.position_ids,
                sees,
                None if len(last) == 1 else layout.group <= drafts.counts[:, None],
            )
        return hidden, layout

    def _drafted(
        self,
        hidden: Float[Tensor, "batch rows width"],
        last: Int[Tensor, "batch"],
        drafts: _Drafts,
        right: Int[Tensor, "batch"],
        pace: Pace,
    ) -> _Drafts:
        """The draft of the block behind the last token that was right, where there is one."""
        if not pace.masks:
            return _no_drafts(last)
        is_valid = torch.ones_like(drafts.by_masks) if pace.quadratic else right == drafts.counts
        block = right if pace.quadratic else torch.zeros_like(right)
        first = 1 + drafts.tokens.shape[1] + block * pace.masks
        places = first[:, None] + torch.arange(pace.masks, device=last.device)
        masks = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
        counts = pace.masks * is_valid
        return _Drafts(
            self.drafter.draft(masks, last, self.sampler)[:, : int(counts.max())], counts, is_valid
        )

    def _looked_up(
        self, batch: GrowingBatch, starts: list[int], drafts: _Drafts, running: RunningPace
    ) -> _Drafts:
        """Drafts from the text itself where they promise more than those of masks; in the mode `auto` only."""
        if self.mode != "auto":
            return drafts
        k, counts, lengths = self.drafter.k, drafts.counts.tolist(), batch.lengths.tolist()
        most, found, better = running.expected(1, k), 0, dict[int, Tensor]()
        texts = [
            text
            for text in batch.running.nonzero()[:, 0].tolist()
            if running.expected(0, counts[text]) < most  # else no draft from the text promises more
        ]
        for text in texts:
            draft = prompt_lookup_draft(batch.input_ids[text, starts[text] : lengths[text]], _NGRAM, k)
            found += bool(len(draft))
            if running.expected(1, len(draft)) > running.expected(0, counts[text]):
                better[text], counts[text] = draft, len(draft)
        running.looked_up(found, len(texts))
        if not better:
            return drafts
        tokens = torch.nn.functional.pad(drafts.tokens, (0, k - drafts.tokens.shape[1]))
        by_masks = drafts.by_masks.clone()
        for text, draft in better.items():
            tokens[text, : len(draft)], by_masks[text] = draft, False
        return _Drafts(tokens[:, : max(counts)], drafts.counts.new_tensor(counts), by_masks)


def _no_drafts(last: Int[Tensor, "batch"]) -> _Drafts:
    return _Drafts(last[:, None][:, :0], torch.zeros_like(last), torch.zeros_like(last, dtype=torch.bool))


def _verified(
    batch: GrowingBatch,
    choose: TokenChoice,
    logits: Float[Tensor, "batch tokens vocabulary"],
    drafts: _Drafts,
    wants_log_probs: bool,
) -> Iterator[Block]:
    """The model's own choices, as far as the drafted tokens equal them, and one more."""

    def log_probs(logits: Tensor, tokens: Tensor) -> Tensor | None:
        return (
            token_log_probs(logits.flatten(0, -2), tokens.flatten()).view_as(tokens)
            if wants_log_probs
            else None
        )

    if choose.is_greedy:
        # Each choice depends on its own logits only, so that all are made at once.
        tokens = logits.argmax(-1)
        places = torch.arange(drafts.tokens.shape[1], device=tokens.device)
        agree = (tokens[:, :-1] == drafts.tokens) & (places < drafts.counts[:, None])
        yield Block(tokens, 1 + agree.long().cumprod(1).sum(1), log_probs(logits, tokens))
        return
    matching = batch.running.clone()
    for place in range(logits.shape[1]):
        tokens = choose(batch, logits[:, place])
        yield Block(
            tokens[:, None], matching.long(), log_probs(logits[:, place : place + 1], tokens[:, None])
        )
        matching &= batch.running & (place < drafts.counts)
        if place < drafts.tokens.shape[1]:
            matching &= tokens == drafts.tokens[:, place]
        if not bool(matching.any()):
            break


@lru_cache
def _quadratic_layout(tokens: int, masks: int, device: torch.device) -> MaskLayout:
    """A block behind every token: the same for all texts, and in all steps with as many tokens."""
    return block_layout(tokens, torch.arange(tokens, device=device)[None], masks)


def _keep_right(
    tree: TreeAttention, layout: MaskLayout, right: Int[Tensor, "batch"], running: Bool[Tensor, "batch"]
) -> None:
    """Keep the rows of the last tokens and of the drafted ones that were right, each text's behind what it has, padded on the left."""
    new = tree.tokens - layout.group.shape[1]
    if len(right) == 1:
        tree.crop(new + 1 + int(right))  # tokens are before masks: what is kept has no gaps
        return
    kept = tree.real.clone()
    kept[:, new:] &= ~layout.gate & (layout.group <= right[:, None]) & running[:, None]
    places = kept.int().argsort(dim=1, stable=True)[:, -int(kept.sum(1).max()) :]
    tree.keep(places, kept.gather(1, places))
