"""AI-text detection (arXiv 2405.16422): does an encoder tell a model's text from human prose, and what is left of it elsewhere?

A small language model writes docstrings, and a tiny encoder learns to tell them from human ones on 60 % of the texts:

    encoder          raw texts, and texts preprocessed as in the paper
    zero-shot        Fast-DetectGPT and likelihood by SmolLM2, on its own continuations of a story

Headline: on the 40 % held out the encoder is right at least 95 times in 100. The other claims ask for another generator and domain, for the
paper's preprocessing, for the zero-shot scores, for look-alike letters, and for the false-positive rate that a calibration promises.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from numpy import ndarray

from tokenry.core.io.progress import Progress, named, part
from tokenry.core.stats import (
    all_of,
    bootstrap,
    estimate_of_mean,
    exactly,
    paired_difference,
    shown,
)
from tokenry.data import (
    ZeroShotDetector,
    attack,
    auroc,
    normalize_text,
    paper_split,
    threshold_at_fpr,
    tpr_at_fpr,
)
from tokenry.models import EMBEDDED_TITLE, ClassifierConfig, LocalText, load_model, load_tokenizer
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.machine_texts import docstring_pairs, story_pairs, trained_detector
from tokenry.recipes.testbeds.tiny_encoder import EncoderSizes

ACCURATE, RATE, SLACK, HOMOGLYPHS = 0.95, 0.05, 0.03, 0.1
FAST, LIKELIHOOD = "fast_detectgpt", "likelihood"


@dataclass(frozen=True)
class DetectionSizes:
    """Size of the experiment at one scale.

    Attributes:
        packages: packages whose docstrings are the human texts.
        pairs: docstrings of each kind.
        fresh: further human ones, a third of them to calibrate on.
        vocabulary: vocabulary of the model that writes docstrings, and of the encoder.
        steps: training steps of that model.
        encoder: size of the encoder.
        story_pairs: passages of the story of each kind.
    """

    packages: tuple[str, ...] = ("sklearn", "scipy")
    pairs: int = 1500
    fresh: int = 900
    tokens: int = 64
    vocabulary: int = 800
    steps: int = 150
    encoder: EncoderSizes = field(default_factory=lambda: EncoderSizes(2, 64, 4, 128, 160))
    training: ClassifierConfig = field(default_factory=lambda: ClassifierConfig(5, 16, 1e-3))
    story_pairs: int = 64
    story_tokens: int = 60
    seed: int = 0


@dataclass(frozen=True)
class Detected:
    """Scores of all texts that nothing was trained on, and who wrote them.

    Attributes:
        labels: of the docstrings held out: 0 human, 1 machine.
        encoder: scores of the encoder for them.
        preprocessed: scores of the encoder that reads them preprocessed.
        elsewhere: scores of the first encoder for the passages of the story.
        zero_shot: scores of SmolLM2 for them, by name.
        attacked: Fast-DetectGPT's for the machine passages with look-alike letters.
        undone: the same after the normaliser.
        accused: whether the encoder, calibrated on other human texts, calls a new human text a machine's.
    """

    labels: Float[ndarray, "texts"]
    encoder: Float[ndarray, "texts"]
    preprocessed: Float[ndarray, "texts"]
    elsewhere: Float[ndarray, "passages"]
    story_labels: Float[ndarray, "passages"]
    zero_shot: Mapping[str, Float[ndarray, "passages"]]
    attacked: Float[ndarray, "machine"]
    undone: Float[ndarray, "machine"]
    accused: Bool[ndarray, "fresh"]


@recipe(
    "ai-text-detection",
    laptop=DetectionSizes(),
    paper=DetectionSizes(
        packages=("scipy", "sklearn", "pandas", "numpy"),
        pairs=10_000,
        fresh=9000,
        tokens=120,
        vocabulary=8000,
        steps=20_000,
        encoder=EncoderSizes(12, 768, 12, 3072, 256),
        training=ClassifierConfig(3, 16, 1e-4),
        story_pairs=90,
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Write texts with both models, train both encoders, score everything, and judge each claim."""
    sizes: DetectionSizes = run.sizes
    found = measured(sizes, run.progress)
    run.settings |= {
        "sizes": asdict(sizes),
        "held_out": len(found.labels),
        "story": len(found.story_labels),
        "scores": {name: auroc(score, found.story_labels) for name, score in found.zero_shot.items()}
        | {"encoder elsewhere": auroc(found.elsewhere, found.story_labels)},
    }
    with run.figure(9, 3.6) as figure:
        draw(figure, found)
    yield from claims(found)


def measured(sizes: DetectionSizes, progress: Progress) -> Detected:
    """Everything that claims are judged by."""
    training = named(part(progress, 0.0, 0.15), "training the model of docstrings")
    pairs, fresh = docstring_pairs(
        sizes.packages,
        sizes.pairs,
        sizes.fresh,
        sizes.tokens,
        sizes.vocabulary,
        sizes.steps,
        sizes.seed,
        training,
    )
    progress(f"{EMBEDDED_TITLE} continues the story", 0.2)
    scorer = LocalText(load_model(), load_tokenizer(), batch_size=24, name=EMBEDDED_TITLE)
    story = story_pairs(scorer, sizes.story_pairs, sizes.story_tokens, sizes.seed)
    progress("scoring the story", 0.5)
    zero_shot = ZeroShotDetector(scorer)
    scores = zero_shot.score(story.texts)
    attacked = attack(story.machine, "homoglyph", HOMOGLYPHS, sizes.seed)
    progress("training the encoders", 0.7)
    raw = trained_detector(pairs, sizes.vocabulary, sizes.encoder, sizes.training, sizes.seed)
    preprocessed = trained_detector(
        pairs, sizes.vocabulary, sizes.encoder, sizes.training, sizes.seed, paper_pipeline=True
    )
    tested = paper_split(pairs.texts, pairs.labels, seed=sizes.seed)[1]
    texts = [pairs.texts[place] for place in tested]
    calibrated = raw.calibrate(fresh[::3], RATE, shortest=1)
    others = [text for place, text in enumerate(fresh) if place % 3]
    return Detected(
        labels=np.array(pairs.labels, dtype=float)[tested],
        encoder=raw.score(texts)["classifier"],
        preprocessed=preprocessed.score(texts)["classifier"],
        elsewhere=raw.score([text.lower() for text in story.texts])["classifier"],
        story_labels=np.array(story.labels, dtype=float),
        zero_shot={name: scores[name] for name in (FAST, LIKELIHOOD)},
        attacked=zero_shot.score(attacked)[FAST],
        undone=zero_shot.score([normalize_text(text) for text in attacked])[FAST],
        accused=np.array([decision.outcome == "machine" for decision in calibrated.judge(others)]),
    )


