r"""Regroup the numbers of an existing tokenizer without training: the same vocabulary, only numbers are cut from the right.

    before   1234567 → 123 456 7        (GPT-4, Llama 3: \p{N}{1,3} in the pattern)
    after    1234567 → 1 234 567

Every step of its pre-tokenizer that cuts runs of digits is rewritten to leave them whole; the last step then cuts them into groups. All
other text keeps its pieces. Where that is impossible (numbers that are not tokens, decoders that write spaces between pieces) the
tokenizer is refused.

Source: Tokenization counts (arXiv 2402.14903); the operation itself is beyond the paper, which inserts separators into the text.
"""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.core.text.digit_groups import group_digits, group_sizes
from tokenry.core.text.number_tokens import all_numbers, number_token_ids
from tokenry.tokenization.numbers.number_pre_tokenizers import number_pre_tokenizer
from tokenry.tokenization.special_roles import ROLES

AnyFastTokenizer = TypeVar("AnyFastTokenizer", PreTrainedTokenizerBase, Tokenizer)

_SETTINGS = (
    "chat_template",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "clean_up_tokenization_spaces",
    "extra_special_tokens",
)

# A set of characters, an escaped character, or a class of digits with how often it is matched.
_PATTERN_PART = re.compile(
    r"(?P<digits>\\p\{Nd?\}|\\d|\[0-9\]|\[\\d\]|\[\\p\{Nd?\}\])(?P<times>\{\d+(?:,\d*)?\}|[+*?])?"
    r"|\[(?:\\.|[^\]\\])*\]|\\.",
    re.DOTALL,
)
_AROUND_DIGITS = re.compile(r"\(\?[:=!]|\(\?<[=!]|[()|^$]|\\b|\\B|\\G|[+*?]|\{\d+(?:,\d*)?\}")
_OTHER_TEXT = (
    "The cat's  42nd life, at 3.14159 % of $1,234.50\n\n    (x=12345) -> y1=-7;\t'0007' v2.10.3 2024-02-26 e=2718281828",
    "naïve नमस्ते दुनिया ไทย 漢字 12345678 ١٢٣٤٥ ½ x²  \n  9876543210 end ",
)


def retokenize_numbers(tokenizer: AnyFastTokenizer, mode: str = "r2l", group: int = 3) -> AnyFastTokenizer:
    """Return the same tokenizer with its numbers cut in another way; the digits 0 to 9, not `٣` or `½`.

    Args:
        tokenizer: a fast tokenizer of transformers, or a `tokenizers.Tokenizer`; it is not changed.
        mode: `r2l`, `l2r` or `single`.
        group: number of digits of a group; all numbers of up to that many digits must be tokens.

    Returns:
        A tokenizer with the same vocabulary, as a `PreTrainedTokenizerFast` (or a `tokenizers.Tokenizer`).

    Raises:
        UserError: numbers that are not tokens, or text that would not be cut and written as before.
    """
    old = backend_tokenizer(tokenizer)
    longest = max(group_sizes(group, mode, group))
    _require_number_tokens(old, longest)
    new = Tokenizer.from_str(json.dumps(_with_groups(json.loads(old.to_str()), mode, group)))
    view = ByteVocabulary.from_tokenizer(old)
    _require_whole_groups(view, new, longest)
    for text in (*_OTHER_TEXT, *_number_texts(group)):
        _require_only_numbers_changed(view, old, new, text, mode, group)
    return new if isinstance(tokenizer, Tokenizer) else _dressed(new, tokenizer)


def _dressed(backend: Tokenizer, like: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """Give a backend the names and settings of a tokenizer; the tokenizer class of a model would rebuild its own pre-tokenizer when loaded."""
    named = {role: getattr(like, role) for role in ROLES if getattr(like, role, None) is not None}
    settings = {name: getattr(like, name) for name in _SETTINGS if getattr(like, name, None) is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named, **settings)


# --- the pre-tokenizer ---------------------------------------------------------------------------------------------------------------


def _with_groups(state: dict[str, Any], mode: str, group: int) -> dict[str, Any]:
    """The state of a tokenizer whose last step of cutting is that of the numbers."""
    maker = Tokenizer.from_str('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    maker.pre_tokenizer = number_pre_tokenizer(mode, group)
    groups = json.loads(maker.to_str())["pre_tokenizer"]["pretokenizers"]
    steps = [_leaving_numbers_whole(step) for step in _steps(state["pre_tokenizer"])]
    return state | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, *groups]}}


