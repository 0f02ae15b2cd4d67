"""TokenAdapt (arXiv 2505.09738): without training, which rows for new tokens lose least, on the new tokenizer's own text and on other text?

SmolLM2-135M gets a byte-level BPE tokenizer of 8,192 tokens, trained on docstrings of scikit-learn and scipy. Measured in bits per
byte, which is fair between tokenizers, paired text by text:

    docstrings   of files the tokenizer has not seen
    prose        "In the Year 2889" (Michel and Jules Verne, 1889; public domain), which the tokenizer was not made for

    random, mean, ReTok, TokenAdapt local (pieces), global (neighbours), hybrid (both), FOCUS-like, OMP

The auxiliary space is that of character n-grams, a weak stand-in for the paper's sentence encoder; the hybrid in the model's own hidden
states is measured beside it, and so is the hybrid with the released code's random row for what cannot be composed. The paper could be
read in summary only: its figures are those of the repository's notes.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.core.bits_per_byte import TextLoss, bits_difference, text_loss
from tokenry.core.stats import Estimate
from tokenry.models import EMBEDDED_TITLE, load_model, load_tokenizer
from tokenry.recipes.recipe import Claim, Progress, Reproduction, Scale, verdict
from tokenry.recipes.toys.docstrings import read_docstrings
from tokenry.recipes.toys.prose import read_story
from tokenry.runs.quiet import quiet_libraries
from tokenry.tokenization.transplant.apply import transplant_tokenizer
from tokenry.tokenization.transplant.auxiliary_space import (
    Auxiliary,
    Tokens,
    auxiliary_space,
    sentence_encoder,
)
from tokenry.tokenization.transplant.report import TransplantReport
from tokenry.tokenization.transplant.vocabulary_match import match_vocabularies

NOTES = "Qwen2.5-3B to an 81k vocabulary (repository notes, not checked against the paper)"
ORIGINAL, RANDOM, MEAN, RETOK = "original tokenizer", "random rows", "mean row", "ReTok (mean of pieces)"
LOCAL, GLOBAL, HYBRID = "TokenAdapt local", "TokenAdapt global", "TokenAdapt hybrid"
HIDDEN, FALLBACK = "hybrid, hidden states", "hybrid, random fallback"
FOCUS, OMP = "FOCUS-like", "OMP"
DOCSTRINGS, PROSE = "docstrings", "prose"

METHODS: Mapping[str, dict[str, Any]] = {
    RANDOM: {"method": "random"},
    MEAN: {"method": "mean"},
    RETOK: {"method": "retok"},
    LOCAL: {"global_weight": 0.0},
    GLOBAL: {"global_weight": 1.0},
    HYBRID: {},
    HIDDEN: {"auxiliary": "hidden"},
    FALLBACK: {"fallback": "random"},
    FOCUS: {"method": "focus"},
    OMP: {"method": "omp", "auxiliary": "embeddings"},
}

_LEFT_OUT = 300


@dataclass(frozen=True)
class Subject:
    """A model, the tokenizer it has, the one it gets, and texts to be measured on.

    Attributes:
        model: with its own tokenizer.
        old: its own tokenizer.
        new: the one it gets.
        texts: of each kind; several, for there are no standard errors without.
        auxiliary: the space in which tokens are compared.
        name: of the model, the tokenizers and the space.
    """

    model: PreTrainedModel
    old: PreTrainedTokenizerBase
    new: PreTrainedTokenizerBase
    texts: Mapping[str, Sequence[str]]
    auxiliary: Auxiliary
    name: str


Losses = Mapping[str, Mapping[str, TextLoss]]
"""Of each method, of each kind of text."""


@dataclass(frozen=True)
class _TokenAdaptRecipe:
    slug: str = "tokenadapt"
    title: str = "Achieving Tokenizer Flexibility in Language Models through Heuristic Adaptation and Supertoken Learning"

    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Transplant by every method and judge each claim."""
        started = time.perf_counter()
        with quiet_libraries():
            subject = _SUBJECTS[scale](progress)
            losses, reports = measure(subject, lambda what, share: progress(what, 0.1 + 0.9 * share))
        return Reproduction(
            slug=self.slug,
            claims=judge(losses),
            settings={
                "scale": scale,
                "subject": subject.name,
                "texts": {
                    kind: {"texts": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
                    for kind, texts in subject.texts.items()
                },
                "bits_per_byte": {
                    name: {kind: loss.bits_per_byte.value for kind, loss in of_kind.items()}
                    for name, of_kind in losses.items()
                },
                "perplexity": {
                    name: {kind: loss.perplexity for kind, loss in of_kind.items()}
                    for name, of_kind in losses.items()
                },
                "transplants": {name: _record(report) for name, report in reports.items()},
            },
            seconds=time.perf_counter() - started,
            plots=(_plot(losses, output),),
        )


def measure(subject: Subject, progress: Progress) -> tuple[Losses, dict[str, TransplantReport]]:
    """Measure the original model and every transplant of it."""
    losses: dict[str, dict[str, TextLoss]] = {}
    reports = {}
    progress(ORIGINAL, 0.0)
    losses[ORIGINAL] = _losses(subject.model, subject.old, subject)
    for number, (name, settings) in enumerate(METHODS.items(), start=1):
        progress(name, number / (len(METHODS) + 1))
        model, reports[name] = transplant_tokenizer(
            copy.deepcopy(subject.model),
            subject.old,
            subject.new,
            **{"auxiliary": subject.auxiliary, "leave_one_out": _LEFT_OUT, **settings},
        )
        losses[name] = _losses(model, subject.new, subject)
    return losses, reports


def _losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, subject: Subject
) -> dict[str, TextLoss]:
    return {kind: text_loss(model, tokenizer, texts, batch_size=4) for kind, texts in subject.texts.items()}


