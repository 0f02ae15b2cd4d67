"""A language model over words: a small encoder pools the units of a word, a causal trunk reads words, a small decoder spells the next one.

    q_t = first n_prefix outputs of pooling([CLS_1 … CLS_n, u_1 … u_C])          no word sees another: one forward for every type of word
    h_t = trunk(q_1 … q_t)
    log p(w_{t+1} | w_1 … w_t) = Σ_i log p(u_i | h_t, u_1 … u_{i−1}) + log p(end | h_t, u_1 … u_C)

Source: Learn Your Tokens (arXiv 2310.11628). Its code, avi-jit/eTok, shares the rows of its CLS with units, lets words see their padding,
computes a canvas of the longest word, and learns from all padding: `released=True` does the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModel, GPT2Config, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from tokenry.architectures.word_layers import (
    Attend,
    PoolingLayer,
    SpellingBlock,
    WordStream,
    attend_canvas,
)
from tokenry.architectures.words import END, Word, collate_words
from tokenry.core.errors import UserError, require_at_least
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.losses import OutputHead, weighted_loss
from tokenry.core.tensors.modes import evaluation_mode


class WordPooledConfig(PreTrainedConfig):
    """Sizes of a word-pooled model; the defaults are those of the released script.

    Attributes:
        vocab_size: units, with the end (0).
        n_embd: width.
        n_layer: layers of the trunk.
        n_head: heads of the trunk.
        n_prefix: vectors of a word.
        n_word_layer: layers that pool a word, and blocks that spell it.
        n_word_head: their heads.
        max_words: most words of a text.
        max_word_len: most units of a word; one of exactly so many has no end.
        feed_forward: width inside the layers that pool.
        dropout: of everything.
        initializer_range: standard deviation of new weights; the released 0.02 is for width 512, and far too little for width 64.
        released: compute and learn as the released code does.
        trunk_config: of any causal transformer of this width that takes embeddings; by default a GPT-2 of these sizes.
    """

    model_type = "word_pooled"
    sub_configs: ClassVar = {"trunk_config": AutoConfig}

    def __init__(
        self,
        vocab_size: int = 259,
        n_embd: int = 512,
        n_layer: int = 8,
        n_head: int = 8,
        n_prefix: int = 4,
        n_word_layer: int = 2,
        n_word_head: int = 4,
        max_words: int = 192,
        max_word_len: int = 24,
        feed_forward: int = 2048,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        released: bool = False,
        trunk_config: PreTrainedConfig | dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        require_at_least(2, vocab_size=vocab_size, max_words=max_words)
        require_at_least(1, n_embd=n_embd, n_layer=n_layer, n_head=n_head, n_prefix=n_prefix)
        require_at_least(1, n_word_layer=n_word_layer, n_word_head=n_word_head, max_word_len=max_word_len)
        for name, heads in (("n_head", n_head), ("n_word_head", n_word_head)):
            if n_embd % heads:
                raise UserError(f"n_embd must be a multiple of {name}, got {n_embd} and {heads}.")
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout must be in [0, 1), got {dropout}.")
        if released and max_word_len > vocab_size:
            raise UserError(
                f"the released form takes units {max_word_len} to {max_word_len + n_prefix - 1} as its CLS, and there are {vocab_size}: "
                "use released=False."
            )
        self.vocab_size, self.n_embd, self.n_layer, self.n_head = vocab_size, n_embd, n_layer, n_head
        self.n_prefix, self.n_word_layer, self.n_word_head = n_prefix, n_word_layer, n_word_head
        self.max_words, self.max_word_len = max_words, max_word_len
        self.feed_forward, self.dropout, self.released = feed_forward, dropout, released
        self.initializer_range = initializer_range
        trunk: Any = trunk_config
        if trunk is None:
            trunk = GPT2Config(
                vocab_size=1,
                n_positions=max_words * n_prefix,
                n_embd=n_embd,
                n_layer=n_layer,
                n_head=n_head,
                activation_function="gelu",
                resid_pdrop=dropout,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
                initializer_range=initializer_range,
                bos_token_id=None,
                eos_token_id=None,
            )
        elif isinstance(trunk, dict):
            trunk = AutoConfig.for_model(**trunk)
        if trunk.hidden_size != n_embd:
            raise UserError(
                f"the trunk has width {trunk.hidden_size} and n_embd is {n_embd}: give both the same."
            )
        self.trunk_config = trunk
        super().__init__(**options)


@dataclass
class WordPooledOutput(ModelOutput):
    """One batch of words.

    Attributes:
        loss: mean nll in nats of the units and ends of words 2 to T, with gradients.
        nll: of every word given those before it, in nats; nan for the first and for padding.
        right: 1 where the most probable unit is the right one all through a word and at its end, that is, where it is spelled right; nan
            as in `nll`.
    """

    # Under autocast accelerate rebuilds the output from a mapping.
    loss: Tensor | Mapping[str, Tensor] | None = None
    nll: Float[Tensor, "batch words"] | None = None
    right: Float[Tensor, "batch words"] | None = None


class WordPooledLM(PreTrainedModel):
    """The model; `Trainer` trains it on batches of `collate_words`."""

    config_class = WordPooledConfig
    base_model_prefix = "word_pooled"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar = ["PoolingLayer", "SpellingBlock", "GPT2Block"]

    def __init__(self, config: WordPooledConfig) -> None:
        super().__init__(config)
        width, slots = config.n_embd, config.n_prefix + config.max_word_len
        heads, drop = config.n_word_head, config.dropout
        self.embedding = nn.Embedding(config.vocab_size + config.n_prefix, width)
        self.slots = nn.Embedding(slots, width)
        self.dropout = nn.Dropout(drop)
        self.pooling = nn.ModuleList(
            PoolingLayer(width, heads, config.feed_forward, drop) for _ in range(config.n_word_layer)
        )
        self.trunk = AutoModel.from_config(config.trunk_config)
        self.trunk.set_input_embeddings(None)  # it is given vectors
        self.spelling = nn.ModuleList(SpellingBlock(width, heads, drop) for _ in range(config.n_word_layer))
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The units."""
        return self.embedding

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.slots:
            nn.init.zeros_(self.slots.weight)

    @property
    def cls_ids(self) -> Int[Tensor, "prefix"]:
        """Rows of the embedding before a word: their own, or in the released form those of units."""
        first = self.config.max_word_len if self.config.released else self.config.vocab_size
        return torch.arange(first, first + self.config.n_prefix, device=self.embedding.weight.device)

    def forward(
        self,
        input_ids: Int[Tensor, "batch words units"],
        lengths: Int[Tensor, "of_texts of_words"],
        attention_mask: Bool[Tensor, "batch words"] | Int[Tensor, "batch words"] | None = None,
        return_loss: bool = True,
    ) -> WordPooledOutput:
        """Predict every word but the first.

        Args:
            input_ids: units of every word, 0 behind them.
            lengths: number of units of every word.
            attention_mask: the words that are there, before those that fill up; by default all.
            return_loss: as `Trainer` asks for it; the loss is always returned.

        Raises:
            UserError: fewer than two words or more than there are positions, or words and lengths that do not fit.
        """
        there = self.checked(input_ids, lengths, attention_mask)
        if not bool((there.sum(1) >= 2).any()):
            raise UserError("a text of one word has no next word to learn from: give at least two words.")
        states = self.trunk_states(self.embed_words(input_ids, lengths, there, check=False))
        predicted = there.clone()
        predicted[:, 0] = False
        before = states[:, :-1][predicted[:, 1:]]
        units, sizes = input_ids[predicted], lengths[predicted]
        of_words = self._loss_on_canvas if self.config.released else self._loss_on_stream
        loss, nll, right = of_words(before, units, sizes)
        placed = [torch.full(there.shape, torch.nan, device=nll.device) for _ in range(2)]
        for table, values in zip(placed, (nll, right), strict=True):
            table[predicted] = values.to(table.dtype)
        return WordPooledOutput(loss, *placed)

    # --- pooling ---------------------------------------------------------------------------------------------------------------------

    def embed_words(
        self,
        input_ids: Int[Tensor, "batch words units"],
        lengths: Int[Tensor, "of_texts of_words"],
        attention_mask: Bool[Tensor, "batch words"] | Int[Tensor, "batch words"] | None = None,
        check: bool = True,
    ) -> Float[Tensor, "batch words prefix width"]:
        """Pool every word into its vectors; zeros for padding."""
        there = self.checked(input_ids, lengths, attention_mask) if check else attention_mask
        assert there is not None
        if self.config.released:
            pooled = self.pool_canvas(input_ids[there], lengths[there])
        else:
            # Words do not see each other: one forward for every type, however often it occurs.
            types, which = input_ids[there].unique(dim=0, return_inverse=True)
            pooled = self.pool_stream(types, (types != END).sum(1))[which]
        placed = pooled.new_zeros(*there.shape, *pooled.shape[1:])
        placed[there] = pooled
        return placed

    def pool_stream(
        self, units: Int[Tensor, "words units"], lengths: Int[Tensor, "words"]
    ) -> Float[Tensor, "words prefix width"]:
        """Pool words that lie end to end."""
        prefix = self.config.n_prefix
        stream = WordStream.of(lengths + prefix)
        table = torch.cat([self.cls_ids.expand(len(units), -1), units], dim=1)
        rows = self.embedding(table[stream.order[stream.word], stream.slot]) + self.slots(stream.slot)
        rows = self._through(self.pooling, self.dropout(rows), stream.attend(causal=False))
        first = stream.starts[:, None] + torch.arange(prefix, device=rows.device)
        return rows[first[stream.order.argsort()]]

    def pool_canvas(
        self, units: Int[Tensor, "words units"], lengths: Int[Tensor, "words"]
    ) -> Float[Tensor, "words prefix width"]:
        """Pool words in a table as wide as the longest; the released form lets all but padding see padding."""
        prefix, words = self.config.n_prefix, len(units)
        rows = self.dropout(self._canvas(units))
        slot = torch.arange(rows.shape[1], device=rows.device)
        if self.config.released:
            is_pad = slot > (lengths + prefix)[:, None]
            seen = ~(is_pad[:, :, None] & is_pad[:, None, :])
        else:
            seen = (slot < (lengths + prefix)[:, None])[:, None, :]
        attend = attend_canvas(words, seen[:, None])
        found = self._through(self.pooling, rows.flatten(0, 1), attend).unflatten(0, (words, -1))
        return found[:, :prefix]

    def _canvas(self, units: Int[Tensor, "words units"]) -> Float[Tensor, "words slots width"]:
        table = torch.cat([self.cls_ids.expand(len(units), -1), units], dim=1)
        rows: Tensor = self.embedding(table) + self.slots.weight[: table.shape[1]]
        return rows

    # --- trunk -----------------------------------------------------------------------------------------------------------------------

    def trunk_states(
        self, vectors: Float[Tensor, "batch words prefix width"]
    ) -> Float[Tensor, "batch words prefix width"]:
        """Read the vectors of all words in order, each seeing those before it."""
        states = self.trunk(inputs_embeds=vectors.flatten(1, 2), use_cache=False).last_hidden_state
        found: Tensor = states.unflatten(1, vectors.shape[1:3])
        return found

    # --- spelling --------------------------------------------------------------------------------------------------------------------

    def _loss_on_stream(
        self,
        states: Float[Tensor, "words prefix width"],
        units: Int[Tensor, "words units"],
        lengths: Int[Tensor, "words"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss over units and ends; nll of each word, and whether it is spelled right."""
        prefix, number = self.config.n_prefix, len(units)
        stream = WordStream.of(lengths + prefix)
        word, is_unit = stream.order[stream.word], stream.slot >= prefix
        spelled = units[word[is_unit], stream.slot[is_unit] - prefix]
        hints = self.dropout(self.embedding(spelled) + self.slots(stream.slot[is_unit]))
        # Every slot takes the next unit, or a vector of its own word.
        source = number * prefix + is_unit.cumsum(0) - 1
        given = word * prefix + stream.slot
        rows = torch.cat([states.flatten(0, 1), hints])[torch.where(is_unit, source, given)]
        rows = self.dropout(rows + self.slots(stream.slot))
        rows = self._through(self.spelling, rows, stream.attend(causal=True))
        # A unit is a label at its slot; the end of a word stands at the first slot behind it, a vector, which has none.
        labels = torch.full((len(rows) + 1,), IGNORED, device=rows.device)
        labels[:-1][is_unit] = spelled
        ordered = lengths[stream.order]
        ends = (stream.starts + ordered + prefix)[ordered < self.config.max_word_len]
        labels[ends] = END
        owner = pad(word, (1, 0))  # the word of the slot before
        return self._judged(pad(rows, (0, 0, 0, 1))[None], labels[None], owner[None], number)

    def _loss_on_canvas(
        self,
        states: Float[Tensor, "words prefix width"],
        units: Int[Tensor, "words units"],
        lengths: Int[Tensor, "words"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The released loss: over all slots, the padding behind a word too."""
        rows = self.spell_canvas(states, units)
        labels = torch.full(rows.shape[:2], IGNORED, device=rows.device)
        labels[:, self.config.n_prefix :] = units
        owner = torch.arange(len(units), device=rows.device)[:, None].expand_as(labels)
        return self._judged(rows, labels, owner, len(units))

    def _judged(
        self, rows: Tensor, labels: Tensor, owner: Tensor, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        told = labels != IGNORED
        weights = told.to(torch.float32)
        loss = weighted_loss(rows, labels, weights, self.output_head)
        nll = loss.nll.new_zeros(number).index_add(0, owner[told], loss.nll[told])
        wrong = loss.nll.new_zeros(number).index_add(0, owner[told], 1 - loss.accuracy[told])
        return loss.total / weights.sum(), nll, (wrong == 0).to(nll.dtype)

    @property
    def output_head(self) -> OutputHead:
        """From states to units."""
        return OutputHead(self.head, self.config.vocab_size)

    def spell_canvas(
        self, states: Float[Tensor, "words prefix width"], units: Int[Tensor, "words units"]
    ) -> Float[Tensor, "words slots width"]:
        """Spell words in a table as wide as the longest: states of every slot."""
        hints = self.dropout(self._canvas(units))[:, self.config.n_prefix :]
        rows = torch.cat([states, hints], dim=1)
        rows = self.dropout(rows + self.slots.weight[: rows.shape[1]])
        attend = attend_canvas(len(units), None, causal=True)
        return self._through(self.spelling, rows.flatten(0, 1), attend).unflatten(0, (len(units), -1))

    def canvas_logits(
        self,
        input_ids: Int[Tensor, "batch words units"],
        lengths: Int[Tensor, "of_texts of_words"],
    ) -> Float[Tensor, "batch next_words units vocabulary"]:
        """Logits of every slot of words 2 to T in a table as wide as the longest word, padding included: for comparison only."""
        there = self.checked(input_ids, lengths, None)
        flat = input_ids.flatten(0, 1), lengths.flatten()
        vectors = self.pool_canvas(*flat).unflatten(0, there.shape)
        states = self.trunk_states(vectors)[:, :-1]
        rows = self.spell_canvas(states.flatten(0, 1), input_ids[:, 1:].flatten(0, 1))
        prefix = self.config.n_prefix
        logits: Tensor = self.head(rows[:, prefix - 1 : -1])
        return logits.unflatten(0, states.shape[:2])

    def _through(self, layers: nn.ModuleList, rows: Tensor, attend: Attend) -> Tensor:
        for layer in layers:
            rows = layer(rows, attend)
        return rows

    # --- words -----------------------------------------------------------------------------------------------------------------------

    def score_words(
        self, windows: Sequence[Sequence[Word]], batch_size: int = 8
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each window of words: nll in nats of every word but the first, and whether it is spelled right."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        with evaluation_mode(self), torch.no_grad():
            for start in range(0, len(windows), batch_size):
                part = windows[start : start + batch_size]
                batch = {name: value.to(self.device) for name, value in collate_words(part).items()}
                output = self(**batch)
                tables = (output.nll.double().cpu().numpy(), output.right.cpu().numpy())
                found += [
                    (nll[1 : len(window)], right[1 : len(window)] > 0)
                    for window, nll, right in zip(part, *tables, strict=True)
                ]
        return found

    def checked(
        self,
        input_ids: Int[Tensor, "batch words units"],
        lengths: Int[Tensor, "of_texts of_words"],
        attention_mask: Bool[Tensor, "batch words"] | Int[Tensor, "batch words"] | None,
    ) -> Bool[Tensor, "batch words"]:
        """The words that are there.

        Raises:
            UserError: what a table of words and its lengths cannot be.
        """
        config, (batch, words, width) = self.config, input_ids.shape
        if lengths.shape != (batch, words):
            raise UserError(
                f"lengths have shape {tuple(lengths.shape)} and input_ids hold {batch} × {words} words: give one length per word."
            )
        if words > config.max_words:
            raise UserError(
                f"a text of {words} words does not fit the {config.max_words} positions of the model: cut it, or raise max_words."
            )
        if width > config.max_word_len or (config.released and width < config.max_word_len):
            raise UserError(
                f"words of {width} units do not fit the model, whose words have {config.max_word_len}: cut or split longer ones."
            )
        there = (
            lengths.new_ones(lengths.shape, dtype=torch.bool)
            if attention_mask is None
            else attention_mask.bool()
        )
        inside = torch.arange(width, device=lengths.device) < lengths[:, :, None]
        held = input_ids[there]
        wrong = {
            f"a length is 0 or below, or above the {width} units of the table: every word has at least one unit.": (
                (lengths < 1) | (lengths > width)
            )[there],
            f"a unit is outside 0 to {config.vocab_size - 1}: were the words coded with other units?": (
                held < 0
            )
            | (held >= config.vocab_size),
            "units stand behind the length of a word: fill it up with 0.": (held != END) & ~inside[there],
            "unit 0, the end of a word, stands inside one: give its true length.": (held == END)
            & inside[there],
            "padding stands before words: it belongs behind them.": ~there[:, :-1] & there[:, 1:],
            "a text without words is in the batch: leave it out.": ~there.any(1),
        }
        found = torch.stack([mask.any() for mask in wrong.values()]).tolist()
        if any(found):
            raise UserError(next(words for words, is_so in zip(wrong, found, strict=True) if is_so))
        return there


AutoConfig.register(WordPooledConfig.model_type, WordPooledConfig, exist_ok=True)
AutoModel.register(WordPooledConfig, WordPooledLM, exist_ok=True)
