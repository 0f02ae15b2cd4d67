"""Zero-shot tokenizer transfer (arXiv 2405.07883): do rows predicted by a hypernetwork beat the best rule of thumb, without training on the new tokenizer?

A language model of three layers is trained on lower-cased docstrings of scikit-learn with a BPE of 420 tokens, then frozen. Hypernetworks
are trained on Unigram tokenizers drawn from the same texts. The new tokenizer, a BPE of 1,400 tokens, is never seen; 30 % of its
tokens are tokens of the old one. Measured in bits per byte on held-out files, paired text by text:

    random rows, FVT (mean of the pieces' rows)      without a hypernetwork
    plain                                            the paper's form: warm-up on single tokens, then the main stage
    residual                                         predicts the difference to FVT, no warm-up
    fine-tuned variant                               a copy trained on scipy's docstrings takes the rows predicted for its base

The paper's tables could not be read: its figures are those of the abstract.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.bits_per_byte import TextLoss, bits_difference, text_loss
from tokenry.models import load_model, load_tokenizer
from tokenry.recipes.recipe import Claim, Progress, Reproduction, Scale, verdict
from tokenry.recipes.toys.docstring_model import bpe_tokenizer, small_model, train_language_model
from tokenry.recipes.toys.docstrings import read_docstrings
from tokenry.runs.quiet import quiet_libraries
from tokenry.runs.texts import passages
from tokenry.tokenization.transplant.apply import transplant_tokenizer
from tokenry.tokenization.zett.drawn_batches import DrawingConfig
from tokenry.tokenization.zett.hypernetwork import EmbeddingHyperNetwork
from tokenry.tokenization.zett.training import (
    HyperNetworkTrainer,
    HyperNetworkTrainingConfig,
    hypernetwork_for,
)
from tokenry.tokenization.zett.transfer import predict_vocabulary, transfer_tokenizer

ABSTRACT = "close to the original models on cross-lingual and coding tasks (abstract; XLM-R, Mistral-7B), no such figure"
ORIGINAL, RANDOM, FVT = "original tokenizer", "random rows", "FVT (mean of pieces)"
PLAIN, RESIDUAL = "hypernetwork, plain", "hypernetwork, residual"
VARIANT_ORIGINAL, VARIANT_FVT = "fine-tuned, original tokenizer", "fine-tuned, FVT"
VARIANT, BASE_THERE = "fine-tuned, rows predicted for its base", "base, predicted rows"

GAIN, CLOSE = 0.15, 0.1
"""Bits per byte by which a hypernetwork must beat FVT, and by which a model close to the original may be worse."""

_SETTINGS: dict[str, dict[str, Any]] = {PLAIN: {}, RESIDUAL: {"residual": True}}


@dataclass(frozen=True)
class Subject:
    """A model with its tokenizer, the one it gets, and texts.

    Attributes:
        model: frozen.
        variant: the same, fine-tuned on other texts.
        old: their tokenizer.
        new: the one they get.
        texts: that the hypernetwork is trained on.
        held_out: of the same kind.
        held_out_of_variant: of the kind that the variant was fine-tuned on.
        training: of the plain form; the residual form skips its warm-up stage.
        hypernetwork: settings of its size.
        window: tokens of context in which texts are measured.
        name: of all this.
    """

    model: PreTrainedModel
    variant: PreTrainedModel
    old: PreTrainedTokenizerBase
    new: PreTrainedTokenizerBase
    texts: Sequence[str]
    held_out: Sequence[str]
    held_out_of_variant: Sequence[str]
    training: HyperNetworkTrainingConfig
    hypernetwork: Mapping[str, int]
    window: int
    name: str


Losses = Mapping[str, TextLoss]
Curves = Mapping[str, Mapping[int, TextLoss]]
"""Of each form: steps of the main stage, and what it loses after them."""


@dataclass(frozen=True)
class _ZeTTRecipe:
    slug: str = "zett"
    title: str = "Zero-Shot Tokenizer Transfer"

    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Train the model and both hypernetworks, measure every transfer, and judge each claim."""
        started = time.perf_counter()
        with quiet_libraries():
            subject = _SUBJECTS[scale](lambda what, share: progress(what, 0.4 * share))
            losses, curves, report = measure(subject, lambda what, share: progress(what, 0.4 + 0.6 * share))
        return Reproduction(
            slug=self.slug,
            claims=judge(losses, curves),
            settings={
                "scale": scale,
                "subject": subject.name,
                "texts": {
                    "trained on": len(subject.texts),
                    "held out": len(subject.held_out),
                    "held out of the variant's": len(subject.held_out_of_variant),
                },
                "steps": {"warm-up": subject.training.identity_steps, "all": subject.training.steps},
                "new_tokens": {
                    name: report[name]
                    for name in ("tokens", "shared", "composed", "truncated", "mean_pieces")
                },
                "bits_per_byte": {name: loss.bits_per_byte.value for name, loss in losses.items()},
                "curves": {
                    name: {str(step): loss.bits_per_byte.value for step, loss in curve.items()}
                    for name, curve in curves.items()
                },
            },
            seconds=time.perf_counter() - started,
            plots=(_plot(losses, curves, output),),
        )


