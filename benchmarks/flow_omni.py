"""The flow head whose modulations of all steps are computed before the first, against a loop that computes them in every step.

N = 10 Euler steps at the sizes of the paper's class of models (width 1024, 3 blocks, 160 channels, hidden states of 896), for one token, as
one speaker writes (where reading the weights is the cost), and for a batch. Samples are compared first. Training: the loss over the real tokens alone, against the loss over the
padded batch with a mask, half of which is padding.
"""

from collections.abc import Iterator

import torch
from _measure import interleaved
from _report import Result, run, speedup
from torch import Tensor

from tokenry.generation import FlowDraws, FlowHead, conditional_flow_loss, flow_path, sample_flow

STEPS = 10


def measure(smoke: bool) -> Iterator[Result]:
    """The ratios in CPU time of one thread."""
    width, depth, channels, condition, rounds = (16, 2, 4, 8, 1) if smoke else (1024, 3, 160, 896, 7)
    torch.manual_seed(0)
    head = FlowHead(channels, condition, width, depth)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    for rows, guidance in ((1, 0.0), (1, 1.0), (8, 0.0)):
        yield sampling(head, rows, guidance, rounds, condition)
    yield training(head, rounds, condition, smoke)


@torch.no_grad()
def sampling(head: FlowHead, rows: int, guidance: float, rounds: int, condition: int) -> Result:
    """One token for each row."""
    hidden, noise = torch.randn(rows, condition), torch.randn(rows, head.channels)
    nothing = torch.randn(condition)

    def ours() -> Tensor:
        return sample_flow(head, hidden, STEPS, guidance=guidance, null_hidden=nothing, noise=noise)

    def plain() -> Tensor:
        x = noise
        for step in range(STEPS):
            t = torch.full((rows,), step / STEPS)
            velocity = head(x, t, hidden)
            if guidance:
                without = head(x, t, nothing.expand(rows, -1))
                velocity = (1 + guidance) * velocity - guidance * without
            x = x + velocity / STEPS
        return x

    torch.testing.assert_close(ours(), plain(), rtol=1e-3, atol=1e-4)
    repeats = max(1, 16 // rows)
    seconds = interleaved(
        {"tokenry": lambda: _often(ours, repeats), "plain loop": lambda: _often(plain, repeats)},
        rounds,
        threads=1,
    )
    guided = ", guided" if guidance else ""
    return speedup(
        f"a token from the flow head, {STEPS} steps, {rows} at once{guided}: plain loop / tokenry",
        seconds["plain loop"].cpu / seconds["tokenry"].cpu,
        2 if rows == 1 else 1.5,
        threads=1,
        rows=rows,
        guidance=guidance,
        width=head.inward.out_features,
        blocks=len(head.blocks),
        cpu_milliseconds={name: round(1000 * found.cpu / repeats, 2) for name, found in seconds.items()},
    )


def training(head: FlowHead, rounds: int, condition: int, smoke: bool) -> Result:
    """Forward and backward of a batch whose rows are of every length."""
    batch, longest, repeats = (2, 4, 2) if smoke else (8, 16, 4)
    lengths = torch.linspace(1, longest, batch).round()
    real = torch.arange(longest) < lengths[:, None]
    tokens, hidden = torch.randn(batch, longest, head.channels), torch.randn(batch, longest, condition)
    whole = FlowDraws.of(tokens.flatten(0, 1), repeats)
    kept = FlowDraws(whole.noise[:, real.flatten()], whole.t[:, real.flatten()])

    def ours() -> Tensor:
        return conditional_flow_loss(head, tokens, hidden, real, draws=kept)

    def padded() -> Tensor:
        x_t, velocity = flow_path(whole.noise, tokens.flatten(0, 1).expand_as(whole.noise), whole.t, 1e-4)
        predicted = head(x_t.flatten(0, 1), whole.t.flatten(), hidden.flatten(0, 1).repeat(repeats, 1))
        errors = (predicted.view_as(velocity) - velocity).square().mean(2)
        return (errors * real.flatten()).sum() / (repeats * real.sum())

    torch.testing.assert_close(ours(), padded())
    seconds = interleaved(
        {"tokenry": lambda: ours().backward(), "padded": lambda: padded().backward()}, rounds, threads=1
    )
    return speedup(
        "forward and backward of the flow loss: padded / tokenry",
        seconds["padded"].cpu / seconds["tokenry"].cpu,
        1.5,
        threads=1,
        real_share=float(real.float().mean()),
        cpu_milliseconds={name: round(1000 * found.cpu, 1) for name, found in seconds.items()},
    )


def _often(step, repeats: int) -> None:
    for _ in range(repeats):
        step()


if __name__ == "__main__":
    run(measure, str(__doc__))
