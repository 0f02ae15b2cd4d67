"""What every word of a prompt is worth: the scorers of prompt compression, higher = more worth keeping.

    GlobEnc, DecompX, linear   attribution of an encoder classifier, or of the target language model itself       `AttributionScorer`
    self-information           −log p(token | the sentence before it), mean over the word (Selective Context)     `SelfInformation`
    token classifier           p(keep), mean over the word (LLMLingua-2)                                          `TokenClassifierScorer`
    random, bottom             the control, and any scorer upside down                                            `RandomScorer`, `BottomScorer`

A text is read in parts (sentences, or as many as a model reads at once), equal parts once; the scores of tokens become scores of words.
FrugalPrompt scales the scores of a sentence to [0, 1], [CLS] and [SEP] among them, and sums: a word of many tokens counts for more.

Sources: FrugalPrompt (arXiv 2510.16439); Selective Context (arXiv 2310.06201); LLMLingua-2 (arXiv 2403.12968).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.attribution import attribute
from tokenry.attribution.attribution import is_causal_lm
from tokenry.attribution.globenc import min_max
from tokenry.compression.text.lexrank import lexrank
from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.tensors.gate import name_of, position_limit, require_causal_lm
from tokenry.core.tensors.losses import backbone, causal_lm, output_head, token_nll
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.text.sentences import sentences
from tokenry.core.text.words import Span, Words, word_spans, words_of

_SENTENCES_KEPT = 1024


@dataclass(frozen=True)
class ScoredText:
    """The words of a text and what each is worth.

    Attributes:
        spans: characters of every word, from start to end.
    """

    text: str
    spans: tuple[Span, ...]
    scores: Float[Tensor, "words"]

    def __len__(self) -> int:
        return len(self.spans)


class PromptPart(NamedTuple):
    """A stretch of a text that a model reads at once; the scores of its words are multiplied by `weight`."""

    text: str
    weight: float = 1.0


class PromptScorer(ABC):
    """What every scorer of prompt compression is: one score per word."""

    @abstractmethod
    def score(self, texts: Sequence[str]) -> list[ScoredText]:
        """Score the words of every text."""


class RandomScorer(PromptScorer):
    """Uniform random scores: what a scorer must beat. A text has the same scores in any batch.

    Args:
        tokenizer: words that share one of its tokens are one word; None for words as they are written.
    """

    def __init__(self, seed: int = 0, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.seed, self.tokenizer = seed, tokenizer

    def score(self, texts: Sequence[str]) -> list[ScoredText]:
        """Draw a score for every word."""
        found = []
        for text in texts:
            spans = word_spans(text) if self.tokenizer is None else words_of(self.tokenizer, text).spans
            found.append(random_scores(ScoredText(text, tuple(spans), torch.zeros(len(spans))), self.seed))
        return found


class BottomScorer(PromptScorer):
    """The words that another scorer finds least worth keeping: what compression does at its worst.

    Args:
        of: the other scorer.
    """

    def __init__(self, of: PromptScorer) -> None:
        self.of = of

    def score(self, texts: Sequence[str]) -> list[ScoredText]:
        """Turn the scores of the other scorer round."""
        return [bottom_scores(scored) for scored in self.of.score(texts)]


def random_scores(scored: ScoredText, seed: int) -> ScoredText:
    """Random scores for the same words, by the seed and the text alone."""
    draw = Generator().manual_seed(seed * 0x1_0000_0001 + crc32(scored.text.encode()))
    return ScoredText(scored.text, scored.spans, torch.rand(len(scored), generator=draw))


def bottom_scores(scored: ScoredText) -> ScoredText:
    """The same words, the least worth keeping first."""
    return ScoredText(scored.text, scored.spans, -scored.scores)


class TokenScorer(PromptScorer):
    """A scorer whose model reads tokens: it says how a text is cut into parts, and what the words of a part are worth.

    Args:
        tokenizer: its tokenizer, a fast one.
        max_tokens: maximum number of tokens that are read at once, special tokens included.
        batch_size: parts that are read at once.
    """

    special_tokens = True

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int = 512,
        batch_size: int = 32,
    ) -> None:
        if not tokenizer.is_fast:
            raise UserError(
                f"{type(tokenizer).__name__} is a slow tokenizer without offsets, so its tokens have no words: load it with use_fast=True."
            )
        require_at_least(8, max_tokens=max_tokens)
        require_at_least(1, batch_size=batch_size)
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.max_tokens = int(min(max_tokens, position_limit(model)))
        self.read = lru_cache(_SENTENCES_KEPT)(self._read)

    def parts(self, text: str) -> list[PromptPart]:
        """The sentences; those that are too long are cut in the middle."""
        return [PromptPart(window) for sentence in sentences(text) for window in self.windows(sentence)]

    @abstractmethod
    def word_scores(self, words: Sequence[Words]) -> list[Float[Tensor, "words"]]:
        """Score the words of parts, none of which is empty."""

    def score(self, texts: Sequence[str]) -> list[ScoredText]:
        """Score the words of every text; what several texts or sentences have in common is read once."""
        cut = [self.parts(text) for text in texts]
        words = {part.text: self.read(part.text) for parts in cut for part in parts}
        own = [found for found in words.values() if len(found)]
        scored = dict(zip((found.text for found in own), self.word_scores(own), strict=True))
        joined = []
        for text, parts in zip(texts, cut, strict=True):
            start, spans, scores = 0, [], [torch.zeros(0)]
            for part in parts:
                spans += [(start + first, start + last) for first, last in words[part.text].spans]
                if part.text in scored:
                    scores.append(part.weight * scored[part.text].float().cpu())
                start += len(part.text)
            joined.append(ScoredText(text, tuple(spans), torch.cat(scores)))
        return joined

    def _read(self, text: str) -> Words:
        """The words of a text with their tokens."""
        return words_of(self.tokenizer, text, self.special_tokens)

    def windows(self, sentence: str) -> Iterator[str]:
        """Cut a text at the word in its middle until the model reads each piece."""
        words = self.read(sentence)
        if len(words.input_ids) + (not self.special_tokens) <= self.max_tokens:
            yield sentence
            return
        middle = words.spans[len(words) // 2][0] if len(words) > 1 else len(sentence) // 2
        yield from self.windows(sentence[:middle])
        yield from self.windows(sentence[middle:])

    def batches(self, rows: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Tokens of parts of about one length, padded on the right: their numbers, ids and mask."""
        device = next(self.model.parameters()).device
        padding = self.tokenizer.pad_token_id or 0
        waiting = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
        while waiting:
            # Sentences differ much in length: beside a long one, short ones would be mostly padding.
            longest = len(rows[waiting[0]])
            places = [place for place in waiting[: self.batch_size] if 2 * len(rows[place]) > longest]
            waiting = waiting[len(places) :]
            batch = [rows[place] for place in places]
            ids = nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=padding)
            lengths = torch.tensor([len(row) for row in batch])
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            yield places, ids.to(device), mask.to(device)


