"""The outcome of a reduction in words: what it saves, whether it pays in time here, and if not, why.

A setting pays when the lower quartile of its speed-up is above 1, and does not when the upper one is not.
"""

from collections.abc import Sequence

from tokenry.core.stats import Estimate
from tokenry.verbs.compress._vision.records import Reduced, Spread, Unpatched

_FEW_FLOPS = 0.10
_MUCH_TIME = 0.15
_MORE_MEMORY = 1.1
_NOISY = 1.25
AGREES = 0.95
"""A setting with at least this agreement changes little."""


def finding(setting: Reduced, unpatched: Unpatched, batch_size: int, agreement_of: str) -> str:
    """What one setting saves, whether it pays, and what it does to the answers, in words."""
    return "; ".join(filter(None, (_pays(setting, unpatched, batch_size), _outcome(setting, agreement_of))))


def _pays(setting: Reduced, unpatched: Unpatched, batch_size: int) -> str:
    saved = 1 - setting.flops / unpatched.flops
    memory = setting.speed.peak_memory_mb / unpatched.speed.peak_memory_mb
    saves, times = f"saves {saved:.0%} of the FLOPs", _times(setting.speedup)
    more = f", with {memory - 1:.0%} more memory" if memory > _MORE_MEMORY else ""
    if setting.speedup.lower > 1:
        return f"{saves} and runs {times}{more}"
    if saved < _FEW_FLOPS:
        why = "so few FLOPs are saved that there is little to gain"
    elif setting.reduction_share >= _MUCH_TIME:
        why = f"choosing and merging tokens takes {setting.reduction_share:.0%} of its time"
    else:
        why = (
            f"at batch size {batch_size} the time of this model does not follow its FLOPs: try a larger batch"
        )
    if setting.speedup.upper <= 1:
        return f"does not pay here: it {saves}, but runs {times}{more}; {why}"
    return f"{saves}, but no speed-up is measurable: {times}{more}; {why}"


def _outcome(setting: Reduced, agreement_of: str) -> str:
    """What a setting does to the answers; empty where there are too few images to say."""
    if setting.agreement is None:
        return ""
    if agreement_of == "top-1":
        agreement = f"same class on {setting.agreement.value:.1%} of the images"
    else:
        agreement = f"cosine to the unpatched features {setting.agreement.value:.3f}"
    return agreement + _accuracy(setting.accuracy_change)


def sweep_findings(results: Sequence[Reduced], dense: int, agreement_of: str) -> list[tuple[str, str]]:
    """How far each method can go before it changes what the model says, in words."""
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
    times = f"{speedup.median:.2f}× as fast"
    if speedup.upper <= _NOISY * speedup.lower:
        return times
    return f"{times} ({speedup.lower:.2f} to {speedup.upper:.2f}: the machine was busy with other work)"


def _accuracy(change: Estimate | None) -> str:
    if change is None:
        return ""
    return f", accuracy {100 * change.value:+.1f} ± {100 * change.standard_error:.1f} points".replace(
        "-", "−"
    )
