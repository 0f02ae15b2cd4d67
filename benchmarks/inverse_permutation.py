"""The disentangled transformer without its identity, against the same one written out as [X, I].

Two layers, n = 10 with scratch rows before and behind (40 rows): forward alone, and a training step. Outputs are compared first. Peak memory is that of
the tensors that autograd keeps.
"""

from collections.abc import Iterator

import torch
from _measure import interleaved
from _report import Result, result, run, speedup

from tokenry.theory import DisentangledTransformer, InversePermutationTask


def measure(smoke: bool) -> Iterator[Result]:
    """The ratios in CPU time of one thread, and in memory."""
    n, batch, rounds = (2, 2, 1) if smoke else (10, 128, 15)
    torch.manual_seed(0)
    task = InversePermutationTask(n, "both")
    model = DisentangledTransformer(task.seq_len, n, init_scale=0.1)
    x, y = task.sample(batch)

    def ours() -> torch.Tensor:
        return (model(x, task.rows) - y).square().mean()

    def written_out() -> torch.Tensor:
        state = torch.cat([x, torch.eye(task.seq_len).expand(batch, -1, -1)], dim=2)
        later = torch.ones(task.seq_len, task.seq_len, dtype=torch.bool).triu(1)
        for matrices in model.attention:
            weights = [
                (state @ matrix @ state.mT).masked_fill(later, -torch.inf).softmax(dim=2)
                for matrix in matrices
            ]
            state = torch.cat([state, *(attention @ state for attention in weights)], dim=2)
        return ((state @ model.readout)[:, task.rows] - y).square().mean()

    torch.testing.assert_close(ours(), written_out())
    settings = {"threads": 1, "n": n, "rows": task.seq_len, "batch": batch, "rounds": rounds}
    steps = {
        "forward": (torch.no_grad()(ours), torch.no_grad()(written_out)),
        "forward and backward": (lambda: ours().backward(), lambda: written_out().backward()),
    }
    for name, (tokenry, peer) in steps.items():
        seconds = interleaved({"tokenry": tokenry, "written out": peer}, rounds, threads=1)
        yield speedup(
            f"{name} of the disentangled transformer: written out / tokenry",
            seconds["written out"].cpu / seconds["tokenry"].cpu,
            3,
            **settings,
            cpu_milliseconds={step: round(1000 * found.cpu, 1) for step, found in seconds.items()},
        )
    yield result(
        "memory that autograd keeps: tokenry / written out", kept(ours) / kept(written_out), 0.3, **settings
    )


def kept(loss) -> int:
    """Bytes of the tensors that autograd keeps, each once."""
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = loss()
    del alive
    return sum(found.values())


if __name__ == "__main__":
    run(measure, str(__doc__))
