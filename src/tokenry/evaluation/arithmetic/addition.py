"""Addition by a model, by the number of digits and the number format: few-shot, greedy, in batches.

    prompt    system message, solved problems as turns, the problem (as lines of text where there is no chat template)
    correct   the one number in the answer is the sum, however it is written
    match     the sum has as many digits as the longer addend; else mismatch, where grouping from the left puts places out of line

Every format has the same problems and shots, so that formats are compared in pairs.

Source: Tokenization counts (arXiv 2402.14903).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from pandas import DataFrame
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.stats import estimate_of_mean
from tokenry.core.tensors.generation import greedy_answers
from tokenry.core.text.digit_groups import NumberFormat, cut
from tokenry.core.text.number_tokens import digit_cuts
from tokenry.evaluation.arithmetic.addition_answers import parse_answer
from tokenry.evaluation.arithmetic.addition_problems import (
    SIGNATURES,
    AdditionFormat,
    AdditionProblems,
    Message,
    addition_format,
    addition_prompt,
    sample_problems,
)

_LEAST_NEW_TOKENS = 20
# Room for an answer that is longer than the correct one.
_SPARE_TOKENS = 4


@dataclass(frozen=True)
class AdditionAnswer:
    """One problem and the model's answer.

    Attributes:
        num1: first addend.
        num2: second addend.
        signature: digits of addends and sum, as `7+7=8`.
        shots: number of solved problems before it.
        length: `match` if the sum has as many digits as the longer addend, else `mismatch`.
        answer: number in the response; -1 for none, or several.
        valid: whether the response holds exactly one number.
        padded: whether white space surrounds the answer.
        extraneous: whether the response holds more than the number.
        format_match: whether the number has the requested format.
        answer_match: whether the number is the sum, however it is written.
        formatted_answer_match: whether the number is the sum in the requested format.
    """

    num1: int
    num2: int
    signature: str
    format: str
    shots: int
    length: str
    response: str
    answer: int
    valid: bool
    padded: bool
    extraneous: bool
    format_match: bool
    answer_match: bool
    formatted_answer_match: bool

    def as_row(self) -> dict[str, Any]:
        """Return a row of a table."""
        return asdict(self)


def evaluate_addition(
    model: PreTrainedModel | torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    signatures: Sequence[Sequence[int]] = SIGNATURES,
    fmt: str | AdditionFormat = "nosep",
    shots: int = 8,
    batch_size: int = 16,
    *,
    per_signature: int = 100,
    seed: int = 0,
    problems: AdditionProblems | None = None,
    chat: bool | None = None,
    max_new_tokens: int | None = None,
    name: str | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> list[AdditionAnswer]:
    """Let a causal language model add; batches are padded on the left, which never changes an answer.

    Args:
        model: model with a method `generate`. Its mode is restored afterwards.
        signatures: digits of addends and sum.
        fmt: name of a number format, or all settings of the prompt.
        shots: number of solved problems before each problem.
        batch_size: number of prompts per batch.
        per_signature: number of problems of each signature.
        problems: own problems, instead of those drawn by signature and seed.
        chat: whether to ask in the chat template; by default if the tokenizer has one. Without it, the answer is the first line.
        name: name of the format in the result; its own by default.
        max_new_tokens: maximum number of tokens of an answer; by default 20, or the length of the longest correct answer with some room.
        progress: function that is told the share that is done.

    Returns:
        One answer per problem, in the order of the problems.

    Raises:
        UserError: a template that refuses the prompt, or groups from the right that the tokenizer would not see.
    """
    chosen = addition_format(fmt)
    require_visible_groups(chosen, tokenizer)
    asked = problems or sample_problems(signatures, per_signature, shots, seed)
    require_at_least(1, batch_size=batch_size, max_new_tokens=max_new_tokens)
    in_chat = tokenizer.chat_template is not None if chat is None else chat
    prompts = [
        _encoded(tokenizer, addition_prompt(problem, few, chosen), in_chat)
        for problem, few in zip(asked.problems, asked.shots, strict=True)
    ]
    limit = max_new_tokens or _enough_tokens(tokenizer, asked, chosen)
    written = greedy_answers(model, tokenizer, prompts, limit, batch_size, progress)
    responses = written if in_chat else [text.split("\n")[0] for text in written]
    title = name or (fmt if isinstance(fmt, str) else format_title(chosen))
    return [judge_answer(asked, index, text, chosen, title) for index, text in enumerate(responses)]


def judge_answer(
    asked: AdditionProblems, index: int, response: str, fmt: str | AdditionFormat, name: str | None = None
) -> AdditionAnswer:
    """Judge a response to one of the problems, from any source.

    Args:
        index: number of the problem.
        response: the response; if the question is repeated, the number after the last `=` counts.
        fmt: format of the question.
        name: name of the format in the result.
    """
    chosen = addition_format(fmt)
    first, second = (int(addend) for addend in asked.problems[index])
    said = response.rpartition("=")[2] if chosen.repeat else response
    parsed = parse_answer(said, chosen.answers)
    right = parsed.number == first + second
    len1, len2, total = asked.signatures[index]
    return AdditionAnswer(
        num1=first,
        num2=second,
        signature=f"{len1}+{len2}={total}",
        format=name or (fmt if isinstance(fmt, str) else format_title(chosen)),
        shots=asked.shots.shape[1],
        length="match" if max(len1, len2) == total else "mismatch",
        response=response,
        answer=parsed.number,
        valid=parsed.valid,
        padded=parsed.padded,
        extraneous=parsed.extraneous,
        format_match=parsed.format_match,
        answer_match=right,
        formatted_answer_match=right and parsed.format_match,
    )


def accuracy_table(
    rows: Iterable[AdditionAnswer | Mapping[str, Any]] | DataFrame,
    by: Sequence[str] = ("signature", "format"),
) -> list[dict[str, Any]]:
    """Count correct answers in groups.

    Args:
        rows: answers, or rows with their fields.
        by: fields that define a group, such as `signature`, `format`, `length`, `shots`.

    Returns:
        One row per group in order of appearance: its fields, `problems`, `accuracy` (the sum is correct) with its `standard_error` (None
        for a single problem), `formatted` (correct and in the requested format) and `valid`, all of them shares.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for answer in rows.to_dict("records") if isinstance(rows, DataFrame) else rows:
        row = answer.as_row() if isinstance(answer, AdditionAnswer) else answer
        missing = [
            name for name in (*by, "answer_match", "formatted_answer_match", "valid") if name not in row
        ]
        if missing:
            raise UserError(f"the rows have no {', '.join(missing)}; they have {', '.join(map(str, row))}.")
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return [dict(zip(by, key, strict=True)) | _shares(members) for key, members in groups.items()]


