"""Documents chosen from a mixed corpus by four rules, and a small model taught by each choice; planted documents, and SmolLM2 as a family.

    strength            the highest predictive strength under a family of checkpoints
    random              any documents
    lowest perplexity   under the last of these checkpoints
    longest             in characters

All rules keep the same share of the characters, and all models are trained for the same tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from tokenry.core.io.progress import Progress, named, part
from tokenry.core.tensors.depth import at_depth
from tokenry.core.text.bits_per_byte import text_loss
from tokenry.data import (
    FastTextScorer,
    document_bpc,
    length_weighted_threshold,
    predictive_strength,
    select_extremes,
)
from tokenry.models import EMBEDDED_TITLE, load_model, load_tokenizer
from tokenry.recipes.testbeds.docstring_model import small_model, train_language_model
from tokenry.recipes.testbeds.mixed_corpus import (
    DOCSTRINGS,
    LICENCES,
    DocstringRoles,
    Family,
    MixedDocument,
    checkpoint_family,
    docstrings_of,
    mixed_documents,
)
from tokenry.recipes.testbeds.planted_corpus import planted_corpus

STRENGTH, RANDOM, PERPLEXITY, LONGEST = "strength", "random", "lowest perplexity", "longest"
CONTROLS = (RANDOM, PERPLEXITY, LONGEST)
_BUCKET, _BATCH_TOKENS = 200_000, 8192
_WINDOW: dict[str, Any] = {"window": 255, "batch_tokens": _BATCH_TOKENS}
_TIE = 1e-3


@dataclass(frozen=True)
class PreSelectSizes:
    """Size of the experiment at one scale.

    Attributes:
        family: packages whose docstrings the family learns.
        ranking: packages whose docstrings rank its members.
        pool: packages whose docstrings are in the corpus; files of them are held out.
        longest: characters after which docstrings are cut.
        held_out: docstrings that measure.
        family_steps: training steps of the family.
        checkpoints: shares of these steps after which a member is kept.
        corpus: documents of each kind to choose from.
        keep: share of the characters that is kept.
        steps: training steps on what was kept.
        batch_size: windows of 64 tokens per step.
        seeds: number of corpora and trainings.
        planted: documents of known quality, half of them measured.
        extremes: planted documents of either kind from which the classifier learns.
        depths: layers of SmolLM2.
        depth_sample: documents of each kind that it reads.
        depth_length: characters after which they are cut.
        seed: first random seed.
    """

    family: tuple[str, ...] = ("sklearn",)
    ranking: tuple[str, ...] = ("networkx",)
    pool: tuple[str, ...] = ("scipy", "pandas")
    longest: int = 500
    held_out: int = 100
    vocabulary: int = 420
    family_steps: int = 400
    checkpoints: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    corpus: int = 120
    keep: float = 0.2
    steps: int = 200
    batch_size: int = 16
    seeds: int = 3
    planted: int = 12_000
    extremes: int = 1300
    depths: tuple[int, ...] = (18, 22, 26, 30)
    depth_sample: int = 30
    depth_length: int = 60
    seed: int = 0


@dataclass(frozen=True)
class SelectionRound:
    """What one seed measured.

    Attributes:
        bits: bits per byte on docstrings held out, by what the training documents were chosen by.
        docstrings: share of docstrings among these documents, likewise.
        unseen: whether the classifier did not learn from them.
    """

    bits: Mapping[str, float]
    docstrings: Mapping[str, float]
    kinds: Sequence[str]
    strength: Float[ndarray, "documents"]
    unseen: Bool[ndarray, "documents"]
    score: Float[ndarray, "documents"]


@dataclass(frozen=True)
class Selected:
    """Everything that claims are judged by.

    Attributes:
        rounds: one per seed.
        planted: quality of the planted documents that are kept, by what they were chosen by.
        depth_strength: strength of documents under SmolLM2 at several depths.
        natural: whether they are docstrings or licences.
    """

    rounds: Sequence[SelectionRound]
    planted: Mapping[str, Float[ndarray, "_"]]
    depth_strength: Float[ndarray, "read"]
    natural: Bool[ndarray, "read"]

    def over_seeds(self, measure: str, name: str) -> Float[ndarray, "seeds"]:
        """One number per seed."""
        return np.array([getattr(found, measure)[name] for found in self.rounds])


def measured(sizes: PreSelectSizes, progress: Progress) -> Selected:
    """Everything that claims are judged by."""
    progress("reading docstrings", 0.0)
    texts = docstrings_of(sizes.family, sizes.ranking, sizes.pool, sizes.held_out, sizes.longest, sizes.seed)
    training = named(part(progress, 0.02, 0.2), "training the family")
    family = checkpoint_family(
        texts, sizes.vocabulary, sizes.family_steps, sizes.checkpoints, sizes.batch_size, sizes.seed, training
    )
    each = 0.6 / sizes.seeds
    rounds = [
        measured_round(
            sizes,
            family,
            texts,
            sizes.seed + number,
            part(progress, 0.2 + each * number, 0.199 + each * (number + 1)),
        )
        for number in range(sizes.seeds)
    ]
    progress("planted documents", 0.8)
    planted = planted_quality(sizes)
    progress(f"{EMBEDDED_TITLE} at {len(sizes.depths)} depths", 0.82)
    read = mixed_documents(texts.pool, sizes.depth_sample, sizes.seed)
    natural = np.array([document.kind in (DOCSTRINGS, LICENCES) for document in read])
    return Selected(rounds, planted, depth_strength(read, sizes), natural)


def measured_round(
    sizes: PreSelectSizes, family: Family, texts: DocstringRoles, seed: int, progress: Progress
) -> SelectionRound:
    """Measure a corpus, choose from it by every rule, and train on each choice."""
    progress("measuring the corpus", 0.0)
    documents = mixed_documents(texts.pool, sizes.corpus, seed)
    loss = losses_of(documents, family)
    strength = predictive_strength(loss, family.benchmark)
    progress("choosing", 0.4)
    unseen = np.arange(len(documents)) % 2 == 0
    learned = [document.text for document, left_out in zip(documents, unseen, strict=True) if not left_out]
    scorer = fitted(learned, *select_extremes(strength[~unseen]))
    chosen = choices(documents, strength, loss[:, -1], sizes.keep, seed)
    bits = {}
    for number, (name, kept) in enumerate(chosen.items()):
        done = 0.4 + 0.15 * number
        training = named(part(progress, done, done + 0.14), f"training on documents by {name}, seed {seed}")
        model = small_model(len(family.tokenizer), seed=seed)
        train_language_model(
            model,
            family.tokenizer,
            [document.text for document in kept],
            sizes.steps,
            batch_size=sizes.batch_size,
            seed=seed,
            progress=training,
        )
        loss_held_out = text_loss(model, family.tokenizer, texts.held_out, batch_tokens=_BATCH_TOKENS)
        bits[name] = loss_held_out.bits_per_byte.value
    shares = {
        name: float(np.mean([document.kind == DOCSTRINGS for document in kept]))
        for name, kept in chosen.items()
    }
    score = scorer.score([document.text for document in documents])
    return SelectionRound(bits, shares, [document.kind for document in documents], strength, unseen, score)


def losses_of(documents: Sequence[MixedDocument], family: Family) -> Float[ndarray, "documents models"]:
    """The loss of documents under every checkpoint, in bits per character."""
    texts, losses = [document.text for document in documents], []
    for checkpoint in range(len(family.states)):
        with family.at(checkpoint) as model:
            losses.append(document_bpc(model, family.tokenizer, texts, **_WINDOW).bpc)
    return np.stack(losses, axis=1)


def fitted(
    texts: Sequence[str], positive: Int[ndarray, "positive"], negative: Int[ndarray, "negative"]
) -> FastTextScorer:
    """The paper's classifier of both ends, with fewer buckets."""
    labels = [1] * len(positive) + [0] * len(negative)
    return FastTextScorer.train(
        [texts[place] for place in [*positive.tolist(), *negative.tolist()]], labels, bucket=_BUCKET
    )


