"""Prompts with several valid answers, learned from demonstrations of which a known share is wrong.

A prompt is a rule and two tokens of context, an answer is a pair of tokens. Under each rule 4 of 12 tokens are valid in each of the two
places, so 16 of 144 answers are. The base model has read all rules with answers that are valid half the time, in every context;
fine-tuning shows it new demonstrations, each with one valid answer drawn at random or, in 30 % of the cases, with one of its tokens
replaced by an invalid one. The contexts are split: what is measured is measured in contexts that were not tuned on. A second kind of
prompt, which is never tuned on, shows what drifts.

Source: One-Token Rollout (arXiv 2509.26313) claims better generalisation than supervised fine-tuning where many solutions are valid; the
testbed is ours.
"""

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor
from transformers import GPT2LMHeadModel

from tokenry.core.tensors.alignment import IGNORED, segment_ids
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning import TokenWeighing
from tokenry.finetuning.forward import WeighedLoss, add_token_loss
from tokenry.recipes.kit import fit, linear
from tokenry.recipes.testbeds.small_gpt2 import small_gpt2

RULES, TOKENS, VALID = 12, 12, 4
CONTEXTS = 24
_BEGIN, _OTHER_KIND = 0, 1
_RULE, _CONTEXT = 2, 2 + RULES
_ANSWER = _CONTEXT + 2 * CONTEXTS
VOCABULARY = _ANSWER + TOKENS
PROMPT = 4


@dataclass(frozen=True)
class AnswerSetting:
    """What is trained how; learning rates decay linearly to 0.

    Attributes:
        noise: share of the demonstrations whose answer is invalid.
        base_steps: training steps of the base model.
        base_batch_size: sequences per such step.
        steps: steps of fine-tuning.
        batch_size: demonstrations per step of fine-tuning.
        base_learning_rate: first learning rate of the base model.
        learning_rate: first learning rate of fine-tuning.
        draws: answers drawn per prompt when a model is measured.
    """

    noise: float = 0.3
    base_steps: int = 400
    base_batch_size: int = 64
    steps: int = 200
    batch_size: int = 32
    base_learning_rate: float = 3e-3
    learning_rate: float = 1e-3
    draws: int = 32


class Measured(NamedTuple):
    """What a model answers in contexts that were not tuned on.

    Attributes:
        valid: share of the sampled answers that are valid.
        entropy: of an answer's tokens, in nats per token.
        drift: KL divergence to the base model on the other kind of prompt, in nats per token.
    """

    valid: float
    entropy: float
    drift: float


def train_base(setting: AnswerSetting, seed: int) -> GPT2LMHeadModel:
    """Train the base model: valid answers half the time, all contexts, both kinds of prompts."""
    generator = torch.Generator().manual_seed(1000 + seed)
    model = small_gpt2(VOCABULARY, width=64, layers=2, positions=PROMPT + 2, seed=seed)

    def batches() -> Tensor:
        prompts, rules = _prompts(setting.base_batch_size, tuned=None, generator=generator)
        other = torch.rand(len(prompts), generator=generator) < 0.25
        prompts[other, 1] = _OTHER_KIND
        answers = _answers(rules, 0.5, generator)
        # The other kind is answered by its own two tokens of context.
        answers[other] = (prompts[other, 2:] - _CONTEXT) % TOKENS
        return torch.cat([prompts, answers + _ANSWER], dim=1)

    model.train()
    add_token_loss(model)
    fit(
        model,
        iter(batches, None),
        lambda rows: model(rows, labels=_labels(rows)).loss,
        setting.base_steps,
        setting.base_learning_rate,
        linear,
    )
    return model


def fine_tune(
    base: GPT2LMHeadModel, weighing: TokenWeighing, setting: AnswerSetting, seed: int
) -> GPT2LMHeadModel:
    """Fine-tune a copy of the base model on demonstrations; every weighing sees the same ones in the same order."""
    generator = torch.Generator().manual_seed(2000 + seed)
    model = copy.deepcopy(base)

    def batches() -> Tensor:
        prompts, rules = _prompts(setting.batch_size, tuned=True, generator=generator)
        return torch.cat([prompts, _answers(rules, setting.noise, generator) + _ANSWER], dim=1)

    def loss(rows: Tensor) -> Tensor:
        signals = Signals(_labels(rows), segment_ids(rows), {}, progress=1.0, epoch=math.inf)
        total: Tensor = model(rows, token_loss=WeighedLoss(weighing, signals)).loss
        return total / weighing.weight_sum(signals)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of sampled rollouts
        fit(model, iter(batches, None), loss, setting.steps, setting.learning_rate, linear)
    return model


