"""A step of reinforcement learning with credit per token, 16 responses of 256 tokens by a Llama of one billion parameters, beside TRL's."""

from collections.abc import Iterator
from functools import partial

import torch
from _gpu import by_turns, milliseconds, peak_gigabytes, run
from _report import Result, result
from token_credit import grpo, learn
from trl import GRPOTrainer

from tokenry.alignment import TokenCreditTrainer


def measure(device: torch.device, smoke: bool) -> Iterator[Result]:
    """Generation and the gradients of four micro-batches."""
    sizes = (64, 16, 1, 4) if smoke else (32_000, 2048, 16, 256)
    options = {} if smoke else {"use_cpu": False, "bf16": True}
    kinds = {"TRL": GRPOTrainer, "tokenry": TokenCreditTrainer}
    steps = {name: partial(learn, grpo(kind, *sizes, **options)) for name, kind in kinds.items()}
    settings = dict(zip(("vocabulary", "width", "layers", "new_tokens"), sizes, strict=True))
    seconds = by_turns(steps, device, rounds=1 if smoke else 3)
    yield result(
        "TokenCreditTrainer with GroupCredit / GRPOTrainer, step",
        seconds["tokenry"] / seconds["TRL"],
        1.02,
        **settings,
        milliseconds=milliseconds(seconds),
    )
    peaks = peak_gigabytes(steps, device)
    yield result(
        "memory of a step: TokenCreditTrainer / GRPOTrainer",
        peaks["tokenry"] / peaks["TRL"],
        1.02,
        **settings,
        gigabytes=peaks,
    )


if __name__ == "__main__":
    run(measure, __file__, gigabytes=60, seconds=80)
