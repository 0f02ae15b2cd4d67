"""Subword merging of code: groups of a batch against loops over groups, and an encoder with merged identifiers against one without.

Grouping and merging, 8 sources of 512 tokens: tokens are assigned to units and the states of a batch are averaged, once by `group_tokens`
and `merge_tokens`, once by loops in Python over tokens and groups. The encoder is RoBERTa-like and reads 512 tokens of the standard library;
merged after the first of six layers, identifiers cost about 15 % fewer FLOPs.
"""

import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _measure import interleaved
from _report import Result, run, speedup
from torch.nn.utils.rnn import pad_sequence
from transformers import RobertaConfig, RobertaModel

from tokenry.compression import apply_token_reduction, layer_costs
from tokenry.compression.text import (
    SubwordMerging,
    flops_saved,
    group_tokens,
    merge_tokens,
    semantic_units,
)
from tokenry.core.tensors.patching import find_encoder
from tokenry.recipes.testbeds.tiny_encoder import encoder_tokenizer

MODULES = ["argparse", "dataclasses", "inspect", "pathlib", "pickle", "subprocess", "tarfile", "zipfile"]


def sources(number: int, tokens: int) -> list[str]:
    """Code from the middle of modules of the standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [(library / f"{name}.py").read_text(encoding="utf-8") for name in MODULES[:number]]
    return [text[len(text) // 2 :][: 8 * tokens] for text in texts]


def measure(smoke: bool) -> Iterator[Result]:
    """Ratios in CPU time of one thread."""
    number, length, rounds = (2, 32, 1) if smoke else (8, 512, 7)
    texts = sources(number, length)
    tokenizer = encoder_tokenizer(texts, 2000)
    yield from grouping(texts, tokenizer, length, 16 if smoke else 256, 1 if smoke else 3)
    layers, width = (2, 32) if smoke else (6, 384)
    yield encoding(texts, tokenizer, length, layers, width, 1, rounds)


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


def encoding(
    texts: list[str], tokenizer, length: int, layers: int, width: int, after: int, rounds: int
) -> Result:
    """One forward pass of a batch."""
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
    plain = RobertaModel(config, add_pooling_layer=False).eval()
    merged = RobertaModel(config, add_pooling_layer=False).eval()
    merging = SubwordMerging(after)
    collate = merging.collator(tokenizer, "python", max_length=length)
    batch = collate(texts)
    without = {name: value for name, value in batch.items() if name != "group_ids"}
    apply_token_reduction(merged, merging)
    costs = layer_costs(find_encoder(plain))
    saved = float(np.mean([flops_saved(costs, after, code) for code in collate.read(texts)]))

    @torch.no_grad()
    def forward(model, given) -> None:
        model(**given)

    seconds = interleaved(
        {"merged": lambda: forward(merged, batch), "plain": lambda: forward(plain, without)},
        rounds,
        threads=1,
    )
    return speedup(
        f"encoder, identifiers merged after layer {after} of {layers}: without merging / with",
        seconds["plain"].cpu / seconds["merged"].cpu,
        1.10,
        threads=1,
        rounds=rounds,
        sources=len(texts),
        tokens=length,
        hidden=width,
        flops_saved=round(saved, 4),
        cpu_milliseconds={name: round(1000 * taken.cpu, 1) for name, taken in seconds.items()},
    )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
