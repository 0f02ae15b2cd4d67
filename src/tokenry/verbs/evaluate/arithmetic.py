"""Accuracy of a model's additions, by the number of digits and the number format."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Table
from tokenry.report.result import Result
from tokenry.verbs._estimates import interval_cell, stored_estimate
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokenry.core.text.digit_groups import NumberFormat
    from tokenry.evaluation.arithmetic.addition import AdditionAnswer
    from tokenry.evaluation.arithmetic.addition_patterns import ErrorPattern
    from tokenry.evaluation.arithmetic.addition_problems import AdditionFormat

_PROBE = "1234567890123"


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Let a model add the same problems in several number formats, and report the patterns of wrong sums.

    Attributes:
        model: `embedded`, a folder (adapters too), or a hub name.
        formats: how numbers are written: nosep, or {comma,space,dec,hashtag,dollar,foo}_{l2r,r2l}; can be repeated.
        answer_format: format of the sums, where it differs from that of the question.
        repeat_format: the answer first repeats the question in this format.
        signatures: digits of both addends and of their sum, as 7,7,8; can be repeated; by default the paper's.
        per_signature: problems of each signature.
        shots: solved problems before each problem.
        group: digits of a group.
        spaces: spaces around + and before =.
        trailing_spaces: spaces after =.
        system: system message; empty for none.
        chat: ask in the chat template; by default if the tokenizer has one.
        retokenize: regroup the tokenizer's numbers first.
        batch_size: prompts per batch.
        seed: random seed of the problems and shots.
    """

    model: str = argument("embedded")
    formats: tuple[str, ...] = option(("nosep", "comma_r2l"), flag="--format", metavar="FORMAT")
    answer_format: str | None = None
    repeat_format: str | None = None
    signatures: tuple[str, ...] = option((), flag="--signature", metavar="L1,L2,L3")
    per_signature: int = 4
    shots: int = 8
    group: int = 3
    spaces: int = 0
    trailing_spaces: int = 0
    system: str = "You are a helpful assistant."
    chat: bool | None = None
    retokenize: Literal["r2l", "l2r", "single"] | None = None
    batch_size: int = 16
    hardware: Hardware = Hardware()
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, batch_size=self.batch_size)
        require_at_least(0, seed=self.seed)


