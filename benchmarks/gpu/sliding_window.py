"""Sliding windows of 512 at 4,096 and 16,384 tokens: blocks beside flex_attention and full attention, forward and backward, in bfloat16."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from _gpu import by_turns, milliseconds, peak_gigabytes, run
from _report import Result, result, speedup
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from tokenry.pretraining import sliding_window_attention

OURS, FLEX, FULL = "blocks", "flex_attention", "full attention"
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def measure(device: torch.device, smoke: bool) -> Iterator[Result]:
    """Twelve heads of 64, as in a base encoder."""
    window, heads = (8, 2) if smoke else (512, 12)
    dtype = torch.float32 if smoke else torch.bfloat16
    for length in (32, 64) if smoke else (4096, 16_384):
        torch.manual_seed(0)
        given = list(torch.randn(3, 1, heads, length, 64, device=device, dtype=dtype))
        ways: dict[str, Attention] = {
            OURS: partial(sliding_window_attention, window=window),
            FLEX: flexible(length, window, device),
            FULL: scaled_dot_product_attention,
        }
        with torch.no_grad():
            torch.testing.assert_close(ways[OURS](*given), ways[FLEX](*given), atol=2e-2, rtol=2e-2)
        forward = {name: partial(attend, way, given) for name, way in ways.items()}
        both = {name: partial(learn, way, given) for name, way in ways.items()}
        if smoke:
            del both[FLEX]  # it has no backward on a CPU
        settings = {"length": length, "window": window, "heads": heads, "dtype": str(dtype)}
        for what, steps in (("forward", forward), ("forward and backward", both)):
            seconds = by_turns(steps, device, rounds=1 if smoke else 20)
            for peer in steps.keys() - {OURS}:
                yield speedup(
                    f"{what}, {length} tokens: {peer} / {OURS}",
                    seconds[peer] / seconds[OURS],
                    1.0,
                    **settings,
                    milliseconds=milliseconds(seconds),
                )
        peaks = peak_gigabytes(both, device)
        for peer in both.keys() - {OURS}:
            yield result(
                f"memory, forward and backward, {length} tokens: {OURS} / {peer}",
                peaks[OURS] / peaks[peer],
                1.5,
                **settings,
                gigabytes=peaks,
            )


def flexible(length: int, window: int, device: torch.device) -> Attention:
    """The same window as a block mask; compiled where there is a card."""
    mask = create_block_mask(
        lambda batch, head, query, key: (query - key).abs() <= window // 2,
        B=None,
        H=None,
        Q_LEN=length,
        KV_LEN=length,
        device=device.type,
    )
    attention = torch.compile(flex_attention, dynamic=False) if device.type == "cuda" else flex_attention
    return partial(attention, block_mask=mask)


@torch.no_grad()
def attend(way: Attention, given: list[Tensor]) -> None:
    """Forward."""
    way(*given)


def learn(way: Attention, given: list[Tensor]) -> None:
    """Forward and backward."""
    leaves = [tensor.detach().requires_grad_() for tensor in given]
    way(*leaves).sum().backward()


if __name__ == "__main__":
    run(measure, __file__, gigabytes=20, seconds=60)
