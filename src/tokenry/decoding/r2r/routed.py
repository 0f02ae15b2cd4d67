"""Two models write one text: a small one every token, a large one those that a rule sends to it.

    small model     reads each token as it is written, and chooses the next one; the rule looks at this step
    large model     asked: reads all that was written since it was last asked in one forward, and chooses the token instead
    threshold 0     the large model alone writes, and the small one is not asked; above every score, or at rate 0, the small one alone

The small model's token is discarded where the large one writes: no draft is verified, nothing is taken back. With `rate`, the threshold
of each row follows the share of its tokens that was routed:

    level <- level + 0.5 ([routed] − rate)        level = logit of the threshold of a probability, log of any other

    activated parameters    released code: (n_S P_S + n_L P_L) / n         full: (n (P_S + P_R) + n_L P_L) / n

In a batch each row decides alone, and the rows that ask read what they have not seen in one ragged forward of the large model, while the
others wait: every token is read once at most, in as many forwards as there are steps in which some row asks. A sampled text is drawn anew
where it is routed: a rule that looks at the token drawn first, as a router does, then also says which tokens of the small model are
likely to stay.

Source: R2R (arXiv 2505.21600), section 4.3; the budget is ours.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least, require_fraction, require_one_of
from tokenry.core.tensors.gate import name_of, require_same_tokenizer
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import causal_lm
from tokenry.core.tensors.step_loop import (
    Block,
    Decoded,
    Decoder,
    GrowingBatch,
    NextLogits,
    TokenChoice,
    token_log_probs,
)
from tokenry.core.tensors.tree_attention import attends_as_told, attention_masks, attention_windows
from tokenry.decoding.r2r.rules import RoutingRule, SmallStep

SMALL, LARGE = 0, 1
"""Sources of tokens."""
_GAIN = 0.5
_SURE = 1e-6
_CONTEXT = 8

Convention = Literal["code", "full"]


class RoutedDecoding(Decoder):
    """A decoder for `small.generate(…, custom_generate=RoutedDecoding(small, large, rule))`.

    Args:
        small: the model that generates.
        large: the model that writes where the rule says so.
        rule: a router, or a rule that needs no training.
        threshold: score from which the large model writes; by default the rule's.
        rate: share of the tokens that the large model is to write, in the place of a threshold.
        tokenizers: those of both models, to be compared. Without them the vocabularies must have one size; with them, rows of the
            embeddings that the other model has not are never chosen.

    Raises:
        UserError: the models have other vocabularies, the threshold or the rate is out of range, or both are given.
    """

    def __init__(
        self,
        small: nn.Module,
        large: nn.Module,
        rule: RoutingRule,
        *,
        threshold: float | int | None = None,
        rate: float | int | None = None,
        tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase] | None = None,
    ) -> None:
        if threshold is not None and rate is not None:
            raise UserError("a threshold and a rate decide the same thing: give one of them.")
        self.small, self.large, self.rule, self.rate = small, large, rule, rate
        self.threshold = rule.threshold if threshold is None else threshold
        require_at_least(0, threshold=self.threshold)
        if rule.highest is not None and self.threshold > rule.highest:
            raise UserError(
                f"threshold must be in [0, {rule.highest:g}], got {self.threshold}: the scores are probabilities."
            )
        if rate is not None:
            require_fraction(float(rate), "rate")
        sizes = [causal_lm(model).config.get_text_config().vocab_size for model in (small, large)]
        if tokenizers is not None:
            require_same_tokenizer(*tokenizers, what="the large model")
        elif sizes[0] != sizes[1]:
            raise UserError(
                f"the small model has {sizes[0]} tokens and the large one {sizes[1]}: tokens are routed between models of one tokenizer "
                "(where only the embeddings are padded differently, give both tokenizers)."
            )
        self._vocabulary = min(sizes)

    def blocks(
        self,
        model: Any,
        batch: GrowingBatch,
        choose: TokenChoice,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
    ) -> Iterator[Block]:
        """One token per row and step, from one of the two."""
        if causal_lm(model) is not causal_lm(self.small):
            raise UserError(
                f"{name_of(causal_lm(model))} generates, but the decoder was made for another small model: call generate of that one."
            )
        reader = _RaggedReader if len(batch.lengths) > 1 and self._is_told else _LateReader
        large = reader(self.large, self._vocabulary)
        if self.rate == 1 or (self.rate is None and self.threshold == 0):
            while True:
                logits = large(batch, batch.running)
                yield _block(logits, choose(batch, logits), torch.ones_like(batch.running))
        hidden = {"output_hidden_states": True} if self.rule.needs_hidden else {}
        small = NextLogits(model, generation_config, {**model_kwargs, **hidden})
        decide = self._decision()
        while True:
            logits = small(batch.sequences())[:, : self._vocabulary]
            tokens = choose(batch, logits)
            states = small.outputs.hidden_states[-1][:, -1] if self.rule.needs_hidden else None
            number = batch.length - batch.prompt_length
            routed = decide(SmallStep(logits, tokens, states, number, _context(batch))) & batch.running
            if bool(routed.any()):
                theirs = large(batch, routed)
                tokens = torch.where(routed, choose(batch, theirs), tokens)
                logits = torch.where(routed[:, None], theirs, logits)
            yield _block(logits, tokens, routed)

    def __call__(self, *arguments: Any, **options: Any) -> Decoded | Int[Tensor, "batch length"]:
        """Decode; called by `generate`. The large model is in evaluation mode meanwhile."""
        with evaluation_mode(self.large):
            return super().__call__(*arguments, **options)

    @cached_property
    def _is_told(self) -> bool:
        """Whether rows of a batch may be at different places of the large model: layers with a state of their own read in step."""
        return attends_as_told(self.large)

    def _decision(self) -> Callable[[SmallStep], Bool[Tensor, "batch"]]:
        """Which rows the large model writes, step by step."""
        decide = self.rule.begin()
        if self.rate is None:
            return lambda step: decide(step, self.threshold)
        if self.rate == 0:  # a rule that remembers would begin with the large model
            return lambda step: torch.zeros_like(step.tokens, dtype=torch.bool)
        return _KeptRate(self.rule, float(self.threshold), float(self.rate))


def _block(
    logits: Float[Tensor, "batch vocabulary"], tokens: Int[Tensor, "batch"], routed: Bool[Tensor, "batch"]
) -> Block:
    log_probs = token_log_probs(logits, tokens)[:, None]
    return Block(tokens[:, None], log_probs=log_probs, sources=routed.long()[:, None])


def _context(batch: GrowingBatch) -> Int[Tensor, "batch last"]:
    padding = ~batch.attention_mask()[:, -_CONTEXT:]
    return batch.sequences()[:, -_CONTEXT:].masked_fill(padding, -1)


class _KeptRate:
    """A threshold for each row, which rises when a token is routed and falls when none is."""

    def __init__(self, rule: RoutingRule, threshold: float, rate: float) -> None:
        self._decide, self._rate = rule.begin(), rate
        self._is_probability = rule.highest == 1
        start = torch.tensor(threshold)
        self._level = start.logit(_SURE) if self._is_probability else start.clamp(min=_SURE).log()

    def __call__(self, step: SmallStep) -> Bool[Tensor, "batch"]:
        level = self._level.to(step.tokens.device)
        routed = self._decide(step, level.sigmoid() if self._is_probability else level.exp())
        self._level = level + _GAIN * (routed.float() - self._rate)
        return routed


class _LateReader:
    """The logits of a model that is asked now and then: it reads what it has not seen, all rows in one forward, whoever asks."""

    def __init__(self, model: nn.Module, vocabulary: int) -> None:
        inner = causal_lm(model)
        self._model, self._vocabulary = model, vocabulary
        self._cache = DynamicCache(config=inner.config.get_text_config())
        self._options = {"logits_to_keep": 1} if inner._supports_logits_to_keep() else {}
        self._device = next(inner.parameters()).device
        self._read = 0

    def __call__(
        self, batch: GrowingBatch, asked: Bool[Tensor, "batch"]
    ) -> Float[Tensor, "batch vocabulary"]:
        mask = batch.attention_mask().long().to(self._device)
        new = batch.sequences()[:, self._read :].to(self._device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, self._read :]
        output = self._model(
            input_ids=new,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **self._options,
        )
        self._read = batch.length
        logits: Tensor = output.logits[:, -1, : self._vocabulary].float()
        return logits.to(batch.input_ids.device)


class _RaggedReader:
    """The logits of a model that is asked about some rows: each of them reads what it has not seen, all in one forward.

    Keys and values of a row stand at its tokens' positions, without padding. In a forward the new tokens of the rows stand behind the
    longest of what was read, filled up on the right, and go to their own places afterwards.
    """

    def __init__(self, model: nn.Module, vocabulary: int) -> None:
        self._model, self._inner, self._vocabulary = model, causal_lm(model), vocabulary
        weight = next(self._inner.parameters())
        self._device, self._dtype = weight.device, weight.dtype
        self._windows = attention_windows(self._inner.config.get_text_config())
        self._states: dict[tuple[int, str], Tensor] = {}
        self._read: Tensor | None = None

    def __call__(
        self, batch: GrowingBatch, asked: Bool[Tensor, "batch"]
    ) -> Float[Tensor, "batch vocabulary"]:
        if self._read is None:
            self._read = torch.zeros_like(batch.lengths, device=self._device)
            self._padding = (batch.lengths - batch.attention_mask().sum(1)).to(self._device)
        rows = asked.nonzero()[:, 0].to(self._device)
        read, padding, tokens = self._read[rows], self._padding[rows], batch.input_ids.to(self._device)[rows]
        length = batch.lengths.to(self._device)[rows] - padding
        known, width = int(read.max()), int((length - read).max())
        new = read[:, None] + torch.arange(width, device=self._device)
        is_new, new = new < length[:, None], torch.minimum(new, length[:, None] - 1)
        old = torch.arange(known, device=self._device).expand(len(rows), -1)
        real = torch.cat([old < read[:, None], is_new], 1)
        places = torch.cat([old, new], 1)
        seen = real[:, None] & (places[:, None] <= new[:, :, None])
        cache = DynamicCache()
        for layer, keys in [(layer, keys) for (layer, name), keys in self._states.items() if name == "keys"]:
            cache.update(keys[rows, :, :known], self._states[layer, "values"][rows, :, :known], layer)
        ends, end = (length - read - 1).unique(return_inverse=True)
        keeps = self._inner._supports_logits_to_keep()
        output = self._model(
            input_ids=tokens.gather(1, padding[:, None] + new),
            attention_mask=attention_masks(seen, new, places, self._windows, self._dtype),
            position_ids=new,
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": ends} if keeps else {}),
        )
        self._keep(cache, known, rows, new, is_new, len(asked))
        self._read[rows] = length
        each = torch.arange(len(rows), device=self._device)
        logits: Tensor = output.logits[each, end if keeps else ends[end], : self._vocabulary].float()
        return logits.new_zeros(len(asked), self._vocabulary).index_put_((rows,), logits).to(asked.device)

    def _keep(
        self,
        cache: DynamicCache,
        known: int,
        rows: Int[Tensor, "asked"],
        new: Int[Tensor, "asked new"],
        is_new: Bool[Tensor, "asked new"],
        batch: int,
    ) -> None:
        """Put the keys and values of new tokens into their places; room doubles, so that it is copied a few times only."""
        text, column = is_new.nonzero(as_tuple=True)
        for number, layer in enumerate(cache.layers):
            for name in ("keys", "values"):
                states, kept = getattr(layer, name), self._states.get((number, name))
                if states is None or not states.numel():
                    continue
                needed = int(new.max()) + 1
                if kept is None or kept.shape[2] < needed:
                    wide = states.new_zeros(batch, states.shape[1], 2 * needed, states.shape[3])
                    if kept is not None:
                        wide[:, :, : kept.shape[2]] = kept
                    kept = self._states[number, name] = wide
                kept[rows[text], :, new[text, column]] = states[text, :, known + column]


# --- accounts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoutingAccount:
    """Who wrote how much, and what it took.

    Attributes:
        small_tokens: tokens that the small model wrote.
        large_tokens: tokens that the large model wrote.
        steps: steps of decoding, each a forward of the small model.
        large_forwards: steps in which some row asked the large model, each a forward of it.
    """

    small_tokens: int
    large_tokens: int
    steps: int
    large_forwards: int

    @classmethod
    def of(cls, sources: Int[Tensor, "batch tokens"]) -> "RoutingAccount":
        """Count the sources of new tokens, as a routed decoder returns them."""
        large = sources == LARGE
        return cls(int((sources == SMALL).sum()), int(large.sum()), sources.shape[1], int(large.any(0).sum()))

    @property
    def rate(self) -> float:
        """Share of the tokens that the large model wrote; nan where there are none."""
        total = self.small_tokens + self.large_tokens
        return self.large_tokens / total if total else math.nan

    def activated(
        self,
        small: float | int,
        large: float | int,
        convention: Convention = "code",
        router: float | int = 0,
    ) -> float:
        """Mean number of parameters per token."""
        return activated_parameters(self.small_tokens, self.large_tokens, small, large, convention, router)


def activated_parameters(
    n_small: float | int,
    n_large: float | int,
    p_small: float | int,
    p_large: float | int,
    convention: Convention = "code",
    p_router: float | int = 0,
) -> float:
    """Mean number of parameters that are at work for a token.

    Args:
        n_small: tokens that the small model wrote, or their share.
        n_large: tokens that the large model wrote, likewise.
        p_small: parameters of the small model, in any unit.
        p_large: parameters of the large model.
        convention: `code` counts the model that wrote a token, as the released code does; `full` counts the small model and the router
            for every token, for they see it in any case.
        p_router: parameters of the router.
    """
    require_one_of(convention, ("code", "full"), "convention")
    total = n_small + n_large
    if not total:
        return math.nan
    if convention == "code":
        return (n_small * p_small + n_large * p_large) / total
    return p_small + p_router + n_large * p_large / total


class RoutedTokens(NamedTuple):
    """What two models wrote.

    Attributes:
        tokens: new tokens of each prompt, padded after its end.
        sources: who wrote each: 0 the small model, 1 the large one, -1 nobody.
        account: who wrote how much.
    """

    tokens: Int[Tensor, "batch new"]
    sources: Int[Tensor, "batch new"]
    account: RoutingAccount


def routed_generate(
    small: nn.Module,
    large: nn.Module,
    rule: RoutingRule,
    input_ids: Int[Tensor, "batch prompt"],
    threshold: float | int | None = None,
    max_new_tokens: int = 256,
    *,
    rate: float | int | None = None,
    **options: Any,
) -> RoutedTokens:
    """Continue prompts with two models, greedily unless told otherwise.

    Args:
        small: the small model.
        large: the large model.
        rule: a router, or a rule that needs no training.
        input_ids: the prompts; padded ones need an `attention_mask` among the options.
        threshold: score from which the large model writes; by default the rule's.
        max_new_tokens: number of tokens after which a text is cut off.
        rate: share of the tokens that the large model is to write, in the place of a threshold.
        **options: passed to `generate`, such as `do_sample`, `temperature`, `eos_token_id`.
    """
    require_at_least(0, max_new_tokens=max_new_tokens)
    if not input_ids.numel():
        raise UserError("the prompt is empty: a text that is to go on must begin.")
    decoder = RoutedDecoding(small, large, rule, threshold=threshold, rate=rate)
    if not max_new_tokens:
        nothing = input_ids[:, :0]
        return RoutedTokens(nothing, nothing, RoutingAccount.of(nothing))
    options = {"do_sample": False, **options}
    found = small.generate(  # type: ignore[operator]
        input_ids,
        custom_generate=decoder,
        return_dict_in_generate=True,
        max_new_tokens=max_new_tokens,
        **options,
    )
    return RoutedTokens(
        found.sequences[:, input_ids.shape[1] :], found.sources, RoutingAccount.of(found.sources)
    )
