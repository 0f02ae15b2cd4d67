"""ZOO-Prune (arXiv 2509.24837): is the projector's sensitivity measured well, chosen from well, and is it relevance?

    estimate    rank correlation of sampled sensitivity with the exact norm of the Jacobian; control: one direction
    selection   is SADS between its parents: more sensitive than DivPrune's choice, less crowded than the most sensitive tokens?
    accuracy    from k visual tokens, against DivPrune (the same choice without sensitivity) and random tokens; and the premise,
                that sensitive tokens are the relevant ones
    prefill     of a LLaVA with random weights, 64 of 576 visual tokens against all

Laptop: the digits ViT with a projector and a reader, trained with several seeds. Paper: LLaVA-1.5-7B on POPE. Accuracies are
compared digit by digit (question by question). The paper's average performances are those of its project page.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Generator, Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tokenry.compression.vision.diversity import farthest_point_select, sensitivity_diverse_select
from tokenry.compression.vision.image_features import encode_images, supported_model
from tokenry.compression.vision.relevance import rank_correlation, relevance_correlation
from tokenry.compression.vision.visual_tokens import prune_visual_tokens
from tokenry.compression.vision.zoo_prune import mlp_sensitivity
from tokenry.recipes.recipe import Claim, Progress, Reproduction, Scale, verdict
from tokenry.recipes.toys.digits_reader import DigitsReader, ReaderSetting, train_reader, visual_tokens
from tokenry.recipes.toys.digits_vit import load_digits_vit

RANDOM, DIVPRUNE, SENSITIVE, ZOO, LEAST = (
    "random",
    "DivPrune",
    "most sensitive",
    "ZOO-Prune",
    "least sensitive",
)
DIRECTIONS = (1, 4, 16, 64)
DRAWS = 8
_IMAGE = 63
PAPER = "98.6 / 97.8 / 95.5 % of the unpruned average with 192 / 128 / 64 tokens (LLaVA-1.5-7B), above DivPrune at every budget"
NO_FIGURE = "claimed without such a figure"


@dataclass(frozen=True)
class Choice:
    """What a method chose at one budget, and what came of it.

    Everything is the mean over the views of an object: a digit seen at several places, or a question.

    Attributes:
        right: share of its views that are answered right, in percent.
        sensitivity: mean over the kept tokens, relative to the mean over all tokens.
        spacing: smallest cosine distance between two kept tokens.
    """

    right: Float[Tensor, "objects"]
    sensitivity: Float[Tensor, "objects"]
    spacing: Float[Tensor, "objects"]


@dataclass(frozen=True)
class Measured:
    """What a testbed measured.

    Attributes:
        unpruned: as `Choice.right`, with all tokens.
        choices: by method and number of tokens.
        estimates: rank correlation of sampled sensitivity with the exact one, by directions.
        relevance: rank correlation of sensitivity with first-order relevance, nan where either is constant.
        pictures: what is to be seen of one image: sensitivity of its tokens, and the tokens kept by a method.
        settings: of the testbed.
    """

    unpruned: Float[Tensor, "objects"]
    choices: Mapping[str, Mapping[int, Choice]]
    estimates: Mapping[int, Float[Tensor, "objects"]]
    relevance: Float[Tensor, "objects"]
    pictures: Mapping[str, Tensor]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class _ZooPruneRecipe:
    slug: str = "zoo-prune"
    title: str = "Training-Free Token Pruning via Zeroth-Order Gradient Estimation in Vision-Language Models"

    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Run the experiments and judge each claim."""
        started = time.perf_counter()
        measured = _TESTBEDS[scale](lambda what, share: progress(what, 0.8 * share))
        progress("prefill of a LLaVA with random weights", 0.8)
        prefill = measure_prefill()
        claims = (
            *_estimate_claims(measured.estimates),
            *_selection_claims(measured.choices),
            *_accuracy_claims(measured),
            *_prefill_claims(prefill),
        )
        return Reproduction(
            slug=self.slug,
            claims=claims,
            settings={
                "scale": scale,
                **measured.settings,
                "accuracy": {
                    method: {k: f"{_figure(choice.right)} %" for k, choice in by_k.items()}
                    for method, by_k in measured.choices.items()
                },
                "unpruned_accuracy": f"{_figure(measured.unpruned)} %",
                "estimate": {m: _figure(values, 3) for m, values in measured.estimates.items()},
                "prefill": prefill,
            },
            seconds=time.perf_counter() - started,
            plots=(_plot(measured, output),),
        )


