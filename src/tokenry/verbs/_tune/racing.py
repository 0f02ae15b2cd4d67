"""A race in progress: the entries that `course` planned are trained on a `Bench`, judged on the validation part, and recorded.

All measurements lie in the runs' folders, so an interrupted race makes the same decisions again without training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tokenry.core.errors import UserError
from tokenry.core.stats import FEWEST_ITEMS
from tokenry.evaluation import HeldOut
from tokenry.finetuning import AllTokens, TokenWeighing
from tokenry.report.writing import plural
from tokenry.verbs._tune.bench import Bench
from tokenry.verbs._tune.candidates import (
    CONTROL,
    REFERENCE_TRAINED,
    Length,
    by_promise,
    default_candidates,
    make_entry,
)
from tokenry.verbs._tune.course import (
    Course,
    Entrant,
    Judged,
    Measured,
    Verdict,
    differences,
    judge,
    plan_course,
)
from tokenry.verbs._tune.legs import Leg
from tokenry.verbs._tune.material import Material
from tokenry.verbs._tune.records import Heat, Judgement, Race
from tokenry.verbs.tune import Plan


def planned_course(
    plan: Plan,
    material: Material,
    length: Length,
    reference_steps: float,
    options: Mapping[str, float],
    splits_weights: bool = False,
) -> tuple[Course, dict[str, TokenWeighing]]:
    """Choose who runs and for how long, by the data and the price.

    Args:
        plan: the plan; it may name the candidates.
        material: the data; it may hold trusted samples.
        length: length of a full run.
        reference_steps: cost of training the reference model, in steps of the control.
        options: options such as `share`, for candidates that do not set their own.
        splits_weights: whether no process has the whole weights while it trains.
    """
    with_reference = material.trusted is not None or plan.reference is not None
    named = plan.settings["candidates"]
    descriptions = (
        by_promise(name for name in named if name != CONTROL)
        if named
        else default_candidates(length, with_reference, plan.lora is not None)
    )
    made = [make_entry(description, length, reference_steps, **options) for description in descriptions]
    unfit = {
        entry.name: reason
        for entry, weighing in made
        if (reason := _unfit(weighing, with_reference, splits_weights))
    }
    usable = [(entry, weighing) for entry, weighing in made if entry.name not in unfit]
    if not usable:
        raise UserError(f"{', '.join(descriptions)} cannot race: {'; '.join(dict.fromkeys(unfit.values()))}.")
    assert material.validation is not None
    per_step = sum(map(len, material.train["input_ids"])) * length.epochs / length.steps
    judging = 0.4 * sum(map(len, material.validation["input_ids"])) / per_step
    course = plan_course(Entrant(CONTROL), [entry for entry, _ in usable], length.steps, judging)
    running = {entry.name for entry in course.entries}
    reasons = {entry.name: _too_expensive(entry, length) for entry, _ in usable if entry.name not in running}
    weighings = {CONTROL: AllTokens()} | {
        entry.name: weighing for entry, weighing in usable if entry.name in running
    }
    return replace(course, left_out=(*course.left_out, *unfit), reasons=reasons | unfit), weighings


def _unfit(weighing: TokenWeighing, with_reference: bool, splits_weights: bool) -> str:
    """Why a weighing cannot run at all; empty where it can."""
    if "reference_nll" in weighing.needs and weighing.reference_model is None and not with_reference:
        return "there is no reference model to compare with: give --trusted a file of clean samples, or --reference a model"
    if "out_of_fold_nll" in weighing.needs and splits_weights:
        return "it trains the model on each fold and takes it back, which FSDP and DeepSpeed do not allow"
    return ""


def _too_expensive(entry: Entrant, length: Length) -> str:
    ahead = sum(entry.ahead.values()) / length.steps
    return "no room in the price" + (f": {ahead:.2f} of a plain run before the first step" if ahead else "")


def _with_reasons(reasons: Mapping[str, str]) -> str:
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(same)} ({reason})" for reason, same in names.items())


def price_in_words(course: Course) -> str:
    """What a race will cost, before it starts."""
    judged = ""
    if course.rungs:
        rungs = " and ".join(str(rung.step) for rung in course.rungs)
        own = " and ".join(str(rung.step - rung.since) for rung in course.rungs)
        judged = f", judged at step {rungs} of {course.steps}, after {own} steps of their own"
    ahead = f", {course.ahead:.2f} of it for passes of other models over the data" if course.ahead else ""
    left_out = f"; left out: {_with_reasons(course.reasons)}" if course.reasons else ""
    return f"a race of {plural(len(course.entries) + 1, 'weighing')}{judged}: it costs at most {course.price:.2f} times one plain run{ahead}{left_out}."


class _RaceCosts:
    """What a race has cost so far, in steps of the control; a pass that several entries need is paid once."""

    def __init__(self, course: Course) -> None:
        self._entries = {entry.name: entry for entry in (course.control, *course.entries)}
        self._reached = {name: entry.begins for name, entry in self._entries.items()}
        self._paid = {REFERENCE_TRAINED}
        self.spent = max((entry.ahead.get(REFERENCE_TRAINED, 0.0) for entry in course.entries), default=0.0)

    def train(self, name: str, step: int, judged: float = 0.0) -> float:
        """Enter the training of an entry up to a step, with what it needs ahead and what judges it; returns the cost."""
        entry = self._entries[name]
        ahead = sum(cost for what, cost in entry.ahead.items() if what not in self._paid)
        self._paid |= entry.ahead.keys()
        cost = ahead + max(0, step - self._reached[name]) * entry.step_cost + judged
        self._reached[name] = max(step, self._reached[name])
        self.spent += cost
        return cost


def race_cost(bench: Bench, course: Course) -> float:
    """What the race costs beyond the control and the reference model, by the count of the stages of a bench."""
    a_run = bench.costs[course.control.name]
    reference = max((entry.ahead.get(REFERENCE_TRAINED, 0.0) for entry in course.entries), default=0.0)
    return a_run * (course.price - 1 - reference / course.steps)


def run_race(bench: Bench, course: Course) -> Race:
    """Run the rungs, and then the winner and the control to their end; the better one on the validation part has won."""
    robust = not bench.material.validation_is_trusted
    control, standing = course.control.name, [entry.name for entry in course.entries]
    account = _RaceCosts(course)
    per_step = bench.costs[control] / course.steps
    branched: set[str] = set()
    heats: list[Heat] = []
    costs = {entry.name: entry.step_cost for entry in (course.control, *course.entries)}
    for rung in course.rungs:
        leg, measured = Leg(rung.step, rung.decay), dict[str, HeldOut]()
        racing = course.racing(rung, standing)
        _branch(bench, course, [name for name in racing if name not in branched], account)
        branched |= set(racing)
        for name in racing:
            cost = account.train(name, rung.step, rung.decay * costs[name] + course.judging)
            bench.stages.begin(f"race to step {rung.step}: {name}", per_step * cost)
            measured[name] = bench.advance(name, leg)
        verdict = judge(_numbers(measured), control, rung.seats, robust)
        heats.append(_heat(leg, verdict, measured))
        for row in verdict.judged:
            if row.out:
                standing.remove(row.name)
                bench.forget(row.name)
    _branch(bench, course, [name for name in standing if name not in branched], account)
    for name in (control, *standing):
        bench.run(name)
        account.train(name, course.steps, course.judging)
    winner, final = _finish(bench, control, standing, robust)
    assert bench.material.validation is not None
    return Race(
        entries={name: weighing.describe() for name, weighing in bench.weighings.items() if name in costs},
        left_out=list(course.left_out),
        reasons=dict(course.reasons),
        begins=max((entry.begins for entry in course.entries), default=0),
        validation=len(bench.material.validation),
        robust=robust,
        price=course.price,
        ahead=course.ahead,
        trusted=dict(bench.material.split),
        spent=account.spent / course.steps,
        heats=heats,
        winner=winner,
        control=control,
        final=final,
    )


def _branch(bench: Bench, course: Course, names: Sequence[str], account: _RaceCosts) -> None:
    """Take the control to where entries begin to differ from it, and let them begin there."""
    begins, control = {entry.name: entry.begins for entry in course.entries}, course.control.name
    per_step = bench.costs[control] / course.steps
    for name in sorted(names, key=lambda name: begins.get(name, 0)):
        if step := begins.get(name, 0):
            bench.stages.begin(f"race to step {step}: {control}", per_step * account.train(control, step))
            bench.branch(name, control, step)


def _finish(
    bench: Bench, control: str, standing: Sequence[str], robust: bool
) -> tuple[str, Judgement | None]:
    """The winner: the one that is left if its interval lies below the control, else the control."""
    if not standing:
        return control, None
    (challenger,) = standing
    validated = {name: bench.validation_of(name) for name in (control, challenger)}
    mean, trimmed = differences(_numbers(validated), challenger, control)
    decisive = trimmed if robust else mean
    better = decisive.samples >= FEWEST_ITEMS and decisive.high < 0
    row = _judgement(Judged(challenger, mean, trimmed), validated[challenger])
    return (challenger if better else control), row


def _numbers(measured: Mapping[str, HeldOut]) -> Measured:
    return {name: (found.nll, found.tokens) for name, found in measured.items()}


def _heat(leg: Leg, verdict: Verdict, measured: Mapping[str, HeldOut]) -> Heat:
    return Heat(
        step=leg.step,
        decay=leg.decay,
        leader=verdict.leader,
        disagreeing=verdict.disagreeing,
        judged=[_judgement(row, measured[row.name]) for row in verdict.judged],
    )


def _judgement(row: Judged, found: HeldOut) -> Judgement:
    nll = found.nll_per_token
    return Judgement.model_validate(
        {"name": row.name, "nll": nll, "mean": row.mean, "trimmed": row.trimmed, "out": row.out}
    )
