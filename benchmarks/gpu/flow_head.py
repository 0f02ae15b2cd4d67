"""The flow head at the paper's sizes: sampling a token by `sample_flow`, the same recorded as one CUDA graph, and a loop over steps."""

from collections.abc import Callable, Iterator

import torch
from _gpu import by_turns, milliseconds, run
from _report import Result, speedup
from torch import Tensor

from tokenry.generation import FlowHead, sample_flow

STEPS = 10
TIMES = [step / STEPS for step in range(STEPS)]


@torch.no_grad()
def measure(device: torch.device, smoke: bool) -> Iterator[Result]:
    """One token for one speaker, and for 64."""
    channels, condition, width, depth = (4, 8, 16, 2) if smoke else (160, 896, 1024, 3)
    torch.manual_seed(0)
    with device:
        head = FlowHead(channels, condition, width, depth)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    for rows in (1, 2) if smoke else (1, 64):
        hidden, noise = (
            torch.randn(rows, condition, device=device),
            torch.randn(rows, channels, device=device),
        )
        token = recordable(head, hidden, noise)
        torch.testing.assert_close(
            token(), sample_flow(head, hidden, STEPS, noise=noise), atol=1e-4, rtol=1e-3
        )
        steps: dict[str, Callable[[], object]] = {
            "tokenry": lambda hidden=hidden, noise=noise: sample_flow(head, hidden, STEPS, noise=noise),
            "loop": lambda hidden=hidden, noise=noise: loop(head, hidden, noise),
            "graph": recorded(token, device),
        }
        seconds = by_turns(steps, device, rounds=2 if smoke else 50)
        for name, slower, faster, target in (
            (f"{STEPS} flow steps, {rows} at once: loop / tokenry", "loop", "tokenry", 1.5),
            (f"{STEPS} flow steps, {rows} at once: tokenry / one CUDA graph", "tokenry", "graph", 3.0),
        ):
            yield speedup(
                name,
                seconds[slower] / seconds[faster],
                target,
                rows=rows,
                width=width,
                blocks=depth,
                milliseconds=milliseconds(seconds),
            )


def recordable(head: FlowHead, hidden: Tensor, noise: Tensor) -> Callable[[], Tensor]:
    """What `sample_flow` computes, with the embedding of the times, which no token changes, made before: nothing is copied from the CPU."""
    at = head.time(torch.tensor(TIMES, device=hidden.device))[:, None]

    def token() -> Tensor:
        parts = [part(at + head.condition(hidden)) for part in head._modulations()]
        x = noise
        for step in range(STEPS):
            known = [{name: rows[step] for name, rows in part.items()} for part in parts]
            x = x + head.velocity(x, known) / STEPS
        return x

    return token


def recorded(token: Callable[[], Tensor], device: torch.device) -> Callable[[], object]:
    """The replay of its CUDA graph; on a CPU the function itself."""
    if device.type == "cpu":
        return token
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            token()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        token()
    return graph.replay


def loop(head: FlowHead, hidden: Tensor, noise: Tensor) -> Tensor:
    """The head as a function of x, t and the hidden state, called at every step."""
    x = noise
    for time in TIMES:
        x = x + head(x, torch.full((len(x),), time, device=x.device), hidden) / STEPS
    return x


if __name__ == "__main__":
    run(measure, __file__, gigabytes=4, seconds=15)
