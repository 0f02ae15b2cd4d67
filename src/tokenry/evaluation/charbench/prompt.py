"""The prompt of an item, and how the response to it is read.

    system    a helpful assistant that answers questions
    user      answer only with the final number; lower and upper case differ; Question: …      (white space as released)
    response  int(response.strip()), else invalid

A model with a chat template is prompted in it. One without reads the same words as plain text that ends in "Answer:", and its answer
ends with the line.

Source: CharBench (arXiv 2508.02591), section 4; omriuz/CharBench, evaluation/utils.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from pandas import DataFrame, Series
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError

SYSTEM = "You are a helpful assistant that answers questions."

_USER = (
    "\n    Answer this question only with the final number, without any other text. "
    "Lower case and upper case letters are considered different characters.\n    \n\n"
    "Question: {question}\n\n    "
)


@dataclass(frozen=True)
class Asked:
    """Items as token ids.

    Attributes:
        prompts: token ids of each item.
        answers: token ids of each candidate answer, with the token that ends it.
        one_line: whether the answer ends with its line, not with a token of its own.
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    one_line: bool


def charbench_prompt(item: Mapping[str, Any] | Series) -> str:
    """Write the user's turn for one item (a row of the table, or anything with a `question`)."""
    if "question" not in item:
        raise UserError("an item needs a question: take a row of build_charbench.")
    return _USER.format(question=item["question"])


def parse_answer(response: str) -> int | None:
    """Read the integer that a response consists of; None if it is anything else."""
    try:
        return int(response.strip())
    except ValueError:
        return None


def ask(items: DataFrame, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[int]) -> Asked:
    """Encode items, and the candidate answers to them, in the tokenizer's chat template or as plain text."""
    users = [_USER.format(question=question) for question in items["question"]]
    if tokenizer.chat_template is None:
        return _ask_in_text(users, tokenizer, candidates)
    return _ask_in_chat(users, tokenizer, candidates)


def _ask_in_chat(
    users: Sequence[str], tokenizer: PreTrainedTokenizerBase, candidates: Sequence[int]
) -> Asked:
    has_system = _takes_system(tokenizer, users[0])
    texts = [_rendered(tokenizer, _turns(user, has_system), add_generation_prompt=True) for user in users]
    prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    answered = [*_turns(users[0], has_system), {"role": "assistant", "content": "0"}]
    rendered, asked = _rendered(tokenizer, answered), f"{texts[0]}0"
    end: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    # The model was taught to end an answer with the token that the template writes after it.
    if rendered.startswith(asked) and rendered != asked:
        end = _ids(tokenizer, rendered[len(asked) :])[:1]
    answers = [_continuation(tokenizer, texts[0], str(answer)) + end for answer in candidates]
    return Asked(prompts, answers, one_line=False)


def _ask_in_text(
    users: Sequence[str], tokenizer: PreTrainedTokenizerBase, candidates: Sequence[int]
) -> Asked:
    texts = [f"{SYSTEM}\n\n{user.strip()}\nAnswer:" for user in users]
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompts = [first + ids for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    answers = [_continuation(tokenizer, texts[0], f" {answer}\n") for answer in candidates]
    return Asked(prompts, answers, one_line=True)


def _takes_system(tokenizer: PreTrainedTokenizerBase, user: str) -> bool:
    """Whether the template writes the system message; some templates refuse it, some drop it."""
    try:
        return SYSTEM in _rendered(tokenizer, _turns(user, has_system=True))
    except TemplateError:
        return False


def _turns(user: str, has_system: bool) -> list[dict[str, str]]:
    if has_system:
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
    return [{"role": "user", "content": f"{SYSTEM}\n{user}"}]


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **options: Any) -> str:
    return tokenizer.apply_chat_template(turns, tokenize=False, **options)


def _continuation(tokenizer: PreTrainedTokenizerBase, text: str, more: str) -> list[int]:
    """The tokens of `more` after `text`; alone, where the two would be cut across their border."""
    before, whole = _ids(tokenizer, text), _ids(tokenizer, text + more)
    return whole[len(before) :] if whole[: len(before)] == before else _ids(tokenizer, more)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