def measure(subject: Subject, progress: Progress) -> tuple[Losses, Curves, dict[str, Any]]:
    """Measure every way to the new tokenizer; also returns the report of the residual form's tokens."""
    progress(RANDOM, 0.0)
    losses = {
        ORIGINAL: _loss(subject.model, subject.old, subject.held_out, subject),
        RANDOM: _transplanted(subject, subject.model, "random", subject.held_out),
        FVT: _transplanted(subject, subject.model, "retok", subject.held_out),
    }
    curves, networks = {}, {}
    for number, form in enumerate((PLAIN, RESIDUAL)):
        networks[form], curves[form] = _trained(subject, form, progress, 0.05 + 0.42 * number)
        losses[form] = curves[form][max(curves[form])]
    progress(VARIANT, 0.9)
    there, network = subject.held_out_of_variant, networks[RESIDUAL]
    variant = transfer_tokenizer(copy.deepcopy(subject.variant), network, subject.new, base=subject.model)
    losses |= {
        VARIANT_ORIGINAL: _loss(subject.variant, subject.old, there, subject),
        VARIANT_FVT: _transplanted(subject, subject.variant, "retok", there),
        VARIANT: _loss(variant, subject.new, there, subject),
        BASE_THERE: _transferred(subject, network, there),
    }
    return losses, curves, predict_vocabulary(subject.model, network, subject.new).report.as_json()


def _trained(
    subject: Subject, form: str, progress: Progress, begun: float
) -> tuple[EmbeddingHyperNetwork, dict[int, TextLoss]]:
    """Train one form; measured at the beginning of the main stage, on the way, and at its end."""
    settings, config = _SETTINGS[form], subject.training
    if settings.get("residual"):
        rest = {name: getattr(config, name) - config.identity_steps for name in ("steps", "warmup_steps")}
        config = replace(config, identity_steps=0, **rest)
    network = hypernetwork_for(subject.model, subject.old, **subject.hypernetwork, **settings)
    trainer = HyperNetworkTrainer(subject.model, subject.old, subject.texts, config, network)
    main = config.steps - config.identity_steps
    wanted = {round(main * share) for share in (0, 0.2, 0.4, 0.7, 1)}
    curve: dict[int, TextLoss] = {}

    def watch(what: str, share: float) -> None:
        progress(f"{form}: {what}", begun + 0.42 * share)
        step = round(share * config.steps) - config.identity_steps
        if step in wanted:
            curve[step] = _transferred(subject, network, subject.held_out)

    trainer.train(progress=watch)
    return network, curve


def _transferred(subject: Subject, network: EmbeddingHyperNetwork, texts: Sequence[str]) -> TextLoss:
    model = transfer_tokenizer(copy.deepcopy(subject.model), network, subject.new)
    return _loss(model, subject.new, texts, subject)


def _transplanted(subject: Subject, model: PreTrainedModel, method: str, texts: Sequence[str]) -> TextLoss:
    made, _ = transplant_tokenizer(
        copy.deepcopy(model),
        subject.old,
        subject.new,
        method,
        leave_one_out=0,
        pad_to_multiple_of=1,
        fallback="random" if method == "random" else "mean",
    )
    return _loss(made, subject.new, texts, subject)


