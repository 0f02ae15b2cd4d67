"""Memory that a weighed training needs for its tokens before the first step, beyond TRL's trainer on the same data.

20 million tokens in samples of 512, in memory, a quarter of them prompt; a tiny model. Each trainer is built in its own process. Resident
memory is compared with 9 bytes per token: an index of 8 bytes per token would use all but one of them. Runs of indices need almost
nothing, so only the looked-up numbers remain (4 bytes each). Without a weighing there must be no memory at all.
"""

import ctypes
import gc
import multiprocessing
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from _measure import resident
from _report import Result, note, result, run
from _steps import TINY, Shape, config, load, tokenizer
from datasets import Dataset
from trl import SFTTrainer

from tokenry.finetuning import (
    DatasetWeights,
    PromptResponseWeights,
    RandomTokens,
    SmallLoss,
    SSToken,
    TokenWeighing,
    TokenWeighingTrainer,
)

# Bytes a token.
ALLOWED = 9
WEIGHINGS: dict[str, TokenWeighing | None] = {
    "no weighing": None,
    "ssToken, last epoch's losses": SSToken(history="previous_epoch"),
    "small loss": SmallLoss(),
    "random tokens": RandomTokens(),
    "weights in the data": DatasetWeights(),
    "prompt and response": PromptResponseWeights(),
}


@dataclass(frozen=True)
class Setting:
    """How many samples of how many tokens, and whether they are packed."""

    samples: int
    length: int = 512
    packing: bool = False

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.samples * self.length


def measure(smoke: bool) -> Iterator[Result]:
    """Every weighing on samples, one of them packed."""
    plain = Setting(samples=40 if smoke else 39_063)
    packed = Setting(samples=40 if smoke else 39_063, packing=True)
    cases = [(plain, name) for name in WEIGHINGS] + [(packed, "ssToken, last epoch's losses")]
    cases = cases[-1:] if smoke else cases
    for setting in dict.fromkeys(setting for setting, _ in cases):
        theirs = in_a_process(partial(build, setting, None))
        for name in (name for case, name in cases if case == setting):
            ours = in_a_process(partial(build, setting, name))
            kept, peak = (
                max(0.0, mine - other) / setting.tokens for mine, other in zip(ours, theirs, strict=True)
            )
            yield result(
                f"bytes a token above SFTTrainer / {ALLOWED}, {name}{', packed' * setting.packing}",
                max(kept / ALLOWED, 0.001),
                1.0,
                tokens=setting.tokens,
                longest=setting.length,
                bytes_per_token=round(kept, 2),
                bytes_per_token_while_built=round(peak, 2),
                megabytes={"tokenry": round(ours[0] / 1e6), "SFTTrainer": round(theirs[0] / 1e6)},
            )


def build(setting: Setting, name: str | None) -> tuple[float, float]:
    """Build a trainer (None: TRL's); bytes that stay, and the most there were while it was built."""
    datasets.disable_progress_bars()
    model, data = load(Shape(model=TINY)), rows(setting)
    with tempfile.TemporaryDirectory() as folder:
        options = {"packing": True, "max_length": setting.length} if setting.packing else {}
        given = {
            "model": model,
            "args": config(folder, 8, num_train_epochs=2, **options),
            "train_dataset": data,
            "processing_class": tokenizer(),
        }
        gc.collect()
        give_back_freed()
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = resident("VmRSS")
        if name is None:
            trainer = SFTTrainer(**given)
        else:
            trainer = TokenWeighingTrainer(**given, weighing=WEIGHINGS[name], history_cache=folder)
        gc.collect()
        give_back_freed()
        kept, peak = resident("VmRSS") - before, resident("VmHWM") - before
        del trainer
    return kept, peak


def rows(setting: Setting) -> Dataset:
    """Random tokens, as they lie in memory after tokenisation; a weight per sample."""
    ids = np.random.default_rng(0).integers(10, dict(TINY)["vocab_size"], setting.tokens)
    labels = np.where(np.arange(setting.tokens) % setting.length < setting.length // 4, -100, ids)
    offsets = pa.array(np.arange(0, setting.tokens + 1, setting.length), pa.int32())
    columns = {
        name: pa.ListArray.from_arrays(offsets, values)
        for name, values in (("input_ids", ids), ("labels", labels))
    }
    weights = pa.array(np.linspace(0.5, 1.0, setting.samples, dtype=np.float32))
    return Dataset(pa.table({**columns, "weight": weights}))


def give_back_freed() -> None:
    """Give freed memory back to the system, so that what is resident is in use."""
    pa.default_memory_pool().release_unused()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def in_a_process(job: partial) -> tuple[float, float]:
    """Run a job in a process of its own, so that nothing another one left is measured."""
    note(f"{job.args[1] or 'SFTTrainer'}, {job.args[0].tokens} tokens{', packed' * job.args[0].packing}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tokenry.finetuning"])  # imported once for all of them
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(job, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _send(job: partial, sender: multiprocessing.connection.Connection) -> None:
    sender.send(job())


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
