"""Addition problems with exact numbers of digits, and their prompts.

A signature (l1, l2, l3) is the digits of both addends and of the sum. The shorter addend (the second where they are equal) is uniform,
then the sum is uniform, and the longer addend is their difference:

    short  ∈ [10^(l_short−1),                     min(10^l_short, 10^l3 − 10^(l_long−1)))
    sum    ∈ [max(10^(l3−1), short + 10^(l_long−1)),  min(10^l_long + short, 10^l3))
    long   = sum − short

Problems and shots depend on the seed alone, so that formats are compared on the same ones.

Source: Tokenization counts (arXiv 2402.14903) and its released code (`main.py`), which draws other random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.text.digit_groups import NumberFormat, number_format, require_digits

Signature: TypeAlias = tuple[int, int, int]
Message: TypeAlias = dict[str, str]

SIGNATURES: tuple[Signature, ...] = (
    (7, 7, 7), (7, 7, 8), (8, 7, 8), (7, 8, 8), (8, 7, 9), (7, 8, 9), (8, 8, 8), (8, 8, 9), (9, 7, 9), (7, 9, 9), (9, 8, 9), (8, 9, 9),
    (9, 9, 9),
)  # fmt: skip
"""The signatures of the paper's length study, in its order."""

SYSTEM_PROMPT = "You are a helpful assistant."

# Sums of addends of up to this length, and all numbers computed from them, fit into 64 bits.
LONGEST = 17


@dataclass(frozen=True)
class AdditionFormat:
    """Format of a problem and its answer.

    Attributes:
        question: format of the addends.
        answer: format of the sum; None for that of the addends.
        repeat: format in which the answer first repeats the question (`1,234+5,678=`); None for no repetition.
        spaces: number of spaces around `+` and before `=`.
        trailing_spaces: number of spaces after `=`; with `spaces`, the control for the extra tokens of separators.
        system: system message; None for none.
    """

    question: NumberFormat
    answer: NumberFormat | None = None
    repeat: NumberFormat | None = None
    spaces: int = 0
    trailing_spaces: int = 0
    system: str | None = SYSTEM_PROMPT

    def __post_init__(self) -> None:
        require_at_least(0, spaces=self.spaces, trailing_spaces=self.trailing_spaces)

    @property
    def answers(self) -> NumberFormat:
        """The format of the sum."""
        return self.answer or self.question

    def ask(self, first: Any, second: Any) -> str:
        """Write the question of two non-negative integers."""
        return format_addition(
            self.question.write(first), self.question.write(second), self.spaces, self.trailing_spaces
        )

    def reply(self, first: Any, second: Any) -> str:
        """Write the correct answer, as in the shots."""
        again = (
            format_addition(self.repeat.write(first), self.repeat.write(second), self.spaces)
            if self.repeat
            else ""
        )
        return again + self.answers.write(first + second)


@dataclass(frozen=True)
class AdditionProblems:
    """Problems with the shots of each.

    Attributes:
        problems: addends of each problem.
        shots: addends of solved problems of the same kind; the first shots do not depend on their number.
        signatures: digits of the addends and of the sum, for each problem.
    """

    problems: Int[np.ndarray, "problems 2"]
    shots: Int[np.ndarray, "problems shots 2"]
    signatures: tuple[Signature, ...]


def require_signature(signature: Sequence[int]) -> Signature:
    """Return the signature; raise `UserError` if no addition has it, or it is too long."""
    if len(signature) != 3:
        raise UserError(
            f"a signature is three lengths, of both addends and of their sum, got {_written(signature)}."
        )
    first, second, total = (int(length) for length in signature)
    longest = max(first, second)
    if min(first, second, total) < 1:
        raise UserError(f"the lengths of a signature must be at least 1, got {_written(signature)}.")
    if not longest <= total <= longest + 1:
        raise UserError(
            f"no addition has the signature {_written(signature)}: the sum has as many digits as the longer addend, or one more."
        )
    if longest > LONGEST:
        raise UserError(f"addends have at most {LONGEST} digits here, got {_written(signature)}.")
    return first, second, total


def sample_addition(lengths: Sequence[int], n: int, seed: int = 0) -> Int[np.ndarray, "n 2"]:
    """Draw `n` problems with exact lengths: digits of the first addend, of the second, and of the sum."""
    return _draw(require_signature(lengths), n, np.random.default_rng(seed))


def addition_pmf(lengths: Sequence[int], first: int, second: int) -> float:
    """The probability with which `sample_addition` draws a problem."""
    signature = require_signature(lengths)
    for addend in (first, second):
        require_digits(addend)
    short, long = (first, second) if _short(signature) == 0 else (second, first)
    low, high = _short_range(signature)
    if not low <= short < high:
        return 0.0
    least, end = (int(edge[0]) for edge in _sum_range(signature, np.array([short])))
    if not least <= short + long < end:
        return 0.0
    return 1.0 / ((high - low) * (end - least))


def sample_free_addition(n: int, lengths: Sequence[int] = (7, 8, 9), seed: int = 0) -> Int[np.ndarray, "n 2"]:
    """Draw problems as the paper's older experiments do: all pairs of addend lengths in turn, each addend uniform on its length."""
    return _draw_free(_pairs(lengths, n), np.random.default_rng(seed))