def _loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], subject: Subject
) -> TextLoss:
    return text_loss(model, tokenizer, texts, max_length=subject.window, batch_size=32)


def judge(losses: Losses, curves: Curves) -> tuple[Claim, ...]:
    """Put each claim beside its measurement; a difference counts from two standard errors on."""

    def bits(name: str) -> str:
        return f"{losses[name].bits_per_byte.value:.3f}"

    def beats_fvt(form: str, words: str) -> Claim:
        found = bits_difference(losses[form], losses[FVT])
        gap = bits_difference(losses[ORIGINAL], losses[FVT])
        return Claim(
            claim=f"without training on the new tokenizer, {words} beats FVT by {GAIN} or more (bits per byte)",
            paper="heuristics are often at chance (abstract), no such figure",
            measured=f"{bits(form)} ({found:+.3f}: {100 * found.value / gap.value:.0f} % of the gap to the original tokenizer's {bits(ORIGINAL)})",
            control=f"{bits(FVT)} (FVT), {bits(RANDOM)} (random rows)",
            verdict=verdict(found.value + GAIN < -2 * found.standard_error),
        )

    best = min((PLAIN, RESIDUAL), key=lambda form: losses[form].bits_per_byte.value)
    to_original = bits_difference(losses[best], losses[ORIGINAL])
    after_warm_up = curves[PLAIN][0]
    warm_up = bits_difference(after_warm_up, losses[FVT])
    to_fvt = bits_difference(losses[VARIANT], losses[VARIANT_FVT])
    to_base = bits_difference(losses[VARIANT], losses[BASE_THERE])
    return (
        beats_fvt(PLAIN, "the paper's hypernetwork"),
        beats_fvt(RESIDUAL, "a hypernetwork that starts from FVT"),
        Claim(
            claim=f"the transferred model is close to the original: at most {CLOSE} worse (bits per byte)",
            paper=ABSTRACT,
            measured=f"{bits(best)} ({to_original:+.3f}; {best})",
            control=f"{bits(ORIGINAL)} (original tokenizer)",
            verdict=verdict(to_original.value <= CLOSE),
        ),
        Claim(
            claim="it is the language model's loss that teaches it: after the warm-up on single tokens alone it is worse than FVT",
            paper="claimed without such a figure",
            measured=f"{after_warm_up.bits_per_byte.value:.3f} ({warm_up:+.3f})",
            control=f"{bits(FVT)} (FVT)",
            verdict=verdict(warm_up.value > 2 * warm_up.standard_error),
        ),
        Claim(
            claim="a fine-tuned variant takes the rows that are predicted for its base: on its own kind of text it beats its FVT, and keeps "
            "what it has learned beyond the base (bits per byte)",
            paper="fine-tuned variants transfer without training (abstract), no such figure",
            measured=f"{bits(VARIANT)} (against its FVT {to_fvt:+.3f}, against the base {to_base:+.3f})",
            control=f"{bits(VARIANT_FVT)} (its FVT), {bits(BASE_THERE)} (the base, transferred)",
            verdict=verdict(
                to_fvt.value < -2 * to_fvt.standard_error and to_base.value < -2 * to_base.standard_error
            ),
        ),
    )


# --- what is measured ----------------------------------------------------------------------------------------------------------------


