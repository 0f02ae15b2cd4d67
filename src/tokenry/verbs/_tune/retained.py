"""Forgetting: a model's NLL on text and tasks that it was not trained on, before and after.

By default this is a fixed sample of the docstrings of Python's own library, and for the demo its tasks under another seed.
"""

import functools
import random

from datasets import Dataset

from tokenry.core.chat.conversations import Encoding
from tokenry.core.errors import UserError
from tokenry.core.text.docstrings import read_docstrings
from tokenry.evaluation.noisy_tasks import noisy_tasks
from tokenry.verbs._chats import DEMO, Rows, read_checked
from tokenry.verbs.tune import Plan

PYTHON_DOCS, OTHER_TASKS = "Python's documentation", "tasks of another seed"
MOST_OVERLAP = 0.01
_PACKAGES = (
    "asyncio",
    "concurrent",
    "email",
    "http",
    "importlib",
    "json",
    "logging",
    "unittest",
    "urllib",
    "xml",
)
_TEXTS, _TASKS = 24, 24


def retained_rows(plan: Plan) -> dict[str, Rows]:
    """The rows to measure forgetting on, by name."""
    if plan.retain:
        return {source: read_checked(source) for source in plan.retain}
    rows = {PYTHON_DOCS: [{"text": text} for text in _python_documentation()]}
    if plan.data == DEMO:
        rows[OTHER_TASKS] = noisy_tasks(samples=0, trusted=0, held_out=_TASKS, seed=plan.seed + 1).held_out
    return rows


@functools.cache
def _python_documentation() -> list[str]:
    texts = dict.fromkeys(read_docstrings(_PACKAGES, held_out_share=0.0).train)
    return random.Random(0).sample(list(texts), _TEXTS)


def refuse_overlap(retained: Encoding, train: Dataset, source: str) -> None:
    """Refuse data of which more than a hundredth is trained on: nothing of it could be forgotten."""
    known = {tuple(ids) for ids in train["input_ids"]}
    rows = retained.dataset["input_ids"]
    seen = sum(tuple(ids) in known for ids in rows)
    if seen > MOST_OVERLAP * len(rows):
        raise UserError(
            f"{seen} of {len(rows)} samples of {source} are in the training data, where nothing is forgotten: leave them out of --retain."
        )
    if len(rows) < 2:
        raise UserError(f"one sample has no standard error: give --retain {source} at least two.")