def _steps(pre_tokenizer: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if pre_tokenizer is None:
        return
    if pre_tokenizer["type"] == "Sequence":
        for step in pre_tokenizer["pretokenizers"]:
            yield from _steps(step)
    else:
        yield pre_tokenizer


def _leaving_numbers_whole(step: dict[str, Any]) -> dict[str, Any]:
    if step["type"] == "Digits" and step["individual_digits"]:
        # Digits are all numeric characters to it, `½` and `²` too: those stay single.
        whole = {"Regex": r"[0-9]+|\p{N}"}
        return {"type": "Split", "pattern": whole, "behavior": "Isolated", "invert": False}
    if step["type"] == "Split" and "Regex" in step["pattern"]:
        return step | {"pattern": {"Regex": whole_numbers(step["pattern"]["Regex"])}}
    return step


def whole_numbers(pattern: str) -> str:
    r"""Let a pattern match whole runs of 0 to 9 where it matched a limited number of digits; other digits are matched as before.

    `\p{N}{1,3}` becomes `(?:[0-9]+|(?:(?![0-9])\p{N}){1,3})`.
    """

    def other(part: re.Match[str]) -> str:
        return part[0] if part["digits"] is None else f"(?:(?![0-9]){part['digits']}){part['times'] or ''}"

    def whole(part: re.Match[str]) -> str:
        already = part["digits"] is None or part["times"] in ("+", "*", "{1,}")
        return part[0] if already else f"(?:[0-9]+|{other(part)})"

    without_digits = _PATTERN_PART.sub(lambda part: "" if part["digits"] else part[0], pattern)
    if _AROUND_DIGITS.sub("", without_digits):
        return _PATTERN_PART.sub(whole, pattern)
    return f"[0-9]+|(?:{_PATTERN_PART.sub(other, pattern)})"


# --- checks --------------------------------------------------------------------------------------------------------------------------


def _require_number_tokens(tokenizer: Tokenizer, group: int) -> None:
    known = number_token_ids(tokenizer, group)
    lacking = (10 ** (group + 1) - 10) // 9 - len(known)
    if not lacking:
        return
    first = list(islice((number for number in all_numbers(group) if number not in known), 4))
    covered = len(first[0]) - 1
    spaced = any(
        token[:1] == b" "
        and token[1:].isdigit()
        and len(token) - 1 <= group
        and token[1:].decode() not in known
        for token in ByteVocabulary.from_tokenizer(tokenizer).ids
    )
    if covered == 0:
        advice = "give a tokenizer with a token for every digit"
    elif spaced and covered == 1:
        advice = "it knows longer ones with a space before them only, so cut them with mode='single' or put separators into the text"
    elif not any(len(number) > 1 for number in known):
        advice = (
            "it has single digits only, so it reads numbers digit by digit and there is nothing to regroup"
        )
    elif covered == 1:
        advice = "its longer numbers are incomplete, so it can be cut digit by digit only, with mode='single'"
    else:
        advice = f"give group={covered}"
    raise UserError(
        f"the vocabulary lacks {_count(lacking)} of the {_count(lacking + len(known))} numbers of 1 to {group} digits ({_some(first)}): "
        f"{advice}."
    )


def _require_whole_groups(view: ByteVocabulary, new: Tokenizer, group: int) -> None:
    cut = [number for number in all_numbers(group) if len(_bytes(view, new, number).split(b"\0")) != 1]
    if cut:
        raise UserError(
            f"{len(cut):,} numbers of up to {group} digits ({_some(cut)}) are in the vocabulary, but the model cuts them even where they "
            "stand alone, so groups would be cut again: choose a smaller group or another tokenizer."
        )


def _require_only_numbers_changed(
    view: ByteVocabulary, old: Tokenizer, new: Tokenizer, text: str, mode: str, group: int
) -> None:
    before, after = _bytes(view, old, text), _bytes(view, new, text)
    written = after.replace(b"\0", b"")
    if written != before.replace(b"\0", b""):
        raise UserError(
            f"this tokenizer would write {text.strip()!r} back as {written.decode(errors='replace').strip()!r}, because its pieces are words "
            "of their own: put separators into the text instead, with format_number."
        )
    wanted = _around_numbers(before) | _inside_numbers(written, mode, group)
    if _around_numbers(after) | _ends_inside(after) != wanted:
        raise UserError(
            f"the pre-tokenizer of this tokenizer cuts {text.strip()!r} in a way that cannot be kept beside groups of digits: put separators "
            "into the text instead, with format_number."
        )


def _number_texts(group: int) -> Iterator[str]:
    """Numbers of all lengths up to three groups, in usual contexts."""
    digits = "1234567890" * (3 * group // 10 + 1)
    for length in range(1, 3 * group + 1):
        number = digits[:length]
        yield from (number, f" {number} + {number} =", f"a{number}b", f"x\n  {number},\n")


def _bytes(view: ByteVocabulary, tokenizer: Tokenizer, text: str) -> bytes:
    """The tokens of a text with a zero byte between them; a space that the tokenizer puts before the text is left out."""
    try:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise UserError(
            f"this tokenizer cannot encode {text.strip()!r} ({error}): give it an unknown token."
        ) from error
    # An unknown token has no bytes; a stand-in keeps the numbers beside it apart.
    texts = (view.token_bytes[number] for number in ids)
    tokens = b"\0".join(b"\xff" if text is None else text for text in texts)
    return tokens.removeprefix(b" ").removeprefix(b"\0") if view.prepends_space else tokens


def _runs(joined: bytes) -> Iterator[tuple[int, int]]:
    for run in re.finditer(rb"[0-9]+", joined):
        yield run.span()


def _token_ends(tokens: bytes) -> set[int]:
    ends, length = set(), 0
    for token in tokens.split(b"\0"):
        length += len(token)
        ends.add(length)
    return ends


def _around_numbers(tokens: bytes) -> set[int]:
    """The ends of tokens that neither touch nor split a run of digits."""
    joined = tokens.replace(b"\0", b"")
    touched = {place for start, end in _runs(joined) for place in range(start, end + 1)}
    return _token_ends(tokens) - touched


def _ends_inside(tokens: bytes) -> set[int]:
    return _token_ends(tokens) - _around_numbers(tokens)


def _inside_numbers(joined: bytes, mode: str, group: int) -> set[int]:
    """The ends of groups, and the beginnings of numbers."""
    ends = set()
    for start, end in _runs(joined):
        ends.add(start)
        ends |= {start + stop for _, _, stop in group_digits(joined[start:end].decode(), mode, group)}
    return ends - {0}


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**12 else "more than 10^12"


def _some(numbers: list[str]) -> str:
    return ", ".join(numbers[:3]) + (", …" if len(numbers) > 3 else "")
