"""The errors of wrong sums: digit by digit, token by token, carry by carry, over all answers at once.

Digits are a matrix with one row per place, the units first, and one column per answer; loops run over places, never over answers.

    carry[p]   = a[p] + b[p] + carry[p−1] > 9
    error[p]   = |answer[p] − sum[p]|                    for the places of the answer
    off by one = |answer − sum| is a power of ten
    dropped    = answer − other addend is the addend without one of its digits
    chunked    = the groups are added without carrying, and their sums written one after the other

Source: Tokenization counts (arXiv 2402.14903) and its released code (`utils.py`), whose names the fields bear; group sizes other than
3, one-digit addends and 0 are added.
"""

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Int8, UInt8

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.text.digit_groups import GroupMode, group_sizes, require_group

Integers: TypeAlias = Sequence[Any] | np.ndarray
"""Integers of any kind; anything else is refused."""
Digits: TypeAlias = UInt8[np.ndarray, "places answers"]
Flags: TypeAlias = Bool[np.ndarray, "places answers"]

# Up to here, the power of ten above the sum of two numbers stays below 2 ** 63.
_LONGEST_MACHINE_NUMBER = 17


def analyze_errors(
    num1: Integers,
    num2: Integers,
    answers: Integers,
    mode: str = "r2l",
    group: int = 3,
    separated: bool = True,
) -> dict[str, np.ndarray]:
    """Analyse answers to additions.

    Args:
        num1: first addends, at least 0. Numbers of up to 17 digits are analysed a million a second; longer ones are exact too, but slow.
        num2: second addends.
        answers: answered sums, without the answers that hold no number.
        mode: grouping by which the tokenizer, or the separators, cut the answers.
        group: number of digits of a token.
        separated: whether the numbers were written with separators; without them, groups are not added one by one.

    Returns:
        One entry per answer under each name. Of matrices, a row runs from left to right and has -1 where the answer has no such digit
        or token.

        - `true_answer`, `len1`, `len2`, `len_true_ans`, `len_ans`, `correct_ans_len`
        - `len_match`: the sum has as many digits as the longer addend; `len_match_both`: as both
        - `carries` (columns of the longer addend): 1 where the column carries out; `num_carries`, `max_carry_chain`
        - `abs_error_mag`; `only_off_by_one`, and at which digit from the left, `only_off_by_one_digit_num`, else -1
        - `digit_error_mag`, `token_sizes`, `digit_within_token` and `token_id` (from 1) of each digit; `token_error` of each token
        - `num_carry_in_errors`, `num_carry_out_errors`: wrong digits where a carry comes in, or goes out; `carry_in_error`, `carry_out_error`
        - `dropped_digit_error`: the sum after one digit of one addend is deleted
        - `left_alignment_error`: the sum after the shorter addend gets zeros at its end, `left_alignment_wrong_answer` (-1: equal lengths)
        - `left_chunked_error`, `right_chunked_error`: groups added without carry, aligned at the left or right; with `separated` only

    Raises:
        UserError: negative numbers or no integers, arrays of different lengths, an unknown mode, or a group below 1.
    """
    require_one_of(mode, get_args(GroupMode), "mode")
    require_group(group)
    first, second, said = _numbers(num1, num2, answers)
    total = first + second
    powers = _powers(first, second, said, total)
    len1, len2, len_said, len_total = (_lengths(numbers, powers) for numbers in (first, second, said, total))
    longer = np.maximum(len1, len2)
    places = len(powers) - 1
    a, b, c = (_digits(numbers, places) for numbers in (first, second, said))
    truth, carries = _add(a, b)
    errors = np.maximum(c, truth) - np.minimum(c, truth)
    wrong = (errors > 0) & (np.arange(places)[:, None] < len_said)
    found = {
        "true_answer": total,
        "len1": len1,
        "len2": len2,
        "len_true_ans": len_total,
        "len_ans": len_said,
        "correct_ans_len": len_said == len_total,
        "len_match": longer == len_total,
        "len_match_both": (len1 == len2) & (len1 == len_total),
        "carries": _left_to_right(carries, longer),
        "num_carries": carries.sum(0, dtype=np.int64),
        "max_carry_chain": _longest_run(carries),
        "digit_error_mag": _left_to_right(errors, len_said),
        "dropped_digit_error": _is_dropped(c, b, a, len1) | _is_dropped(c, a, b, len2),
    }
    found |= _off_by_one(said, total, len_said, powers)
    found |= _carry_errors(wrong, carries)
    found |= _tokens(wrong, len_said, mode, group)
    found |= _left_alignment(first, second, said, len1, len2, powers)
    if separated:
        found |= _chunked(first, second, said, (len1, len2, len_said), powers, mode, group)
    return found


# --- numbers and digits --------------------------------------------------------------------------------------------------------------


