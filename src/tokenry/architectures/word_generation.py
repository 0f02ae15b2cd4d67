"""Text from a word-pooled model, word by word, with two caches: the trunk keeps all words, the speller keeps the units of one.

    h_t ── spell: unit by unit, over its own keys ──> w_{t+1} ── pool ──> trunk advances by n_prefix positions ──> h_{t+1}

All texts of a batch go on together: prompts of fewer words stand behind empty places that nothing sees. The released loop runs the whole
model again for every unit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache

from tokenry.architectures.word_layers import Attend
from tokenry.architectures.word_pooled import WordPooledLM
from tokenry.architectures.words import END, Word, collate_words
from tokenry.core.errors import UserError, require_at_least
from tokenry.core.tensors.modes import evaluation_mode

Choose = Callable[[Float[Tensor, "texts vocabulary"]], Int[Tensor, "texts"]]


@dataclass(frozen=True)
class WordSampling:
    """How texts go on.

    Attributes:
        max_new_words: most words of a continuation.
        temperature: of the units; 0 takes the most probable one.
        seed: random seed.
        stop: the word that ends a text, such as the one that begins the next; it is not returned.
    """

    max_new_words: int = 50
    temperature: float | int = 1.0
    seed: int = 0
    stop: Word | None = None

    def __post_init__(self) -> None:
        require_at_least(1, max_new_words=self.max_new_words)
        require_at_least(0, temperature=self.temperature, seed=self.seed)

    def choose(self, device: torch.device) -> Choose:
        """A function that draws a unit from the logits of each text."""
        if self.temperature == 0:
            return lambda logits: logits.argmax(1)
        draws = torch.Generator(device).manual_seed(self.seed)

        def draw(logits: Tensor) -> Tensor:
            shares = (logits.float() / self.temperature).softmax(1)
            return torch.multinomial(shares, 1, generator=draws)[:, 0]

        return draw


@torch.no_grad()
def generate_words(
    model: WordPooledLM, prompts: Sequence[Sequence[Word]], sampling: WordSampling | None = None
) -> list[list[Word]]:
    """Go on from each prompt; returns the new words of each.

    Raises:
        UserError: no prompt, one without words, or more words than the model has positions.
    """
    sampling = sampling or WordSampling()
    if not prompts or not all(prompts):
        raise UserError(
            "a text goes on from at least one word: give a prompt, or the word that begins a text."
        )
    longest = max(map(len, prompts)) + sampling.max_new_words
    if longest > model.config.max_words:
        raise UserError(
            f"a prompt of {longest - sampling.max_new_words} words and {sampling.max_new_words} new ones do not fit the "
            f"{model.config.max_words} positions of the model: ask for fewer."
        )
    found: list[list[Word]] = [[] for _ in prompts]
    with evaluation_mode(model):
        for new in _words(model, prompts, sampling):
            for text, word in zip(found, new, strict=True):
                if word is not None:
                    text.append(word)
    return found


def _words(
    model: WordPooledLM, prompts: Sequence[Sequence[Word]], sampling: WordSampling
) -> Iterator[list[Word | None]]:
    """The next word of every text that has not ended, again and again."""
    choose, has_ended = sampling.choose(model.device), [False] * len(prompts)
    trunk, states = _TrunkCache.read(model, prompts)
    for number in range(sampling.max_new_words):
        units, lengths = spell_words(model, states, choose)
        words = [tuple(row[:length]) for row, length in zip(units.tolist(), lengths.tolist(), strict=True)]
        has_ended = [over or word == sampling.stop for over, word in zip(has_ended, words, strict=True)]
        yield [None if over else word for over, word in zip(has_ended, words, strict=True)]
        if all(has_ended) or number + 1 == sampling.max_new_words:
            return
        states = trunk.advance(model.embed_words(units[:, None], lengths[:, None])[:, 0])


def spell_words(
    model: WordPooledLM, states: Float[Tensor, "texts prefix width"], choose: Choose
) -> tuple[Int[Tensor, "texts units"], Int[Tensor, "texts"]]:
    """Spell one word for each state of the trunk, all at once, unit by unit; no word is empty."""
    prefix, most = model.config.n_prefix, model.config.max_word_len
    texts = len(states)
    caches = [_UnitCache(texts, prefix + most) for _ in model.spelling]
    units = torch.zeros(texts, most, dtype=torch.long, device=states.device)
    is_open = torch.ones(texts, dtype=torch.bool, device=states.device)
    positions = model.slots.weight
    rows = states + positions[:prefix]
    for place in range(most):
        slots = rows.shape[1]
        flat = rows.flatten(0, 1)
        for block, cache in zip(model.spelling, caches, strict=True):
            flat = block(flat, cache.attend)
        logits = model.head(flat.unflatten(0, (texts, slots))[:, -1])
        if place == 0:
            logits[:, END] = -torch.inf
        unit = choose(logits) * is_open
        units[:, place] = unit
        is_open &= unit != END
        if not bool(is_open.any()):
            break
        # Positions are added twice, as in training: with the embedding, and in the canvas.
        rows = (model.embedding(unit) + 2 * positions[prefix + place])[:, None]
    return units, (units != END).sum(1)


class _UnitCache:
    """Keys and values of the words that are being spelled, of one layer; all stand at the same slot."""

    def __init__(self, texts: int, slots: int) -> None:
        self._texts, self._slots, self._filled = texts, slots, 0
        self._kept: tuple[Tensor, Tensor] | None = None

    @property
    def attend(self) -> Attend:
        """Attention of new rows to all rows so far."""

        def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
            new = [rows.unflatten(0, (self._texts, -1)).transpose(1, 2) for rows in (query, key, value)]
            if self._kept is None:
                heads, width = key.shape[1:]
                room = key.new_empty(2, self._texts, heads, self._slots, width)
                self._kept = room[0], room[1]
            start, self._filled = self._filled, self._filled + new[0].shape[2]
            for kept, rows in zip(self._kept, new[1:], strict=True):
                kept[:, :, start : self._filled] = rows
            keys, values = (kept[:, :, : self._filled] for kept in self._kept)
            mixed = scaled_dot_product_attention(new[0], keys, values, is_causal=start == 0)
            return mixed.transpose(1, 2).flatten(0, 1)

        return attend


@dataclass
class _TrunkCache:
    """What the trunk has read: one cache, the places that hold words, and the next position of each text."""

    model: WordPooledLM
    cache: DynamicCache
    there: Bool[Tensor, "texts places"]
    position: Int[Tensor, "texts"]

    @classmethod
    def read(
        cls, model: WordPooledLM, prompts: Sequence[Sequence[Word]]
    ) -> tuple["_TrunkCache", Float[Tensor, "texts prefix width"]]:
        """Read prompts, moved to the right so that all end together."""
        batch = {name: value.to(model.device) for name, value in collate_words(prompts).items()}
        there = batch["attention_mask"]
        vectors = model.embed_words(batch["input_ids"], batch["lengths"], there)
        missing = (~there).sum(1)
        place = torch.arange(there.shape[1], device=there.device)
        moved = (place - missing[:, None]) % there.shape[1]
        vectors = vectors[torch.arange(len(vectors), device=place.device)[:, None], moved]
        prefix = model.config.n_prefix
        there = (place >= missing[:, None]).repeat_interleave(prefix, dim=1)
        positions = (there.cumsum(1) - 1).clamp(min=0)
        started = cls(model, DynamicCache(config=model.trunk.config), there, there.sum(1))
        return started, started._run(vectors.flatten(1, 2), positions)

    def advance(self, vectors: Float[Tensor, "texts prefix width"]) -> Float[Tensor, "texts prefix width"]:
        """Read one more word of every text."""
        steps = torch.arange(vectors.shape[1], device=vectors.device)
        positions = self.position[:, None] + steps
        self.there = torch.cat([self.there, self.there.new_ones(len(vectors), len(steps))], dim=1)
        self.position = self.position + len(steps)
        return self._run(vectors, positions)

    def _run(self, rows: Tensor, positions: Tensor) -> Tensor:
        states: Tensor = self.model.trunk(
            inputs_embeds=rows,
            attention_mask=self.there.long(),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return states[:, -self.model.config.n_prefix :]
