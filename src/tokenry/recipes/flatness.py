"""Flatness (arXiv 2210.14199): at the same pre-training loss, does the flatter model know more that transfers?

A language whose contexts have hidden classes; networks that learn it by plain SGD and go on long after the loss has reached its least value.

    trace      of the Hessian of the exact population loss, ± 2 %
    probe      classes of all contexts, read off frozen features by a linear map that has seen one labelled context per class

Headline: between two checkpoints whose losses differ by less than 1 %, the trace falls by more than 40 % and the probe rises by more than
0.2. The paper shows its claims as curves; runs, each with a language and initial weights of its own, are the units.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from tokenry.core.io.progress import named, part
from tokenry.core.stats import absent, all_of, estimate_of_mean, paired_difference, shown
from tokenry.pretraining import fisher_trace, hessian_trace, linear_probe
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.hidden_classes import ClassLanguages, ContextNetwork, ContextRuns

_SAME_LOSS = 0.01


@dataclass(frozen=True)
class FlatnessSizes:
    """Size of the experiment at one scale.

    Attributes:
        runs: languages and networks.
        classes: hidden classes.
        vocabulary: tokens.
        embedding: width of the embeddings.
        times: how much wider the wide networks are.
        checkpoints: steps after which networks are measured; the first and the last are compared.
        learning_rate: of SGD.
        batch: samples of a step.
        tol: error of a trace.
        seed: of languages, weights and samples.
    """

    runs: int = 8
    contexts: int = 24
    classes: int = 4
    vocabulary: int = 12
    embedding: int = 12
    width: int = 48
    times: int = 2
    checkpoints: tuple[int, ...] = (1000, 2000, 4000, 8000, 20_000)
    learning_rate: float = 0.3
    batch: int = 32
    tol: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class MeasuredNetworks:
    """Networks of all runs at one checkpoint, one value for each run.

    Attributes:
        loss: population loss in nats.
        fisher: expected over all labels of the network.
        probe: accuracy of the linear probe.
    """

    step: int
    loss: list[float] = field(default_factory=list)
    trace: list[float] = field(default_factory=list)
    fisher: list[float] = field(default_factory=list)
    probe: list[float] = field(default_factory=list)


@recipe(
    "flatness",
    laptop=FlatnessSizes(),
    paper=FlatnessSizes(32, 240, 12, 100, 48, 384, 2, (5000, 20_000, 200_000)),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train with and without gradient noise and at two widths, measure, and judge each claim."""
    sizes: FlatnessSizes = run.sizes
    languages = ClassLanguages.drawn(sizes.runs, sizes.contexts, sizes.classes, sizes.vocabulary, sizes.seed)
    small = ContextRuns(languages, sizes.embedding, sizes.width, sizes.seed)
    wide = ContextRuns(languages, sizes.times * sizes.embedding, sizes.times * sizes.width, sizes.seed)
    course, before = [], 0
    for number, step in enumerate(sizes.checkpoints):
        share = 0.4 * number / len(sizes.checkpoints), 0.4 * (number + 1) / len(sizes.checkpoints)
        told = named(part(run.progress, *share), f"to step {step}")
        small.train_on_samples(step - before, sizes.learning_rate, sizes.batch, sizes.seed + step, told)
        course.append(measure(small.networks(), languages, step, sizes.tol))
        if number == 0:
            without = copy.deepcopy(small)
        before = step
    further = before - sizes.checkpoints[0]
    without.train_without_noise(
        further, sizes.learning_rate, named(part(run.progress, 0.45, 0.6), "without noise")
    )
    wide.train_on_samples(
        before, sizes.learning_rate, sizes.batch, sizes.seed + 1, named(part(run.progress, 0.65, 0.9), "wide")
    )
    enlarged = [network.enlarge(sizes.times) for network in small.networks()]
    found = {
        "without noise": measure(without.networks(), languages, before, sizes.tol),
        "wide": measure(wide.networks(), languages, before, sizes.tol),
        "enlarged": measure(enlarged, languages, before, sizes.tol),
    }
    run.progress("measured", 1.0)
    run.settings |= {
        **asdict(sizes),
        "entropy": languages.entropy.tolist(),
        "measured": [asdict(one) for one in course],
        **{name: asdict(one) for name, one in found.items()},
    }
    with run.figure(9.5, 3.2) as figure:
        draw(figure, course, found["without noise"], languages.entropy)
    yield from claims(course[0], course[-1], **{name.replace(" ", "_"): one for name, one in found.items()})