def _estimate_claims(estimates: Mapping[int, Tensor]) -> tuple[Claim, ...]:
    few, many = min(estimates), max(estimates)
    means = [float(values.mean()) for _, values in sorted(estimates.items())]
    rising = all(low < high for low, high in pairwise(means))
    return (
        Claim(
            claim=f"{many} directions rank the tokens of an image as the exact norm of the Jacobian does (Spearman >= 0.95)",
            paper=NO_FIGURE,
            measured=_figure(estimates[many], 3),
            control=f"{_figure(estimates[few], 3)} ({few} direction)",
            verdict=verdict(means[-1] >= 0.95 and means[-1] > means[0]),
        ),
        Claim(
            claim="and the better the more directions are drawn",
            paper=NO_FIGURE,
            measured=", ".join(f"{mean:.3f} ({m})" for m, mean in zip(sorted(estimates), means, strict=True)),
            control=f"{means[0]:.3f} ({few})",
            verdict=verdict(rising),
        ),
    )


def _selection_claims(choices: Mapping[str, Mapping[int, Choice]]) -> tuple[Claim, ...]:
    """Judge the mean over images and budgets by paired differences."""

    def more(words: str, control: str, value: Callable[[Choice], Tensor]) -> Claim:
        ours, theirs = (
            torch.stack([value(choice) for choice in choices[name].values()]).mean(0)
            for name in (ZOO, control)
        )
        return Claim(
            claim=words,
            paper=NO_FIGURE,
            measured=f"{ours.mean():.3f} (difference {_figure(ours - theirs, 3, sign=True)})",
            control=f"{theirs.mean():.3f} ({control})",
            verdict=verdict(_beats(ours, theirs)),
        )

    return (
        more(
            "SADS keeps more sensitive tokens than DivPrune (mean of the kept / mean of all tokens)",
            DIVPRUNE,
            lambda choice: choice.sensitivity,
        ),
        more(
            "and less crowded ones than the most sensitive (smallest cosine distance between two kept)",
            SENSITIVE,
            lambda choice: choice.spacing,
        ),
    )


def _accuracy_claims(measured: Measured) -> tuple[Claim, ...]:
    def better(control: str) -> list[Claim]:
        return [
            Claim(
                claim=f"from {k} tokens, ZOO-Prune is more accurate than {control} (%)",
                paper=PAPER if control == DIVPRUNE else NO_FIGURE,
                measured=(
                    f"{ours.right.mean():.1f} (difference "
                    f"{_figure(ours.right - measured.choices[control][k].right, sign=True)})"
                ),
                control=f"{measured.choices[control][k].right.mean():.1f} ({control})",
                verdict=verdict(_beats(ours.right, measured.choices[control][k].right)),
            )
            for k, ours in measured.choices[ZOO].items()
        ]

    known = measured.relevance[~measured.relevance.isnan()]
    premise = Claim(
        claim="the premise: sensitive tokens are those that the answer depends on (rank correlation of sensitivity with "
        "|gradient · token|)",
        paper=NO_FIGURE,
        measured=_figure(known, 3, sign=True),
        control="0 (chance)",
        verdict=verdict(_beats(known, torch.zeros_like(known))),
    )
    return (*better(DIVPRUNE), *better(RANDOM), premise)


def _prefill_claims(prefill: Mapping[str, float]) -> tuple[Claim, ...]:
    ratio = prefill["ratio_of_tokens"]
    return (
        Claim(
            claim="LLaVA with random weights, 64 of 576 visual tokens: the language model's prefill is faster by nearly the ratio of "
            "all tokens (times, at least 0.8 of it)",
            paper=NO_FIGURE,
            measured=f"{prefill['language_model_faster']:.2f}",
            control=f"1 (all tokens); {ratio:.2f} is the ratio of tokens",
            verdict=verdict(prefill["language_model_faster"] >= 0.8 * ratio),
        ),
        Claim(
            claim="and with selection (DivPrune) included by at least 2.30 times",
            paper="up to 2.30 end to end (another model, 94.4 % pruned)",
            measured=f"{prefill['faster']:.2f}",
            control="1 (all tokens)",
            verdict=verdict(prefill["faster"] >= 2.30),
        ),
    )


