"""Train weighings side by side on the same model, data and seed, and measure each on held-out data.

The first weighing is the control: every other run is compared with it, item by item. Finished work is kept, so an interrupted
comparison resumes where it stopped:

    OUTPUT/plan.json      the plan
    OUTPUT/data.json      a fingerprint of its data
    OUTPUT/...            the records of every run, see `tokenry.verbs._tune.bench`
    OUTPUT/result.json    everything (`Comparison`)
"""

import datetime
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import split_descriptions
from tokenry.core.io.files import read_json, write_json
from tokenry.core.io.progress import Progress
from tokenry.core.io.ranks import by_first
from tokenry.core.stats import FEWEST_ITEMS
from tokenry.evaluation import HeldOut, paired_difference
from tokenry.finetuning import TokenWeighing
from tokenry.finetuning.refusals import refuse_arguments
from tokenry.finetuning.weighing import make_weighing
from tokenry.models import load_tokenizer, require_same_tokenizer
from tokenry.verbs._environment import environment
from tokenry.verbs._side_by_side import PLAN_FILE, SideBySide, require_apart
from tokenry.verbs._stages import Stages
from tokenry.verbs._training import splits_weights
from tokenry.verbs._tune.arguments import sft_config
from tokenry.verbs._tune.bench import Bench
from tokenry.verbs._tune.candidates import CONTROL, FEWEST_SAMPLES, Length, needs_reference
from tokenry.verbs._tune.course import FINAL_DECAY, Course
from tokenry.verbs._tune.forecast import forecast, in_words
from tokenry.verbs._tune.material import gather
from tokenry.verbs._tune.plan import AUTO, default_length, stored_plan, training_said
from tokenry.verbs._tune.racing import planned_course, price_in_words, race_cost, run_race
from tokenry.verbs._tune.records import Comparison, Race, Run, read_comparison
from tokenry.verbs._tune.seeds import run_seeds, seeds_cost
from tokenry.verbs._tune.training_length import FEW_STEPS, length_in_words, require_ranges
from tokenry.verbs.tune import Plan

logger = logging.getLogger(__name__)


def compare(plan: Plan, output: Path, report: Progress) -> Comparison:
    """Carry out a plan in `output`, or go on with it there; a finished one is read.

    Args:
        plan: the plan to carry out.
        output: folder of the results.
        report: called with the current step and the share that is done.

    Raises:
        UserError: something in the plan, the data or the model cannot work; said before training begins.
        Interrupted: the user stopped it; what was finished is kept.
    """
    weighings_of(plan)
    runs = SideBySide("tune", output)
    if runs.is_begun:
        runs.require_settings(plan.settings, stored_plan(output / PLAN_FILE).settings)
    if runs.result_file.exists():
        return read_comparison(read_json(runs.result_file), str(runs.result_file))
    bench = None
    with runs.at_work(lambda: bench.stages.what if bench else "reading the model and the data"):
        report("reading the model and the data", 0.0)
        bench, course = assemble(plan, output, report)
        prepare = partial(_prepare, bench, course)
        runs.begin(plan.settings, bench.material.fingerprint, prepare)
        comparison = _carry_out(bench, course)
        by_first(write_json)(runs.result_file, comparison.model_dump(mode="json"))
    return comparison


def weighings_of(plan: Plan) -> dict[str, TokenWeighing]:
    """Make the weighings that a plan names, the control first and the one asked for second; those of a race are chosen by the data."""
    asked_for = (
        [CONTROL, *plan.controls]
        if plan.weighing == AUTO
        else [*plan.controls[:1], plan.weighing, *plan.controls[1:]]
    )
    asked = _options(plan)
    made: dict[str, TokenWeighing] = {}
    for description in dict.fromkeys(asked_for):
        selects = make_weighing(description).share < 1
        made[description.replace(":", " ")] = make_weighing(description, **(asked if selects else {}))
    for option in asked:
        selecting = (weighing for weighing in made.values() if weighing.share < 1)
        if plan.weighing != AUTO and not any(hasattr(weighing, option) for weighing in selecting):
            raise UserError(f"{option} is set, but none of {', '.join(made)} has one: leave it out.")
    for description in split_descriptions(plan.candidates or ("sstoken" if plan.weighing == AUTO else "")):
        make_weighing(description, **asked)
    require_apart(made)
    return made


def _options(plan: Plan) -> dict[str, float]:
    """The options for weighings that select and do not say their own."""
    asked = {"share": plan.share, "balance": plan.balance}
    return {option: value for option, value in asked.items() if value is not None}


