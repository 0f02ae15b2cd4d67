"""CharBench: making the items of the paper's size, and asking a model by scores instead of by what it writes.

Items: 175,000 from 25,000 words of each length, against a loop that appends each item to the table of its task as a one-row table (pandas
concat), which is how tables grow in scripts of this kind. Every append copies the table, so the loop is quadratic; it is not run to its
end: an append is timed at five sizes of the table, and summed over all of them (trapezoids).

Answers: `score` against `generate` on the embedded model, the same items, batches of the same size.
"""

import random
import string
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from _measure import Step, interleaved
from _report import Result, note, run, speedup
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.evaluation.charbench import build_charbench, evaluate_charbench, sample_items
from tokenry.evaluation.charbench.items import TASKS, answer_of, question_of
from tokenry.models import load_model, load_tokenizer

AT_LEAST_ITEMS = 300.0
AT_LEAST_SCORES = 1.5
SEED = 42


def measure(smoke: bool) -> Iterator[Result]:
    """Items, then answers."""
    yield items(smoke)
    yield answers(smoke)


def items(smoke: bool) -> Result:
    """All lists, and the loop at several sizes of its table."""
    per_length = 40 if smoke else 25_000
    words = made_up_words(per_length)
    built = build_charbench(words, per_length, SEED)
    of_a_task = len(built) // len(TASKS)
    sizes = [round(of_a_task * share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    rows = built.sample(10 if smoke else 200, random_state=SEED)[["task", "word", "character"]]
    asked = rows.to_numpy().tolist()
    steps: dict[str, Step] = {"all items": lambda: drop(build_charbench(words, per_length, SEED))}
    steps |= {f"at {size:,} rows": lambda table=built[:size]: drop(appended(table, asked)) for size in sizes}
    seconds = interleaved(steps, rounds=1 if smoke else 3, threads=1)
    ours = seconds["all items"].cpu
    each = [seconds[f"at {size:,} rows"].cpu / len(asked) for size in sizes]
    theirs = len(TASKS) * float(np.trapezoid(each, sizes))
    return speedup(
        f"items: a table per task that grows by one-row tables / lists and one table, {len(built):,} items",
        theirs / ours,
        AT_LEAST_ITEMS,
        items=len(built),
        cpu_seconds={"all items": round(ours, 4), "loop, summed over its appends": round(theirs, 1)},
        microseconds_per_append={
            f"at {size:,} rows": round(1e6 * one, 1) for size, one in zip(sizes, each, strict=True)
        },
        pandas=pd.__version__,
    )


def appended(table: pd.DataFrame, asked: list[list[str]]) -> pd.DataFrame:
    """A table that grows by one-row tables."""
    for task, word, character in asked:
        row = {
            "question": question_of(task, word, character),
            "answer": str(answer_of(task, word, character)),
            "word": word,
            "character": character,
            "task": task,
        }
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
    return table


def answers(smoke: bool) -> Result:
    """Both modes on the same items."""
    per_length = 8 if smoke else 40
    asked = sample_items(build_charbench(made_up_words(per_length), per_length, SEED), 4 if smoke else 32)
    tokenizer = load_tokenizer()
    model = tiny_model(len(tokenizer)) if smoke else load_model()
    note(f"{len(asked)} items, {len(set(asked['task']))} of {len(TASKS)} tasks")
    steps = {
        mode: lambda mode=mode: drop(evaluate_charbench(model, tokenizer, asked, mode, 8))
        for mode in ("score", "generate")
    }
    seconds = interleaved(steps, rounds=1, threads=1)
    return speedup(
        "answers: written (generate) / compared by log-likelihood (score), SmolLM2-135M-Instruct",
        seconds["generate"].cpu / seconds["score"].cpu,
        AT_LEAST_SCORES,
        items=len(asked),
        batch_size=8,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        cpu_seconds_per_item={name: round(each.cpu / len(asked), 4) for name, each in seconds.items()},
    )


def tiny_model(vocabulary: int) -> LlamaForCausalLM:
    """Random weights, for a run that only has to run."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )


def made_up_words(per_length: int) -> list[str]:
    """Distinct strings of 4 to 10 letters, so that no word list has to be installed."""
    draws = random.Random(SEED)
    words: dict[str, None] = {}
    for length in range(4, 11):
        wanted = len(words) + per_length
        while len(words) < wanted:
            words["".join(draws.choices(string.ascii_lowercase, k=length))] = None
    return list(words)


def drop(made: object) -> None:
    """A step returns nothing: what it made is freed within it."""


if __name__ == "__main__":
    torch.manual_seed(SEED)
    run(measure, __doc__.splitlines()[0])
