"""The trace of the Hessian and the Fisher trace beside the loop that the paper released, and the memory of both beside a training step.

A masked language model (BERT, 4 × 128) that was trained on the sentences of a hidden Markov model. The released loop is written after its
description: a fresh batch, a Gaussian probe and a new graph for every draw, the loss of the model over all positions, and one number
read from the device for every parameter tensor. Ratios are of CPU time at equal standard error: seconds of a draw times its variance.

    speed = seconds(theirs) · variance(theirs) / (seconds(ours) · variance(ours))         relative to the squared trace
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from _measure import Step, peak_memory
from _report import Result, note, result, run, speedup
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from tokenry.pretraining import HMM, DrawConfig, fisher_trace, hessian_trace
from tokenry.pretraining.flatness.languages import masked_sentences
from tokenry.pretraining.flatness.objective import Objective
from tokenry.recipes.kit import fit, linear

LENGTH, STATES = 32, 8
SEEDS = count()
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of a measurement."""

    vocabulary: int = 2000
    layers: int = 4
    width: int = 128
    heads: int = 4
    steps: int = 400
    batch: int = 16
    draws: int = 200


SMOKE = Shape(30, 1, 16, 2, 2, 4, 20)
MEMORY = Shape(8000, 4, 256, 4, 0, 16, 1)
MEMORY_LENGTH = 128


