"""xAR-B: sampling with a cache beside the released loop, 32 images of 16 × 16 latents, under bfloat16 autocast."""

from collections.abc import Iterator
from functools import partial

import torch
from _gpu import by_turns, milliseconds, peak_gigabytes, run
from _report import Result, result, speedup
from generation import given, ours, released, small_model
from torch import Tensor

from tokenry.generation import NextXConfig

B = NextXConfig.of_size("B")
XAR_B = (B.hidden_size, B.num_encoder_layers + B.num_decoder_layers, B.num_attention_heads)


def measure(device: torch.device, smoke: bool) -> Iterator[Result]:
    """Images per second, and memory."""
    shape, images, flow_steps = ((24, 2, 1), 1, 2) if smoke else (XAR_B, 32, 25)
    with device:
        model = small_model(*shape)
    labels, noise = (tensor.to(device) for tensor in given(images))

    def sample(loop) -> Tensor:
        # What the released loop makes on the way is made on the card.
        with device, torch.autocast(device.type, torch.bfloat16):
            return loop(model, labels, noise, flow_steps)

    steps = {"tokenry": partial(sample, ours), "released": partial(sample, released)}
    seconds = by_turns(steps, device, rounds=1 if smoke else 2)
    settings = {"width": shape[0], "blocks": shape[1], "images": images, "flow_steps": flow_steps}
    yield speedup(
        "xAR-B sampling: released loop / tokenry",
        seconds["released"] / seconds["tokenry"],
        1.4,
        **settings,
        milliseconds=milliseconds(seconds),
        images_per_second=round(images / seconds["tokenry"], 2),
    )
    peaks = peak_gigabytes(steps, device)
    yield result(
        "memory of xAR-B sampling: tokenry / released loop",
        peaks["tokenry"] / peaks["released"],
        0.6,
        **settings,
        gigabytes=peaks,
    )


if __name__ == "__main__":
    run(measure, __file__, gigabytes=20, seconds=60)