def _record(report: TransplantReport) -> dict[str, Any]:
    left_out = report.leave_one_out
    return {
        "counts": dict(report.counts),
        "estimates": dict(report.estimates),
        "leave_one_out": left_out.summary() if left_out else None,
    }


def judge(losses: Losses) -> tuple[Claim, ...]:
    """Put each claim beside its measurement; a difference counts from two standard errors on."""

    def bits(name: str, kind: str) -> str:
        return f"{losses[name][kind].bits_per_byte.value:.3f}"

    def against(name: str, control: str, kind: str) -> Estimate:
        return bits_difference(losses[name][kind], losses[control][kind])

    def gains(name: str, control: str, kind: str) -> bool:
        found = against(name, control, kind)
        return found.value < -2 * found.standard_error

    order = (RANDOM, MEAN, RETOK)
    local, hybrid = against(LOCAL, RETOK, DOCSTRINGS), against(HYBRID, RETOK, PROSE)
    folds = {kind: losses[RETOK][kind].perplexity / losses[HYBRID][kind].perplexity for kind in losses[RETOK]}
    return (
        Claim(
            claim="on docstrings every step of knowledge pays: random rows > mean row > ReTok (bits per byte)",
            paper="claimed without such a figure",
            measured=f"{bits(RETOK, DOCSTRINGS)} (ReTok; against the mean row {against(RETOK, MEAN, DOCSTRINGS):+.3f})",
            control=f"{bits(MEAN, DOCSTRINGS)} (mean row), {bits(RANDOM, DOCSTRINGS)} (random rows)",
            verdict=verdict(all(gains(better, worse, DOCSTRINGS) for worse, better in pairwise(order))),
        ),
        Claim(
            claim="on docstrings TokenAdapt's local estimate is at least as good as ReTok (bits per byte)",
            paper=f"perplexity 3.49 against 3.48 on English, 10.14 against 10.19 on code; {NOTES}",
            measured=f"{bits(LOCAL, DOCSTRINGS)} ({local:+.3f})",
            control=f"{bits(RETOK, DOCSTRINGS)} (ReTok)",
            verdict=verdict(local.value <= 0),
        ),
        Claim(
            claim="on prose, which the vocabulary was not made for, the hybrid is better than ReTok (bits per byte)",
            paper=f"median perplexity 5.98 against 6.43; {NOTES}",
            measured=f"{bits(HYBRID, PROSE)} ({hybrid:+.3f})",
            control=f"{bits(RETOK, PROSE)} (ReTok)",
            verdict=verdict(gains(HYBRID, RETOK, PROSE)),
        ),
        Claim(
            claim="the hybrid has half the perplexity of ReTok or less (ReTok / hybrid on the text where it gains most)",
            paper=f"at least 2-fold (abstract); 4780 / 2947 = 1.6 for means over texts; {NOTES}",
            measured=f"{max(folds.values()):.2f} ({max(folds, key=lambda kind: folds[kind])})",
            control="1 (ReTok itself)",
            verdict=verdict(max(folds.values()) >= 2),
        ),
    )


# --- what is measured ----------------------------------------------------------------------------------------------------------------