class AttributionScorer(TokenScorer):
    """Scores by any attribution method: what made a classifier choose its class, or a language model its next token.

    Every sentence is read alone by a classifier, the whole text by a language model, which is best the one that the prompt is for.

    Args:
        model: encoder classifier, or causal language model.
        method: attribution method, such as `globenc`, `decompx`, or `decompx:method=linear`, which takes language models too.
        label: class that is asked about; `predicted` for that of each sentence, `every` for the sum of |score| over all classes.
        sentence_weights: whether scores are multiplied by the LexRank of their sentence.
        rescale: whether the scores of words are scaled to [0, 1] once more.
        max_tokens: maximum number of tokens that are read at once; None: 512 for a classifier, all that a language model reads.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        method: str = "globenc",
        label: int | str = "predicted",
        sentence_weights: str = "none",
        rescale: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        self.reads_all = is_causal_lm(model)
        super().__init__(model, tokenizer, max_tokens or (1 << 30 if self.reads_all else 512))
        require_one_of(sentence_weights, ("none", "lexrank"), "sentence_weights")
        if isinstance(label, str):
            require_one_of(label, ("predicted", "every"), "label")
        if self.reads_all and label != "predicted":
            raise UserError(
                f"label is a class, and {name_of(model)} is a language model, whose next token is explained: leave label out."
            )
        self.method, self.label, self.sentence_weights, self.rescale = (
            method,
            label,
            sentence_weights,
            rescale,
        )

    def parts(self, text: str) -> list[PromptPart]:
        """Sentences with their weights; the whole text for a language model."""
        found = [text] if self.reads_all else sentences(text)
        weights = (
            lexrank(found).tolist() if self.sentence_weights == "lexrank" and found else [1.0] * len(found)
        )
        return [
            PromptPart(window, weight)
            for sentence, weight in zip(found, weights, strict=True)
            for window in self.windows(sentence)
        ]

    def word_scores(self, words: Sequence[Words]) -> list[Float[Tensor, "words"]]:
        """Attribution scaled to [0, 1] over the tokens of a part, summed over those of a word."""
        found: dict[int, Tensor] = {}
        for places, ids, mask in self.batches([part.input_ids for part in words]):
            for place, row in zip(places, self._of_tokens(ids, mask).float().cpu(), strict=True):
                part = words[place]
                found[place] = self._of_words(part, min_max(row[: len(part.input_ids)]))
        return [found[place] for place in range(len(words))]

    def _of_tokens(
        self, ids: Int[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq"]:
        def scores(label: int | None) -> Tensor:
            target = None if label is None else [label] * len(ids)
            return attribute(self.model, ids, target, self.method, attention_mask=mask).scores

        if self.label != "every":
            return scores(self.label if isinstance(self.label, int) else None)
        classes = range(self.model.config.num_labels)  # type: ignore[union-attr, arg-type]
        return torch.stack([scores(label) for label in classes]).abs().sum(0)

    def _of_words(self, part: Words, scores: Float[Tensor, "seq"]) -> Float[Tensor, "words"]:
        total = part.total(scores)
        if not self.rescale:
            return total
        return min_max(torch.cat([total, scores[part.of_token < 0]]))[: len(total)]


def globenc_scorer(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> AttributionScorer:
    """FrugalPrompt with GlobEnc: words scaled once more, sentences weighed by LexRank."""
    return AttributionScorer(model, tokenizer, "globenc", sentence_weights="lexrank", rescale=True)


def decompx_scorer(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> AttributionScorer:
    """FrugalPrompt with DecompX: what speaks for the predicted class."""
    return AttributionScorer(model, tokenizer, "decompx")


def released_decompx_scorer(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> AttributionScorer:
    """DecompX as FrugalPrompt's released notebooks ask it, always for class 0: where the class is another, what speaks against it is kept."""
    return AttributionScorer(model, tokenizer, "decompx", label=0)


