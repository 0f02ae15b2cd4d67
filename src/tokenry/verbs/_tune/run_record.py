"""The record of a finished run: from the trainer and its token store to a `Run` for the report."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.core.stats import Estimate
from tokenry.evaluation import HeldOut
from tokenry.finetuning import TokenWeighingTrainer
from tokenry.finetuning.dataset_pass import samples_of
from tokenry.finetuning.nll_cache import IndexedSample
from tokenry.verbs._tokens import token_texts
from tokenry.verbs._training import logged_numbers
from tokenry.verbs._tune.records import ClassShare, Example, Histogram, ReportToken, Run

FEWEST_EXAMPLES, MOST_EXAMPLES, EXAMPLE_TOKENS = 6, 24, 3000
"""How many training samples a report shows, token by token: as many as have so many tokens together, within these bounds."""
HISTOGRAM_BINS = 30
_NOT_SIGNALS = ("weight", "kept", "token_class", "uniform", "response")


def describe_run(
    name: str,
    trainer: TokenWeighingTrainer,
    held_out: HeldOut,
    *,
    accuracy: Estimate | None = None,
    classes: Sequence[str] = (),
    peak_memory_mb: float | None = None,
) -> Run:
    """Describe a run: what it cost, what it learned from in its last epoch, and what came of it."""
    columns = dict(trainer.store.columns)
    if {"history_nll", "nll"} <= columns.keys():
        columns["progress"] = columns["history_nll"] - columns["nll"]
    if {"base_nll", "reference_nll"} <= columns.keys():
        columns["base_minus_reference"] = columns["base_nll"] - columns["reference_nll"]
    if {"base_nll", "out_of_fold_nll"} <= columns.keys():
        columns["base_minus_out_of_fold"] = columns["base_nll"] - columns["out_of_fold_nll"]
    weights = columns["weight"]
    learned = ~weights.isnan()
    relative = weights / weights[learned].max().clamp(min=1e-12)
    history = trainer.state.log_history
    seconds = [entry["seconds_per_step"] for entry in history if "seconds_per_step" in entry]
    bits = held_out.bits_per_byte
    return Run(
        name=name,
        weighing=trainer.weighing.describe(),
        tokens_learned=float(relative[learned].sum()),
        share_kept=float(relative[learned].mean()),
        steps=trainer.state.global_step,
        seconds_per_step=float(np.mean(seconds)) if seconds else 0.0,
        peak_memory_mb=peak_memory_mb,
        held_out_nll=held_out.nll_per_token,
        bits_per_byte=bits.value if bits else None,
        accuracy=accuracy,
        curves=logged_numbers(trainer),
        share_by_class=_share_by_class(columns, relative, learned, classes),
        histograms=_histograms(columns, relative, learned),
        examples=_examples(trainer, columns, relative, classes),
    )


def _share_by_class(
    columns: dict[str, Tensor], weights: Tensor, learned: Tensor, classes: Sequence[str]
) -> dict[str, ClassShare]:
    if "token_class" not in columns:
        return {}
    shares = {}
    for number, name in enumerate(classes):
        of_class = learned & (columns["token_class"] == number)
        if bool(of_class.any()):
            shares[name] = ClassShare(tokens=int(of_class.sum()), kept=float(weights[of_class].sum()))
    return shares


def _histograms(columns: dict[str, Tensor], weights: Tensor, learned: Tensor) -> dict[str, Histogram]:
    """Count each signal for kept tokens (the highest weight) and for all others, between its 0.5 and 99.5 % quantiles."""
    kept = learned & (weights >= 1)
    histograms = {}
    for name, values in columns.items():
        known = learned & values.isfinite()
        if name in _NOT_SIGNALS or not bool(known.any()):
            continue
        low, high = np.quantile(values[known].numpy(), [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1, HISTOGRAM_BINS + 1)
        counts = [
            np.histogram(np.clip(values[which & known].numpy(), edges[0], edges[-1]), edges)[0].tolist()
            for which in (kept, ~kept)
        ]
        histograms[name] = Histogram(edges=edges.tolist(), kept=counts[0], dropped=counts[1])
    return histograms


def _examples(
    trainer: TokenWeighingTrainer, columns: dict[str, Tensor], weights: Tensor, classes: Sequence[str]
) -> list[Example]:
    samples = sorted(samples_of(trainer.train_dataset), key=lambda sample: int(sample.token_index[0]))
    sizes = itertools.accumulate(len(sample.input_ids) for sample in samples)
    fitting = sum(size <= EXAMPLE_TOKENS for size in sizes)
    samples = samples[: min(MOST_EXAMPLES, max(FEWEST_EXAMPLES, fitting))]
    tokenizer = trainer.processing_class
    return [
        Example(
            title=f"training sample {number}, as chosen in epoch {max(1, math.ceil(trainer.state.epoch or 1))}",
            tokens=_tokens(sample, columns, weights, classes, tokenizer),
        )
        for number, sample in enumerate(samples, start=1)
    ]


def _tokens(
    sample: IndexedSample,
    columns: dict[str, Tensor],
    weights: Tensor,
    classes: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> list[ReportToken]:
    shown = {name: values for name, values in columns.items() if name not in _NOT_SIGNALS}
    tokens = []
    for text, index, target in zip(
        token_texts(sample.input_ids.tolist(), tokenizer), sample.token_index, sample.targets, strict=True
    ):
        signals = {name: float(values[index]) for name, values in shown.items() if values[index].isfinite()}
        number = int(columns["token_class"][index]) if "token_class" in columns else -1
        weight = weights[index]
        tokens.append(
            ReportToken(
                text=text,
                learnable=bool(target),
                weight=None if bool(weight.isnan()) else float(weight),
                token_class=classes[number] if 0 <= number < len(classes) else None,
                signals=signals if target else {},
            )
        )
    return tokens
