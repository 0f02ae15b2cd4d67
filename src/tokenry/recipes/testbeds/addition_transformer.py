"""A small decoder learns to add from nothing; all that can differ between two of them is how numbers are cut.

One vocabulary of 114 tokens: the numbers of one and two digits, `+`, `=`, end and padding. Problems are `A+B=C`, the answer with its
leading digit first; only the answer is learned from. Addends have 3 or 4 digits, each pair of lengths as often as the others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from tokenry.core.io.progress import Progress, named, part
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.text.digit_groups import GroupMode, number_format
from tokenry.core.text.number_tokens import all_numbers
from tokenry.evaluation.arithmetic.addition import AdditionAnswer, evaluate_addition
from tokenry.evaluation.arithmetic.addition_problems import (
    AdditionFormat,
    AdditionProblems,
    sample_free_problems,
)
from tokenry.recipes.kit import cosine, fit
from tokenry.recipes.testbeds.small_gpt2 import small_gpt2
from tokenry.tokenization.numbers.number_pre_tokenizers import number_pre_tokenizer

GROUP = 2
_END, _PADDING = "<end>", "<pad>"
_PLAIN = AdditionFormat(number_format("nosep"), system=None)


@dataclass(frozen=True)
class AdditionSetting:
    """What is trained how, and on what it is measured.

    Attributes:
        steps: of AdamW, with a cosine schedule after a warm-up of a twentieth.
        batch_size: problems per step.
        learning_rate: the highest.
        training_problems: drawn once.
        test_problems: drawn apart; those that were trained on are left out.
        lengths: digits that an addend can have.
    """

    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 2e-3
    width: int = 96
    layers: int = 2
    heads: int = 4
    training_problems: int = 40_000
    test_problems: int = 2_000
    lengths: tuple[int, ...] = (3, 4)


@dataclass(frozen=True)
class AdditionRun:
    """What came of one training.

    Attributes:
        losses: mean NLL of the answers' tokens in nats, at each step.
        regrouped: to the same problems, when the trained model reads numbers cut in another way; empty if not asked for.
    """

    losses: tuple[float, ...]
    answers: tuple[AdditionAnswer, ...]
    regrouped: tuple[AdditionAnswer, ...] = ()


def addition_tokenizer(mode: GroupMode) -> PreTrainedTokenizerFast:
    """The tokenizer of all runs; `mode` is all that differs."""
    words = [_PADDING, _END, "+", "=", *all_numbers(GROUP)]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    backend.pre_tokenizer = number_pre_tokenizer(mode, GROUP)
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=_END, pad_token=_PADDING)


def addition_model(setting: AdditionSetting, vocabulary: int, seed: int) -> GPT2LMHeadModel:
    """Make an untrained decoder with learned positions; its weights depend on the seed alone."""
    return small_gpt2(
        vocabulary,
        setting.width,
        setting.layers,
        32,
        seed,
        setting.heads,
        eos_token_id=1,
        pad_token_id=0,
    )


def held_out_problems(setting: AdditionSetting, seed: int) -> AdditionProblems:
    """Problems to measure on, none of which is trained on."""
    trained = {tuple(problem) for problem in training_problems(setting, seed).tolist()}
    drawn = sample_free_problems(setting.test_problems, 0, setting.lengths, seed=seed + 1_000_000)
    fresh = [index for index, problem in enumerate(drawn.problems.tolist()) if tuple(problem) not in trained]
    return AdditionProblems(
        drawn.problems[fresh], drawn.shots[fresh], tuple(drawn.signatures[index] for index in fresh)
    )


def learn_addition(
    mode: GroupMode,
    setting: AdditionSetting,
    seed: int,
    regroup: GroupMode | None = None,
    progress: Progress = lambda what, share: None,
) -> AdditionRun:
    """Train a decoder and let it answer the test problems; problems, their order and the first weights depend on the seed alone.

    Args:
        mode: how its tokenizer cuts numbers.
        setting: what is trained, and on what it is measured.
        regroup: afterwards, also let it read numbers cut in this way.
        progress: told what is being done.
    """
    tokenizer = addition_tokenizer(mode)
    model = addition_model(setting, len(tokenizer), seed)
    losses = _train(model, tokenizer, setting, seed, named(part(progress, 0.0, 0.9), f"learning {mode}"))
    problems = held_out_problems(setting, seed)

    def answered(reader: PreTrainedTokenizerFast) -> tuple[AdditionAnswer, ...]:
        longest = 2 + max(setting.lengths)
        return tuple(
            evaluate_addition(
                model,
                reader,
                fmt=_PLAIN,
                problems=problems,
                batch_size=500,
                chat=False,
                max_new_tokens=longest,
            )
        )

    progress(f"answering {mode}", 0.9)
    return AdditionRun(
        losses=tuple(losses),
        answers=answered(tokenizer),
        regrouped=answered(addition_tokenizer(regroup)) if regroup else (),
    )


def _train(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    setting: AdditionSetting,
    seed: int,
    progress: Callable[[float], None],
) -> list[float]:
    input_ids, labels = _rows(tokenizer, training_problems(setting, seed))
    order = torch.Generator().manual_seed(seed)

    def loss(some: Tensor) -> Tensor:
        padded = input_ids[some] == tokenizer.pad_token_id
        return model(input_ids=input_ids[some], attention_mask=(~padded).long(), labels=labels[some]).loss

    drawn = (
        torch.randint(len(input_ids), (setting.batch_size,), generator=order) for _ in range(setting.steps)
    )
    return fit(model, drawn, loss, setting.steps, setting.learning_rate, cosine, progress=progress)


def training_problems(setting: AdditionSetting, seed: int) -> Int[np.ndarray, "problems 2"]:
    """The problems that are trained on."""
    return sample_free_problems(setting.training_problems, 0, setting.lengths, seed).problems


def _rows(
    tokenizer: PreTrainedTokenizerFast, problems: Int[np.ndarray, "problems 2"]
) -> tuple[Int[Tensor, "problems seq"], Int[Tensor, "problems seq"]]:
    """Token ids padded at the end, and labels of the answers; a causal model does not see what comes after."""
    questions = [_PLAIN.ask(first, second) for first, second in problems.tolist()]
    replies = [_PLAIN.reply(first, second) + _END for first, second in problems.tolist()]
    asked, said = (tokenizer(texts)["input_ids"] for texts in (questions, replies))
    longest = max(len(one) + len(other) for one, other in zip(asked, said, strict=True))
    input_ids = torch.full((len(problems), longest), tokenizer.pad_token_id)
    labels = torch.full_like(input_ids, IGNORED)
    for row, (one, other) in enumerate(zip(asked, said, strict=True)):
        input_ids[row, : len(one) + len(other)] = torch.tensor(one + other)
        labels[row, len(one) : len(one) + len(other)] = torch.tensor(other)
    return input_ids, labels
