"""The mask of DiffRate's rate proxy, forward and backward, against the loop over its candidates.

A search makes two masks per layer and step. The loop adds each candidate's probability to the slice of the positions that it keeps,
which autograd records one by one; ours reads one running sum. 196 patches and a class token, steps of one token: 196 candidates.
"""

from collections.abc import Callable, Iterator

import torch
from _measure import Step, interleaved
from _report import Result, run, speedup
from torch import Tensor

from tokenry.compression.vision.rate_proxy import RateProxy

TARGET = 8.0


def measure(smoke: bool) -> Iterator[Result]:
    patches, alive, repeats, rounds = (16, 12, 1, 1) if smoke else (196, 150, 50, 10)
    proxy = RateProxy(patches)
    generator = torch.Generator().manual_seed(0)
    proxy.logits.data = torch.randn(patches, generator=generator)
    upstream = torch.randn(patches + 1, generator=generator)
    masks: dict[str, Callable[[], Tensor]] = {
        "loop": lambda: loop_mask(proxy, alive),
        "tokenry": lambda: proxy.mask(alive),
    }
    outcome = {name: mask_and_gradient(proxy, mask, upstream) for name, mask in masks.items()}
    torch.testing.assert_close(outcome["tokenry"], outcome["loop"])
    steps = {name: repeated(proxy, mask, upstream, repeats) for name, mask in masks.items()}
    seconds = interleaved(steps, rounds, threads=1)
    yield speedup(
        "DiffRate proxy mask, forward and backward: loop over candidates / tokenry",
        seconds["loop"].cpu / seconds["tokenry"].cpu,
        TARGET,
        patches=patches,
        granularity=1,
        threads=1,
        rounds=rounds,
        cpu_milliseconds={name: round(1000 * each.cpu / repeats, 3) for name, each in seconds.items()},
    )


def loop_mask(proxy: RateProxy, alive: int) -> Tensor:
    """The same mask, one candidate after the other."""
    probabilities = proxy.logits.softmax(dim=0)
    expected = (probabilities * proxy.candidates).sum()
    kept = int(expected.detach().ceil()) + proxy.special_tokens
    survival = torch.zeros(len(proxy.candidates) + proxy.special_tokens)
    for probability, candidate in zip(probabilities, proxy.candidates.tolist(), strict=True):
        survival[: candidate + proxy.special_tokens] += probability
    hard = torch.ones_like(survival)
    hard[kept:alive] = 0
    return hard - survival.detach() + survival


def mask_and_gradient(
    proxy: RateProxy, mask: Callable[[], Tensor], upstream: Tensor
) -> tuple[Tensor, Tensor]:
    made = mask()
    (gradient,) = torch.autograd.grad(made, proxy.logits, upstream)
    return made.detach(), gradient


def repeated(proxy: RateProxy, mask: Callable[[], Tensor], upstream: Tensor, repeats: int) -> Step:
    def step() -> None:
        for _ in range(repeats):
            mask_and_gradient(proxy, mask, upstream)

    return step


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