def claims(found: Detected) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are texts."""
    right, preprocessed = (right_of(scores, found.labels) for scores in (found.encoder, found.preprocessed))
    elsewhere = right_of(found.elsewhere, found.story_labels)
    yield accurate(
        "an encoder tells a model's docstrings from human ones: right for at least 95 % of the texts held out",
        right,
        "97.71 %",
    )
    yield accurate(
        "the same encoder is right for at least 95 % of another generator's and domain's texts",
        elsewhere,
        None,
    )
    yield Claim.above(
        "the encoder is more often right on raw texts than on texts preprocessed as in the paper",
        100 * right, 100 * preprocessed, "preprocessed", unit=" %",
    )  # fmt: skip
    labels, scores = found.story_labels, found.zero_shot
    gain = bootstrap(_gain, scores[FAST], scores[LIKELIHOOD], labels, draws=1000)
    tprs = {name: tpr_at_fpr(score, labels, RATE) for name, score in scores.items()}
    yield Claim(
        f"Fast-DetectGPT by {EMBEDDED_TITLE} has a higher AUROC for its own text than its likelihood",
        paper=None,
        measured=f"{auroc(scores[FAST], labels):.3f} (difference {gain.with_interval('+.3f')}); {tprs[FAST]:.0%} found at {RATE:.0%} false positives",
        control=f"{auroc(scores[LIKELIHOOD], labels):.3f} (likelihood); {tprs[LIKELIHOOD]:.0%} found",
        verdict=shown(gain),
    )
    threshold = threshold_at_fpr(scores[FAST][labels == 0], RATE)
    clean, hidden, undone = (
        (score > threshold).astype(float)
        for score in (scores[FAST][labels == 1], found.attacked, found.undone)
    )
    yield Claim(
        f"look-alike letters in {HOMOGLYPHS:.0%} of their places hide at least half of what it finds at {RATE:.0%} false positives, and the normaliser brings it back",
        paper=None,
        measured=f"{hidden.mean():.0%} found attacked, {undone.mean():.0%} normalised, n = {len(clean)}",
        control=f"{clean.mean():.0%} (clean)",
        verdict=all_of(
            [shown(paired_difference(clean, 2 * hidden)), exactly(bool(undone.sum() >= clean.sum()))]
        ),
    )
    wrong = estimate_of_mean(found.accused)
    yield Claim(
        f"calibrated for {RATE:.0%} false positives, the encoder calls less than {RATE + SLACK:.0%} of new human docstrings a machine's",
        paper=None,
        measured=f"{wrong.scaled(100).with_interval('.1f')} % called so, n = {wrong.samples}",
        control=f"{RATE:.0%} (target)",
        verdict=shown(wrong.scaled(-1), -(RATE + SLACK)),
    )


def accurate(claim: str, right: Float[ndarray, "texts"], paper: str | None) -> Claim:
    """The claim of being right often enough."""
    share = estimate_of_mean(right)
    above = paired_difference(right, np.full(len(right), ACCURATE))
    return Claim(
        claim,
        paper=paper,
        measured=f"{share.scaled(100).with_interval('.1f')} %, n = {share.samples}",
        control=f"{ACCURATE:.0%} (claimed), 50 % (chance)",
        verdict=shown(above),
    )


def right_of(scores: Float[ndarray, "texts"], labels: Float[ndarray, "texts"]) -> Float[ndarray, "texts"]:
    """1 where the sign of the score is that of the label."""
    right: Bool[ndarray, "texts"] = (scores > 0) == (labels == 1)
    return right.astype(float)


def _gain(one: ndarray, other: ndarray, labels: ndarray) -> float:
    """Difference of two AUROCs; nan for a draw of one label."""
    if not 0 < labels.sum() < len(labels):
        return float("nan")
    return auroc(one, labels) - auroc(other, labels)


def draw(figure: Figure, found: Detected) -> None:
    """Scores of human and machine texts: of the encoder at home and elsewhere, and of Fast-DetectGPT."""
    panels = (
        ("encoder, docstrings held out", found.encoder, found.labels),
        ("the same encoder, SmolLM2 and a story", found.elsewhere, found.story_labels),
        ("Fast-DetectGPT, SmolLM2 and a story", found.zero_shot[FAST], found.story_labels),
    )
    for axes, (title, scores, labels) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        edges = np.histogram_bin_edges(scores, 24)
        for label, name in enumerate(("human", "machine")):
            axes.hist(scores[labels == label], edges, alpha=0.6, label=name)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("score (higher: more like a machine's)", fontsize=8)
    figure.axes[0].set_ylabel("texts")
    figure.axes[0].legend(fontsize=8)