def run(plan: Plan, progress: Progress) -> Result:
    """Measure the model on the same problems in every format."""
    from tokenry.core.text.number_tokens import digit_cuts
    from tokenry.evaluation.arithmetic.addition import accuracy_table, evaluate_addition
    from tokenry.evaluation.arithmetic.addition_problems import SIGNATURES, sample_problems
    from tokenry.models import load_tokenizer
    from tokenry.tokenization.numbers.retokenize_numbers import retokenize_numbers

    signatures = [read_signature(signature) for signature in plan.signatures] or list(SIGNATURES)
    problems = sample_problems(signatures, plan.per_signature, plan.shots, plan.seed)
    formats = {name: _addition_format(plan, name) for name in plan.formats}
    plan.hardware.place()
    progress("reading the model", 0.0)
    tokenizer = load_tokenizer(plan.model)
    if plan.retokenize is not None:
        tokenizer = retokenize_numbers(tokenizer, plan.retokenize, plan.group)
    model = plan.hardware.load(plan.model)
    answers: list[AdditionAnswer] = []
    patterns = {}
    for number, (name, fmt) in enumerate(formats.items()):
        progress(name, number / len(formats))
        answered = evaluate_addition(
            model,
            tokenizer,
            fmt=fmt,
            problems=problems,
            batch_size=plan.batch_size,
            chat=plan.chat,
            name=name,
        )
        patterns[name] = [
            asdict(pattern) | {"share": pattern.share}
            for pattern in patterns_of(answered, fmt.answers, tokenizer)
        ]
        answers += answered
    data = {
        "kind": "arithmetic",
        "model": plan.model,
        "dtype": str(model.dtype).removeprefix("torch."),
        "digits": digit_cuts(tokenizer, _PROBE),
        "settings": plan_settings(plan) | {"signatures": [list(kind) for kind in signatures]},
        "by_length": accuracy_table(answers, ("format", "length")),
        "by_format": accuracy_table(answers, ("format",)),
        "by_signature": accuracy_table(answers, ("signature", "format")),
        "patterns": patterns,
        "answers": [answer.as_row() for answer in answers],
    }
    return Result(f"Additions by {model_title(plan.model)}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the measurements out."""
    measures = (Column("accuracy", "%"), Column("as asked", "%"), Column("one number", "%"), "problems")
    tables = [
        Table(
            f"{data['model']}: additions, {data['settings']['shots']} shots; it cuts numbers as {'|'.join(data['digits'])}",
            ("format", "sum", *measures),
            [(row["format"], row["length"], *_measured(row)) for row in data["by_length"]],
        ),
        Table(
            "by digits of the addends and the sum",
            ("digits", "format", *measures),
            [(row["signature"], row["format"], *_measured(row)) for row in data["by_signature"]],
        ),
    ]
    tables += [
        Table(
            f"{name}: what is wrong with wrong sums (95 % bootstrap intervals)",
            ("pattern", Column("share", "%"), Column("by chance", "%"), "answers"),
            [_pattern(pattern) for pattern in patterns if pattern["count"]],
        )
        for name, patterns in data["patterns"].items()
        if any(pattern["count"] for pattern in patterns)
    ]
    return list(tables)


def _measured(row: Mapping[str, Any]) -> tuple[Any, ...]:
    accuracy = stored_estimate(row, "accuracy", "problems")
    return accuracy, row["formatted"], row["valid"], row["problems"]


def _pattern(pattern: Mapping[str, Any]) -> tuple[Any, ...]:
    share = interval_cell(pattern["share"], pattern["low"], pattern["high"], style=".1%")
    return pattern["pattern"], share, pattern["chance"], pattern["of"]


def _addition_format(plan: Plan, name: str) -> "AdditionFormat":
    from tokenry.core.text.digit_groups import number_format
    from tokenry.evaluation.arithmetic.addition_problems import AdditionFormat

    question, answer, repeat = (
        None if written is None else number_format(written, plan.group)
        for written in (name, plan.answer_format, plan.repeat_format)
    )
    assert question is not None
    return AdditionFormat(question, answer, repeat, plan.spaces, plan.trailing_spaces, plan.system or None)


def patterns_of(
    answers: "Sequence[AdditionAnswer]", fmt: "NumberFormat", tokenizer: "PreTrainedTokenizerBase"
) -> "list[ErrorPattern]":
    """The patterns of errors, and those of token frequencies if all groups of digits are tokens."""
    import numpy as np

    from tokenry.core.text.number_tokens import number_token_ids
    from tokenry.evaluation.arithmetic.addition_patterns import error_patterns, token_rank_patterns

    valid = [answer for answer in answers if answer.valid]
    first, second, written = (
        np.array([getattr(answer, name) for answer in valid], dtype=object if valid else np.int64)
        for name in ("num1", "num2", "answer")
    )
    mode = cut_mode(fmt, tokenizer)
    found = error_patterns(first, second, written, mode, fmt.group, bool(fmt.separator))
    ranks = number_token_ids(tokenizer, fmt.group)
    if mode != "single" and len(ranks) == sum(10**size for size in range(1, fmt.group + 1)):
        found += token_rank_patterns(first, second, written, ranks, mode, fmt.group)
    return found


def cut_mode(fmt: "NumberFormat", tokenizer: "PreTrainedTokenizerBase") -> str:
    """How written numbers are cut: by their separators, or else by the tokenizer."""
    from tokenry.core.text.digit_groups import GroupMode, cut
    from tokenry.core.text.number_tokens import digit_cuts

    if fmt.separator:
        return fmt.direction
    found = digit_cuts(tokenizer, _PROBE)
    # A tokenizer of another kind has words of digits of its own, and no groups.
    return next((mode for mode in get_args(GroupMode) if cut(_PROBE, mode, fmt.group) == found), "single")


def read_signature(text: str) -> tuple[int, int, int]:
    """Read `7,7,8`."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise UserError(
            f"a signature is three lengths such as 7,7,8, of both addends and of their sum, got {text!r}."
        )
    first, second, total = map(int, parts)
    return first, second, total
