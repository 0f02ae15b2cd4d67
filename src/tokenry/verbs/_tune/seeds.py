"""The control and one weighing again under other seeds, each with another adapter and another order of the same data.

value = mean of the seeds' differences
error = √(error over items² + error over seeds²)        the items' differences averaged over seeds; the seeds' differences
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tokenry.core.stats import Estimate, estimate_of_mean, independent_difference, ratio_estimate
from tokenry.evaluation import HeldOut, paired_difference
from tokenry.verbs._tune.bench import Bench
from tokenry.verbs._tune.records import Seeds


def seeds_cost(bench: Bench, control: str, name: str) -> float:
    """What all seeds but the first cost, by the count of the stages of a bench."""
    parts = [f"{which}{part}" for which in (control, name) for part in ("", ": held-out loss")]
    return (bench.plan.seeds - 1) * sum(bench.costs[part] for part in parts)


def run_seeds(bench: Bench, control: str, name: str, measured: Mapping[str, HeldOut]) -> Seeds:
    """Run both under all seeds of the plan beyond the first."""
    plan = bench.plan
    cost = seeds_cost(bench, control, name) / (plan.seeds - 1)
    pairs = [(measured[name], measured[control])]
    for seed in range(plan.seed + 1, plan.seed + plan.seeds):
        bench.stages.begin(f"seed {seed}", cost)
        reference = plan.reference or (
            str(bench.output / "reference" / "model") if bench.makes_reference else None
        )
        another = Bench(
            replace(plan, seed=seed, answers=0, reference=reference),
            bench.output / f"seed-{seed}",
            bench.tokenizer,
            replace(bench.material, retained={}),
            {which: bench.weighings[which] for which in (control, name)},
            lambda what, share: bench.stages.tell(share, what),
            bench.final_decay,
        )
        pairs.append((another.run(name)[1], another.run(control)[1]))
    return Seeds(
        name=name,
        to=control,
        seeds=list(range(plan.seed, plan.seed + plan.seeds)),
        paired=[paired_difference(ours, theirs, to=control) for ours, theirs in pairs],
        estimate=over_seeds_and_items(pairs),
    )


def over_seeds_and_items(pairs: Sequence[tuple[HeldOut, HeldOut]]) -> Estimate:
    """The mean difference of NLL per token, with the variance over both; `samples` counts the seeds."""
    tokens = pairs[0][0].tokens
    of_items = ratio_estimate(np.mean([ours.nll - theirs.nll for ours, theirs in pairs], axis=0), tokens)
    of_seeds = estimate_of_mean(
        [float((ours.nll - theirs.nll).sum() / tokens.sum()) for ours, theirs in pairs]
    )
    # The two sources of error are added as those of two independent figures are, with Welch's degrees of freedom.
    return independent_difference(of_items, Estimate(0.0, of_seeds.standard_error, of_seeds.samples))
