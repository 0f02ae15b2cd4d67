"""CharBench: making the items of the paper's size, and asking a model by scores instead of by what it writes.

Items: 175,000 from 25,000 words of each length, against a loop that appends each item to a table as a one-row table (pandas concat), which is
how a table grows in scripts of this kind. The loop is quadratic, so it is measured at three sizes, and its time for the whole is that of
the largest times the items: less than it would take.

Answers: `score` against `generate` on the embedded model, the same items, batches of the same size.
"""

import random
import string
from collections.abc import Iterator

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
    """The lists and the loop, for the time of one item each."""
    per_length = 40 if smoke else 25_000
    words = made_up_words(per_length)
    sizes = (80, 160) if smoke else (500, 1_000, 2_000)
    built = build_charbench(words, per_length, SEED)
    rows = built.sample(max(sizes), random_state=SEED)[["task", "word", "character"]].to_numpy().tolist()
    steps: dict[str, Step] = {"all items": lambda: drop(build_charbench(words, per_length, SEED))}
    steps |= {f"loop, {size}": lambda size=size: drop(appended(rows[:size])) for size in sizes}
    seconds = interleaved(steps, rounds=1 if smoke else 3, threads=1)
    ours = seconds["all items"].cpu / len(built)
    theirs = {size: seconds[f"loop, {size}"].cpu / size for size in sizes}
    return speedup(
        f"items: one-row tables appended ({max(sizes):,} of them) / lists and one table ({len(built):,}), per item",
        theirs[max(sizes)] / ours,
        AT_LEAST_ITEMS,
        items=len(built),
        cpu_seconds={name: round(each.cpu, 4) for name, each in seconds.items()},
        microseconds_per_item={
            "all items": round(1e6 * ours, 2),
            **{f"loop, {size}": round(1e6 * each, 1) for size, each in theirs.items()},
        },
        pandas=pd.__version__,
    )


def appended(rows: list[list[str]]) -> pd.DataFrame:
    """A table that grows by one-row tables."""
    table = pd.DataFrame(columns=["question", "answer", "word", "character", "task"])
    for task, word, character in rows:
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
    asked = sample_items(build_charbench(made_up_words(per_length), per_length, SEED), 4 if smoke else 56)
    tokenizer = load_tokenizer()
    model = tiny_model(len(tokenizer)) if smoke else load_model()
    note(f"{len(asked)} items, {len(set(asked['task']))} of {len(TASKS)} tasks")
    steps = {
        mode: lambda mode=mode: drop(evaluate_charbench(model, tokenizer, asked, mode, 14))
        for mode in ("score", "generate")
    }
    seconds = interleaved(steps, rounds=1, threads=1)
    return speedup(
        "answers: written (generate) / compared by log-likelihood (score), SmolLM2-135M-Instruct",
        seconds["generate"].cpu / seconds["score"].cpu,
        AT_LEAST_SCORES,
        items=len(asked),
        batch_size=14,
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
