"""Zero-shot tokenizer transfer (arXiv 2405.07883): do rows predicted by a hypernetwork beat the best heuristic for a tokenizer never seen?

A language model of three layers is trained on lower-cased docstrings of scikit-learn with a BPE of 420 tokens, then frozen. Hypernetworks
are trained on Unigram tokenizers drawn from the same texts. The new tokenizer, a BPE of 1,400 tokens, is never seen; 30 % of its
tokens are tokens of the old one. Measured in bits per byte on held-out files, paired text by text:

    random rows, FVT (mean of the pieces' rows)      without a hypernetwork
    plain                                            the paper's form: warm-up on single tokens, then the main stage
    residual                                         predicts the difference to FVT, no warm-up
    fine-tuned variant                               a copy trained on scipy's docstrings takes the rows predicted for its base

Headline: closeness to the original model (abstract), here after a hundred steps instead of 200,000. The paper's tables could not be read:
its figures are those of the abstract.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import all_of, exactly, shown
from tokenry.core.text.bits_per_byte import TextLoss, bits_difference, text_loss
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.docstring_transfer import (
    TokenizerTransfer,
    docstring_transfer,
    tinyllama_transfer,
)
from tokenry.tokenization.transfer.transplant.apply import transplant_tokenizer
from tokenry.tokenization.transfer.zett.hypernetwork import EmbeddingHyperNetwork
from tokenry.tokenization.transfer.zett.training import (
    HyperNetworkTrainer,
    hypernetwork_for,
)
from tokenry.tokenization.transfer.zett.transfer import predict_vocabulary, transfer_tokenizer

ABSTRACT = "close to the original models on cross-lingual and coding tasks (abstract; XLM-R, Mistral-7B), no such figure"
ORIGINAL, RANDOM, FVT = "original tokenizer", "random rows", "FVT (mean of pieces)"
PLAIN, RESIDUAL = "hypernetwork, plain", "hypernetwork, residual"
VARIANT_ORIGINAL, VARIANT_FVT = "fine-tuned, original tokenizer", "fine-tuned, FVT"
VARIANT, BASE_THERE = "fine-tuned, rows predicted for its base", "base, predicted rows"

GAIN, CLOSE = 0.15, 0.1
"""Bits per byte by which a hypernetwork must beat FVT, and by which a model close to the original may be worse."""

_SETTINGS: dict[str, dict[str, Any]] = {PLAIN: {}, RESIDUAL: {"residual": True}}


Losses = Mapping[str, TextLoss]
Curves = Mapping[str, Mapping[int, TextLoss]]
"""Losses by form and by number of steps of the main stage."""


@recipe("zett", laptop=docstring_transfer, paper=tinyllama_transfer)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train the model and both hypernetworks, measure every transfer, and judge each claim."""
    load: Callable[[Progress], TokenizerTransfer] = run.sizes
    subject = load(part(run.progress, 0.0, 0.4))
    losses, curves, report = measure(subject, part(run.progress, 0.4, 1.0))
    run.settings |= {
        "subject": subject.name,
        "texts": {
            "trained on": len(subject.texts),
            "held out": len(subject.held_out),
            "held out of the variant's": len(subject.held_out_of_variant),
        },
        "steps": {"warm-up": subject.training.identity_steps, "all": subject.training.steps},
        "new_tokens": {
            name: report[name] for name in ("tokens", "shared", "composed", "truncated", "mean_pieces")
        },
        "bits_per_byte": {name: loss.bits_per_byte.value for name, loss in losses.items()},
        "curves": {
            name: {str(step): loss.bits_per_byte.value for step, loss in curve.items()}
            for name, curve in curves.items()
        },
    }
    with run.figure(10, 4.2) as figure:
        draw(figure, losses, curves)
    yield from judge(losses, curves)


def measure(subject: TokenizerTransfer, progress: Progress) -> tuple[Losses, Curves, dict[str, Any]]:
    """Measure every transfer to the new tokenizer; also returns the report of the residual form's tokens."""
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
    subject: TokenizerTransfer, form: str, progress: Progress, begun: float
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


