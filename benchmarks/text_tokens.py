"""Attribution: DecompX in head space and in one backward pass against a tensor per head and source, ReAGent against its loop.

DecompX takes a classifier of 4 layers and 768 numbers apart; what it is compared with forms, as the released code, the output of every
head for every pair of position and source. ReAGent makes the same steps as the loop of the paper, which reads one step at a time and all
logits, on a model of the shape of SmolLM2-135M.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from _measure import Step, interleaved
from _report import Result, run, speedup
from torch import Generator, Tensor
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from tokenry.attribution import Question, ReAGent, contributions, decompx, reagent_update
from tokenry.attribution.reagent import keep_top

EXACT = import_module("tokenry.attribution.decompx")
TARGETS = {64: (2.2, 20.0), 96: (2.8, 30.0)}


def measure(smoke: bool) -> Iterator[Result]:
    """Both methods."""
    yield from decompositions(smoke)
    yield replacement(smoke)


def decompositions(smoke: bool) -> Iterator[Result]:
    """CPU time of both forms of DecompX beside the head-and-source form, by length."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 768, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 3072}
    if smoke:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(**sizes, vocab_size=1000, num_labels=2)).eval()
    for length, (in_head_space, one_backward) in TARGETS.items():
        ids = torch.randint(1000, (1, 6 if smoke else length))
        torch.testing.assert_close(
            by_heads_and_sources(model, ids), decompx(model, ids).classifier, rtol=1e-3, atol=1e-5
        )
        steps: dict[str, Step] = {
            "head and source": lambda ids=ids: by_heads_and_sources(model, ids),  # type: ignore[misc]
            "head space": lambda ids=ids: decompx(model, ids),  # type: ignore[misc]
            "one backward": lambda ids=ids: contributions(model, ids, [0]),  # type: ignore[misc]
        }
        seconds = interleaved(steps, 1 if smoke else 2, threads=1)
        for name, target in (("head space", in_head_space), ("one backward", one_backward)):
            yield speedup(
                f"DecompX of {length} tokens: head and source / {name}",
                seconds["head and source"].cpu / seconds[name].cpu,
                target,
                cpu_seconds={step: round(taken.cpu, 3) for step, taken in seconds.items()},
                length=length,
                threads=1,
                **sizes,
            )


def by_heads_and_sources(model: BertForSequenceClassification, ids: Tensor) -> Tensor:
    """DecompX with the output of every head for every position and source, as tokenry mixes in head space instead."""

    def attended(state: Any, parts: Tensor | None, rows: slice) -> Tensor:
        p, weights = state.probabilities, state.heads(state.output.weight[None])[0]
        if parts is None:
            every = torch.einsum("bjhd,ohd->bhjo", state.heads(state.value(state.x)), weights)
            return torch.einsum("bhij,bhjo->bijo", p, every)
        every = torch.einsum("bsjhd,ohd->bhsjo", state.heads(parts @ state.value.weight.T), weights)
        return torch.einsum("bhis,bhsjo->bijo", p, every)

    own, EXACT._attended = EXACT._attended, attended
    try:
        return decompx(model, ids, all_positions=True).classifier
    finally:
        EXACT._attended = own


def replacement(smoke: bool) -> Result:
    """CPU time of the same steps of ReAGent, many in one batch and one at a time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    if smoke:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vocabulary, probes, steps, length = 49_152, 16, 4, 24
    model = LlamaForCausalLM(
        LlamaConfig(**sizes, num_key_value_heads=3 if not smoke else 1, vocab_size=vocabulary, tie_word_embeddings=True)
    ).eval()  # fmt: skip
    context, target = torch.randint(vocabulary, (length,)), 7
    method = ReAGent(probes=probes, max_steps=steps, top_k=1, keep_top_n=1)
    question = Question(model, context, (target,))
    seconds = interleaved(
        {
            "loop": lambda: loop(model, context, target, probes, steps),
            "tokenry": lambda: method.until_answered(question),
        },
        1,
        threads=1,
    )
    return speedup(
        "ReAGent: one step at a time with all logits / tokenry, equal steps",
        seconds["loop"].cpu / seconds["tokenry"].cpu,
        3.0,
        cpu_seconds={name: round(taken.cpu, 3) for name, taken in seconds.items()},
        probes=probes, steps=steps, length=length, vocabulary=vocabulary, threads=1, **sizes,
    )  # fmt: skip


@torch.no_grad()
def loop(model: LlamaForCausalLM, context: Tensor, target: int, probes: int, steps: int) -> Tensor:
    """The paper's loop: a step, its test, and the next step."""
    draw = Generator().manual_seed(0)

    def p(ids: Tensor) -> Tensor:
        return model(input_ids=ids, use_cache=False).logits[:, -1].softmax(-1)

    def replaced(mask: Tensor) -> Tensor:
        return torch.where(mask, torch.randint(49_152, mask.shape, generator=draw), context)

    z = torch.zeros(probes, len(context), dtype=torch.float64)
    original = p(context[None])[:, target]
    for _ in range(steps):
        mask = torch.rand(z.shape, generator=draw) < 0.3
        z = reagent_update(z, mask, original, p(replaced(mask))[:, target])
        p(replaced(~keep_top(z, 1))).topk(1)
    return z


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
