"""What each step of the main stage trains on: texts, and a tokenizer drawn from them and the texts before them.

    vocabulary size ~ Normal(vocabulary_size, vocabulary_std), within its bounds
    noise           ~ LogNormal(ln noise_median, noise_sigma), at most `most_noise`

Batch `n` is always the same, whatever was asked for before, so that training can begin at any step.

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 3.2 and appendix.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.train.numbered import TextBatches, step_generator
from tokenry.tokenization.transfer.zett.byte_conversion import ConvertedTokenizer
from tokenry.tokenization.transfer.zett.settings import DrawingConfig
from tokenry.tokenization.transfer.zett.surface_forms import surface_forms
from tokenry.tokenization.transfer.zett.unigram_sampler import UnigramSampler

_MASKED, _NOT_REPLACED, _REPLACED_AT_RANDOM = 0.15, 0.1, 0.1
_MOST_SPELLINGS = 1 << 20


@dataclass(frozen=True)
class DrawnBatch:
    """Texts as a drawn tokenizer cuts them.

    Attributes:
        forms: surface forms of its tokens.
        special: ids of its special tokens.
        special_in_source: the same tokens' ids in the source tokenizer.
        input_ids: ids of the texts, padded on the right.
        attention_mask: 0 for padding.
        language: number of the texts' language.
    """

    forms: Int[Tensor, "tokens pieces"]
    special: Int[Tensor, "special"]
    special_in_source: Int[Tensor, "special"]
    input_ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"]
    language: int

    def only(self, others: int, generator: torch.Generator) -> "DrawnBatch":
        """Keep of the vocabulary the tokens of the texts, the special ones, and `others` more at random.

        Source: released code, `n_token_subsample`.
        """
        needed = torch.cat([self.input_ids.flatten(), self.special])
        drawn = torch.randperm(len(self.forms), generator=generator)[:others]
        kept = torch.cat([needed, drawn]).unique()
        places = torch.full((len(self.forms),), -1)
        places[kept] = torch.arange(len(kept))
        return DrawnBatch(
            self.forms[kept],
            places[self.special],
            self.special_in_source,
            places[self.input_ids],
            self.attention_mask,
            self.language,
        )


class DrawnBatches:
    """The batches of the main stage, by number.

    Args:
        source: the model's tokenizer over bytes.
        config: how tokenizers and texts are drawn.
        max_length: pieces of a surface form.
        seed: random seed of everything that is drawn.

    Raises:
        UserError: a language without texts, or with an empty one.
    """

    def __init__(
        self,
        source: ConvertedTokenizer,
        texts: Mapping[str, Sequence[str]],
        config: DrawingConfig,
        max_length: int,
        seed: int,
    ) -> None:
        for language, spoken in texts.items():
            if not spoken or not all(spoken):
                raise UserError(
                    f"training needs texts, and none that is empty: those of {language!r} are {len(spoken)}, "
                    f"{sum(not text for text in spoken)} of them empty."
                )
        self._source, self._config, self._seed = source, config, seed
        self._batches = [TextBatches(spoken, config.batch_size, seed) for spoken in texts.values()]
        sizes = torch.tensor(list(map(len, texts.values())), dtype=torch.float64)
        self._shares = sizes**config.language_exponent
        self._spelled = _Spellings(source.tokenizer, max_length)
        self._special = {source.tokens[number]: number for number in source.special_ids}
        self._samplers: dict[int, tuple[int, UnigramSampler]] = {}

    def __getitem__(self, number: int) -> DrawnBatch:
        language = self.language(number)
        tokenizer = self.tokenizer(number)
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special = {name: place for place, name in enumerate(names) if name in self._special}
        encoded = tokenizer(
            self._batches[language][self._place(number)],
            truncation=True,
            max_length=self._config.block_size,
        )["input_ids"]
        ids = [torch.tensor(row) for row in encoded]
        return DrawnBatch(
            self._spelled(names),
            torch.tensor(list(special.values()), dtype=torch.long),
            torch.tensor([self._special[name] for name in special], dtype=torch.long),
            pad_sequence(ids, batch_first=True),
            pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            language,
        )

    def language(self, number: int) -> int:
        """The language of a step."""
        generator = step_generator(self._seed, number, "language")
        return int(torch.multinomial(self._shares, 1, generator=generator))

    def tokenizer(self, number: int) -> PreTrainedTokenizerFast:
        """The tokenizer of a step.

        Raises:
            UserError: the texts have too few substrings for the vocabulary.
        """
        config = self._config
        generator = step_generator(self._seed, number, "tokenizer")
        wished, deviation = torch.randn(2, generator=generator, dtype=torch.float64).tolist()
        size = round(config.vocabulary_size + config.vocabulary_std * wished)
        size = min(max(size, config.least_vocabulary), config.most_vocabulary)
        noise = config.noise_median * math.exp(config.noise_sigma * deviation)
        return self._sampler(number).sample(size, min(noise, config.most_noise), generator)

    def _sampler(self, number: int) -> UnigramSampler:
        """The sampler of the step's language, with the texts of the step and those before it."""
        config, language = self._config, self.language(number)
        last = self._place(number)
        shown, sampler = self._samplers.get(language, (-1, None))
        if sampler is None or shown > last:
            sampler = UnigramSampler(
                config.max_substring,
                config.stride,
                config.pool,
                special_tokens=self._source.tokenizer,
            )
            shown = -1
        for place in range(max(shown + 1, last - self._pooled + 1), last + 1):
            sampler.update(self._batches[language][place])
        self._samplers[language] = (last, sampler)
        return sampler

    @property
    def _pooled(self) -> int:
        return max(1, self._config.pool // self._config.batch_size)

    def _place(self, number: int) -> int:
        """The batch of texts of a step; those before the first fill the pool."""
        return number + self._pooled - 1


def masked(
    batch: DrawnBatch, mask_id: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Hide 15 % of the tokens: 8 of 10 behind the mask, 1 behind another token, 1 not at all.

    Args:
        batch: texts whose tokens are hidden.
        mask_id: id of the mask token in the drawn vocabulary.
        generator: random numbers.

    Returns:
        Input ids, and labels of the hidden tokens (-100 elsewhere).

    Source: BERT (arXiv 1810.04805), section 3.1.
    """
    ids = batch.input_ids
    chance, kind = torch.rand(2, *ids.shape, generator=generator)
    learnable = batch.attention_mask.bool() & ~torch.isin(ids, batch.special)
    hidden = learnable & (chance < _MASKED)
    others = torch.randint(len(batch.forms), ids.shape, generator=generator)
    behind_mask = hidden & (kind >= _NOT_REPLACED + _REPLACED_AT_RANDOM)
    shown = torch.where(behind_mask, mask_id, ids)
    shown = torch.where(hidden & (kind < _REPLACED_AT_RANDOM), others, shown)
    return shown, torch.where(hidden, ids, IGNORED)


def next_tokens(batch: DrawnBatch) -> Int[Tensor, "batch seq"]:
    """Labels for a causal model: every real token but the first."""
    labels = torch.where(batch.attention_mask.bool(), batch.input_ids, IGNORED)
    labels[:, 0] = IGNORED
    return labels


class _Spellings:
    """Surface forms, each token spelled once: drawn vocabularies are much alike."""

    def __init__(self, source: PreTrainedTokenizerFast, max_length: int) -> None:
        self._source, self._max_length = source, max_length
        self._places: dict[str, int] = {}
        self._forms = torch.empty(0, max_length, dtype=torch.long)

    def __call__(self, tokens: Sequence[str]) -> Int[Tensor, "tokens pieces"]:
        if len(self._places) > _MOST_SPELLINGS:
            self._places, self._forms = {}, self._forms[:0]
        new = [token for token in dict.fromkeys(tokens) if token not in self._places]
        if new:
            self._places |= {token: place for place, token in enumerate(new, start=len(self._places))}
            self._forms = torch.cat([self._forms, surface_forms(new, self._source, self._max_length)[0]])
        return self._forms[[self._places[token] for token in tokens]]
