"""Source code with labels, and classifiers of it: functions of the standard library by package, and the paper's vulnerable functions.

The RoBERTa that learns the packages from nothing averages over the tokens, each as often as the source has it: one that reads its first
token alone learns nothing for hundreds of steps when its layers are untrained.
"""

import ast
import random
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, RobertaConfig, RobertaModel, RobertaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from tokenry.compression.text.code_merge import CodeMergeCollator, GroupedCode, pad_groups
from tokenry.models import TextClassifier, load_text_classifier, load_tokenizer
from tokenry.models.text_classifier import SINGLE_LABEL
from tokenry.recipes.testbeds.tiny_encoder import EncoderSizes, encoder_tokenizer

_SHORTEST = 60
CODEBERT = "microsoft/codebert-base"
PACKAGES = ("asyncio", "email", "importlib", "logging", "multiprocessing", "unittest", "urllib", "xml")
WINDOW_OF_96 = EncoderSizes(layers=4, width=64, heads=4, feed_forward=128, positions=96)


@dataclass(frozen=True)
class FunctionSetting:
    """Which functions are read.

    Attributes:
        packages: packages of the standard library, the labels.
        test: maximum number of test functions of each.
        encoder: size of the encoder; its positions are the window.
    """

    packages: tuple[str, ...] = PACKAGES
    train: int = 120
    test: int = 400
    seed: int = 0
    vocab_size: int = 2000
    encoder: EncoderSizes = WINDOW_OF_96


@dataclass(frozen=True)
class LabelledFunctions:
    """Sources of functions with the numbers of their packages."""

    sources: list[str]
    labels: list[int]


@dataclass(frozen=True)
class CodeTask:
    """A task with a classifier for it.

    Attributes:
        classifier: (seed, collator) -> a classifier that has not learned the task; its batches have groups where there is a collator.
    """

    train: LabelledFunctions
    test: LabelledFunctions
    language: str
    classifier: Callable[[int, CodeMergeCollator | None], "CodeClassifier"]
    tokenizer: PreTrainedTokenizerBase
    max_length: int


def library_task(setting: FunctionSetting = FunctionSetting()) -> CodeTask:
    """Which package of the standard library is a function from?"""
    train, test = function_data(setting)
    tokenizer = encoder_tokenizer(train.sources, setting.vocab_size)
    sizes, names = setting.encoder, setting.packages
    return CodeTask(
        train,
        test,
        "python",
        lambda seed, collator: code_classifier(tokenizer, names, sizes, seed, collator),
        tokenizer,
        sizes.positions,
    )


def vulnerability_task() -> CodeTask:
    """Is a C function vulnerable? Devign and CodeBERT, from the hub."""
    from datasets import load_dataset

    data = load_dataset("code_x_glue_cc_defect_detection")
    train, test = (
        LabelledFunctions(list(data[part]["func"]), [int(label) for label in data[part]["target"]])
        for part in ("train", "test")
    )

    def classifier(seed: int, collator: CodeMergeCollator | None) -> CodeClassifier:
        loaded = load_text_classifier(CODEBERT, ("safe", "vulnerable"), dtype="float32", seed=seed)
        return CodeClassifier(loaded.model, loaded.tokenizer, loaded.max_length, collator=collator)

    return CodeTask(train, test, "c", classifier, load_tokenizer(CODEBERT), 512)


def function_data(setting: FunctionSetting) -> tuple[LabelledFunctions, LabelledFunctions]:
    """Training and test functions, none in both."""
    parts: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
    draw = random.Random(setting.seed)
    for label, package in enumerate(setting.packages):
        sources = list(dict.fromkeys(functions_of(package)))
        draw.shuffle(sources)
        cut = setting.train
        for rows, chosen in zip(parts, (sources[:cut], sources[cut : cut + setting.test]), strict=True):
            rows += [(source, label) for source in chosen]
    for rows in parts:
        draw.shuffle(rows)
    train, test = (LabelledFunctions([s for s, _ in rows], [label for _, label in rows]) for rows in parts)
    return train, test


def functions_of(package: str) -> Iterator[str]:
    """The functions and methods of a package of the standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"]) / package
    for path in sorted(root.rglob("*.py")):
        if {"test", "tests"} & set(path.relative_to(root).parts):
            continue
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                source = dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
                if len(source) >= _SHORTEST:
                    yield source


class MeanRoberta(RobertaPreTrainedModel):
    """RoBERTa with a linear classifier on the mean of the states."""

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__(config)
        self.roberta = RobertaModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return logits, and the cross-entropy where labels are given."""
        states = self.roberta(input_ids, attention_mask=attention_mask).last_hidden_state
        counted = attention_mask[..., None].to(states.dtype)
        logits = self.classifier((states * counted).sum(dim=1) / counted.sum(dim=1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@dataclass(frozen=True)
class CodeClassifier(TextClassifier):
    """A classifier whose batches have groups, from a collator that has read the sources."""

    collator: CodeMergeCollator | None = None

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """The tokens of each source, with their groups where there is a collator."""
        return super().encode(texts) if self.collator is None else list(self.collator.read(texts))

    def padded(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Sources as one batch on the device of the model."""
        if self.collator is None:
            return super().padded(rows)
        batch = pad_groups(rows, self.tokenizer.pad_token_id)
        return {name: value.to(self.model.device) for name, value in batch.items()}

    def right(self, rows: Sequence[Any], labels: Sequence[int]) -> Float[ndarray, "functions"]:
        """1 for each source that is classified right, else 0."""
        found: ndarray = (self.logits_of(rows, 64).argmax(axis=1) == np.array(labels)).astype(float)
        return found


def code_classifier(
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    sizes: EncoderSizes,
    seed: int = 0,
    collator: CodeMergeCollator | None = None,
) -> CodeClassifier:
    """An untrained classifier; the seed draws its weights."""
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.feed_forward,
        max_position_embeddings=sizes.positions + tokenizer.pad_token_id + 1,
        initializer_range=sizes.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type=SINGLE_LABEL,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MeanRoberta(config)
    return CodeClassifier(model.eval(), tokenizer, sizes.positions, collator=collator)


def shuffled_groups(code: GroupedCode, seed: int) -> GroupedCode:
    """Groups of the same sizes in another order: as many tokens, made of random neighbours. The special tokens at both ends stay."""
    sizes = np.bincount(code.group_ids)
    inner = np.random.default_rng((seed, len(code))).permutation(sizes[1:-1])
    order = np.concatenate([sizes[:1], inner, sizes[-1:]])
    return GroupedCode(code.input_ids, np.repeat(np.arange(len(sizes)), order))
