"""What it costs Zero-TPrune to decide which tokens go: votes on the attention graph and the partition, against the layers themselves.

ViT-S/16 (22 M parameters, random weights) on images of 224 pixels: 197 tokens, batches of 8, one thread, no gradients; the DeiT-S
schedule of the paper with its 30, 5, 5, 1 and 1 rounds of votes and no early stop. Votes and partition are timed on graphs of the
sizes that the pruning layers see: a round of votes takes as long whatever the weights are.
"""

from collections.abc import Iterator
from statistics import median

import torch
from _measure import Step, by_turns
from _report import Result, note, result, run
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig, ViTModel

from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.vision.page_rank import aggregate_heads, page_rank
from tokenry.compression.vision.zero_tprune import (
    ZeroTPrune,
    ZeroTPruneConfig,
    _Step,
    _steps,
)
from tokenry.compression.vision.zero_tprune_stages import partition_by_importance

VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
TINY = {"hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 64}
SHARE = 0.10
# The sheet of the method measured 5.5 times.
ROW_VECTOR = 0.18


def measure(smoke: bool) -> Iterator[Result]:
    """Votes and partition against the layers, and the two ways to write a round of votes."""
    torch.manual_seed(0)
    size, batch, config = (64, 2, tiny_schedule()) if smoke else (224, 8, ZeroTPruneConfig.deit_s())
    shape = ViTConfig(**(TINY if smoke else VIT_S), image_size=size, patch_size=16)
    model, images = ViTModel(shape, add_pooling_layer=False).eval(), torch.randn(batch, 3, size, size)
    entering = graph_sizes(model, images, config)
    graphs = {layer: graph(batch, shape.num_attention_heads, tokens) for layer, tokens in entering.items()}
    keys = {layer: torch.randn(batch, tokens, 64) for layer, tokens in entering.items()}
    schedule, first = _steps(config), config.layers[0]
    rounds, iterations = (1 if smoke else 15), config.iterations[0]
    steps: dict[str, Step] = {
        "unpruned model": forward(model, images),
        "pruned model": pruned(model, images, config),
        "votes and partition": lambda: decide(schedule, graphs),
        "votes and partition, first pruning layer": lambda: decide(schedule, {first: graphs[first]}),
        "votes, partition and both stages": lambda: prune(schedule, graphs, keys),
        "row vector": lambda: row_votes(graphs[first], iterations),
        "column vector": lambda: column_votes(graphs[first], iterations),
    }
    note(", ".join(steps))
    taken = {
        name: {clock: [getattr(one, clock) for one in each] for clock in ("cpu", "wall")}
        for name, each in by_turns(steps, rounds, threads=1).items()
    }

    def ratio(ours: str, theirs: str) -> float:
        return median(
            our / their for our, their in zip(taken[ours]["cpu"], taken[theirs]["cpu"], strict=True)
        )

    def line(name: str, value: float, target: float, *shown: str) -> Result:
        return result(
            name,
            value,
            target,
            model=f"ViT, {shape.num_hidden_layers} layers, width {shape.hidden_size}, random weights",
            batch=f"{batch} x {size} px",
            threads=1,
            rounds=rounds,
            iterations=list(config.iterations),
            tokens_in_pruning_layers=entering,
            cpu_seconds={each: round(median(taken[each]["cpu"]), 4) for each in shown},
            wall_seconds={each: round(median(taken[each]["wall"]), 4) for each in shown},
        )

    yield line(
        "votes + partition / the pruned model, 5 pruning layers",
        ratio("votes and partition", "pruned model"),
        SHARE,
        "votes and partition",
        "votes, partition and both stages",
        "pruned model",
        "unpruned model",
    )
    yield line(
        f"votes + partition / one unpruned layer, {iterations} rounds on all tokens",
        ratio("votes and partition, first pruning layer", "unpruned model") * shape.num_hidden_layers,
        SHARE,
        "votes and partition, first pruning layer",
        "unpruned model",
    )
    yield line(
        f"{iterations} rounds of votes, row vector times A / A transposed times column",
        ratio("row vector", "column vector"),
        ROW_VECTOR,
        "row vector",
        "column vector",
    )


def tiny_schedule() -> ZeroTPruneConfig:
    """The same layers on 17 tokens."""
    return ZeroTPruneConfig.deit_s(r=(1, 1, 1, 1, 1))


def graph_sizes(model: PreTrainedModel, images: Tensor, config: ZeroTPruneConfig) -> dict[int, int]:
    """How many tokens each pruning layer sees."""
    with apply_token_reduction(model, ZeroTPrune(config)) as reduction, torch.no_grad():
        model(images[:1])
        return {layer: reduction.token_counts[layer - 1] for layer in config.layers}


def graph(batch: int, heads: int, tokens: int) -> Tensor:
    """Attention weights of random logits."""
    return torch.randn(batch, heads, tokens, tokens).softmax(dim=-1)


def decide(schedule: dict[int, _Step], graphs: dict[int, Tensor]) -> None:
    """Votes, importance and partition, as the pruning layers make them."""
    for layer, attn in graphs.items():
        step = schedule[layer]
        votes, _ = page_rank(attn, step.iterations, None, None)
        importance, _ = aggregate_heads(votes[:, :, 1:], step.config.v_min, step.config.v_max)
        partition_by_importance(importance, step.config.partition)


def prune(schedule: dict[int, _Step], graphs: dict[int, Tensor], keys: dict[int, Tensor]) -> None:
    """All that the pruning layers do once they have weights and keys."""
    for layer, attn in graphs.items():
        schedule[layer].prune(attn, keys[layer], special=1)


def row_votes(attn: Tensor, iterations: int) -> None:
    """The votes as they are computed here."""
    page_rank(attn, iterations, None, None)


def column_votes(attn: Tensor, iterations: int) -> None:
    """The votes as the equation is usually written."""
    votes = torch.full_like(attn[:, :, 0], 1 / attn.shape[-1])[..., None]
    transposed = attn.transpose(-1, -2)
    for _ in range(iterations):
        votes = transposed @ votes


def forward(model: PreTrainedModel, images: Tensor) -> Step:
    """The model as it is."""

    @torch.no_grad()
    def step() -> None:
        model(images)

    return step


def pruned(model: PreTrainedModel, images: Tensor, config: ZeroTPruneConfig) -> Step:
    """The model with the schedule."""
    run_model = forward(model, images)

    def step() -> None:
        with apply_token_reduction(model, ZeroTPrune(config)):
            run_model()

    return step


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