def _numbers(*given: Integers) -> list[np.ndarray]:
    """Machine integers where they suffice for everything, else Python's own."""
    arrays = [np.asarray(numbers, dtype=None if len(numbers) else np.int64) for numbers in given]
    # Of a list of integers below and above 2 ** 63, numpy makes floats.
    arrays = [
        np.asarray(numbers, dtype=object) if array.dtype.kind == "f" else array
        for numbers, array in zip(given, arrays, strict=True)
    ]
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
        raise UserError(
            f"addends and answers must be three lists of one length, got {', '.join(str(array.shape) for array in arrays)}."
        )
    for array in arrays:
        integers = array.dtype.kind in "iu" or all(
            isinstance(number, Integral) and not isinstance(number, bool) for number in array.tolist()
        )
        if not integers or (len(array) and array.min() < 0):
            raise UserError(
                "addends and answers must be non-negative integers: leave out answers without a number (-1), round nothing."
            )
    long = any(len(array) and array.max() >= 10**_LONGEST_MACHINE_NUMBER for array in arrays)
    return [
        np.array([int(number) for number in array], dtype=object) if long else array.astype(np.int64)
        for array in arrays
    ]


def _powers(*numbers: np.ndarray) -> np.ndarray:
    """1, 10, 100 and so on, one more than there are places."""
    largest = max((int(of_one.max()) for of_one in numbers if len(of_one)), default=0)
    return np.array([10**power for power in range(len(str(largest)) + 1)], dtype=numbers[0].dtype)