def _transferred(
    subject: TokenizerTransfer, network: EmbeddingHyperNetwork, texts: Sequence[str]
) -> TextLoss:
    model = transfer_tokenizer(copy.deepcopy(subject.model), network, subject.new)
    return _loss(model, subject.new, texts, subject)


def _transplanted(
    subject: TokenizerTransfer, model: PreTrainedModel, method: str, texts: Sequence[str]
) -> TextLoss:
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    subject: TokenizerTransfer,
) -> TextLoss:
    return text_loss(model, tokenizer, texts, max_length=subject.window, batch_size=32)


def judge(losses: Losses, curves: Curves) -> Iterator[Claim]:
    """Put each claim beside its measurement, text by text."""

    def bits(name: str) -> str:
        return f"{losses[name].bits_per_byte.value:.3f}"

    best = min((PLAIN, RESIDUAL), key=lambda form: losses[form].bits_per_byte.value)
    closeness = bits_difference(losses[ORIGINAL], losses[best])
    yield Claim(
        f"the transferred model is close to the original: at most {CLOSE} worse (bits per byte)",
        ABSTRACT,
        measured=f"{bits(best)} (difference {closeness.scaled(-1):+.3f}; {best})",
        control=f"{bits(ORIGINAL)} (original tokenizer)",
        # A hundred steps cannot refute a claim about 200,000.
        verdict=exactly(shown(closeness, least=-CLOSE) == "shown"),
    )
    gap = bits_difference(losses[FVT], losses[ORIGINAL])
    for form, words in (
        (PLAIN, "the paper's hypernetwork"),
        (RESIDUAL, "a hypernetwork that starts from FVT"),
    ):
        gain = bits_difference(losses[FVT], losses[form])
        yield Claim(
            f"without training on the new tokenizer, {words} beats FVT by {GAIN} or more (bits per byte)",
            "heuristics are often at chance (abstract), no such figure",
            measured=f"{bits(form)} (difference {gain.scaled(-1):+.3f}: {gain.value / gap.value:.0%} of the gap to the original "
            f"tokenizer's {bits(ORIGINAL)})",
            control=f"{bits(FVT)} (FVT), {bits(RANDOM)} (random rows)",
            verdict=shown(gain, least=GAIN),
        )
    after_warm_up = curves[PLAIN][0]
    warm_up = bits_difference(after_warm_up, losses[FVT])
    yield Claim(
        "it is the language model's loss that teaches it: after the warm-up on single tokens alone it is worse than FVT",
        None,
        measured=f"{after_warm_up.bits_per_byte.value:.3f} (difference {warm_up:+.3f})",
        control=f"{bits(FVT)} (FVT)",
        verdict=shown(warm_up),
    )
    over_fvt, over_base = (bits_difference(losses[of], losses[VARIANT]) for of in (VARIANT_FVT, BASE_THERE))
    yield Claim(
        "a fine-tuned variant takes the rows that are predicted for its base: on its own kind of text it beats its FVT, and keeps "
        "what it has learned beyond the base (bits per byte)",
        "fine-tuned variants transfer without training (abstract), no such figure",
        measured=f"{bits(VARIANT)} (against its FVT {over_fvt.scaled(-1):+.3f}, against the base {over_base.scaled(-1):+.3f})",
        control=f"{bits(VARIANT_FVT)} (its FVT), {bits(BASE_THERE)} (the base, transferred)",
        verdict=all_of(map(shown, (over_fvt, over_base))),
    )


def draw(figure: Figure, losses: Losses, curves: Curves) -> None:
    """Bits per byte over the steps of the main stage, and those of the variant beside it."""

    def bits(loss: TextLoss) -> float:
        return loss.bits_per_byte.value

    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
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
        left.axhline(
            bits(losses[name]),
            color="0.35",
            linewidth=1,
            linestyle=line,
            label=f"{name} {bits(losses[name]):.2f}",
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