class TokenClassifierScorer(TokenScorer):
    """Scores by a token classifier that was trained to keep or drop, as in LLMLingua-2: mean of p(keep) over the tokens of a word.

    Args:
        model: token classifier with two classes, drop and keep.
        max_tokens: maximum number of tokens that are read at once, whole sentences if possible.
        batch_size: parts that are read at once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int = 512,
        batch_size: int = 32,
    ) -> None:
        super().__init__(model, tokenizer, max_tokens, batch_size)
        if not type(model).__name__.endswith("ForTokenClassification") or model.config.num_labels != 2:
            raise UserError(
                f"{name_of(model)} is no token classifier with the two classes drop and keep (got {type(model).__name__} with "
                f"{model.config.num_labels}): give one such as microsoft/llmlingua-2-bert-base-multilingual-cased-meetingbank."
            )

    def parts(self, text: str) -> list[PromptPart]:
        """As many sentences as are read at once."""
        cut = sentences(text)
        lengths = map(
            len, self.tokenizer(cut, add_special_tokens=False, verbose=False)["input_ids"] if cut else []
        )
        room = self.max_tokens - self.tokenizer.num_special_tokens_to_add()
        packed, filled = [""], 0
        for sentence, length in zip(cut, lengths, strict=True):
            if filled and filled + length > room:
                packed.append("")
                filled = 0
            packed[-1] += sentence
            filled += length
        return [PromptPart(window) for text in packed for window in self.windows(text)]

    def word_scores(self, words: Sequence[Words]) -> list[Float[Tensor, "words"]]:
        """Mean of p(keep) over the tokens of each word."""
        found: dict[int, Tensor] = {}
        with evaluation_mode(self.model), torch.no_grad():
            for places, ids, mask in self.batches([part.input_ids for part in words]):
                logits = self.model(input_ids=ids, attention_mask=mask.long()).logits
                keep = logits.float().softmax(-1)[..., 1].cpu()
                for place, row in zip(places, keep, strict=True):
                    found[place] = words[place].total(row[: len(words[place].input_ids)], "mean")
        return [found[place] for place in range(len(words))]


class SelfInformation(TokenScorer):
    """Scores by what a causal language model could not foresee, as in Selective Context: mean −log p over the tokens of a word, in nats.

    Args:
        model: causal language model.
        max_tokens: maximum number of tokens of a sentence that are read at once.
        batch_size: sentences that are read at once.
    """

    special_tokens = False

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int = 512,
        batch_size: int = 32,
    ) -> None:
        require_causal_lm(model)
        super().__init__(model, tokenizer, max_tokens, batch_size)
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if begin is None:
            raise UserError(
                f"the tokenizer of {name_of(causal_lm(model))} has neither a BOS nor an EOS token, before which a sentence could begin: set one."
            )
        self._begin = torch.tensor([begin])

    def word_scores(self, words: Sequence[Words]) -> list[Float[Tensor, "words"]]:
        """Mean NLL of the tokens of each word."""
        found: dict[int, Tensor] = {}
        model = causal_lm(self.model)
        body, head = backbone(model), output_head(model)
        with evaluation_mode(model), torch.no_grad():
            for places, ids, mask in self.batches(
                [torch.cat([self._begin, part.input_ids]) for part in words]
            ):
                hidden = body(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
                predicted = mask.clone()
                predicted[:, 0] = False
                nll = token_nll(hidden, ids, head, predicted).cpu()
                for place, row in zip(places, nll, strict=True):
                    found[place] = words[place].total(row[1 : 1 + len(words[place].input_ids)], "mean")
        return [found[place] for place in range(len(words))]
