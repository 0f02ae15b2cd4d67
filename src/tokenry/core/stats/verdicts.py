"""What a measurement shows: the one test that claims, findings and reports are judged by.

    shown       the 95 % interval of the difference lies above `least`
    opposite    it lies below 0 and below `least`: the claim is shown the other way round
    too few     fewer than 8 items, or 2 seeds where seeds are the units
    not shown   anything else

Intervals are Student's t on paired differences, or the percentiles of a bootstrap. Counts of wins and losses have an exact test of
their own. An identity, an exact count or a closed form has no error and is judged directly.
"""

from collections.abc import Iterable
from typing import Literal

from tokenry.core.stats.estimate import Estimate
from tokenry.core.stats.paired_tests import mcnemar_p

Verdict = Literal["shown", "not shown", "opposite", "too few"]

VERDICTS: tuple[Verdict, ...] = ("shown", "not shown", "opposite", "too few")
FEWEST_ITEMS, FEWEST_SEEDS = 8, 2
LEVEL = 0.05


def shown(difference: Estimate, least: float | int = 0.0, fewest: int = FEWEST_ITEMS) -> Verdict:
    """Judge the claim that a difference is above `least`.

    Args:
        difference: in the direction of the claim: positive where the claim holds.
        least: what the claim asks for; below 0 for a claim of being at most that much worse.
        fewest: units below which nothing is said; `FEWEST_SEEDS` where the units are seeds.
    """
    if difference.samples < fewest:
        return "too few"
    if difference.low > least:
        return "shown"
    return "opposite" if difference.high < min(least, 0.0) else "not shown"


def absent(difference: Estimate, margin: float | int, fewest: int = FEWEST_ITEMS) -> Verdict:
    """Judge the claim that there is no effect: shown only if the whole interval lies within ± `margin`, opposite if it leaves out 0."""
    if difference.samples < fewest:
        return "too few"
    if -margin < difference.low and difference.high < margin:
        return "shown"
    return "opposite" if difference.low > 0 or difference.high < 0 else "not shown"


def more_often(won: int, lost: int, items: int, fewest: int = FEWEST_ITEMS) -> Verdict:
    """Judge the claim of being right more often on the same items, by an exact two-sided sign test (McNemar) of wins against losses.

    Args:
        won: items that only we have right.
        lost: items that only the control has right.
        items: all of them, with those on which both agree.
        fewest: items below which nothing is said.
    """
    if items < fewest:
        return "too few"
    if mcnemar_p(won, lost) >= LEVEL:
        return "not shown"
    return "shown" if won > lost else "opposite"


def exactly(holds: bool) -> Verdict:
    """Judge what has no error: an identity, an exact count, a closed form."""
    return "shown" if holds else "not shown"


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Judge a claim of several parts: shown if every part is; opposite if every part is; too few if any part is."""
    found = set(verdicts)
    if "too few" in found:
        return "too few"
    return found.pop() if len(found) == 1 else "not shown"
