"""A race of weighings as arithmetic: how long each is trained, which ones stay, and the price. Nothing here trains.

Successive halving under a schedule that branches. All entries begin as the control, plain fine-tuning, and leave its trunk at step
`begins`; they are trained at a constant rate. At every rung each entry is judged after a short decay of its own, and those that stay
continue from before that decay:

    step     0 ─────────── 33 ── 36 ────── 44 ────────── … ────────── 66 ──╲ 99
    trunk    the control    │ each by its own weighing: the winner, and the control
    decays                        ╲ 37       ╲ 47                         final decay

The part that all have in common is trained once. The price is the sum of all training and judging, in steps of the control, over the
steps of one plain run. Training to every rung costs the same: the fewer are left, the farther they go before they are judged again. The
rungs stand as far from each other as a price of at most `LIMIT` allows, whoever stays:

    price = (Σ ahead + Σ steps trained · step_cost + Σ judging) / steps
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tokenry.core.errors import UserError
from tokenry.core.stats import FEWEST_ITEMS, Estimate, estimate_of_trimmed_mean, ratio_estimate

LIMIT = 2.5
FINAL_DECAY = 1 / 3
"""Share of a full run over which its rate falls to zero."""
_DECAY = 1 / 4
"""Steps of the decay before a judgement, as a share of the steps since the last one."""
_NEAREST = 1 / 40
"""Least training between two judgements, as a share of a full run and at least two steps: below it an entry is left out instead."""
_TRIMMED = 0.2


@dataclass(frozen=True)
class Entrant:
    """A weighing in a race.

    Attributes:
        step_cost: cost of a step, in steps of the control.
        ahead: work before its first step, such as a pass of another model over the data, and its cost in steps of the
            control; done once for all entries that need it.
        begins: the step before which it learns from all tokens, as the control does.
        always: whether it is the last to be left out, such as the random control.
    """

    name: str
    step_cost: float | int = 1.0
    ahead: Mapping[str, float | int] = field(default_factory=dict)
    begins: int = 0
    always: bool = False


@dataclass(frozen=True)
class Rung:
    """One judgement: of the entries that began at step `since` or before, at most `seats` stay, beside the control."""

    step: int
    decay: int
    seats: int
    since: int


@dataclass(frozen=True)
class Course:
    """A race that was planned.

    Attributes:
        control: plain fine-tuning, which is never dropped.
        entries: all others.
        steps: optimisation steps of a full run.
        rungs: the judgements, in order.
        price: highest price of the whole race, in plain runs.
        left_out: names of the entries that do not run.
        judging: cost of one judgement of one entry, in steps of the control.
        reasons: why entries were left out, by name.
    """

    control: Entrant
    entries: tuple[Entrant, ...]
    steps: int
    rungs: tuple[Rung, ...]
    price: float
    left_out: tuple[str, ...] = ()
    judging: float | int = 0.0
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def ahead(self) -> float:
        """The part of the price, in plain runs, for passes of other models over the data and what these are trained."""
        paid = {what: cost for entry in self.entries for what, cost in entry.ahead.items()}
        return sum(paid.values()) / self.steps

    def racing(self, rung: Rung, standing: Sequence[str]) -> list[str]:
        """Those that are judged at a rung: the control, and who stands and has begun."""
        begun = [
            entry.name for entry in self.entries if entry.begins <= rung.since and entry.name in standing
        ]
        return [self.control.name, *begun]


def plan_course(
    control: Entrant,
    entries: Sequence[Entrant],
    steps: int,
    judging: float | int = 0.0,
    limit: float | int = LIMIT,
) -> Course:
    """Plan the longest race that its price allows; of too many entries the least promising are left out.

    Args:
        control: plain fine-tuning.
        entries: the others, the most promising first.
        steps: optimisation steps of a full run.
        judging: cost of one judgement of one entry, in steps of the control.
        limit: highest price, in plain runs.
    """
    running, left_out = list[Entrant](), list[str]()
    for entry in entries:
        fits = _longest(control, [entry], steps, judging, limit)
        running += [entry] if fits else []
        left_out += [] if fits else [entry.name]
    while running:
        if course := _longest(control, running, steps, judging, limit):
            return Course(control, tuple(running), steps, *course, tuple(left_out), judging)
        last = next((entry for entry in reversed(running) if not entry.always), running[-1])
        running.remove(last)
        left_out.append(last.name)
    return Course(control, (), steps, (), 1.0, tuple(left_out), judging)


def _longest(
    control: Entrant, entries: Sequence[Entrant], steps: int, judging: float | int, limit: float | int
) -> tuple[tuple[Rung, ...], float] | None:
    """The rungs farthest apart that the limit allows, and their price; None where even the nearest ones cost too much."""

    def price(spent: int) -> float:
        rungs = _rungs(entries, spent)
        if rungs and rungs[-1].step + rungs[-1].decay > (1 - FINAL_DECAY) * steps:
            return math.inf
        return _price(control, entries, steps, rungs, judging)

    least = max(2, int(_NEAREST * steps)) * len(entries)
    if price(least) > limit:
        return None
    most = max(least, math.ceil(limit * steps))
    spent = least + bisect_right(range(least, most), limit, key=price) - 1 if most > least else least
    return _rungs(entries, spent), price(spent)


def _rungs(entries: Sequence[Entrant], spent: int) -> tuple[Rung, ...]:
    """Rungs after every step at which entries begin, of whom at each one half stays until one is left.

    Args:
        entries: all but the control.
        spent: steps that all entries of a rung together are trained before it.
    """
    rungs: list[Rung] = []
    competing = 0
    for begins in sorted({entry.begins for entry in entries}):
        competing = min(competing, 1) + sum(entry.begins == begins for entry in entries)
        step = begins
        while competing > 1:
            apart = spent // competing
            competing //= 2
            step += apart
            rungs.append(Rung(step, max(1, round(_DECAY * apart)), competing, since=begins))
    return tuple(sorted(rungs, key=lambda rung: rung.step))


def _price(
    control: Entrant, entries: Sequence[Entrant], steps: int, rungs: Sequence[Rung], judging: float | int
) -> float:
    """What the race costs at most: those that stay are taken to be as costly as the costliest."""
    shared = {what: cost for entry in (control, *entries) for what, cost in entry.ahead.items()}
    spent = steps * control.step_cost + judging + sum(shared.values())
    costliest = max(entry.step_cost for entry in entries)
    staying, before, since = 0, 0, -1
    for rung in rungs:
        new = [entry for entry in entries if since < entry.begins <= rung.since]
        spent += sum((rung.step - entry.begins) * entry.step_cost for entry in new)
        spent += staying * (rung.step - before) * costliest
        spent += rung.decay * (
            control.step_cost + staying * costliest + sum(entry.step_cost for entry in new)
        )
        spent += judging * (1 + staying + len(new))
        staying, before, since = min(rung.seats, staying + len(new)), rung.step, rung.since
    if not rungs:
        return float(spent + (steps - entries[0].begins) * costliest + judging) / steps
    return float(spent + (steps - before) * costliest + judging) / steps


@dataclass(frozen=True)
class Judged:
    """One entry at a rung.

    Attributes:
        mean: difference of its NLL per token from the leader's, paired item by item; negative is lower.
        trimmed: the same without the fifth of the items that differ most in either direction.
        out: reason for leaving: `worse` (its interval lies above the leader), `no seat` (undecided, and the price has no room), or empty.
    """

    name: str
    mean: Estimate
    trimmed: Estimate
    out: str = ""


@dataclass(frozen=True)
class Verdict:
    """A rung judged.

    Attributes:
        leader: the entry with the lowest NLL, by the trimmed mean where that decides.
        disagreeing: the leader by the plain mean, if the trimmed mean decides and another entry leads by it.
        judged: every entry, the best first.
    """

    leader: str
    disagreeing: str
    judged: tuple[Judged, ...]

    @property
    def staying(self) -> list[str]:
        """The names of those that stay."""
        return [entry.name for entry in self.judged if not entry.out]


Measured = Mapping[str, tuple[Float[ndarray, "items"], Int[ndarray, "items"]]]
"""Summed NLL and number of tokens of every item, by the name of the entry."""


def judge(measured: Measured, control: str, seats: int, robust: bool) -> Verdict:
    """Decide who stays, by intervals of paired differences to the leader; the order of the entries does not matter.

    An entry goes if its 95 % interval lies above the leader. Where more are left than there are seats, those go that could least be
    the best: with the highest lower end of the interval. The control always stays, and takes no seat.

    Args:
        measured: measurements on the validation items.
        control: name of plain fine-tuning.
        seats: number of entries that may stay beside it.
        robust: decide by the trimmed mean, since the items are as noisy as the training data.
    """
    leaders = {
        kind: min(measured, key=lambda name: (_level(measured, name, kind), name)) for kind in (False, True)
    }
    leader = leaders[robust]
    rows = [Judged(name, *differences(measured, name, leader)) for name in measured]
    decisive = {row.name: row.trimmed if robust else row.mean for row in rows}

    def could_be_best(row: Judged) -> tuple[float | int, float | int, str]:
        found = decisive[row.name]
        return (found.low if row.name != leader else -math.inf, found.value, row.name)

    judged, taken = [], 0
    for row in sorted(rows, key=could_be_best):
        found = decisive[row.name]
        out = ""
        if row.name != control:
            if row.name != leader and found.samples >= FEWEST_ITEMS and found.low > 0:
                out = "worse"
            elif taken == seats:
                out = "no seat"
            else:
                taken += 1
        judged.append(Judged(row.name, row.mean, row.trimmed, out))
    plain = leaders[False]
    return Verdict(leader, plain if robust and plain != leader else "", tuple(judged))


def differences(measured: Measured, name: str, to: str) -> tuple[Estimate, Estimate]:
    """The paired difference of NLL per token to another entry: of all tokens, and the trimmed mean of the items'."""
    (nll, tokens), (other, others) = measured[name], measured[to]
    if not np.array_equal(tokens, others):
        raise UserError(
            f"{name} and {to} were not measured on the same validation items: measure both again."
        )
    counted = tokens > 0
    per_item = (nll - other)[counted] / tokens[counted]
    return ratio_estimate(nll - other, tokens), estimate_of_trimmed_mean(per_item, _TRIMMED)


def items_needed(difference: Estimate) -> int | None:
    """The number of validation items with which a difference of this size would be told; None where it is zero."""
    if not difference.value or not difference.standard_error > 0:
        return None
    ratio = 1.96 * difference.standard_error / abs(difference.value)
    return math.ceil(difference.samples * ratio**2)


def _level(measured: Measured, name: str, robust: bool) -> float:
    nll, tokens = measured[name]
    if not robust:
        return float(nll.sum() / tokens.sum())
    counted = tokens > 0
    return float(estimate_of_trimmed_mean(nll[counted] / tokens[counted], _TRIMMED).value)