def _digits(progress: Progress) -> Measured:
    """The digits ViT with a projector and a reader, trained with three seeds."""
    digits = load_digits_vit(lambda what, share: progress(what, 0.5 * share))
    seeds, views = (0, 1, 2), 3
    setting = ReaderSetting()
    labels = digits.train_labels[: setting.images]
    training = visual_tokens(digits.model, digits.train_images[: setting.images]).clone()
    testing = visual_tokens(digits.model, digits.test_images).clone()
    runs = []
    for number, seed in enumerate(seeds):
        progress(f"projector and reader, seed {seed}", 0.5 + 0.5 * number / len(seeds))
        reader = train_reader(training, labels, ReaderSetting(seed=seed))
        runs.append(measure_reader(reader, testing, digits.test_labels, views, seed))
    # Seeds of one digit are no independent digits.
    together = _combined(runs, lambda values: torch.stack(values).mean(0))
    return replace(
        together,
        pictures={"image": digits.test_images[0, 0], **runs[0].pictures},
        settings={
            "model": "digits ViT, tokens after block 2; projector and reader of three seeds",
            "seeds": seeds,
            "relevance_by_seed": [round(float(run.relevance.nanmean()), 3) for run in runs],
            "zoo_minus_divprune_by_seed": [
                {
                    k: round(float((run.choices[ZOO][k].right - run.choices[DIVPRUNE][k].right).mean()), 1)
                    for k in run.choices[ZOO]
                }
                for run in runs
            ],
        },
    )


def measure_reader(
    reader: DigitsReader,
    tokens: Float[Tensor, "images tokens dim"],
    labels: Int[Tensor, "images"],
    views: int,
    seed: int = 0,
    budgets: Sequence[int] = (4, 8, 12, 18),
) -> Measured:
    """Measure every method at every budget with one trained reader.

    Args:
        reader: trained on all tokens.
        tokens: what enters its projector.
        labels: classes of the images.
        views: so many images in a row show the same digit.
        seed: of directions and of random choices.
        budgets: numbers of tokens to keep.
    """
    generator = Generator().manual_seed(seed)
    projected = reader.projector(tokens)
    sensitivity = mlp_sensitivity(tokens, *_weights(reader.projector), method="closed_form")

    def of_object(values: Tensor) -> Tensor:
        return values.view(-1, views).mean(1)

    def measured(kept: Tensor) -> Choice:
        chosen = _gathered(projected, kept)
        right = 100 * (reader.read(chosen).argmax(-1) == labels).float()
        values = (right, _relative(sensitivity, kept), _spacing(chosen))
        return Choice(*(of_object(each) for each in values))

    chosen = {
        method: {k: select(projected, sensitivity, k, generator) for k in budgets}
        for method, select in _METHODS.items()
    }
    relevance = _relevance(reader, projected)
    correlations = [rank_correlation(*pair) for pair in zip(sensitivity, relevance, strict=True)]
    return Measured(
        unpruned=measured(torch.arange(tokens.shape[1]).expand(tokens.shape[:2])).right,
        choices={name: {k: measured(kept) for k, kept in by_k.items()} for name, by_k in chosen.items()},
        estimates=_estimates(reader.projector, tokens[::views][:60], generator),
        relevance=of_object(torch.tensor(correlations)),
        pictures={
            "sensitivity": sensitivity[0],
            **{name: by_k[budgets[1]][0] for name, by_k in chosen.items()},
        },
        settings={},
    )


_METHODS: Mapping[str, Callable[[Tensor, Tensor, int, Generator], Tensor]] = {
    RANDOM: lambda z, _, k, generator: torch.rand(z.shape[:2], generator=generator).argsort(-1)[:, :k],
    DIVPRUNE: lambda z, _, k, __: farthest_point_select(z, k),
    SENSITIVE: lambda _, s, k, __: s.sort(descending=True, stable=True).indices[:, :k],
    ZOO: lambda z, s, k, _: sensitivity_diverse_select(z, s, k),
    LEAST: lambda _, s, k, __: s.sort(stable=True).indices[:, :k],
}


