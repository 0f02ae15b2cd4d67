"""The prompts of `tokenry rl`, each with what its reward is told by: those of the demo, or rows of the user's.

A question is a row with `prompt` (messages that end with the user's turn) and, where the reward is a verifier, `verifier`; its other
columns are handed to a reward function. The demo asks sums and greatest common divisors of reasoning-gym, behind two answered ones
each, so that the answers of a small model have a common form, and some of them are right.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.workspace import fingerprint
from tokenry.core.stats import FEWEST_ITEMS
from tokenry.evaluation.verifiers import is_right
from tokenry.verbs._chats import DEMO

Question = dict[str, Any]

DEMO_QUESTIONS = 160
"""Questions of the demo to train on."""
VERIFIERS = ("exact", "number")
"""The verifiers that read a column of answers."""
_SOLVED = 2
_PROMPTS = ("prompt", "question")


@dataclass(frozen=True)
class Questions:
    """What is trained on, and what is measured on, without a question in common."""

    train: list[Question]
    held_out: list[Question]

    @property
    def fingerprint(self) -> str:
        """A hash of all questions."""
        return fingerprint(self.train, self.held_out, length=24)


def gather(data: str, held_out: str | None, answers: int, reward: str | None, seed: int) -> Questions:
    """Read or make the questions.

    Args:
        data: `demo`, or where rows are read from.
        held_out: where the held-out rows are read from; None for a part of `data`.
        answers: number of held-out questions.
        reward: `exact`, `number`, a reward function, or None for the verifiers of the rows.
        seed: random seed of the demo and of what is set aside.
    """
    if data == DEMO:
        if held_out:
            raise UserError(
                "the demo brings held-out questions of its own: leave --held-out out, or name DATA."
            )
        made = [
            {**question, "verifier": _verifier(question, reward if reward in VERIFIERS else None)}
            for question in islice(_demo(seed), answers + DEMO_QUESTIONS)
        ]
        return Questions(made[answers:], made[:answers])
    rows = list(_read(data, reward))
    if held_out:
        measured = list(islice(_read(held_out, reward), answers))
        if len(measured) < 2:
            raise UserError(f"{held_out} holds one question, which has no standard error: give at least two.")
        return Questions(rows, measured)
    if len(rows) < 2 * FEWEST_ITEMS:
        raise UserError(
            f"{data} holds {len(rows)} questions, too few to train on and to set some aside: give at least {2 * FEWEST_ITEMS}, "
            "or --held-out a file."
        )
    random.Random(seed).shuffle(rows)
    aside = min(answers, len(rows) // 3)
    return Questions(rows[aside:], rows[:aside])


def _read(source: str, reward: str | None) -> Iterator[Question]:
    from tokenry.core.chat.rows import read_rows

    for number, row in enumerate(read_rows(source), start=1):
        try:
            yield _question(row, reward, number)
        except UserError as error:
            raise UserError(f"{source}, row {number}: {error}") from error


def _question(row: Mapping[str, Any], reward: str | None, number: int) -> Question:
    """Understand one row."""
    from tokenry.core.chat.reading import plain

    columns = {str(name): plain(value) for name, value in row.items() if value is not None}
    prompt = _prompt(columns, number)
    if reward is None or reward in VERIFIERS:
        columns["verifier"] = _verifier(columns, reward)
        is_right("", columns["verifier"])
    return {**columns, "prompt": prompt}


def _prompt(columns: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Take the prompt out of the columns: text is one turn of the user."""
    from tokenry.core.chat.rows import to_sample

    name = next((name for name in _PROMPTS if name in columns), None)
    if name is None and "messages" not in columns:
        raise UserError(
            f"there is no prompt (columns found: {', '.join(columns)}): give `prompt` or `question`, and `answer`."
        )
    if name is None:
        sample = to_sample({"messages": columns.pop("messages")}, number)
        turns = [dict(message) for message in sample.messages or []]
        last = max(
            (place for place, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns)
        )
        written: Any = turns[:last]
    else:
        written = columns.pop(name)
    if isinstance(written, str):
        written = [{"role": "user", "content": written}]
    if not isinstance(written, list) or not written or written[-1].get("role") != "user":
        raise UserError("the prompt must be a text, or messages that end with the user's turn.")
    if not str(written[-1].get("content", "")).strip():
        raise UserError("the prompt is empty: there is nothing to answer.")
    return written


def _verifier(columns: Mapping[str, Any], reward: str | None) -> dict[str, Any]:
    """What tells whether an answer is right: the row's own verifier, or a column `answer`."""
    if reward is None and "verifier" in columns:
        stored = columns["verifier"]
        try:
            verifier = json.loads(stored) if isinstance(stored, str) else stored
        except ValueError as error:
            raise UserError(f"the verifier is not valid JSON: {stored!r}.") from error
        if isinstance(verifier, dict):
            return verifier
        raise UserError(f"the verifier must map names to values, got {stored!r}.")
    if "answer" not in columns:
        raise UserError(
            f"there is no `answer` to verify by (columns beside the prompt: {', '.join(columns) or 'none'}): give one, or "
            "--reward module:function."
        )
    return {"kind": reward or "exact", "answer": str(columns["answer"])}


def _demo(seed: int) -> Iterator[Question]:
    """Ask the families in turn, no question twice, until one has no more."""
    streams = [_family(name, seed) for name in _FAMILIES]
    return chain.from_iterable(zip(*streams, strict=False))


def _family(name: str, seed: int) -> Iterator[Question]:
    import reasoning_gym

    settings, asked_as = _FAMILIES[name]
    tasks = reasoning_gym.create_dataset(
        name, seed=random.Random(f"{seed}:{name}").getrandbits(31), **settings
    )
    asked: dict[str, Mapping[str, Any]] = {}
    missed = 0
    for index in count():
        entry = tasks[index]
        text = asked_as(entry)
        if text in asked or entry["answer"].startswith("-"):  # below 0 a small model is never right
            missed += 1
            if missed > 1000:
                return
            continue
        missed = 0
        asked[text] = entry
        if len(asked) > _SOLVED:
            yield _demo_question(name, text, entry, dict(islice(asked.items(), _SOLVED)))


def _demo_question(
    name: str, text: str, entry: Mapping[str, Any], solved: Mapping[str, Mapping[str, Any]]
) -> Question:
    turns = [{"role": "system", "content": "Answer in one short sentence."}]
    for question, task in solved.items():
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": f"The answer is {task['answer']}."})
    stored = json.dumps({"answer": entry["answer"], "metadata": entry["metadata"]})
    return {
        "prompt": [*turns, {"role": "user", "content": text}],
        "answer": entry["answer"],
        "verifier": {"kind": "reasoning-gym", "dataset": name, "entry": stored},
    }


def _divisor_question(entry: Mapping[str, Any]) -> str:
    one, other = entry["metadata"]["numbers"]
    return f"What is the greatest common divisor of {one} and {other}?"


_FAMILIES: dict[str, tuple[dict[str, int], Callable[[Mapping[str, Any]], str]]] = {
    "chain_sum": (
        {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
        lambda entry: f"What is {entry['metadata']['expression']}?",
    ),
    "gcd": ({"min_numbers": 2, "max_numbers": 2, "min_value": 2, "max_value": 20}, _divisor_question),
}
