"""What a reduction brought, in words: what it saves, whether it pays in time here, and why not where it does not.

A setting pays when the lower quartile of its speed-up is above 1, and does not when the upper one is not.
"""

from collections.abc import Sequence

from tokenry.core.stats import Estimate
from tokenry.verbs.compress._vision.records import Reduced, Spread

_FEW_FLOPS = 0.10
_MUCH_TIME = 0.15
_MORE_MEMORY = 1.1
_NOISY = 1.25
AGREES = 0.95
"""From this agreement on, a setting changes little."""


def finding(
    *,
    share: float,
    speedup: Spread,
    reduction_share: float,
    memory: float,
    batch_size: int,
    outcome: str,
) -> str:
    """Say what one setting saves, whether it pays, and what it does to the answers.

    Args:
        share: of the dense FLOPs.
        speedup: of the rounds, wall time.
        reduction_share: part of the patched model's time that goes into the reduction itself.
        memory: peak memory over that of the unpatched model.
        batch_size: of the timed forward.
        outcome: from `outcome`.
    """
    return "; ".join(filter(None, (_pays(share, speedup, reduction_share, memory, batch_size), outcome)))


def outcome(agreement: Estimate | None, accuracy_change: Estimate | None, agreement_of: str) -> str:
    """Say what a setting does to the answers; nothing where there are too few images to tell."""
    if agreement is None:
        return ""
    if agreement_of == "top-1":
        said = f"same class on {agreement.value:.1%} of the images"
    else:
        said = f"cosine to the unpatched features {agreement.value:.3f}"
    return said + _accuracy(accuracy_change)


def _pays(share: float, speedup: Spread, reduction_share: float, memory: float, batch_size: int) -> str:
    saves = f"saves {1 - share:.0%} of the FLOPs"
    more = f", with {memory - 1:.0%} more memory" if memory > _MORE_MEMORY else ""
    times = _times(speedup)
    if speedup.lower > 1:
        return f"{saves} and runs {times}{more}"
    why = _why(share, reduction_share, batch_size)
    if speedup.upper <= 1:
        return f"does not pay here: it {saves}, but runs {times}{more}; {why}"
    return f"{saves}, but no speed-up is measurable: {times}{more}; {why}"


def _why(share: float, reduction_share: float, batch_size: int) -> str:
    if 1 - share < _FEW_FLOPS:
        return "so few FLOPs are saved that there is little to gain"
    if reduction_share >= _MUCH_TIME:
        return f"choosing and merging tokens takes {reduction_share:.0%} of its time"
    return f"at batch size {batch_size} the time of this model does not follow its FLOPs: try a larger batch"


def sweep_findings(results: Sequence[Reduced], dense: int, agreement_of: str) -> list[tuple[str, str]]:
    """Say how far each method can go before it changes what the model says."""
    by_method: dict[str, list[Reduced]] = {}
    for setting in results:
        by_method.setdefault(setting.method, []).append(setting)
    return [(method, _how_far(settings, dense, agreement_of)) for method, settings in by_method.items()]


def _how_far(settings: Sequence[Reduced], dense: int, agreement_of: str) -> str:
    same = {
        "top-1": f"the same class on at least {AGREES:.0%} of the images",
        "features": f"a cosine of at least {AGREES} to the unpatched features",
    }[agreement_of]
    close = [setting for setting in settings if setting.agreement and setting.agreement.value >= AGREES]
    if not close:
        return f"does not keep {same} at any setting tried"
    best = min(close, key=lambda setting: setting.flops)
    pays = best.speedup.lower > 1
    faster = _times(best.speedup) if pays else "not measurably faster"
    return f"keeps {same} down to {best.flops / dense:.0%} of the FLOPs, {faster}{_accuracy(best.accuracy_change)}"


def _times(speedup: Spread) -> str:
    said = f"{speedup.median:.2f}× as fast"
    if speedup.upper <= _NOISY * speedup.lower:
        return said
    return f"{said} ({speedup.lower:.2f} to {speedup.upper:.2f}: the machine was busy with other work)"


def _accuracy(change: Estimate | None) -> str:
    if change is None:
        return ""
    return f", accuracy {100 * change.value:+.1f} ± {100 * change.standard_error:.1f} points".replace(
        "-", "−"
    )
