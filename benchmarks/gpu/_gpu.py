"""How a benchmark for a GPU speaks: it says what it needs, skips by itself, and stores each result as soon as it is there.

    run(measure, __file__, gigabytes=40, seconds=90)      measure(device, smoke) yields results, as the benchmarks one folder above do

Results go to benchmarks/results/gpu/NAME.json, with the card and the versions. `--smoke` runs tiny sizes on the CPU and prints them.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from _report import Result, as_table, environment, note  # noqa: E402

from tokenry.core.io.files import write_json  # noqa: E402

RESULTS = ROOT / "benchmarks/results/gpu"
LLAMA_1B = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
"""The shape of Llama-3.2-1B; weights are random: time and memory do not depend on them."""
TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}

WARMING = 2
"""Rounds before those that count."""

Step = Callable[[], object]
Measure = Callable[[torch.device, bool], Iterable[Result]]


def run(measure: Measure, script: str, *, gigabytes: float, seconds: float) -> None:
    """Run a benchmark from the command line.

    Args:
        measure: is told the device, and whether tiny sizes will do.
        script: its file.
        gigabytes: free memory that it needs.
        seconds: about how long it takes on a card of the class of an H200.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU: measures nothing")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    arguments = parser.parse_args()
    smoke = arguments.smoke
    name = Path(script).stem
    note(f"{name} needs a CUDA device with {gigabytes:g} GB free, for about {seconds:g} s")
    lacking = None if smoke else what_lacks(gigabytes)
    if lacking:
        note(f"{name} is skipped: {lacking}")
        return
    device = torch.device("cpu" if smoke else "cuda")
    results: list[Result] = []
    with redirect_stdout(sys.stderr):
        about = {**environment(), **card(device)}
        for measured in measure(device, smoke):
            measured["settings"] |= about
            results.append(measured)
            note(f"{measured['name']}: {measured['ratio']}")
            if not smoke:
                write_json(RESULTS / f"{name}.json", results)
    print(json.dumps(results, indent=2) if arguments.json else as_table(results))


def what_lacks(gigabytes: float) -> str | None:
    """Why a benchmark cannot run here; None where it can."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    free = torch.cuda.mem_get_info()[0] / 1e9
    return f"{free:.0f} GB are free" if free < gigabytes else None


def card(device: torch.device) -> dict[str, str]:
    """The card, and the CUDA that torch was built with."""
    if device.type == "cpu":
        return {"device": "CPU"}
    properties = torch.cuda.get_device_properties(device)
    memory = f"{properties.total_memory / 1e9:.0f} GB"
    return {"device": f"{properties.name}, {memory}", "cuda": str(torch.version.cuda)}


def by_turns(steps: Mapping[str, Step], device: torch.device, rounds: int) -> dict[str, float]:
    """Least seconds of each step, taken by turns after the rounds that warm up."""
    least = dict.fromkeys(steps, float("inf"))
    for number in range(-WARMING, rounds):
        for name, step in steps.items():
            _wait(device)
            started = time.perf_counter()
            step()
            _wait(device)
            if number >= 0:
                least[name] = min(least[name], time.perf_counter() - started)
    return least


def peak_gigabytes(steps: Mapping[str, Step], device: torch.device) -> dict[str, float]:
    """Memory that each step needs beyond what is allocated before it; on a CPU it is not known, and 1 stands for it."""
    peaks = dict.fromkeys(steps, 1.0)
    for name, step in steps.items():
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            step()
            peaks[name] = (torch.cuda.max_memory_allocated(device) - before) / 1e9
    return peaks


def llama(device: torch.device, smoke: bool, **sizes: int) -> LlamaForCausalLM:
    """A Llama of one billion parameters in bfloat16, made on the device; a tiny one for smoke runs."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**(TINY if smoke else LLAMA_1B), **sizes})
    with device:
        return LlamaForCausalLM(config).to(torch.float32 if smoke else torch.bfloat16).eval()


def milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by name, for settings."""
    return {name: round(1e3 * taken, 3) for name, taken in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