@torch.no_grad()
def measure(
    model: GPT2LMHeadModel, base: GPT2LMHeadModel, setting: AnswerSetting, temperature: float | int = 1.0
) -> Measured:
    """Sample answers to all rules in contexts that were not tuned on; the draws are the same for every model."""
    generator = torch.Generator().manual_seed(3000)
    model.eval()
    prompts, rules = _prompts(RULES * 40, tuned=False, generator=generator)
    rows, entropies = prompts.repeat_interleave(setting.draws, 0), []
    for _ in range(2):
        logits = model(rows).logits[:, -1] / temperature
        entropies.append(torch.distributions.Categorical(logits=logits).entropy().mean())
        uniform = torch.rand(len(rows), 1, generator=generator)
        token = torch.searchsorted(logits.softmax(-1).cumsum(-1), uniform).clamp(max=VOCABULARY - 1)
        rows = torch.cat([rows, token], dim=1)
    valid = is_valid(rows[:, PROMPT:] - _ANSWER, rules.repeat_interleave(setting.draws))
    others = prompts.clone()
    others[:, 1] = _OTHER_KIND
    ours, theirs = (one(others).logits[:, -1].log_softmax(-1) for one in (model, base.eval()))
    drift = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    return Measured(float(valid.float().mean()), float(torch.stack(entropies).mean()), float(drift))


def temperature_of_entropy(
    model: GPT2LMHeadModel, base: GPT2LMHeadModel, setting: AnswerSetting, entropy: float
) -> float:
    """The sampling temperature at which a model's answers have a given entropy, by bisection of its logarithm."""
    low, high = -4.0, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        above = measure(model, base, setting, math.exp(middle)).entropy > entropy
        low, high = (low, middle) if above else (middle, high)
    return math.exp((low + high) / 2)


def is_valid(answers: Int[Tensor, "rows 2"], rules: Int[Tensor, "rows"]) -> Bool[Tensor, "rows"]:
    """Whether both answer tokens, numbered from 0, are valid under the rule."""
    inside = ((answers >= 0) & (answers < TOKENS)).all(-1)
    rows = valid_tokens()[rules]
    return inside & (rows == answers.clamp(0, TOKENS - 1)[..., None]).any(-1).all(-1)


def valid_tokens() -> Int[Tensor, "rules 2 valid"]:
    """The valid tokens of each rule in each place."""
    return _tokens_by_rule()[..., :VALID]


def _tokens_by_rule() -> Int[Tensor, "rules 2 tokens"]:
    """All tokens of each rule in each place, the valid ones first."""
    return torch.rand(RULES, 2, TOKENS, generator=torch.Generator().manual_seed(4000)).argsort(-1)


def _prompts(
    number: int, tuned: bool | None, generator: Generator
) -> tuple[Int[Tensor, "rows 4"], Int[Tensor, "rows"]]:
    """Rules in contexts whose sum is even (tuned), odd (not tuned), or any (None)."""
    rules = torch.randint(RULES, (number,), generator=generator)
    context = torch.randint(CONTEXTS, (number, 2), generator=generator)
    if tuned is not None:
        wrong = (context.sum(-1) % 2 == 0) != tuned
        context[wrong, 1] = (context[wrong, 1] + 1) % CONTEXTS
    begin = torch.full((number, 1), _BEGIN)
    second = torch.tensor([0, CONTEXTS])
    return torch.cat([begin, rules[:, None] + _RULE, context + second + _CONTEXT], dim=1), rules


def _answers(rules: Int[Tensor, "rows"], noise: float | int, generator: Generator) -> Int[Tensor, "rows 2"]:
    """A valid pair drawn at random; with probability `noise` one of its tokens is replaced by an invalid one."""
    order = _tokens_by_rule()[rules]
    draw = torch.randint(VALID, (len(rules), 2), generator=generator)
    wrong = torch.rand(len(rules), generator=generator) < noise
    place = torch.randint(2, (len(rules),), generator=generator)
    invalid = torch.randint(VALID, TOKENS, (len(rules),), generator=generator)
    draw[wrong, place[wrong]] = invalid[wrong]
    return order.gather(-1, draw[..., None])[..., 0]


def _labels(rows: Int[Tensor, "rows seq"]) -> Int[Tensor, "rows seq"]:
    labels = rows.clone()
    labels[:, :PROMPT] = IGNORED
    return labels
