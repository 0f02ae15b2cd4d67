"""The auxiliary space: a vector for every old and new token, so that tokens can be compared before they have rows.

    "hidden"       the model itself: mean over the pieces of a token of their hidden states after the second layer; the default
    "embeddings"   the same before the first layer: the mean of the pieces' rows
    "characters"   TF-IDF of character 1- to 4-grams reduced by SVD; needs no model
    a function     of a list of strings, such as any sentence encoder (`sentence_encoder` loads one)
    an array       one vector per new token, such as a donor model's matrix; an old token has that of the new one it equals
    a pair         of arrays, computed before: one vector per old token, one per new token

A token that is no text (special, part of a character) has no vector: a row of zeros.

Source: TokenAdapt (arXiv 2505.09738) uses a sentence encoder; the model's own space and that of characters need no second model.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from tokenry.core.errors import UserError, require_one_of
from tokenry.models.checkpoint import first_sentence
from tokenry.tokenization.transfer.transplant.vocabulary_match import VocabularyMatch

Encoder = Callable[[list[str]], Any]
"""Strings to an array with one row each."""

Auxiliary = str | Encoder | np.ndarray | Tensor | tuple[Any, Any]

NAMES = ("hidden", "embeddings", "characters")
HIDDEN_LAYER = 2
"""The layer after which `hidden` reads. Deeper ones cost more and compared tokens no better on the embedded model."""

_BATCH = 512
_DIMENSIONS = 64


@dataclass(frozen=True)
class SpelledTokens:
    """Tokens that need a vector: what they stand for (None for no text), old ids that spell them, new ids (-1 for none)."""

    texts: Sequence[str | None]
    pieces: Sequence[Sequence[int]]
    new_ids: Sequence[int]

    @property
    def known(self) -> list[int]:
        """Places of the tokens that are text and can be spelled."""
        return [place for place, text in enumerate(self.texts) if text and self.pieces[place]]


@runtime_checkable
class AuxiliarySpace(Protocol):
    """Vectors of the old tokens, and of any others on request; rows of zeros for tokens without one."""

    old: Float[Tensor, "old dim"]

    def vectors(self, tokens: SpelledTokens) -> Float[Tensor, "tokens dim"]:
        """One row per token."""
        ...


def auxiliary_space(
    auxiliary: Auxiliary,
    matched: VocabularyMatch,
    model: PreTrainedModel,
    centred: bool = True,
) -> AuxiliarySpace:
    """Make an auxiliary space.

    Args:
        auxiliary: a name, a function, an array, or a pair of arrays (the module's docstring describes them).
        matched: the two vocabularies.
        model: the old model.
        centred: whether vectors of the model are taken relative to their mean: cosines need it, sums of rows forbid it.
    """
    if isinstance(auxiliary, str):
        require_one_of(auxiliary, NAMES, "auxiliary")
        if auxiliary == "characters":
            every = [text for text in matched.old_texts + matched.new_texts if text]
            return _TextSpace(character_ngrams(every), matched.old_texts)
        layer = HIDDEN_LAYER if auxiliary == "hidden" else 0
        return _ModelSpace(model, matched.old_texts, layer, centred)
    if isinstance(auxiliary, tuple):
        return _GivenSpace(_checked(auxiliary[0], len(matched.old_texts)), auxiliary[1], len(matched.shared))
    if callable(auxiliary):
        return _TextSpace(auxiliary, matched.old_texts)
    new = _checked(auxiliary, len(matched.shared))
    shared = matched.shared >= 0
    old = new.new_zeros(len(matched.old_texts), new.shape[1])
    old[matched.shared[shared]] = new[shared]
    return _GivenSpace(old, new, len(matched.shared))


def character_ngrams(texts: Sequence[str], dimensions: int = _DIMENSIONS, seed: int = 0) -> Encoder:
    """Fit TF-IDF of character 1- to 4-grams and its SVD on the texts that will be compared, and return the map into that space."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    counts = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), lowercase=False, min_df=min(2, len(texts)))
    table = counts.fit_transform(texts)
    # The solver requires fewer dimensions than n-grams, and the texts span at most as many directions as there are texts.
    reduced = TruncatedSVD(max(1, min(dimensions, table.shape[1] - 1, len(texts))), random_state=seed)
    reduced.fit(table)
    return lambda strings: reduced.transform(counts.transform(strings))


def sentence_encoder(folder: str | os.PathLike, max_length: int = 64) -> Encoder:
    """Load a sentence encoder from a local folder: mean over the tokens of the last hidden states; safetensors only."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model = AutoModel.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"{folder} holds no sentence encoder ({first_sentence(error)}): name a folder with config.json, model.safetensors and "
            "a tokenizer."
        ) from error
    model.eval()

    @torch.no_grad()
    def encode(strings: list[str]) -> Float[Tensor, "strings dim"]:
        batch = tokenizer(
            strings, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        ).to(model.device)
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        return ((hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).float()

    return encode


class _ModelSpace:
    """Hidden states of the model itself, relative to their mean over the old tokens if centred."""

    def __init__(
        self,
        model: PreTrainedModel,
        old_texts: Sequence[str | None],
        layer: int,
        centred: bool,
    ) -> None:
        self._model, self._layer = model, layer
        ids = range(len(old_texts))
        every = SpelledTokens(old_texts, [[number] for number in ids], ids)
        raw = self._states(every)
        # The component that all states share would make all of them look alike.
        self._centre = raw[every.known].mean(dim=0) * centred
        self.old = self._centred(raw, every)

    def vectors(self, tokens: SpelledTokens) -> Float[Tensor, "tokens dim"]:
        return self._centred(self._states(tokens), tokens)

    def _centred(self, raw: Tensor, tokens: SpelledTokens) -> Tensor:
        vectors = torch.zeros_like(raw)
        vectors[tokens.known] = raw[tokens.known] - self._centre
        return vectors

    @torch.no_grad()
    def _states(self, tokens: SpelledTokens) -> Float[Tensor, "tokens dim"]:
        rows = self._model.get_input_embeddings().weight
        states = torch.zeros(len(tokens.texts), rows.shape[1])
        for places in _batches(tokens.known, lambda place: len(tokens.pieces[place])):
            spelled = [torch.tensor(tokens.pieces[place]) for place in places]
            ids = nn.utils.rnn.pad_sequence(spelled, batch_first=True)
            mask = nn.utils.rnn.pad_sequence(
                [torch.ones_like(pieces) for pieces in spelled], batch_first=True
            )
            found = _states_after(self._model, self._layer, ids.to(rows.device), mask.to(rows.device))
            mean = (found.float().cpu() * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            states[places] = mean
        return states


class _TextSpace:
    """Vectors that a function makes of the texts; equal texts are encoded once."""

    def __init__(self, encoder: Encoder, old_texts: Sequence[str | None]) -> None:
        self._encoder = encoder
        self._found: dict[str, Tensor] = {}
        self.old = self._vectors(old_texts)

    def vectors(self, tokens: SpelledTokens) -> Float[Tensor, "tokens dim"]:
        return self._vectors(tokens.texts)

    def _vectors(self, texts: Sequence[str | None]) -> Float[Tensor, "tokens dim"]:
        asked = sorted({text for text in texts if text} - self._found.keys())
        for batch in _batches(asked, len):
            vectors = _checked(self._encoder(batch), len(batch))
            known = next(iter(self._found.values()), vectors[0])
            if len(known) != vectors.shape[1]:
                raise UserError(
                    f"the auxiliary function gave vectors of {len(known)} and of {vectors.shape[1]} numbers: all must have one length."
                )
            self._found.update(zip(batch, vectors, strict=True))
        vectors = torch.zeros(len(texts), len(next(iter(self._found.values()), ())))
        for place, text in enumerate(texts):
            if text:
                vectors[place] = self._found[text]
        return vectors


class _GivenSpace:
    """Vectors that were computed before."""

    def __init__(self, old: Float[Tensor, "old dim"], new: Any, new_tokens: int) -> None:
        self.old, self._new = old, _checked(new, new_tokens)
        if self._new.shape[1] != old.shape[1]:
            raise UserError(
                f"the auxiliary vectors of old tokens have {old.shape[1]} dimensions and those of new tokens {self._new.shape[1]}: both "
                "must come from one space."
            )

    def vectors(self, tokens: SpelledTokens) -> Float[Tensor, "tokens dim"]:
        return self._new[torch.tensor(tokens.new_ids, dtype=torch.long)]


class _Enough(Exception):  # noqa: N818  (it is no error)
    """Ends a forward whose later layers are not needed."""


def _states_after(
    model: PreTrainedModel, layer: int, pieces: Tensor, mask: Tensor
) -> Float[Tensor, "batch pieces dim"]:
    """Hidden states of the pieces after a layer; before the first one they are the rows of the input matrix."""
    if layer == 0:
        return model.get_input_embeddings()(pieces)
    found = []

    def stop(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        raise _Enough

    layers = _layers(model)
    handle = layers[min(layer, len(layers)) - 1].register_forward_hook(stop)
    try:
        model.base_model(input_ids=pieces, attention_mask=mask, use_cache=False)
    except _Enough:
        pass
    finally:
        handle.remove()
    return found[0]


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)


def _batches(items: Sequence[Any], length: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Batches of items of about the same length."""
    ordered = sorted(items, key=length)
    return (ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH))


def _checked(vectors: Any, expected: int) -> Float[Tensor, "rows dim"]:
    """Vectors as a float32 matrix, refused unless they are finite and one for each of the `expected` tokens."""
    matrix = torch.as_tensor(vectors).detach().float().cpu()
    if matrix.ndim != 2 or len(matrix) != expected:
        raise UserError(
            f"auxiliary vectors of the shape {tuple(matrix.shape)} were given for {expected} tokens: give one row for each."
        )
    bad = (~matrix.isfinite()).any(dim=1).nonzero()[:, 0]
    if len(bad):
        raise UserError(
            f"{len(bad)} auxiliary vectors are not finite (the first is number {int(bad[0])}): give rows of zeros for tokens without a "
            "vector."
        )
    return matrix
