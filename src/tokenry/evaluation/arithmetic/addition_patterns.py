"""The frequency of each pattern among wrong sums, beside that expected by chance.

    share     of the wrong answers with the right number of digits that show a pattern
    interval  quantiles of the bootstrap over answers, which for a share is exactly Binomial(n, share) / n
    chance    the same share among sums of the same problems in which one digit, drawn at random, was replaced at random

Frequencies of tokens are their ids: byte-pair merges come in the order of frequency, so the lower id is the more frequent token. An
answer's token is the most frequent of itself and its two neighbours by chance in 1 of 3 cases, of the ten with another first digit in
1 of 10.

Source: Tokenization counts (arXiv 2402.14903), sections on error patterns and token frequencies; intervals and the drawn chance are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy.stats import binom

from tokenry.core.errors import UserError
from tokenry.evaluation.arithmetic.addition_errors import Integers, analyze_errors

_DRAWN = 20_000


@dataclass(frozen=True)
class ErrorPattern:
    """Frequency of one pattern.

    Attributes:
        pattern: the pattern in words.
        count: number of cases that show it.
        of: number of cases that could.
        low: lower end of the interval of the share.
        high: upper end of the interval.
        chance: share expected by chance; None where chance cannot tell.
    """

    pattern: str
    count: int
    of: int
    low: float
    high: float
    chance: float | None = None

    @property
    def share(self) -> float:
        """Share of the cases that show it among those that could."""
        return self.count / self.of

    @classmethod
    def of_flags(
        cls, pattern: str, flags: np.ndarray, confidence: float, chance: float | None = None
    ) -> "ErrorPattern":
        """Count flags, at least one of which is given."""
        share, tail = float(flags.mean()), (1 - confidence) / 2
        low, high = binom.ppf([tail, 1 - tail], len(flags), share) / len(flags)
        return cls(pattern, int(flags.sum()), len(flags), float(low), float(high), chance)


def error_patterns(
    num1: Integers,
    num2: Integers,
    answers: Integers,
    mode: str = "r2l",
    group: int = 3,
    separated: bool = True,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[ErrorPattern]:
    """Report the patterns of wrong answers; none where no answer is wrong.

    Args:
        num1: first addends.
        num2: second addends.
        answers: answered sums, without the answers that hold no number.
        mode: grouping by which the answers are cut.
        group: number of digits of a token.
        separated: whether the numbers were written with separators.
        confidence: level of the intervals.
        seed: random seed of the replaced digits that chance is estimated from.
    """
    _require_confidence(confidence)
    found = analyze_errors(num1, num2, answers, mode, group, separated)
    wrong, comparable = found["abs_error_mag"] > 0, found["correct_ans_len"]
    if not wrong.any():
        return []
    patterns = [
        ErrorPattern.of_flags("the wrong number of digits (of all errors)", ~comparable[wrong], confidence)
    ]
    rows = np.flatnonzero(np.asarray(wrong & comparable, dtype=bool))
    if not len(rows):
        return patterns
    first, second = (np.asarray(addends)[rows] for addends in (num1, num2))
    drawn = _with_one_digit_replaced(first, second, max(1, _DRAWN // len(rows)), seed)
    chance = _flags(analyze_errors(*drawn, mode, group, separated), np.arange(len(drawn[0])))
    return patterns + [
        # A pattern that all sums with a replaced digit show has no rate by chance.
        ErrorPattern.of_flags(
            name, flags, confidence, None if chance[name].all() else float(chance[name].mean())
        )
        for name, flags in _flags(found, rows).items()
    ]


def token_rank_patterns(
    num1: Integers,
    num2: Integers,
    answers: Integers,
    ranks: Mapping[str, int],
    mode: str = "l2r",
    group: int = 3,
    confidence: float = 0.95,
) -> list[ErrorPattern]:
    """Report whether wrong tokens are more frequent ones; none where no answer of the right length is wrong.

    Args:
        num1: first addends.
        num2: second addends.
        answers: answered sums, without the answers that hold no number.
        ranks: id of each number of up to `group` digits, as `core.text.number_tokens.number_token_ids` gives them.
        mode: grouping by which the answers are cut.
        group: number of digits of a token.
        confidence: level of the intervals.
    """
    _require_confidence(confidence)
    found = analyze_errors(num1, num2, answers, mode, group, separated=False)
    flags: dict[str, list[Bool[np.ndarray, "some"]]] = {}
    rows = np.flatnonzero(found["correct_ans_len"])
    for number in range(found["token_error"].shape[1]):
        wrong = rows[found["token_error"][rows, number] == 1]
        sizes = _sizes(found, wrong, number)
        for size in np.unique(sizes):
            some = wrong[sizes == size]
            said, right = (
                _token(sums[some], found["len_ans"][some], found, some, number)
                for sums in (np.asarray(answers), found["true_answer"])
            )
            for name, values in _rank_flags(said, right, _rank_table(ranks, int(size))).items():
                flags.setdefault(name, []).append(values)
    chances = (1 / 2, 1 / 3, 1 / 10)
    return [
        ErrorPattern.of_flags(name, np.concatenate(values), confidence, chance)
        for (name, values), chance in zip(flags.items(), chances, strict=False)
    ]


def _flags(found: Mapping[str, np.ndarray], rows: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
    """The patterns of answers that have the right number of digits."""
    # Answers of a wrong length, which are not among the rows, may be longer.
    errors = found["digit_error_mag"][rows, : found["len_ans"][rows].max()]
    wrong = errors > 0
    alone = wrong.sum(1) == 1
    place = wrong.argmax(1)
    every = np.arange(len(rows))
    within, size = (found[name][rows][every, place] for name in ("digit_within_token", "token_sizes"))
    flags = {
        "off by one in a single position": found["only_off_by_one"][rows],
        "a single wrong digit": alone,
        "a single wrong digit, the first of its token": alone & (within == 1),
        "a single wrong digit, the last of its token": alone & (within == size),
        "a wrong digit where a carry comes in": found["carry_in_error"][rows],
        "a wrong digit where a carry goes out": found["carry_out_error"][rows],
        "a digit of an addend is dropped": found["dropped_digit_error"][rows],
        "addends aligned at the left": found["left_alignment_error"][rows],
    }
    for name, words in (("left_chunked_error", "left"), ("right_chunked_error", "right")):
        if name in found:
            flags[f"groups added without carry, aligned at the {words}"] = found[name][rows]
    for digit in range(errors.shape[1]):
        flags[f"digit {digit + 1} wrong"] = wrong[:, digit]
        flags[f"only digit {digit + 1} wrong"] = wrong[:, digit] & alone
    return flags


def _with_one_digit_replaced(
    first: np.ndarray, second: np.ndarray, copies: int, seed: int
) -> tuple[list[int], list[int], list[int]]:
    """Copies of the problems, each with a sum of the right length in which one digit is another."""
    stream = np.random.default_rng(seed)
    num1, num2 = ([int(number) for number in addends] * copies for addends in (first, second))
    answers = []
    for a, b in zip(num1, num2, strict=True):
        total = a + b
        place = int(stream.integers(len(str(total))))
        old = total // 10**place % 10
        leading = place == len(str(total)) - 1 and place > 0
        new = int(stream.choice([digit for digit in range(leading, 10) if digit != old]))
        answers.append(total + (new - old) * 10**place)
    return num1, num2, answers


def _sizes(found: Mapping[str, np.ndarray], rows: np.ndarray, number: int) -> np.ndarray:
    return (found["token_id"][rows] == number + 1).sum(1)


def _token(
    numbers: np.ndarray, lengths: np.ndarray, found: Mapping[str, np.ndarray], rows: np.ndarray, number: int
) -> np.ndarray:
    """Token `number` of each number, as a number."""
    ends = ((found["token_id"][rows] > 0) & (found["token_id"][rows] <= number + 1)).sum(1)
    sizes = _sizes(found, rows, number)
    below = np.array([10 ** int(places) for places in lengths - ends], dtype=numbers.dtype)
    modulus = np.array([10 ** int(size) for size in sizes], dtype=numbers.dtype)
    return (numbers // below % modulus).astype(np.int64)


def _rank_table(ranks: Mapping[str, int], size: int) -> Int[np.ndarray, "tokens"]:
    numbers = [f"{number:0{size}d}" for number in range(10**size)]
    missing = [number for number in numbers if number not in ranks]
    if missing:
        raise UserError(
            f"{len(missing)} numbers of {size} digits have no rank ({missing[0]}, …): they are no tokens of this tokenizer; choose a smaller "
            "group."
        )
    return np.array([ranks[number] for number in numbers], dtype=np.int64)


def _rank_flags(said: np.ndarray, right: np.ndarray, table: np.ndarray) -> dict[str, np.ndarray]:
    neighbours = np.stack([said, (said + 1) % len(table), (said - 1) % len(table)])
    step = len(table) // 10
    variants = np.stack([said % step + digit * step for digit in range(10)])
    return {
        "the wrong token is more frequent than the right one": table[said] < table[right],
        "it is the most frequent of itself and its two neighbours": table[said] == table[neighbours].min(0),
        "it is the most frequent of the ten with another first digit": table[said] == table[variants].min(0),
    }


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"confidence must be between 0 and 1, got {confidence}: 0.95 is usual.")