def require_visible_groups(fmt: AdditionFormat, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` where numbers are to be grouped from the right without a separator, and the tokenizer groups them otherwise."""
    for written in (fmt.question, fmt.answer, fmt.repeat):
        if written is None or written.separator or written.direction != "r2l":
            continue
        digits = "1234567890"[: 2 * written.group + 1]
        found = digit_cuts(tokenizer, digits)
        if found != cut(digits, "r2l", written.group):
            raise UserError(
                f"an empty separator leaves {digits} as it is, and this tokenizer cuts it into {'|'.join(found)}: give a separator, or regroup "
                "the tokenizer with retokenize_numbers."
            )


def format_title(fmt: AdditionFormat) -> str:
    """A short name for a format that has none."""

    def named(written: NumberFormat) -> str:
        return f"{written.separator!r} {written.direction} {written.group}" if written.separator else "nosep"

    parts = [named(fmt.question)]
    parts += [f"answer {named(fmt.answer)}"] if fmt.answer else []
    parts += [f"repeat {named(fmt.repeat)}"] if fmt.repeat else []
    parts += [f"{fmt.spaces}+{fmt.trailing_spaces} spaces"] if fmt.spaces or fmt.trailing_spaces else []
    return ", ".join(parts)


def _shares(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    accuracy, formatted, valid = (
        estimate_of_mean([bool(row[name]) for row in members])
        for name in ("answer_match", "formatted_answer_match", "valid")
    )
    return {
        "problems": len(members),
        "accuracy": accuracy.value,
        "standard_error": accuracy.standard_error if len(members) > 1 else None,
        "formatted": formatted.value,
        "valid": valid.value,
    }


def _encoded(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], in_chat: bool) -> list[int]:
    if not in_chat:
        return list(tokenizer(_as_lines(messages))["input_ids"])
    if tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template: set tokenizer.chat_template, or ask with chat=False."
        )
    try:
        encoded = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=True
        )
    except TemplateError as error:
        raise UserError(
            f"the chat template refuses the prompt ({error}): leave out the system message with AdditionFormat(system=None), or ask with "
            "chat=False."
        ) from error
    return list(encoded["input_ids"])


def _as_lines(messages: Sequence[Message]) -> str:
    """The conversation as text: each solved problem is a line, and the model continues the last line."""
    text = ""
    for message in messages:
        text += message["content"] + {"system": "\n\n", "user": "", "assistant": "\n"}[message["role"]]
    return text


def _enough_tokens(tokenizer: PreTrainedTokenizerBase, asked: AdditionProblems, fmt: AdditionFormat) -> int:
    replies = [fmt.reply(int(first), int(second)) for first, second in asked.problems]
    longest = max(len(ids) for ids in tokenizer(replies, add_special_tokens=False)["input_ids"])
    return max(_LEAST_NEW_TOKENS, longest + _SPARE_TOKENS)