def _weights(projector: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    first, _, second = projector.children()
    weights = dict(first.named_parameters())
    return weights["weight"], weights["bias"], dict(second.named_parameters())["weight"]


def _estimates(projector: nn.Module, tokens: Tensor, generator: Generator) -> dict[int, Tensor]:
    """Compare sampled sensitivity with the norm of the Jacobian that automatic differentiation gives; mean of several draws."""
    jacobian = torch.func.vmap(torch.func.jacrev(projector))(tokens.flatten(0, 1))
    exact = jacobian.flatten(1).norm(dim=1).view(tokens.shape[:2])

    def correlations(number: int) -> list[float]:
        sampled = mlp_sensitivity(tokens, *_weights(projector), num_directions=number, generator=generator)
        return [spearmanr(*pair).statistic for pair in zip(sampled, exact, strict=True)]

    return {
        number: torch.tensor([correlations(number) for _ in range(DRAWS)]).mean(0) for number in DIRECTIONS
    }


@torch.enable_grad()
def _relevance(reader: DigitsReader, projected: Tensor) -> Float[Tensor, "images tokens"]:
    """|gradient · token| of the log-probability of the likeliest class."""
    projected = projected.detach().requires_grad_()
    said = reader.read(projected).log_softmax(-1).amax(-1).sum()
    (gradient,) = torch.autograd.grad(said, projected)
    return (gradient * projected.detach()).sum(-1).abs()


def _gathered(tokens: Tensor, kept: Tensor) -> Tensor:
    return tokens.gather(1, kept[..., None].expand(*kept.shape, tokens.shape[-1]))


def _relative(sensitivity: Tensor, kept: Tensor) -> Float[Tensor, "images"]:
    return sensitivity.gather(1, kept).mean(1) / sensitivity.mean(1)


def _spacing(kept: Float[Tensor, "images kept dim"]) -> Float[Tensor, "images"]:
    """Smallest cosine distance between two of a few kept tokens."""
    directions = torch.nn.functional.normalize(kept, dim=-1)
    similarity = directions @ directions.mT
    similarity.diagonal(dim1=-2, dim2=-1).fill_(float("-inf"))
    return 1 - similarity.flatten(1).amax(1)


def _combined(runs: Sequence[Measured], combine: Callable[[list[Tensor]], Tensor]) -> Measured:
    """Combine what was measured several times, or of several objects, figure by figure."""

    def choice(method: str, k: int) -> Choice:
        of_runs = [run.choices[method][k] for run in runs]
        return Choice(
            combine([each.right for each in of_runs]),
            combine([each.sensitivity for each in of_runs]),
            combine([each.spacing for each in of_runs]),
        )

    first = runs[0]
    return Measured(
        unpruned=combine([run.unpruned for run in runs]),
        choices={name: {k: choice(name, k) for k in by_k} for name, by_k in first.choices.items()},
        estimates={m: combine([run.estimates[m] for run in runs]) for m in first.estimates},
        relevance=combine([run.relevance for run in runs]),
        pictures={},
        settings={},
    )


def measure_prefill(visual: int = 576, kept: int = 64, text: int = 32, width: int = 512) -> dict[str, float]:
    """Time the prefill of the language model of a LLaVA with random weights, with all visual tokens and with some.

    Seconds of processor time, least of five rounds by turns. `faster` is without the vision encoder, which is the same for both, and
    with the selection; `language_model_faster` is the language model alone.
    """
    model = random_llava(visual, width)
    target, architecture = supported_model(model)
    inputs = llava_inputs(visual, text)

    @torch.inference_mode()
    def seconds(step: Callable[[], Any]) -> float:
        started = time.process_time()
        step()
        return time.process_time() - started

    def pruned() -> None:
        with prune_visual_tokens(model, keep=kept):
            model(**inputs)

    embeddings = torch.randn(1, visual + text, width)
    steps: dict[str, Callable[[], Any]] = {
        "vision": lambda: encode_images(target, architecture, inputs, with_rows=False),
        "all": lambda: model(**inputs),
        "pruned": pruned,
        "language_model_all": lambda: model(inputs_embeds=embeddings),
        "language_model_pruned": lambda: model(inputs_embeds=embeddings[:, : kept + text]),
    }
    rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(6)][1:]
    least = {name: min(each[name] for each in rounds) for name in steps}
    return {
        "visual_tokens": float(visual),
        "kept": float(kept),
        "text_tokens": float(text),
        **{f"cpu_seconds_{name}": round(value, 4) for name, value in least.items()},
        "language_model_faster": least["language_model_all"] / least["language_model_pruned"],
        "faster": (least["all"] - least["vision"]) / (least["pruned"] - least["vision"]),
        "ratio_of_tokens": (visual + text) / (kept + text),
    }


