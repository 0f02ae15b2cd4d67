"""The error analysis of additions over a digit matrix, beside the same analysis in pandas, row by row.

The pandas version is written here, as one writes it first: `DataFrame.apply(axis=1)` with a function that takes one answer, works on its
digits as a string and returns its fields. Both give the same fields for the same answers, which is checked. Two kinds of answers: a
tenth wrong, as of a model that adds well; all wrong in random places.
"""

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
import pandas
from _measure import interleaved
from _report import Result, note, run, speedup

from tokenry.core.text.digit_groups import cut
from tokenry.evaluation.arithmetic.addition_errors import analyze_errors
from tokenry.evaluation.arithmetic.addition_problems import SIGNATURES, sample_problems

AT_LEAST = 100.0
GROUP = 3
COMPARED = (
    "carries",
    "num_carries",
    "max_carry_chain",
    "digit_error_mag",
    "token_sizes",
    "digit_within_token",
    "token_id",
    "token_error",
    "abs_error_mag",
    "only_off_by_one",
    "only_off_by_one_digit_num",
    "num_carry_in_errors",
    "num_carry_out_errors",
    "dropped_digit_error",
    "left_alignment_error",
    "left_chunked_error",
    "right_chunked_error",
)


def measure(smoke: bool) -> Iterator[Result]:
    """Answers of both kinds, grouped from both sides."""
    rows, rounds = (260, 1) if smoke else (13_000, 3)
    for wrong, mode in ((0.1, "r2l"), (1.0, "l2r")):
        note(f"{wrong:.0%} wrong, {mode}")
        yield compared(answers(rows, wrong), mode, wrong, rounds)


def answers(rows: int, wrong: float) -> pandas.DataFrame:
    """Problems of the paper's signatures, and answers of which a share has some digits replaced."""
    rng = np.random.default_rng(0)
    problems = sample_problems(SIGNATURES, rows // len(SIGNATURES), 0).problems
    total = problems.sum(1)
    shift = 10 ** rng.integers(0, 7, len(total)) * rng.integers(1, 10, len(total))
    said = np.where(rng.random(len(total)) < wrong, np.abs(total - shift), total)
    return pandas.DataFrame({"num1": problems[:, 0], "num2": problems[:, 1], "answer": said})


def compared(frame: pandas.DataFrame, mode: str, wrong: float, rounds: int) -> Result:
    """Time both, after a look at whether they say the same."""
    found: dict[str, object] = {}

    def ours() -> None:
        found["ours"] = analyze_errors(
            frame["num1"].to_numpy(), frame["num2"].to_numpy(), frame["answer"].to_numpy(), mode, GROUP
        )

    def theirs() -> None:
        found["theirs"] = frame.apply(analyze_row, axis=1, result_type="expand", mode=mode)

    seconds = interleaved({"matrix": ours, "pandas": theirs}, rounds, threads=1)
    assert same(found["ours"], found["theirs"])
    return speedup(
        f"error analysis: row-wise pandas / digit matrix, {wrong:.0%} of the answers wrong, {mode}",
        seconds["pandas"].cpu / seconds["matrix"].cpu,
        AT_LEAST,
        answers=len(frame),
        answers_per_second={name: round(len(frame) / each.cpu) for name, each in seconds.items()},
        cpu_seconds={name: round(each.cpu, 4) for name, each in seconds.items()},
        rounds=rounds,
        threads=1,
        pandas=pandas.__version__,
        numpy=np.__version__,
    )


def analyze_row(row: pandas.Series, mode: str) -> dict[str, object]:
    """One answer, in strings."""
    first, second, answer = int(row["num1"]), int(row["num2"]), int(row["answer"])
    a, b, c, total = str(first), str(second), str(answer), first + second
    width = max(len(a), len(b), len(c), len(str(total)))
    carries, carry = [], 0
    for x, y in zip(a.zfill(width)[::-1], b.zfill(width)[::-1], strict=True):
        carry = int(int(x) + int(y) + carry > 9)
        carries.append(carry)
    digit_errors = [
        abs(int(x) - int(y)) for x, y in zip(c.zfill(width), str(total).zfill(width), strict=True)
    ][-len(c) :]
    wrong = [len(c) - 1 - place for place, error in enumerate(digit_errors) if error]
    columns = carries[: max(len(a), len(b))][::-1]
    parts = cut(c, mode, GROUP)
    ids = [number + 1 for number, part in enumerate(parts) for _ in part]
    error = abs(answer - total)
    off = str(error).strip("0") == "1"
    shorter, longer = sorted((a, b), key=len)
    return {
        "carries": columns,
        "num_carries": sum(columns),
        "max_carry_chain": max(map(len, "".join(map(str, carries)).split("0"))),
        "digit_error_mag": digit_errors,
        "token_sizes": [len(part) for part in parts for _ in part],
        "digit_within_token": [place + 1 for part in parts for place in range(len(part))],
        "token_id": ids,
        "token_error": [
            any(error for error, at in zip(digit_errors, ids, strict=True) if at == number + 1)
            for number in range(len(parts))
        ],
        "abs_error_mag": error,
        "only_off_by_one": off,
        "only_off_by_one_digit_num": len(c) - len(str(error)) + 1 if off else -1,
        "num_carry_in_errors": sum(carries[place - 1] for place in wrong if place),
        "num_carry_out_errors": sum(carries[place] for place in wrong),
        "dropped_digit_error": any(
            int(x[:place] + x[place + 1 :]) + other == answer
            for x, other in ((a, second), (b, first))
            for place in range(len(x))
            if len(x) > 1
        ),
        "left_alignment_error": len(a) != len(b)
        and int(shorter.ljust(len(longer), "0")) + int(longer) == answer,
        "left_chunked_error": joined(cut(a, mode, GROUP), cut(b, mode, GROUP)) == c,
        "right_chunked_error": joined(cut(a, mode, GROUP)[::-1], cut(b, mode, GROUP)[::-1], -1) == c,
    }


def joined(one: list[str], other: list[str], step: int = 1) -> str:
    """The sums of groups, one after the other."""
    return "".join([str(int(x) + int(y)) for x, y in zip_longest(one, other, fillvalue="0")][::step])


def same(ours: dict[str, np.ndarray], theirs: pandas.DataFrame) -> bool:
    """Whether both say the same of every answer."""

    def listed(value: object) -> object:
        return [entry for entry in value.tolist() if entry != -1] if np.ndim(value) else value

    return all(
        listed(one) == other for name in COMPARED for one, other in zip(ours[name], theirs[name], strict=True)
    )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