def embedded_subject(progress: Progress) -> Subject:
    """The embedded model, and a tokenizer made for docstrings."""
    progress("reading docstrings", 0.0)
    docstrings = read_docstrings(("sklearn", "scipy"))
    old = load_tokenizer()
    progress("training the tokenizer", 0.02)
    new = train_byte_level_bpe(docstrings.train[:3000], 8192, old)
    progress("comparing tokens by their characters", 0.06)
    model = load_model().eval()
    texts = {DOCSTRINGS: _passages(docstrings.held_out, 12, 750), PROSE: _passages(read_story(), 12, 750)}
    return Subject(
        model,
        old,
        new,
        texts,
        _computed("characters", model, old, new),
        f"{EMBEDDED_TITLE}, byte-level BPE 8192",
    )


def _published(progress: Progress) -> Subject:
    """The pair of the repository's notes on a GPU; a sentence encoder as the auxiliary space."""
    import torch
    from huggingface_hub import snapshot_download

    name, tokenizer, encoder = "Qwen/Qwen2.5-3B", "fhai50032/QTK-81K", "BAAI/bge-m3"
    old, new = load_tokenizer(name), load_tokenizer(tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(name, "bfloat16").to(device).eval()
    encode = sentence_encoder(
        snapshot_download(encoder, allow_patterns=["*.json", "*.safetensors", "*.model"])
    )
    texts = {
        DOCSTRINGS: _passages(read_docstrings(("sklearn", "scipy")).held_out, 100, 2000),
        PROSE: _passages(read_story(), 15, 2000),
    }
    return Subject(
        model, old, new, texts, _computed(encode, model, old, new), f"{name}, {tokenizer}, {encoder}"
    )


_SUBJECTS: dict[Scale, Callable[[Progress], Subject]] = {"laptop": embedded_subject, "paper": _published}


def train_byte_level_bpe(
    texts: Sequence[str], vocab_size: int, like: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer with the special tokens of another one; digits stay single."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = sorted(
        (number, token.content) for number, token in like.added_tokens_decoder.items() if token.special
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[content for _, content in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    roles = ("bos_token", "eos_token", "pad_token", "unk_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{role: getattr(like, role) for role in roles if getattr(like, role)}
    )


def _computed(
    auxiliary: Auxiliary, model: PreTrainedModel, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase
) -> Auxiliary:
    """Compute the vectors of all tokens once, to be used by several methods."""
    matched = match_vocabularies(old, new)
    space = auxiliary_space(auxiliary, matched, model)
    every = Tokens(matched.new_texts, [[0]] * len(matched.new_texts), range(len(matched.new_texts)))
    return space.old, space.vectors(every)


def _passages(texts: Sequence[str], number: int, length: int) -> list[str]:
    """Passages of one length at equal distances, each from the beginning of a word."""
    joined = "\n\n".join(texts)
    starts = np.linspace(0, len(joined) - 2 * length, number).astype(int).tolist()
    return [joined[start:].split(maxsplit=1)[1][:length] for start in starts]


def _plot(losses: Losses, output: Path) -> Path:
    """Draw bits per byte of every method, one panel per kind of text."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
    names = list(losses)[::-1]
    for axes, kind in zip(panels, (DOCSTRINGS, PROSE), strict=True):
        estimates = [losses[name][kind].bits_per_byte for name in names]
        values, errors = ([getattr(each, what) for each in estimates] for what in ("value", "standard_error"))
        axes.errorbar(values, range(len(names)), xerr=errors, fmt="none", ecolor="0.75", elinewidth=1)
        colors = ["C0" if name.startswith(("TokenAdapt", "hybrid")) else "0.35" for name in names]
        axes.scatter(values, range(len(names)), c=colors, zorder=3)
        for row, value in enumerate(values):
            axes.annotate(
                f"{value:.3f}",
                (value, row),
                xytext=(0, 5),
                textcoords="offset points",
                fontsize=7,
                ha="center",
            )
        axes.axvline(losses[RETOK][kind].bits_per_byte.value, color="0.35", linewidth=0.8, linestyle=":")
        axes.set(title=f"held-out {kind}" if kind == DOCSTRINGS else kind, xlabel="bits per byte")
        axes.set_ylim(-0.6, len(names) - 0.3)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names)
    figure.suptitle(
        "A new tokenizer without training (dotted: ReTok; bars: standard error over texts)", fontsize=10
    )
    path = output / "tokenadapt.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Path(path.name)


RECIPE = _TokenAdaptRecipe()
