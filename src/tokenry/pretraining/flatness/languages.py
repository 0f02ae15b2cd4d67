"""Languages whose probabilities are known: the exact loss of a masked language model, the least possible one, and a linear probe.

    p(token | rest)       exact, by the language
    population loss       −Σ_v p(v | rest) log q(v | rest), mean over masked tokens
    least loss            the entropy of p(· | rest): what no model can beat

With these a model's distance from the optimum is known without sampling noise of labels, and what its features hold is judged by labels
that it has never seen.

Source: Same Pre-training Loss, Better Downstream (arXiv 2210.14199), sections on simplified languages and linear probes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.stats import Estimate, estimate_of_mean, ratio_estimate
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.modes import evaluation_mode


@runtime_checkable
class KnownLanguage(Protocol):
    """A language with exact conditional probabilities."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens; the id after the last is that of the mask."""
        ...

    def sentences(self, n: int, generator: np.random.Generator) -> list[list[int]]:
        """Draw sentences, as token ids."""
        ...

    def masked_conditionals(
        self, input_ids: Int[Tensor, "batch seq"], masked: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq vocabulary"]:
        """p(token at a place | the tokens that are neither masked nor there); nan where no token is possible."""
        ...


class MaskedSentences(NamedTuple):
    """Masked sentences of one length and what a language says about their masked tokens.

    Attributes:
        input_ids: with the id of the mask at masked tokens.
        labels: the tokens there, −100 elsewhere.
        conditionals: p(token | unmasked tokens) at the masked tokens, in row-major order.
    """

    input_ids: Int[Tensor, "batch seq"]
    labels: Int[Tensor, "batch seq"]
    conditionals: Float[Tensor, "masked vocabulary"]


def masked_sentences(
    language: KnownLanguage, n: int, seed: int = 0, mask_share: float = 0.15, most_masks: int = 5
) -> Iterator[MaskedSentences]:
    """Draw sentences and mask some tokens of each, at least one: batches of sentences of one length."""
    require_at_least(1, n=n, most_masks=most_masks)
    generator = np.random.default_rng(seed)
    by_length = defaultdict(list)
    for sentence in language.sentences(n, generator):
        by_length[len(sentence)].append(sentence)
    for length, sentences in sorted(by_length.items()):
        input_ids = torch.tensor(sentences)
        number = min(most_masks, max(1, round(mask_share * length)))
        order = torch.from_numpy(generator.random(input_ids.shape).argsort(1))
        masked = order < number
        labels = torch.where(masked, input_ids, IGNORED)
        conditionals = language.masked_conditionals(input_ids, masked)[masked]
        yield MaskedSentences(input_ids.masked_fill(masked, language.vocabulary), labels, conditionals)


@dataclass(frozen=True)
class PopulationLoss:
    """What a model loses on a language, over masked tokens of sampled sentences, in nats.

    Attributes:
        loss: −Σ_v p(v) log q(v).
        entropy: the least loss possible on the same tokens.
        excess: their difference, KL(p ‖ q).
    """

    loss: Estimate
    entropy: Estimate
    excess: Estimate


@torch.no_grad()
def population_loss(
    model: nn.Module,
    language: KnownLanguage,
    sentences: int = 512,
    seed: int = 0,
    mask_share: float = 0.15,
    most_masks: int = 5,
) -> PopulationLoss:
    """Measure the loss of a masked language model under the true conditionals; errors are over the sentences.

    Args:
        model: a masked language model whose first ids are the tokens of the language, and the next one its mask.
        language: the language.
        sentences: number of sentences.
        seed: of sentences and masks.
        mask_share: share of the tokens that is masked.
        most_masks: largest number of masked tokens in a sentence.

    Raises:
        UserError: a model without an id for the mask.
    """
    known = getattr(getattr(model, "config", None), "vocab_size", language.vocabulary + 1)
    if known <= language.vocabulary:
        raise UserError(
            f"the model has {known} tokens, and the language {language.vocabulary} and a mask: give it one more."
        )
    device = next(model.parameters()).device
    found: list[ndarray] = []
    with evaluation_mode(model):
        for batch in masked_sentences(language, sentences, seed, mask_share, most_masks):
            at = batch.labels != IGNORED
            logits: Tensor = model(input_ids=batch.input_ids.to(device)).logits
            logq = logits[at.to(device)].double().log_softmax(-1)[:, : language.vocabulary].cpu()
            p = batch.conditionals.double()
            sums = torch.stack([torch.ones(len(p)), -(p * logq).sum(-1), torch.special.entr(p).sum(-1)])
            row = torch.arange(len(at))[:, None].expand_as(at)[at]
            found.append(torch.zeros(3, len(at), dtype=sums.dtype).index_add_(1, row, sums).numpy())
    masks, loss, entropy = np.concatenate(found, axis=1)
    return PopulationLoss(*(ratio_estimate(part, masks) for part in (loss, entropy, loss - entropy)))


class LinearProbe(NamedTuple):
    """How well labels are read off features by a linear map.

    Attributes:
        accuracy: over the items, each predicted by maps that have not seen it.
        correct: share of these maps that are right about each item.
    """

    accuracy: Estimate
    correct: Float[ndarray, "items"]


def linear_probe(
    features: Float[Tensor, "items dim"] | Float[ndarray, "items dim"],
    labels: Sequence[int] | Int[ndarray, "items"] | Int[Tensor, "items"],
    folds: int = 5,
    few: bool = False,
    strength: float = 1.0,
    seed: int = 0,
) -> LinearProbe:
    """Fit logistic regression on frozen features, and judge it on items that it has not seen.

    Args:
        features: of the items; centred, and scaled by one number.
        labels: their classes.
        folds: parts of the items, with equal shares of the classes; at most as many as the rarest class has items.
        few: fit on one fold and judge on all others, in place of the other way round: how much a few labels tell.
        strength: inverse of the penalty on the squared weights.
        seed: of the folds.

    Raises:
        UserError: one class only, or a class with fewer items than two.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    classes, counts = np.unique(np.asarray(labels), return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        given = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        raise UserError(f"a linear probe needs at least two classes with two items each, got {given}.")
    rows, truth = np.asarray(features, dtype=float), np.asarray(labels)
    rows = (rows - rows.mean(0)) / max(float(rows.std()), 1e-12)
    parts = StratifiedKFold(min(folds, int(counts.min())), shuffle=True, random_state=seed)
    right, judged = np.zeros(len(rows)), np.zeros(len(rows))
    for many, one in parts.split(rows, truth):
        seen, unseen = (one, many) if few else (many, one)
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(rows[seen], truth[seen])
        right[unseen] += fitted.predict(rows[unseen]) == truth[unseen]
        judged[unseen] += 1
    correct = right / judged
    return LinearProbe(estimate_of_mean(correct), correct)