def assemble(plan: Plan, output: Path, report: Progress) -> tuple[Bench, Course | None]:
    """Read everything, refuse what cannot work, and plan the race where one was asked for."""
    require_ranges(sft_config(plan, output, {**default_length(plan), **plan.training}))
    tokenizer = load_tokenizer(plan.model)
    material = gather(plan, tokenizer)
    weighings, course, final_decay = weighings_of(plan), None, 0.0
    if plan.weighing == AUTO and material.validation is None:
        samples = len(material.train)
        note = (
            f"a race needs at least {FEWEST_SAMPLES} samples, so that a part to judge by can be set aside, and there are {samples}: "
            "plain fine-tuning is run."
        )
        logger.warning("%s", note)
        material = replace(material, notes=(*material.notes, note))
    elif plan.weighing == AUTO:
        if "lr_scheduler_type" in training_said(plan):
            raise UserError(
                "a race needs a schedule of its own, which branches: leave lr_scheduler_type out, or name one --weighing."
            )
        plain = Bench(plan, output, tokenizer, material, {CONTROL: weighings[CONTROL]}, report)
        reference_steps = 0.0
        if material.trusted is not None and plan.reference is None:
            reference_steps = plain.training_cost(material.trusted) / plain.costs[CONTROL] * plain.steps
        length = Length(plain.steps, plain.epochs)
        course, racing = planned_course(
            plan, material, length, reference_steps, _options(plan), splits_weights(plain.args)
        )
        weighings, final_decay = {**racing, **weighings}, FINAL_DECAY
        require_apart(weighings)
    if any(map(needs_reference, weighings.values())):
        if material.trusted is None and plan.reference is None:
            raise UserError(
                "a weighing compares with a reference model: give --trusted a file of clean samples, or --reference a model."
            )
        if plan.reference is not None:
            require_same_tokenizer(
                tokenizer, load_tokenizer(plan.reference), f"the reference {plan.reference}"
            )
    bench = Bench(plan, output, tokenizer, material, weighings, report, final_decay)
    bench.stages = Stages(report, _costs(bench, course))
    for weighing in weighings.values():
        refuse_arguments(weighing, {"args": bench.args})
    return bench, course


def _costs(bench: Bench, course: Course | None) -> list[float]:
    """The costs of all stages: of the entries of a race, one is trained to its end."""
    control, *others = bench.weighings
    if course is None:
        return [*bench.costs.values(), seeds_cost(bench, control, others[0]) if others else 0.0]
    measuring = (": held-out loss", ": answers")
    in_race = {f"{entry.name}{part}" for entry in course.entries for part in ("", *measuring)}
    beside = [cost for name, cost in bench.costs.items() if name not in in_race]
    of_one = [bench.costs[f"{control}{part}"] for part in measuring if course.entries]
    return [*beside, race_cost(bench, course), *of_one, seeds_cost(bench, control, control)]


def _prepare(bench: Bench, course: Course | None) -> None:
    """Rehearse a new run and say what it will be."""
    bench.rehearse()
    _say_what_is_few(bench)
    if course:
        logger.info("%s", price_in_words(course))
        if not bench.material.validation_is_trusted:
            logger.warning(
                "the race is judged on %d samples of the data, as noisy as what is trained on, by a trimmed mean: --trusted samples "
                "judge better.",
                len(bench.material.validation or []),
            )
    logger.info("%s", in_words(forecast(bench, course)))


def _say_what_is_few(bench: Bench) -> None:
    """Say before the run what the amount of data means for it."""
    samples, held_out = len(bench.material.train), len(bench.material.held_out)
    given = {**default_length(bench.plan), **bench.plan.training}
    fitted = length_in_words(bench.length, given, samples)
    if fitted:
        logger.info("%s: %d optimisation steps (--set says otherwise).", fitted, bench.steps)
    if bench.steps < FEW_STEPS:
        logger.warning(
            "few optimisation steps (%d): to learn more, raise num_train_epochs or lower gradient_accumulation_steps (--set).",
            bench.steps,
        )
    elif bench.args.get_warmup_steps(bench.steps) >= bench.steps:
        logger.warning("all %d optimisation steps are warm-up: lower warmup_steps (--set).", bench.steps)
    if held_out < FEWEST_ITEMS:
        logger.warning(
            "%d held-out samples are too few to tell a difference: bring at least %d with --held-out, or give more data.",
            held_out,
            FEWEST_ITEMS,
        )


def _carry_out(bench: Bench, course: Course | None) -> Comparison:
    untrained = bench.untrained()
    bench.train_reference()
    race = run_race(bench, course) if course else None
    names = list(bench.weighings)
    if race:
        left = [race.final.name] if race.final else []
        names = [*dict.fromkeys([race.control, *left, *weighings_of(bench.plan)])]
    runs: list[Run] = []
    measured: dict[str, HeldOut] = {}
    for name in names:
        run, measured[name] = bench.run(name)
        if runs:
            paired = paired_difference(measured[name], measured[names[0]], to=names[0])
            run = run.model_copy(update={"paired": paired})
        runs.append(run)
    seeds, notes = None, list(bench.material.notes)
    if bench.plan.seeds > 1:
        other = challenger(bench.plan, race, names)
        seeds = run_seeds(bench, names[0], other, measured) if other else None
        notes += [] if other else [_no_seeds(bench.plan.seeds, names[0])]
    return Comparison(
        model=bench.plan.model,
        data=bench.plan.data,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        untrained_nll=untrained.nll_per_token,
        notes=notes,
        settings={**bench.plan.settings, "training": bench.length},
        environment=environment(bench.args.device, "trl", "peft", "datasets"),
        runs=runs,
        race=race,
        seeds=seeds,
    )


def challenger(plan: Plan, race: Race | None, names: Sequence[str]) -> str | None:
    """The weighing that is compared with the control under several seeds: the winner, the runner-up of plain fine-tuning, or the one asked for."""
    if race and race.winner == race.control:
        return race.final.name if race.final else None
    found = race.winner if race else plan.weighing.replace(":", " ")
    return found if found in names[1:] else None


def _no_seeds(seeds: int, control: str) -> str:
    note = f"--seeds {seeds} trained nothing further: no weighing is left to compare {control} with."
    logger.warning("%s", note)
    return note
