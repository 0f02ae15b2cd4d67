"""Let one model add with numbers in several formats: what `tokenry evaluate arithmetic` prints."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from transformers import PreTrainedTokenizerBase

from tokenry.core.digit_groups import GroupMode, NumberFormat, cut, number_format
from tokenry.core.errors import UserError
from tokenry.core.number_tokens import digit_cuts, number_token_ids
from tokenry.core.progress import Progress
from tokenry.evaluation.arithmetic.addition import AdditionAnswer, accuracy_table, evaluate_addition
from tokenry.evaluation.arithmetic.addition_patterns import ErrorPattern, error_patterns, token_rank_patterns
from tokenry.evaluation.arithmetic.addition_problems import (
    SIGNATURES,
    SYSTEM_PROMPT,
    AdditionFormat,
    sample_problems,
)
from tokenry.models import load_model, load_tokenizer, preferred_device, preferred_dtype
from tokenry.runs.quiet import quiet_libraries
from tokenry.tokenization.numbers.retokenize_numbers import retokenize_numbers

_PROBE = "1234567890123"


@quiet_libraries()
def evaluate_arithmetic_of(
    name: str,
    report: Progress,
    *,
    formats: Sequence[str] = ("nosep", "comma_r2l"),
    answer_format: str | None = None,
    repeat_format: str | None = None,
    signatures: Sequence[str] = (),
    per_signature: int = 4,
    shots: int = 8,
    group: int = 3,
    spaces: int = 0,
    trailing_spaces: int = 0,
    system: str | None = SYSTEM_PROMPT,
    chat: bool | None = None,
    retokenize: str | None = None,
    batch_size: int = 16,
    dtype: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a model on the same problems in every format.

    Args:
        name: of the model.
        report: told what is being done.
        formats: of the questions.
        answer_format: of the sums; None for that of the question.
        repeat_format: the answer first repeats the question in it.
        signatures: as `7,7,8`; those of the paper by default.
        per_signature: problems of each.
        shots: solved problems before each.
        group: digits of a group.
        spaces: around `+` and before `=`.
        trailing_spaces: after `=`.
        system: the system message.
        chat: as in `evaluate_addition`.
        retokenize: a mode; the tokenizer's numbers are regrouped first.
        batch_size: prompts per batch.
        dtype: of the weights.
        seed: of the problems.

    Returns:
        `by_length` and `by_signature` (see `accuracy_table`), `patterns` by format, `answers`, and the settings.

    Raises:
        UserError: a model that cannot be read, or anything that `evaluate_addition` refuses.
    """
    kinds = [read_signature(signature) for signature in signatures] or list(SIGNATURES)
    asked = sample_problems(kinds, per_signature, shots, seed)

    def written(format_name: str | None) -> NumberFormat | None:
        return None if format_name is None else number_format(format_name, group)

    prompts = {
        format_name: AdditionFormat(
            number_format(format_name, group),
            written(answer_format),
            written(repeat_format),
            spaces,
            trailing_spaces,
            system,
        )
        for format_name in formats
    }
    report("reading the model", 0.0)
    tokenizer = load_tokenizer(name)
    if retokenize is not None:
        tokenizer = retokenize_numbers(tokenizer, retokenize, group)
    device = preferred_device()
    model = load_model(name, dtype=dtype or preferred_dtype(device)).to(device)
    answers: list[AdditionAnswer] = []
    patterns = {}
    for number, (format_name, fmt) in enumerate(prompts.items()):
        report(format_name, number / len(prompts))
        found = evaluate_addition(
            model, tokenizer, fmt=fmt, problems=asked, batch_size=batch_size, chat=chat, name=format_name
        )
        patterns[format_name] = [
            asdict(pattern) | {"share": pattern.share}
            for pattern in patterns_of(found, fmt.answers, tokenizer)
        ]
        answers += found
    report("done", 1.0)
    return {
        "kind": "arithmetic",
        "model": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "digits": digit_cuts(tokenizer, _PROBE),
        "settings": {
            "shots": shots,
            "per_signature": per_signature,
            "signatures": [list(kind) for kind in kinds],
            "group": group,
            "answer_format": answer_format,
            "repeat_format": repeat_format,
            "spaces": spaces,
            "trailing_spaces": trailing_spaces,
            "system": system,
            "retokenize": retokenize,
            "seed": seed,
        },
        "by_length": accuracy_table(answers, ("format", "length")),
        "by_format": accuracy_table(answers, ("format",)),
        "by_signature": accuracy_table(answers, ("signature", "format")),
        "patterns": patterns,
        "answers": [answer.as_row() for answer in answers],
    }


def patterns_of(
    answers: Sequence[AdditionAnswer], fmt: NumberFormat, tokenizer: PreTrainedTokenizerBase
) -> list[ErrorPattern]:
    """Report the patterns of errors, and of token frequencies where numbers are cut into groups that are tokens."""
    valid = [answer for answer in answers if answer.valid]
    first, second, said = (
        np.array([getattr(answer, name) for answer in valid], dtype=object if valid else np.int64)
        for name in ("num1", "num2", "answer")
    )
    mode = cut_mode(fmt, tokenizer)
    found = error_patterns(first, second, said, mode, fmt.group, bool(fmt.separator))
    ranks = number_token_ids(tokenizer, fmt.group)
    if mode != "single" and len(ranks) == sum(10**size for size in range(1, fmt.group + 1)):
        found += token_rank_patterns(first, second, said, ranks, mode, fmt.group)
    return found


def cut_mode(fmt: NumberFormat, tokenizer: PreTrainedTokenizerBase) -> str:
    """Tell how written numbers are cut: by their separators, or by the tokenizer where there are none."""
    if fmt.separator:
        return fmt.direction
    found = digit_cuts(tokenizer, _PROBE)
    # A tokenizer of another kind has words of digits of its own, and no groups.
    return next((mode for mode in get_args(GroupMode) if cut(_PROBE, mode, fmt.group) == found), "single")


def read_signature(text: str) -> tuple[int, int, int]:
    """Read `7,7,8`.

    Raises:
        UserError: it is not three numbers.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise UserError(
            f"a signature is three lengths such as 7,7,8, of both addends and of their sum, got {text!r}."
        )
    first, second, total = map(int, parts)
    return first, second, total