def sample_problems(
    signatures: Sequence[Sequence[int]], per_signature: int, shots: int, seed: int = 0
) -> AdditionProblems:
    """Draw problems of each signature, in turn, and for each of them shots of its signature.

    A shot that equals its problem is drawn again; otherwise all follow the law of `sample_addition`.

    Args:
        signatures: digits of the addends and of the sum, such as `SIGNATURES`.
        per_signature: number of problems of each signature.
        shots: number of solved problems before each problem.
        seed: random seed of problems and shots; each shot has its own stream.
    """
    kinds = [require_signature(signature) for signature in signatures]
    if not kinds:
        raise UserError("there is no signature: give at least one, such as (7, 7, 8).")
    require_at_least(1, per_signature=per_signature)
    require_at_least(0, shots=shots)
    columns: list[np.ndarray] = []
    for number in range(shots + 1):
        streams = [np.random.default_rng((seed, number, place)) for place in range(len(kinds))]
        drawn = [_draw(kind, per_signature, stream) for kind, stream in zip(kinds, streams, strict=True)]
        if columns:
            drawn = [
                _drawn_again(kind, shot, columns[0][place :: len(kinds)], stream)
                for place, (kind, shot, stream) in enumerate(zip(kinds, drawn, streams, strict=True))
            ]
        columns.append(np.stack(drawn, axis=1).reshape(-1, 2))
    return AdditionProblems(
        problems=columns[0],
        shots=np.stack(columns[1:], axis=1) if shots else np.empty((len(columns[0]), 0, 2), dtype=np.int64),
        signatures=tuple(islice(cycle(kinds), len(columns[0]))),
    )


def sample_free_problems(
    n: int, shots: int, lengths: Sequence[int] = (7, 8, 9), seed: int = 0
) -> AdditionProblems:
    """Draw problems as `sample_free_addition` does, with shots of the same addend lengths."""
    pairs = _pairs(lengths, n)
    columns = [_draw_free(pairs, np.random.default_rng((seed, number))) for number in range(shots + 1)]
    totals = [len(str(total)) for total in columns[0].sum(1)]
    return AdditionProblems(
        problems=columns[0],
        shots=np.stack(columns[1:], axis=1) if shots else np.empty((n, 0, 2), dtype=np.int64),
        signatures=tuple(
            (first, second, total) for (first, second), total in zip(pairs, totals, strict=True)
        ),
    )


def format_addition(
    first: str, second: str, spaces: int = 0, trailing_spaces: int = 0, equals: bool = True
) -> str:
    """Write an addition of two written numbers: `A+B=`, with spaces around `+`, before `=` and at the end."""
    space = " " * spaces
    return f"{first}{space}+{space}{second}{f'{space}=' if equals else ''}{' ' * trailing_spaces}"


def addition_prompt(
    problem: Sequence[Any] | Int[np.ndarray, "2"],
    shots: Sequence[Any] | Int[np.ndarray, "shots 2"] = (),
    fmt: str | AdditionFormat = "nosep",
    spaces: int | None = None,
) -> list[Message]:
    """Write a problem as a conversation: system message, shots as turns, the problem as the last question.

    Args:
        problem: two addends.
        shots: pairs of addends, solved before the problem.
        fmt: name of a number format, or all settings.
        spaces: number of spaces around `+` and before `=`; None for that of the format.
    """
    chosen = addition_format(fmt, spaces)
    messages = [] if chosen.system is None else [_said("system", chosen.system)]
    for first, second in shots:
        messages += [
            _said("user", chosen.ask(first, second)),
            _said("assistant", chosen.reply(first, second)),
        ]
    first, second = problem
    return [*messages, _said("user", chosen.ask(first, second))]


def addition_format(fmt: str | AdditionFormat, spaces: int | None = None) -> AdditionFormat:
    """The settings under a name: numbers in this format, everything else as in the paper."""
    chosen = fmt if isinstance(fmt, AdditionFormat) else AdditionFormat(number_format(fmt))
    if spaces is None:
        return chosen
    return AdditionFormat(
        chosen.question, chosen.answer, chosen.repeat, spaces, chosen.trailing_spaces, chosen.system
    )


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _draw(signature: Signature, n: int, stream: np.random.Generator) -> Int[np.ndarray, "n 2"]:
    require_at_least(0, n=n)
    low, high = _short_range(signature)
    short = stream.integers(low, high, size=n)
    least, end = _sum_range(signature, short)
    long = stream.integers(least, end) - short
    return np.stack([short, long] if _short(signature) == 0 else [long, short], axis=1)


def _drawn_again(
    kind: Signature,
    shots: Int[np.ndarray, "n 2"],
    problems: Int[np.ndarray, "n 2"],
    stream: np.random.Generator,
) -> Int[np.ndarray, "n 2"]:
    while (same := (shots == problems).all(1)).any():
        shots[same] = _draw(kind, int(same.sum()), stream)
    return shots


def _short(signature: Signature) -> int:
    return 0 if signature[0] < signature[1] else 1


def _short_range(signature: Signature) -> tuple[int, int]:
    short, long, total = min(signature[:2]), max(signature[:2]), signature[2]
    return 10 ** (short - 1), min(10**short, 10**total - 10 ** (long - 1))


def _sum_range(
    signature: Signature, short: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """The half-open range of the sum, for each short addend."""
    long, total = max(signature[:2]), signature[2]
    return np.maximum(10 ** (total - 1), short + 10 ** (long - 1)), np.minimum(10**long + short, 10**total)


def _pairs(lengths: Sequence[int], n: int) -> list[tuple[int, int]]:
    if not lengths or min(lengths) < 1 or max(lengths) > LONGEST:
        raise UserError(f"the lengths of addends must be from 1 to {LONGEST}, got {_written(lengths)}.")
    return list(islice(cycle(product(lengths, lengths)), n))


def _draw_free(pairs: Sequence[tuple[int, int]], stream: np.random.Generator) -> Int[np.ndarray, "n 2"]:
    digits = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return stream.integers(10 ** (digits - 1), 10**digits)


def _written(lengths: Sequence[int]) -> str:
    return f"({', '.join(str(int(length)) for length in lengths)})"
