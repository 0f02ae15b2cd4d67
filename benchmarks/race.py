"""A race of six weighings beside one plain run of the same model on the same data: wall time of the two commands.

A small Llama on generated sums, a third of whose answers are another sum's; LoRA, three epochs. Both are whole runs of
`tokenry tune`, with reading, measuring and writing; the race trains, judges and resumes, and runs the winner and the control to their
end. Runs are timed by turns, each in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from _report import Result, note, result, run
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.cli import app

TARGET = 2.5
RACE, PLAIN = "race of six", "one plain run"
ALWAYS = ("--set", "use_cpu=true", "--dtype", "float32", "--set", "answers=0", "--quiet", "--json")
ALWAYS += ("--set", "num_train_epochs=3", "--set", "gradient_accumulation_steps=1")


def measure(smoke: bool) -> Iterator[Result]:
    """Time both by turns and keep the fastest of each."""
    samples, rounds = (60, 1) if smoke else (480, 2)
    with tempfile.TemporaryDirectory() as folder:
        desk = Path(folder)
        write_desk(desk, samples, width=32 if smoke else 192)
        commands = {
            RACE: ["--trusted", str(desk / "trusted.jsonl")],
            PLAIN: ["--trusted", str(desk / "trusted.jsonl"), "--weighing", "full", "--compare", ""],
        }
        if smoke:
            commands[RACE] += ["--candidates", "small-loss,random"]
        seconds = {name: [] for name in commands}
        for number in range(rounds):
            for name, options in commands.items():
                note(f"{name}, round {number + 1}")
                seconds[name].append(timed(desk, f"{name}-{number}", options, smoke))
        race = json.loads((desk / f"{RACE}-0" / "result.json").read_text())["race"]
        fastest = {name: min(values) for name, values in seconds.items()}
        yield result(
            f"wall time: {RACE} / {PLAIN}",
            fastest[RACE] / fastest[PLAIN],
            TARGET,
            samples=samples,
            entries=list(race["entries"]),
            price=round(race["price"], 3),
            spent=round(race["spent"], 3),
            wall_seconds={name: round(value, 2) for name, value in fastest.items()},
        )


def timed(desk: Path, name: str, options: list[str], smoke: bool) -> float:
    """Seconds of one command, in a process of its own unless nothing is measured; nothing is read from the cache of another."""
    arguments = ["tune", str(desk / "model"), str(desk / "data.jsonl"), "--output", str(desk / name)]
    arguments += [*ALWAYS, *options]
    os.environ["TOKENRY_CACHE"] = str(desk / f"cache of {name}")
    begun = time.perf_counter()
    if smoke:
        app(arguments, standalone_mode=False)
    else:
        subprocess.run([sys.executable, "-m", "tokenry", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def write_desk(desk: Path, samples: int, width: int) -> None:
    """A model that reads bytes, noisy data and a few trusted samples."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    of_bytes = Tokenizer(
        models.BPE({letter: number for number, letter in enumerate(["<end>", *alphabet])}, [])
    )
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_bytes.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=of_bytes, eos_token="<end>", pad_token="<end>").save_pretrained(
        desk / "model"
    )
    torch.manual_seed(0)
    sizes = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=512, **sizes)).save_pretrained(
        desk / "model"
    )
    draws = Random(0)
    write(desk / "data.jsonl", [row(draws, wrong=draws.random() < 1 / 3) for _ in range(samples)])
    write(desk / "trusted.jsonl", [row(draws, wrong=False) for _ in range(48)])


def row(draws: Random, wrong: bool) -> dict[str, Any]:
    """One sum, step by step."""
    terms = [draws.randint(1, 9) for _ in range(6)]
    total = sum(terms) + (draws.randint(1, 5) if wrong else 0)
    steps = ", ".join(f"{sum(terms[:number])} and {terms[number]}" for number in range(1, len(terms)))
    return {"prompt": f"Add {terms}.", "completion": f" We add {steps}. The answer is {total}."}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