def measure(smoke: bool) -> Iterator[Result]:
    """The Hessian trace, the Fisher trace, and memory."""
    shape = SMOKE if smoke else Shape()
    memory = SMOKE if smoke else MEMORY
    peaks = peak_memory({name: partial(prepare, name, memory) for name in ("training", "trace", "fisher")})
    language = HMM.random(STATES, shape.vocabulary, length=LENGTH, concentration=0.1)
    model = trained(shape, language)
    rows = sentences(language, shape.batch * shape.draws, seed=1)
    whole = batches(rows, shape.batch)
    ways: dict[str, tuple[Sequence[Batch], Callable[[Any], list[float]]]] = {
        "released loop": (whole, lambda given: released_loop(model, given)),
        "ours": (whole, lambda given: ours(model, given)),
        "fisher": (whole[: shape.draws // 5], lambda given: fisher(model, given)),
    }
    found = by_turns(ways, rounds=2 if smoke else 8)
    settings = {
        "model": f"BERT, {shape.layers} x {shape.width}, {shape.vocabulary} tokens, sequences of {LENGTH} with 5 masks",
        "batch": shape.batch,
        "training_steps": shape.steps,
        "threads": 1,
        "ways": {name: way.as_json() for name, way in found.items()},
    }
    price = {name: way.price for name, way in found.items()}
    yield speedup(
        "Hessian trace at equal standard error: released loop / ours",
        price["released loop"] / price["ours"], 2.0, **settings,
    )  # fmt: skip
    yield speedup(
        "Fisher trace at saturation, at equal relative error: our Hessian trace / Fisher",
        price["ours"] / price["fisher"], 3.0, **settings,
    )  # fmt: skip
    held = {name: round(peak) for name, peak in peaks.items()}
    for name in ("trace", "fisher"):
        yield result(
            f"peak memory above the model: one draw of the {name} / a training step",
            peaks[name] / peaks["training"],
            3.0,
            model=f"BERT, {memory.layers} x {memory.width}, {memory.vocabulary} tokens, {memory.batch} x {MEMORY_LENGTH}",
            megabytes=held,
        )


@dataclass(frozen=True)
class Way:
    """Values and CPU seconds of the draws of one estimator."""

    values: Sequence[float]
    seconds: Sequence[float]

    @property
    def price(self) -> float:
        """CPU seconds of a draw times its relative variance: the least round counts."""
        return min(self.seconds) * float(np.var(self.values, ddof=1)) / float(np.mean(self.values)) ** 2

    def as_json(self) -> dict[str, float | int]:
        """What is stored of it."""
        mean, error = float(np.mean(self.values)), float(np.std(self.values, ddof=1))
        return {
            "mean": round(mean, 3),
            "standard_error": round(error / len(self.values) ** 0.5, 3),
            "relative_deviation_of_a_draw": round(error / mean, 4),
            "seconds_of_a_draw": round(min(self.seconds), 5),
            "draws": len(self.values),
        }


def by_turns(ways: Any, rounds: int) -> dict[str, Way]:
    """Run a part of the draws of every way in each round, by turns, after a draw that warms up."""
    torch.set_num_threads(1)
    values: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for given, estimate in ways.values():
        estimate(given[:1])
    for number in range(rounds):
        note(f"round {number + 1} of {rounds}")
        for name, (given, estimate) in ways.items():
            part = len(given) // rounds
            begun = time.process_time()
            found = estimate(given[number * part : (number + 1) * part])
            seconds[name].append((time.process_time() - begun) / len(found))
            values[name] += found
    return {name: Way(values[name], seconds[name]) for name in ways}


def trained(shape: Shape, language: HMM) -> BertForMaskedLM:
    """A masked language model that has learned the sentences for a while."""
    model = bert(shape, LENGTH)
    rows = sentences(language, max(1, shape.steps * shape.batch), seed=2)
    note(f"training for {shape.steps} steps")
    fit(model, batches(rows, shape.batch), lambda batch: model(**batch).loss, shape.steps, 1e-3, linear)
    return model.eval()


def bert(shape: Shape, length: int) -> BertForMaskedLM:
    """The model of a shape, without dropout and with eager attention, which the released loop needs."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=shape.vocabulary + 1,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        max_position_embeddings=length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    return BertForMaskedLM(config)


def sentences(language: HMM, number: int, seed: int) -> Batch:
    """Masked sentences, all of one length and with as many masks."""
    (drawn,) = masked_sentences(language, number, seed)
    return {"input_ids": drawn.input_ids, "labels": drawn.labels}


def batches(rows: Batch, size: int) -> list[Batch]:
    """Cut sentences into batches."""
    parts = {name: values.split(size) for name, values in rows.items()}
    return [dict(zip(parts, part, strict=True)) for part in zip(*parts.values(), strict=True)]


def released_loop(model: BertForMaskedLM, given: Sequence[Batch]) -> list[float]:
    """The loop of the paper, one Gaussian probe for each batch."""
    parameters = [*Objective(model).parameters.values()]
    found = []
    for batch in given:
        loss = model(**batch).loss
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        probes = [torch.randn_like(parameter) for parameter in parameters]
        product = sum((gradient * probe).sum() for gradient, probe in zip(gradients, probes, strict=True))
        along = torch.autograd.grad(product, parameters)
        found.append(sum((one * probe).sum().item() for one, probe in zip(along, probes, strict=True)))
    return found


def ours(model: BertForMaskedLM, given: Sequence[Batch]) -> list[float]:
    """One Rademacher probe for each batch, the output matrix apart from the rest."""
    return draws_of(partial(hessian_trace, model, given, len(given)), len(given))


def fisher(model: BertForMaskedLM, given: Sequence[Batch]) -> list[float]:
    """One backward for each sequence."""
    return draws_of(
        partial(fisher_trace, model, given, per="sequence"), sum(len(batch["labels"]) for batch in given)
    )


def draws_of(estimate: Callable[..., Any], number: int) -> list[float]:
    """The values of the draws, from the running means."""
    means: list[float] = []
    seed = next(SEEDS)  # no round draws the probes of another
    config = DrawConfig(seed=seed, every=1, progress=lambda draws, found: means.append(found.mean))
    estimate(config=config)
    totals = np.array(means[:number]) * np.arange(1, number + 1)
    return np.diff(totals, prepend=0.0).tolist()


def prepare(name: str, shape: Shape) -> Step:
    """Load a model, and make one training step or one draw."""
    length = LENGTH if shape is SMOKE else MEMORY_LENGTH
    model = bert(shape, length).train(name == "training")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, shape.vocabulary, (shape.batch, length), generator=generator)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) > 0.15, -100)
    batch = {"input_ids": ids, "labels": labels}
    if name == "training":
        return lambda: model(**batch).loss.backward()
    if name == "trace":
        return lambda: hessian_trace(model, batch, 1) and None
    return lambda: fisher_trace(model, batch, per="sequence") and None


if __name__ == "__main__":
    run(measure, __doc__ or "")
