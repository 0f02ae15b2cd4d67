"""The one exception for what a user can put right: a sentence that says what was given, what is allowed, what to do."""

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in what the user gave; its message is one clear sentence, shown without a stack trace."""


def require_share(share: float, name: str = "share", nothing: str = "") -> None:
    """Raise `UserError` unless `share` is a fraction in (0, 1]; `nothing` says why it may not be 0."""
    if not 0.0 < share <= 1.0:
        raise UserError(f"{name} must be in (0, 1], got {share}: {nothing}use {name}=1.0 for all.")


def require_fraction(value: float | int, name: str) -> None:
    """Raise `UserError` unless `value` is in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} must be in [0, 1], got {value}.")


def require_at_least(least: float | int, **values: float | int | None) -> None:
    """Raise `UserError` unless every named value is at least `least`; None is left open and passes."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise UserError(f"{name} must be at least {least}, got {value}.")


def require_above_zero(**values: float | int | None) -> None:
    """Raise `UserError` unless every named value is above 0; None is left open and passes."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UserError(f"{name} must be above 0, got {value}.")


def require_one_of(given: str, allowed: Sequence[str], name: str) -> None:
    """Raise `UserError` unless `given` is one of the allowed words."""
    if given not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}, got {given!r}.")