def measure(
    networks: Sequence[ContextNetwork], languages: ClassLanguages, step: int, tol: float
) -> MeasuredNetworks:
    """Measure the network of every run on its language."""
    found = MeasuredNetworks(step)
    contexts = torch.arange(len(languages.classes))[None]
    for network, conditionals in zip(networks, languages.conditionals, strict=True):
        trace = hessian_trace(network, {"input_ids": contexts, "conditionals": conditionals[None]}, tol=tol)
        fisher = fisher_trace(
            network, {"input_ids": contexts, "labels": contexts % conditionals.shape[-1]}, "all"
        )
        features = network.features(contexts[0]).detach()
        per_class = len(languages.classes) // len(languages.classes.unique())
        probe = linear_probe(features, languages.classes, folds=per_class, few=True)
        assert trace.loss is not None
        found.loss.append(float(trace.loss.value))
        found.trace.append(trace.mean)
        found.fisher.append(fisher.mean)
        found.probe.append(float(probe.accuracy.value))
    return found


def claims(
    early: MeasuredNetworks,
    late: MeasuredNetworks,
    without_noise: MeasuredNetworks,
    wide: MeasuredNetworks,
    enlarged: MeasuredNetworks,
) -> Iterator[Claim]:
    """Put each claim beside its measurement; the units are the runs."""
    apart = estimate_of_mean(relative(late.loss, early.loss))
    fall = estimate_of_mean([-share for share in relative(late.trace, early.trace)])
    rise = paired_difference(late.probe, early.probe)
    parts = [absent(apart, _SAME_LOSS), shown(fall, 0.4), shown(rise, 0.2)]
    yield Claim(
        "at a loss within 1 %, going on for longer lowers the trace by more than 40 % and raises the linear probe by more than 0.2",
        "the trace falls and downstream accuracy rises long after the loss has reached its minimum (curves)",
        f"loss {apart:+.2%}, trace −{fall:.0%}, probe {rise:+.2f} (n = {fall.samples})",
        f"step {early.step:,}: trace {mean(early.trace):.2f}, probe {mean(early.probe):.2f}",
        all_of(parts),
    )
    yield Claim.above(
        "gradient noise makes it: as many steps without noise from the same checkpoint leave a larger trace",
        late.trace, without_noise.trace, "without noise", lower=True, spec=".2f",
    )  # fmt: skip
    yield Claim.above(
        "and features from which classes are read off less well",
        late.probe, without_noise.probe, "without noise", spec=".2f",
    )  # fmt: skip
    same = absent(estimate_of_mean(relative(wide.loss, enlarged.loss)), _SAME_LOSS)
    flatter = paired_difference(enlarged.trace, wide.trace)
    yield Claim(
        "a network twice as wide is flatter at a loss within 1 %, compared in its own space with the small one enlarged",
        "larger models at the same loss are flatter and better (curves)",
        f"{mean(wide.trace):.2f} (difference {flatter.scaled(-1):+.2f}, n = {flatter.samples})",
        f"{mean(enlarged.trace):.2f} (enlarged)",
        all_of([same, shown(flatter)]),
    )
    ratio = estimate_of_mean(relative(late.fisher, late.trace))
    yield Claim(
        "the Fisher trace is within 10 % of the Hessian's at the last checkpoint",
        "equal where the model has the true conditionals (theorem)",
        f"{ratio:+.1%} (n = {ratio.samples})",
        f"step {early.step:,}: {mean(relative(early.fisher, early.trace)):+.1%}",
        absent(ratio, 0.1),
    )


def relative(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """(ours − theirs) / theirs, run by run."""
    return [(one - other) / other for one, other in zip(ours, theirs, strict=True)]


def mean(values: Sequence[float]) -> float:
    """The mean over the runs."""
    return sum(values) / len(values)


def draw(
    figure: Figure,
    course: Sequence[MeasuredNetworks],
    without: MeasuredNetworks,
    entropy: Float[Tensor, "runs"],
) -> None:
    """Loss above the least possible, trace and probe of every run over the steps, and of training without noise."""
    steps = [one.step for one in course]
    least = entropy.tolist()
    panels = (
        ("loss above the entropy (%)", lambda one: [100 * share for share in relative(one.loss, least)]),
        ("trace of the Hessian", lambda one: one.trace),
        ("linear probe, one label per class", lambda one: one.probe),
    )
    for axes, (title, values) in zip(figure.subplots(1, 3), panels, strict=True):
        rows = [values(one) for one in course]
        axes.plot(steps, rows, color="C0", alpha=0.25, linewidth=1)
        axes.plot(steps, [mean(row) for row in rows], "o-", color="C0", label="SGD")
        axes.plot(
            [steps[0], without.step],
            [mean(rows[0]), mean(values(without))],
            "x--",
            color="C1",
            label="without noise",
        )
        axes.set_xscale("log")
        axes.set_xlabel("step")
        axes.set_title(title, fontsize=9)
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
