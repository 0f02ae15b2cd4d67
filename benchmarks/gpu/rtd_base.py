"""Replaced-token detection of the size of ELECTRA-Base, 32 × 512 tokens under bfloat16 autocast, beside a loop over full logits."""

from collections.abc import Iterator

import torch
from _gpu import by_turns, milliseconds, peak_gigabytes, run
from _report import Result, result, speedup
from pretraining import SPECIAL, loop_step, our_step, pair
from transformers import ElectraConfig

BASE = {
    "vocab_size": 30_522,
    "embedding_size": 768,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}


def measure(device: torch.device, smoke: bool) -> Iterator[Result]:
    """A step of the same pair on the same masks, forward and backward."""
    rows, length = (2, 16) if smoke else (32, 512)
    config = ElectraConfig(**({"num_hidden_layers": 1, "vocab_size": 300} if smoke else BASE))
    model, disc = (module.to(device) for module in pair(config))
    ids = torch.randint(len(SPECIAL), config.vocab_size, (rows, length), device=device)
    mask = torch.ones_like(ids)

    def ours() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            our_step(model, ids, mask)

    def loop() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loop_step(model, disc, ids, mask)

    steps = {"loop": loop, "tokenry": ours}
    settings = {"rows": rows, "length": length, "layers": config.num_hidden_layers}
    seconds = by_turns(steps, device, rounds=1 if smoke else 10)
    yield speedup(
        "RTD step, ELECTRA-Base: loop over full logits / tokenry",
        seconds["loop"] / seconds["tokenry"],
        1.2,
        **settings,
        milliseconds=milliseconds(seconds),
        tokens_per_second=round(rows * length / seconds["tokenry"]),
    )
    peaks = peak_gigabytes(steps, device)
    yield result(
        "memory of an RTD step, ELECTRA-Base: tokenry / loop",
        peaks["tokenry"] / peaks["loop"],
        0.7,
        **settings,
        gigabytes=peaks,
    )


if __name__ == "__main__":
    run(measure, __file__, gigabytes=60, seconds=40)