def llava_inputs(visual: int, text: int) -> dict[str, Tensor]:
    """A prompt with one image between two halves of text, for `random_llava`."""
    side = 14 * int(visual**0.5)
    prompt = [1] * (text // 2) + [_IMAGE] * visual + [2] * (text - text // 2)
    return {
        "input_ids": torch.tensor([prompt]),
        "attention_mask": torch.ones(1, visual + text, dtype=torch.long),
        "pixel_values": torch.randn(1, 3, side, side, generator=Generator().manual_seed(0)),
    }


def random_llava(visual: int, width: int) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights, so many visual tokens per image, a tiny vision encoder and four layers of the given width."""
    side = int(visual**0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=14 * side,
                patch_size=14,
            ),
            text_config=LlamaConfig(
                vocab_size=64,
                hidden_size=width,
                intermediate_size=3 * width,
                num_hidden_layers=4,
                num_attention_heads=8,
                max_position_embeddings=2 * visual,
            ),
            image_token_index=_IMAGE,
        )
        config.image_token_id = _IMAGE
        return LlavaForConditionalGeneration(config).eval()


def _pope(progress: Progress) -> Measured:
    """LLaVA-1.5-7B on 1000 questions of POPE, whether an object is in the image; needs a GPU, and downloads both."""
    from datasets import load_dataset
    from transformers import AutoProcessor

    name, number = "llava-hf/llava-1.5-7b-hf", 1000
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlavaForConditionalGeneration.from_pretrained(name, dtype=torch.float16).to(device).eval()
    processor = AutoProcessor.from_pretrained(name)
    questions = load_dataset("lmms-lab/POPE", split="test", streaming=True).shuffle(0).take(number)
    asked = []
    for place, row in enumerate(questions):
        progress(f"question {place + 1} of {number}", place / number)
        prompt = (
            f"USER: <image>\n{row['question']}\nAnswer the question using a single word or phrase. ASSISTANT:"
        )
        inputs = processor(images=row["image"].convert("RGB"), text=prompt, return_tensors="pt")
        inputs = inputs.to(device, torch.float16)
        asked.append(ask(model, processor, inputs, row["answer"], (64, 128, 192), seed=place))
    settings = {"model": name, "data": "lmms-lab/POPE", "questions": number}
    return replace(_combined(asked, torch.cat), settings=settings)


_KEYS = {RANDOM: "random", DIVPRUNE: "divprune", SENSITIVE: "sensitivity", ZOO: "zoo"}


def ask(
    model: LlavaForConditionalGeneration,
    processor: Any,
    inputs: Mapping[str, Any],
    answer: str,
    budgets: Sequence[int],
    seed: int,
) -> Measured:
    """Ask a LLaVA one question about one image with every method and budget; here the closed form stands for the exact norm."""
    target, architecture = supported_model(model)
    with torch.no_grad():
        encoded = encode_images(target, architecture, inputs, with_rows=True)
        projected = encoded.images[0].features.float()[None]
    entering = encoded.entering
    assert entering is not None
    weights = _weights(architecture.projector(model.model))
    sensitivity = mlp_sensitivity(entering, *weights, method="closed_form")

    def right() -> Tensor:
        return torch.tensor([_answered(model, processor, inputs, answer)])

    def pruned(method: str, k: int) -> Choice:
        with prune_visual_tokens(model, keep=k, method=_KEYS[method], seed=seed) as pruning:
            answered = right()
        assert pruning.last is not None
        kept = pruning.last.images[0].kept[None]
        values = (_relative(sensitivity[None], kept), _spacing(_gathered(projected, kept)))
        return Choice(answered, *(each.cpu() for each in values))

    def estimate(number: int) -> float:
        sampled = mlp_sensitivity(entering, *weights, num_directions=number)
        return rank_correlation(sampled, sensitivity)

    return Measured(
        unpruned=right(),
        choices={method: {k: pruned(method, k) for k in budgets} for method in _KEYS},
        estimates={number: torch.tensor([estimate(number)]) for number in DIRECTIONS},
        relevance=torch.tensor(relevance_correlation(model, inputs)),
        pictures={},
        settings={},
    )


def _answered(model: Any, processor: Any, inputs: Mapping[str, Tensor], answer: str) -> float:
    """100 if the generated answer begins with the right word, else 0."""
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    said = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return 100.0 * said.strip().lower().startswith(answer.lower())


_TESTBEDS: dict[Scale, Callable[[Progress], Measured]] = {"laptop": _digits, "paper": _pope}


def _beats(ours: Tensor, theirs: Tensor) -> bool:
    """Whether the paired difference is above two of its standard errors."""
    difference = ours - theirs
    return float(difference.mean()) > 2 * float(difference.std() / len(difference) ** 0.5)


def _figure(values: Tensor, digits: int = 1, sign: bool = False) -> str:
    """Mean and standard error."""
    error = float(values.std() / len(values) ** 0.5)
    return f"{float(values.mean()):{'+' if sign else ''}.{digits}f} ± {error:.{digits}f}"


def _plot(measured: Measured, output: Path) -> Path:
    """Draw accuracy over kept tokens, the estimate over directions, and one image with what was kept of it."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(11, 6.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    left, right = top.subplots(1, 2, width_ratios=(2, 1))
    marks = {
        RANDOM: ("x", "--"),
        DIVPRUNE: ("o", "-"),
        SENSITIVE: ("^", ":"),
        ZOO: ("s", "-"),
        LEAST: ("v", ":"),
    }
    for number, (method, by_k) in enumerate(measured.choices.items()):
        marker, line = marks[method]
        left.errorbar(
            list(by_k),
            [float(choice.right.mean()) for choice in by_k.values()],
            yerr=[2 * float(choice.right.std()) / len(choice.right) ** 0.5 for choice in by_k.values()],
            marker=marker,
            linestyle=line,
            capsize=2,
            color=f"C{number}",
            label=method,
        )
    left.axhline(
        float(measured.unpruned.mean()), color="black", linewidth=0.8, linestyle="--", label="all tokens"
    )
    left.set(xlabel="visual tokens kept", ylabel="accuracy, %, ± 2 standard errors", title="Accuracy")
    left.legend(fontsize=8)
    right.plot(
        list(measured.estimates), [float(v.mean()) for v in measured.estimates.values()], "o-", color="C3"
    )
    right.axhline(0.95, color="black", linewidth=0.8, linestyle="--")
    right.set(
        xscale="log",
        xlabel="directions",
        ylabel="Spearman with the exact norm",
        title="Sampled sensitivity",
        ylim=(None, 1),
    )
    right.set_xticks(list(measured.estimates), [str(m) for m in measured.estimates])
    right.minorticks_off()
    _draw_pictures(bottom, measured.pictures)
    path = output / "zoo_prune.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Path(path.name)


def _draw_pictures(figure: Any, pictures: Mapping[str, Tensor]) -> None:
    """One image, the sensitivity of its tokens, and the tokens that each method keeps."""
    if not pictures:
        return
    image, sensitivity = pictures["image"], pictures["sensitivity"]
    side = int(len(sensitivity) ** 0.5)
    shown = [name for name in pictures if name not in ("image", "sensitivity")]
    for axes, name in zip(figure.subplots(1, 2 + len(shown)), ["image", "sensitivity", *shown], strict=True):
        axes.set_axis_off()
        axes.set_title(name if name in ("image", "sensitivity") else f"{name}: kept", fontsize=9)
        if name == "sensitivity":
            axes.imshow(sensitivity.view(side, side), cmap="viridis")
            continue
        axes.imshow(image, cmap="gray_r")
        if name == "image":
            continue
        patch = image.shape[0] // side
        kept = torch.zeros(side * side).index_fill(0, pictures[name], 1.0).view(side, side)
        shade = kept.repeat_interleave(patch, 0).repeat_interleave(patch, 1)
        axes.imshow(torch.ones(*shade.shape, 3), alpha=0.8 * (1 - shade).numpy())


RECIPE = _ZooPruneRecipe()