def choices(
    documents: Sequence[MixedDocument],
    strength: Float[ndarray, "documents"],
    loss: Float[ndarray, "documents"],
    keep: float,
    seed: int,
) -> dict[str, list[MixedDocument]]:
    """The documents that every rule keeps, for the same share of the characters; of equals, chance decides."""
    lengths = np.array([len(document.text) for document in documents])
    chance = np.random.default_rng(seed).random(len(documents))
    scores = {
        STRENGTH: strength + _TIE * chance,
        RANDOM: chance,
        PERPLEXITY: -loss,
        LONGEST: lengths + _TIE * chance,
    }
    kept = {name: score >= length_weighted_threshold(score, lengths, keep) for name, score in scores.items()}
    return {
        name: [documents[place] for place in np.flatnonzero(chosen).tolist()] for name, chosen in kept.items()
    }


def planted_quality(sizes: PreSelectSizes) -> dict[str, Float[ndarray, "_"]]:
    """The quality of what is kept of planted documents that were not measured, by strength and by the lowest loss."""
    corpus, half = planted_corpus(sizes.planted, sizes.seed), sizes.planted // 2
    measured, rest = corpus.losses[:half], corpus.texts[half:]
    lengths, kept = np.array([len(text) for text in rest]), {}
    lowest = measured[:, -1].max() - measured[:, -1]
    for name, ranks in ((STRENGTH, predictive_strength(measured, corpus.benchmark)), (PERPLEXITY, lowest)):
        score = fitted(corpus.texts, *select_extremes(ranks, sizes.extremes)).score(rest)
        kept[name] = corpus.quality[half:][score >= length_weighted_threshold(score, lengths, sizes.keep)]
    return kept


def depth_strength(documents: Sequence[MixedDocument], sizes: PreSelectSizes) -> Float[ndarray, "documents"]:
    """The strength of documents under SmolLM2 at several depths, of which a deeper one is the better."""
    model, tokenizer = load_model(dtype="bfloat16"), load_tokenizer()
    texts, losses = [document.text[: sizes.depth_length] for document in documents], []
    for depth in sizes.depths:
        with at_depth(model, depth):
            losses.append(document_bpc(model, tokenizer, texts, batch_tokens=1024).nll)
    return predictive_strength(np.stack(losses, axis=1), np.array(sizes.depths, dtype=float))
