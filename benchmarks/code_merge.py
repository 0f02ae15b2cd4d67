"""Subword merging of code: groups of a batch against loops over groups, and an encoder with merged identifiers against one without.

Grouping and merging, 8 sources of 512 tokens: tokens are assigned to units and the states of a batch are averaged, once by `group_tokens`
and `merge_tokens`, once by loops in Python over tokens and groups. The encoder is RoBERTa-like and reads 512 tokens of the standard library;
merged after the embeddings, in batches of about one merged length, identifiers cost about 15 % fewer FLOPs.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from _measure import interleaved
from _report import Result, run, speedup
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from tokenry.compression import apply_token_reduction, layer_costs
from tokenry.compression.text import (
    SubwordMerging,
    flops_saved,
    group_tokens,
    merge_tokens,
    semantic_units,
)
from tokenry.core.tensors.patching import find_encoder
from tokenry.models.text_classifier import length_sorted
from tokenry.recipes.testbeds.code_functions import functions_of
from tokenry.recipes.testbeds.tiny_encoder import encoder_tokenizer

PACKAGES = ["asyncio", "email", "importlib", "logging", "multiprocessing", "unittest", "urllib", "xml"]


def sources(number: int, tokens: int) -> tuple[list[str], PreTrainedTokenizerFast]:
    """The functions of a package of the standard library one after the other, for each of some packages; and a tokenizer for them."""
    functions = [list(functions_of(package)) for package in PACKAGES[:number]]
    tokenizer = encoder_tokenizer([source for of_package in functions for source in of_package], 2000)
    return ["\n\n".join(of_package)[: 8 * tokens] for of_package in functions], tokenizer


def measure(smoke: bool) -> Iterator[Result]:
    """Ratios in CPU time of one thread."""
    number, length, rounds = (2, 32, 1) if smoke else (8, 512, 5)
    texts, tokenizer = sources(number, length)
    yield from grouping(texts, tokenizer, length, 16 if smoke else 256, 1 if smoke else 3)
    layers, width = (2, 32) if smoke else (6, 384)
    yield encoding(texts, tokenizer, length, layers, width, rounds)


def grouping(texts: list[str], tokenizer, length: int, width: int, rounds: int) -> Iterator[Result]:
    """Groups and merged states of a batch, in training with the gradient of the states; units and tokens are known."""
    options = {"max_length": length, "truncation": True, "padding": True, "return_special_tokens_mask": True}
    encoded = tokenizer(texts, return_offsets_mapping=True, **options)
    units = [semantic_units(text, "python") for text in texts]
    rows = list(zip(encoded["offset_mapping"], encoded["special_tokens_mask"], units, texts, strict=True))

    def ours(hidden: torch.Tensor) -> torch.Tensor:
        groups = torch.from_numpy(np.stack([group_tokens(*row) for row in rows]))
        return merge_tokens(hidden, groups).hidden

    def loops(hidden: torch.Tensor) -> torch.Tensor:
        merged = []
        for row, arguments in enumerate(rows):
            ids = torch.tensor(looped_groups(*arguments))
            merged.append(
                torch.stack([hidden[row, ids == group].mean(dim=0) for group in range(int(ids[-1]) + 1)])
            )
        return pad_sequence(merged, batch_first=True)

    for use in ("training", "inference"):
        hidden = torch.randn(*np.shape(encoded["input_ids"]), width, requires_grad=use == "training")
        torch.testing.assert_close(ours(hidden), loops(hidden))

        def step(merge, hidden=hidden) -> None:
            merged = merge(hidden)
            if hidden.requires_grad:
                merged.sum().backward()

        seconds = interleaved(
            {"tokenry": partial(step, ours), "loops": partial(step, loops)}, rounds, threads=1
        )
        yield speedup(
            f"grouping and merging of a batch in {use}: loops over tokens and groups / tokenry",
            seconds["loops"].cpu / seconds["tokenry"].cpu,
            50,
            threads=1,
            rounds=rounds,
            sources=len(texts),
            tokens=length,
            hidden=width,
            cpu_milliseconds={name: round(1000 * taken.cpu, 2) for name, taken in seconds.items()},
        )


def looped_groups(offsets, special, units, source) -> list[int]:
    """The rule, token by token, with a pointer that goes from unit to unit."""
    groups, number, before, place = [], -1, None, 0
    for (start, end), own in zip(offsets, special, strict=True):
        text = source[start:end]
        first, last = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
        while not own and place < len(units) and units[place].end <= first:
            place += 1
        inside = not own and first < last and place < len(units) and units[place].start <= first
        unit = place if inside and last <= units[place].end else None
        number += unit is None or unit != before
        groups.append(number)
        before = unit
    return groups


def encoding(texts: list[str], tokenizer, length: int, layers: int, width: int, rounds: int) -> Result:
    """Forward passes over all sources, two by two of about one merged length."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
        max_position_embeddings=length + 2,
        pad_token_id=tokenizer.pad_token_id,
    )
    plain, merged = (RobertaModel(config, add_pooling_layer=False).eval() for _ in range(2))
    merging = SubwordMerging(0)
    collate = merging.collator(tokenizer, "python", max_length=length)
    places = length_sorted(collate.merged_lengths(texts), 2)
    batches = [collate([texts[place] for place in batch]) for batch in places]
    without = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in batches]
    apply_token_reduction(merged, merging)
    costs = layer_costs(find_encoder(plain))
    saved = float(np.mean([flops_saved(costs, 0, code) for code in collate.read(texts)]))

    @torch.no_grad()
    def forward(model, given) -> None:
        for batch in given:
            model(**batch)

    steps = {"merged": partial(forward, merged, batches), "plain": partial(forward, plain, without)}
    seconds = interleaved(steps, rounds, threads=1)
    return speedup(
        "encoder with merged identifiers: without merging / with",
        seconds["plain"].cpu / seconds["merged"].cpu,
        1.10,
        threads=1,
        rounds=rounds,
        sources=len(texts),
        tokens=length,
        layers=layers,
        hidden=width,
        flops_saved=round(saved, 4),
        cpu_milliseconds={name: round(1000 * taken.cpu, 1) for name, taken in seconds.items()},
    )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