def docstring_subject(progress: Progress) -> Subject:
    """A model trained from nothing, and one trained on from it."""
    progress("reading docstrings", 0.0)
    (train, held_out), (others, others_held_out) = (_lower_cased(each) for each in ("sklearn", "scipy"))
    old, new = bpe_tokenizer(train, 420), bpe_tokenizer(train, 1400)
    model = small_model(len(old))
    train_language_model(
        model,
        old,
        train,
        670,
        progress=lambda share: progress("training the language model", 0.02 + 0.78 * share),
    )
    variant = copy.deepcopy(model)
    train_language_model(
        variant,
        old,
        others,
        150,
        1e-3,
        seed=1,
        progress=lambda share: progress("fine-tuning it", 0.8 + 0.2 * share),
    )
    drawing = DrawingConfig(
        batch_size=24,
        block_size=64,
        vocabulary_size=1300,
        vocabulary_std=200.0,
        least_vocabulary=1000,
        most_vocabulary=1600,
        most_noise=0.01,
        pool=384,
    )
    return Subject(
        model,
        variant,
        old,
        new,
        passages(train, 260),
        held_out,
        others_held_out,
        HyperNetworkTrainingConfig(
            steps=300,
            identity_steps=150,
            warmup_steps=160,
            identity_learning_rate=2e-3,
            learning_rate=1e-3,
            drawing=drawing,
        ),
        {"layers": 2, "hidden_size": 96, "heads": 4},
        64,
        "Llama, 3 layers, width 64, BPE 420 → 1,400, docstrings of scikit-learn",
    )


def _lower_cased(package: str, texts: int = 32, length: int = 1000) -> tuple[list[str], list[str]]:
    """Docstrings to train on, and the beginnings of some that are held out."""
    found = read_docstrings((package,), held_out_share=0.1)
    return [each.lower() for each in found.train], [each.lower()[:length] for each in found.held_out[:texts]]


def _published(progress: Progress) -> Subject:
    """TinyLlama with GPT-2's tokenizer on a GPU, and the paper's training."""
    import torch

    base, chat = "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    progress("loading", 0.0)
    model, variant = (load_model(name, "bfloat16").to(device).eval() for name in (base, chat))
    found = read_docstrings(("sklearn", "scipy", "numpy", "torch", "transformers"), 0.02)
    held_out = [each[:2000] for each in found.held_out[:100]]
    return Subject(
        model,
        variant,
        load_tokenizer(base),
        load_tokenizer("openai-community/gpt2"),
        passages(found.train, 500),
        held_out,
        held_out,
        HyperNetworkTrainingConfig(bfloat16=True),
        {},
        512,
        f"{base} and {chat}, GPT-2's tokenizer, docstrings",
    )


_SUBJECTS: dict[Scale, Callable[[Progress], Subject]] = {"laptop": docstring_subject, "paper": _published}


def _plot(losses: Losses, curves: Curves, output: Path) -> Path:
    """Draw bits per byte over the steps of the main stage, and those of the variant beside it."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    def bits(loss: TextLoss) -> float:
        return loss.bits_per_byte.value

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.2), layout="constrained", gridspec_kw={"width_ratios": [1.3, 1]}
    )
    for (name, curve), style in zip(curves.items(), ("o-", "s-"), strict=True):
        steps = sorted(curve)
        left.errorbar(
            steps,
            [bits(curve[step]) for step in steps],
            yerr=[bits_difference(curve[step], losses[FVT]).standard_error for step in steps],
            fmt=style,
            markersize=5,
            capsize=2,
            label=name,
        )
    for name, line in ((FVT, "--"), (ORIGINAL, ":")):
        left.axhline(bits(losses[name]), color="0.35", linewidth=1, linestyle=line)
        left.annotate(
            f"{name} {bits(losses[name]):.2f}",
            (0.99, bits(losses[name])),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
            ha="right",
        )
    left.set(
        xlabel="steps of the main stage",
        ylabel="bits per byte, held-out docstrings",
        title=f"A tokenizer never seen (random rows: {bits(losses[RANDOM]):.2f})",
    )
    left.legend(fontsize=8)
    names = [VARIANT_FVT, BASE_THERE, VARIANT, VARIANT_ORIGINAL]
    labels = [
        "fine-tuned,\nFVT",
        "base,\npredicted rows",
        "fine-tuned,\nrows of its base",
        "fine-tuned,\nold tokenizer",
    ]
    values = [bits(losses[name]) for name in names]
    drawn = right.bar(labels, values, color=["0.6", "C9", "C1", "0.8"], width=0.6)
    right.bar_label(drawn, fmt="%.2f", fontsize=8)
    right.tick_params(axis="x", labelsize=8)
    right.set(title="A variant, on its own kind of text", ylabel="bits per byte")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path = output / "zett.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Path(path.name)


RECIPE = _ZeTTRecipe()
