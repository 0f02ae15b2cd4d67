"""Train weighings side by side on the same model, data and seed, and measure what came of each on held-out data.

The first weighing is the control: every other run is compared with it, item by item. What is finished is kept, so an
interrupted comparison goes on where it stopped:

    OUTPUT/plan.json      what was asked
    OUTPUT/data.json      a fingerprint of the data it was asked for
    OUTPUT/...            what `tokenry.verbs._tune.bench` keeps of every run
    OUTPUT/result.json    everything (`Comparison`)
"""

import datetime
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json, write_json
from tokenry.core.io.progress import Progress
from tokenry.core.stats import FEWEST_ITEMS
from tokenry.evaluation import HeldOut, paired_difference
from tokenry.finetuning import TokenWeighing
from tokenry.finetuning.refusals import refuse_arguments
from tokenry.finetuning.weighing import make_weighing
from tokenry.models import load_tokenizer, require_same_tokenizer
from tokenry.models.quiet import quiet_libraries
from tokenry.verbs._environment import environment
from tokenry.verbs._tune.bench import Bench, Interrupted, folder_name, needs_reference, sft_config
from tokenry.verbs._tune.material import gather
from tokenry.verbs._tune.plan import default_length, stored_plan
from tokenry.verbs._tune.records import Comparison, Run, read_comparison
from tokenry.verbs._tune.training_length import FEW_STEPS, length_in_words, require_ranges
from tokenry.verbs.tune import Plan

logger = logging.getLogger(__name__)


@quiet_libraries()
def compare(plan: Plan, output: Path, report: Progress) -> Comparison:
    """Carry out a plan in `output`, or go on with it there; a finished one is read.

    Args:
        plan: what to do.
        output: folder of the results.
        report: is told what is being done, and the share that is done.

    Raises:
        UserError: something in the plan, the data or the model cannot work; said before training begins.
        Interrupted: the user stopped it; what was finished is kept.
    """
    weighings = weighings_of(plan)
    stored = output / "plan.json"
    if stored.exists() and stored_plan(stored).settings != plan.settings:
        raise UserError(f"{output} holds a run with other settings: choose another output.")
    result = output / "result.json"
    if result.exists():
        return read_comparison(read_json(result), str(result))
    bench = None
    try:
        with _alone_in(output):
            report("reading the model and the data", 0.0)
            bench = _prepare(plan, output, weighings, report)
            comparison = _carry_out(bench)
            write_json(result, comparison.model_dump(mode="json"))
    except KeyboardInterrupt as stop:
        what = bench.stages.what if bench else "reading the model and the data"
        where = str(stop) or f"stopped while doing this: {what}"
        kept = f"; what is finished is kept: go on with `tokenry tune --resume --output {shlex.quote(str(output))}`"
        raise Interrupted(f"{where}{kept if stored.exists() else ''}.") from stop
    report("done", 1.0)
    return comparison


def weighings_of(plan: Plan) -> dict[str, TokenWeighing]:
    """Make the weighings of a plan by name, the control first and the one asked for second."""
    descriptions = dict.fromkeys([*plan.controls[:1], plan.weighing, *plan.controls[1:]])
    asked = {"share": plan.share, "balance": plan.balance}
    asked = {option: value for option, value in asked.items() if value is not None}
    made: dict[str, TokenWeighing] = {}
    for description in descriptions:
        selects = make_weighing(description).share < 1
        made[description.replace(":", " ")] = make_weighing(description, **(asked if selects else {}))
    for option in asked:
        if not any(weighing.share < 1 and hasattr(weighing, option) for weighing in made.values()):
            raise UserError(f"{option} is set, but none of {', '.join(made)} has one: leave it out.")
    if len({folder_name(name) for name in made}) < len(made):
        raise UserError(f"{', '.join(made)} are too much alike to be kept apart: leave one of them out.")
    return made


def _prepare(plan: Plan, output: Path, weighings: dict[str, TokenWeighing], report: Progress) -> Bench:
    """Read everything and refuse what cannot work; only then is the output that of this plan."""
    require_ranges(sft_config(plan, output, {**default_length(plan), **plan.training}))
    tokenizer = load_tokenizer(plan.model)
    material = gather(plan, tokenizer)
    if any(map(needs_reference, weighings.values())) and material.trusted is None and plan.reference is None:
        raise UserError(
            "a weighing compares with a reference model: give --trusted a file of clean samples, or --reference a model."
        )
    if plan.reference is not None and any(map(needs_reference, weighings.values())):
        require_same_tokenizer(tokenizer, load_tokenizer(plan.reference), f"the reference {plan.reference}")
    bench = Bench(plan, output, tokenizer, material, weighings, report)
    for weighing in weighings.values():
        refuse_arguments(weighing, {"args": bench.args})
    data, stored = output / "data.json", output / "plan.json"
    if not stored.exists():
        bench.rehearse()
        _say_what_is_few(bench)
        write_json(data, {"fingerprint": material.fingerprint})
        write_json(stored, plan.settings)
    elif read_json(data) != {"fingerprint": material.fingerprint}:
        raise UserError(
            f"the data has changed since the run in {output} began: choose another --output for a new run."
        )
    return bench


def _say_what_is_few(bench: Bench) -> None:
    """Say before the run what the amount of data means for it."""
    samples, held_out = len(bench.material.train), len(bench.material.held_out)
    fitted = length_in_words(bench.length, default_length(bench.plan), samples)
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


def _carry_out(bench: Bench) -> Comparison:
    untrained = bench.untrained()
    bench.train_reference()
    runs: list[Run] = []
    control: HeldOut | None = None
    for name in bench.weighings:
        run, held_out = bench.run(name)
        if control is not None:
            run = run.model_copy(update={"paired": paired_difference(held_out, control, to=runs[0].name)})
        control = control or held_out
        runs.append(run)
    return Comparison(
        model=bench.plan.model,
        data=bench.plan.data,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        untrained_nll=untrained.nll_per_token,
        notes=list(bench.material.notes),
        settings={**bench.plan.settings, "training": bench.length},
        environment=environment(bench.args.device, "trl", "peft", "datasets"),
        runs=runs,
    )


@contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """Hold a lock on the folder, so that no second process works there; a killed one lets it go."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"another run is at work in {output}: wait for it, or choose another --output."
        ) from error
    except OSError as error:
        raise UserError(
            f"{output} cannot be a folder ({error.strerror}): choose another --output."
        ) from error
    try:
        yield
    finally:
        lock.release()
