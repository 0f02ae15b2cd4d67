"""How time and memory of a step of ssToken grow with the length of the sequence and the size of the vocabulary.

A small Llama (4 layers, 4 heads, width 128), 2 rows, half of each prompt, 10 % padding in the second; forward and backward, float32.
The released recipe keeps the attention weights of all layers (length squared) and logits of the whole vocabulary at every position.
"""

from collections.abc import Iterator
from functools import partial

from _measure import interleaved, peak_memory
from _report import Result, dtype_name, result, run
from _steps import VARIANTS, Problem, Shape, model_name, prepare

OURS, PEER = "ssToken", "released recipe"
WIDTH = (
    ("hidden_size", 128),
    ("intermediate_size", 384),
    ("num_hidden_layers", 4),
    ("num_attention_heads", 4),
    ("max_position_embeddings", 4096),
)
# The share of the released recipe's time and memory at one size; the growth of memory over proportion.
TARGET, GROWTH_TARGET = 0.9, 1.1


def measure(smoke: bool) -> Iterator[Result]:
    """Lengths at one vocabulary, then vocabularies at one length."""
    if smoke:
        yield from along("sequence length", {seq: shape(seq, 64) for seq in (16, 32)}, rounds=1)
        return
    lengths, vocabularies = (256, 512, 1024, 2048, 4096), (8192, 32768, 131072)
    yield from along("sequence length", {seq: shape(seq, vocabularies[0]) for seq in lengths}, rounds=3)
    yield from along("vocabulary", {size: shape(lengths[1], size) for size in vocabularies}, rounds=3)


def shape(seq: int, vocabulary: int) -> Shape:
    """The small model with this vocabulary, and a batch of this length."""
    return Shape(seq=seq, model=(("vocab_size", vocabulary), *WIDTH))


def along(what: str, shapes: dict[int, Shape], rounds: int) -> Iterator[Result]:
    """Time and memory at every size, and how memory grows from the smallest to the largest."""
    megabytes = {}
    for size, each in shapes.items():
        settings = {
            "model": model_name(each),
            "batch": f"{each.batch} x {each.seq}",
            "dtype": dtype_name(each.dtype),
        }
        problem = Problem.of(each)
        seconds = interleaved({name: VARIANTS[name](problem) for name in (OURS, PEER)}, rounds, threads=1)
        del problem
        yield result(
            f"step time, {what} {size}: {OURS} / {PEER}",
            seconds[OURS].cpu / seconds[PEER].cpu,
            TARGET,
            **settings,
            threads=1,
            rounds=rounds,
            cpu_seconds={name: round(each.cpu, 3) for name, each in seconds.items()},
        )
        megabytes[size] = peak_memory({name: partial(prepare, name, each) for name in (OURS, PEER)})
        yield result(
            f"peak memory above the model, {what} {size}: {OURS} / {PEER}",
            megabytes[size][OURS] / megabytes[size][PEER],
            TARGET,
            **settings,
            megabytes={name: round(peak) for name, peak in megabytes[size].items()},
        )
    smallest, largest = min(shapes), max(shapes)
    growth = {name: round(megabytes[largest][name] / megabytes[smallest][name], 2) for name in (OURS, PEER)}
    yield result(
        f"peak memory of {OURS}, {what} {smallest} to {largest}: growth / growth in proportion",
        growth[OURS] / (largest / smallest),
        GROWTH_TARGET,
        growth_in_proportion=largest / smallest,
        growth_of_memory=growth,
        megabytes={
            size: {name: round(peak) for name, peak in each.items()} for size, each in megabytes.items()
        },
    )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