def _lengths(numbers: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Digits of each number; 0 has one."""
    lengths = np.ones(len(numbers), dtype=np.int64)
    for power in powers[1:-1]:
        lengths += np.asarray(numbers >= power, dtype=bool)
    return lengths


def _digits(numbers: np.ndarray, places: int) -> Digits:
    digits = np.empty((places, len(numbers)), dtype=np.uint8)
    for place in range(places):
        left = numbers // 10
        digits[place] = numbers - 10 * left
        numbers = left
    return digits


def _add(a: Digits, b: Digits) -> tuple[Digits, Digits]:
    """The digits of the sums, and 1 where a place carries out."""
    total, carries = np.empty_like(a), np.empty_like(a)
    carry = np.zeros(a.shape[1], dtype=np.uint8)
    for place in range(len(a)):
        column = a[place] + b[place] + carry
        carry = (column > 9).view(np.uint8)
        carries[place] = carry
        total[place] = column - 10 * carry
    return total, carries


def _subtract(a: Digits, b: Digits) -> tuple[Digits, Bool[np.ndarray, "answers"]]:
    """The digits of a − b, and whether it is negative."""
    difference = np.empty_like(a)
    borrow = np.zeros(a.shape[1], dtype=np.uint8)
    for place in range(len(a)):
        taken = b[place] + borrow
        borrow = (a[place] < taken).view(np.uint8)
        difference[place] = a[place] + 10 * borrow - taken
    return difference, borrow.view(bool)


def _left_to_right(matrix: Digits, lengths: np.ndarray) -> Int8[np.ndarray, "answers digits"]:
    rows = np.full((matrix.shape[1], int(lengths.max(initial=0))), -1, dtype=np.int8)
    for length in np.unique(lengths):
        some = np.flatnonzero(lengths == length)
        rows[some, :length] = matrix[:length, some][::-1].T
    return rows


# --- errors --------------------------------------------------------------------------------------------------------------------------


def _longest_run(carries: Digits) -> np.ndarray:
    longest = np.zeros(carries.shape[1], dtype=np.uint8)
    run = np.zeros_like(longest)
    for carry in carries:
        run = (run + 1) * carry
        longest = np.maximum(longest, run)
    return longest.astype(np.int64)


def _off_by_one(
    said: np.ndarray, total: np.ndarray, lengths: np.ndarray, powers: np.ndarray
) -> dict[str, np.ndarray]:
    error = np.abs(said - total)
    power = np.searchsorted(powers, error)
    off = np.asarray(powers[np.minimum(power, len(powers) - 1)] == error, dtype=bool)
    return {
        "abs_error_mag": error,
        "only_off_by_one": off,
        "only_off_by_one_digit_num": np.where(off, lengths - power, -1),
    }


def _carry_errors(wrong: Flags, carries: Digits) -> dict[str, np.ndarray]:
    out = (wrong & carries.view(bool)).sum(0)
    into = (wrong[1:] & carries[:-1].view(bool)).sum(0)
    return {
        "num_carry_in_errors": into,
        "num_carry_out_errors": out,
        "carry_in_error": into > 0,
        "carry_out_error": out > 0,
    }


def _tokens(wrong: Flags, lengths: np.ndarray, mode: str, group: int) -> dict[str, np.ndarray]:
    """The tokens that hold the digits of the answers, which depend on the number of digits alone."""
    most = int(lengths.max(initial=0))
    tables = {
        name: np.full((most + 1, most), -1, dtype=np.int16)
        for name in ("token_sizes", "digit_within_token", "token_id")
    }
    in_error = np.full((len(lengths), len(group_sizes(most, mode, group))), -1, dtype=np.int8)
    for length in np.unique(lengths):
        some = np.flatnonzero(lengths == length)
        end = int(length)
        for number, size in enumerate(group_sizes(int(length), mode, group)):
            columns = slice(int(length) - end, int(length) - end + size)
            tables["token_sizes"][length, columns] = size
            tables["digit_within_token"][length, columns] = np.arange(1, size + 1)
            tables["token_id"][length, columns] = number + 1
            in_error[some, number] = wrong[end - size : end, some].any(0)
            end -= size
    return {name: table[lengths] for name, table in tables.items()} | {"token_error": in_error}


def _is_dropped(
    said: Digits, other: Digits, addend: Digits, lengths: np.ndarray
) -> Bool[np.ndarray, "answers"]:
    """Whether the answer less the other addend is this addend without one of its digits; a single digit is not deleted."""
    left, negative = _subtract(said, other)
    above = np.ones(left.shape, dtype=bool)
    shifted = left == np.concatenate([addend[1:], np.zeros_like(addend[:1])])
    fits = np.ones(left.shape[1], dtype=bool)
    for place in reversed(range(len(left))):
        fits = fits & shifted[place]
        above[place] = fits
    dropped = np.zeros_like(fits)
    below = np.ones_like(fits)
    for place in range(len(left)):
        dropped |= below & above[place] & (place < lengths)
        below &= left[place] == addend[place]
    return dropped & ~negative & (lengths > 1)


def _left_alignment(
    first: np.ndarray,
    second: np.ndarray,
    said: np.ndarray,
    len1: np.ndarray,
    len2: np.ndarray,
    powers: np.ndarray,
) -> dict[str, np.ndarray]:
    gap = len1 - len2
    aligned = first * powers[np.maximum(-gap, 0)] + second * powers[np.maximum(gap, 0)]
    return {
        "left_alignment_error": np.asarray(aligned == said, dtype=bool) & (gap != 0),
        "left_alignment_wrong_answer": np.where(gap != 0, aligned, -1),
    }


def _chunked(
    first: np.ndarray,
    second: np.ndarray,
    said: np.ndarray,
    lengths: tuple[np.ndarray, np.ndarray, np.ndarray],
    powers: np.ndarray,
    mode: str,
    group: int,
) -> dict[str, np.ndarray]:
    """Whether the answer is the sums of the groups, one after the other; groups without a partner are numbers too."""
    len1, len2, len_said = lengths
    errors = {name: np.zeros(len(said), dtype=bool) for name in ("left_chunked_error", "right_chunked_error")}
    kinds = len1 * (len(powers) + 1) + len2
    for kind in np.unique(kinds):
        some = np.flatnonzero(kinds == kind)
        groups = [
            list(_groups(number[some], int(length[some[0]]), powers, mode, group))
            for number, length in ((first, len1), (second, len2))
        ]
        answers = said[some], len_said[some]
        errors["right_chunked_error"][some] = _joins(_added(*groups), answers, powers)
        if len(groups[0]) == len(groups[1]):
            errors["left_chunked_error"][some] = errors["right_chunked_error"][some]
        else:
            from_left = _added(*(parts[::-1] for parts in groups))[::-1]
            errors["left_chunked_error"][some] = _joins(from_left, answers, powers)
    return errors


def _groups(
    numbers: np.ndarray, length: int, powers: np.ndarray, mode: str, group: int
) -> Iterator[np.ndarray]:
    """The groups of numbers of one length as numbers, from right to left."""
    for size in reversed(group_sizes(length, mode, group)):
        left = numbers // powers[size]
        yield numbers - powers[size] * left
        numbers = left


def _added(one: list[np.ndarray], other: list[np.ndarray]) -> list[np.ndarray]:
    both = min(len(one), len(other))
    return [a + b for a, b in zip(one, other, strict=False)] + one[both:] + other[both:]


def _joins(
    groups: list[np.ndarray], answers: tuple[np.ndarray, np.ndarray], powers: np.ndarray
) -> Bool[np.ndarray, "answers"]:
    """Whether groups, from right to left, written one after the other are the answers."""
    said, lengths = answers
    joined, length = np.zeros_like(said), np.zeros_like(lengths)
    for part in groups:
        # A number longer than any answer equals none, whatever its digits.
        joined = joined + part * powers[np.minimum(length, len(powers) - 1)]
        length = length + _lengths(part, powers)
    return (length == lengths) & np.asarray(joined == said, dtype=bool)
