"""Token credit: the trainer beside TRL's, the prefix tree beside a loop over tokens, the group average beside a loop over rows.

A step of the trainers is a generation of 16 responses of 64 tokens and the gradients of its four micro-batches, with the control as the
credit rule: both must end with the same gradients. The tree is that of 8 groups of 8 responses of 1,024 tokens, the group average that
of 512 groups of 16 responses of up to 256 tokens.
"""

import tempfile
from collections.abc import Iterator
from functools import partial

import torch
from _measure import Step, interleaved
from _report import Result, result, run, speedup
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from tokenry.alignment import TokenCreditTrainer, tempo_advantages
from tokenry.alignment.hapo import token_level_group_advantage

MICRO_BATCHES = 4


def measure(smoke: bool) -> Iterator[Result]:
    """The trainer, the tree, then the group average."""
    yield from trainer_step(*((64, 16, 1, 4, 1) if smoke else (8192, 256, 4, 64, 8)))
    yield from prefix_tree(*((2, 2, 16, 1) if smoke else (8, 8, 1024, 5)))
    yield from token_average(*((4, 4, 20, 1) if smoke else (512, 16, 256, 5)))


def trainer_step(vocabulary: int, width: int, layers: int, tokens: int, rounds: int) -> Iterator[Result]:
    """Generation, rewards, advantages, and the gradients of all micro-batches."""
    trainers = {
        "TRL": grpo(GRPOTrainer, vocabulary, width, layers, tokens),
        "tokenry": grpo(TokenCreditTrainer, vocabulary, width, layers, tokens),
    }
    steps: dict[str, Step] = {name: partial(learn, trainer) for name, trainer in trainers.items()}
    seconds = interleaved(steps, rounds, threads=1)
    gradients = [[weight.grad for weight in trainer.model.parameters()] for trainer in trainers.values()]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))
    yield result(
        "TokenCreditTrainer with GroupCredit / GRPOTrainer, step",
        seconds["tokenry"].cpu / seconds["TRL"].cpu,
        1.02,
        cpu_milliseconds={name: round(1000 * taken.cpu, 1) for name, taken in seconds.items()},
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        new_tokens=tokens,
        responses=4 * MICRO_BATCHES,
        threads=1,
        rounds=rounds,
    )


def grpo(
    kind: type[GRPOTrainer], vocabulary: int, width: int, layers: int, tokens: int, **options: bool
) -> GRPOTrainer:
    words = {f"w{number}": number for number in range(vocabulary)}
    cut = Tokenizer(models.WordLevel(words, unk_token="w2"))
    cut.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=cut, pad_token="w0", eos_token="w1", unk_token="w2")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(4, width // 128),
        num_key_value_heads=4,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    trainer = kind(
        LlamaForCausalLM(config),
        even_tokens,
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=4,
            num_generations=4,
            steps_per_generation=MICRO_BATCHES,
            max_completion_length=tokens,
            gradient_checkpointing=False,
            report_to=[],
            **{"bf16": False, "use_cpu": True, **options},
        ),
        train_dataset=Dataset.from_list([{"prompt": "w5 w6 w7"}] * 4),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def even_tokens(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def learn(trainer: GRPOTrainer) -> None:
    """One generation and its gradients, from the same random numbers every time."""
    torch.manual_seed(1)
    trainer._step, trainer._buffered_inputs = 0, None
    trainer.model.zero_grad()
    rows = [{"prompt": f"w{5 + row // 4}"} for row in range(4 * MICRO_BATCHES)]
    trainer.model.train()
    for _ in range(MICRO_BATCHES):
        trainer.training_step(trainer.model, rows, None)


def prefix_tree(groups: int, size: int, tokens: int, rounds: int) -> Iterator[Result]:
    """Advantages of responses that share most of their text."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(50, (groups, 1, tokens), generator=generator).repeat(1, size, 1).flatten(0, 1)
    for row, start in enumerate(torch.randint(tokens, (groups * size,), generator=generator).tolist()):
        ids[row, start:] = torch.randint(50, (tokens - start,), generator=generator)
    lengths = torch.randint(tokens // 2, tokens + 1, (groups * size,), generator=generator)
    mask = torch.arange(tokens) < lengths[:, None]
    rewards = torch.randint(2, (groups * size,), generator=generator).float()
    of_group = torch.arange(groups * size) // size
    sample = (ids, mask, rewards, of_group)
    torch.testing.assert_close(token_by_token(*sample), tempo_advantages(*sample), rtol=1e-4, atol=1e-4)
    steps: dict[str, Step] = {
        "tokenry": lambda: tempo_advantages(*sample),
        "loop": lambda: token_by_token(*sample),
    }
    seconds = interleaved(steps, rounds, threads=1)
    yield speedup(
        "TEMPO: a loop over tokens / tokenry",
        seconds["loop"].cpu / seconds["tokenry"].cpu,
        400.0,
        groups=groups,
        responses=size,
        tokens=tokens,
        threads=1,
        rounds=rounds,
        cpu_milliseconds={name: round(1000 * taken.cpu, 2) for name, taken in seconds.items()},
    )


def token_by_token(ids: Tensor, mask: Tensor, rewards: Tensor, groups: Tensor, eps: float = 1e-6) -> Tensor:
    """The definition: the members that agree so far, and the mean of their rewards, at every token of every response."""
    lengths, result = mask.sum(1), torch.zeros(ids.shape)
    for row in range(len(ids)):
        members = (groups == groups[row]).nonzero()[:, 0]
        own, long = rewards[members], lengths[members]
        base, scale = rewards[row] - own.mean(), own.std() + eps
        agree = torch.ones(len(members), dtype=torch.bool)
        value = own.mean()
        for token in range(int(lengths[row])):
            agree &= (ids[members, token] == ids[row, token]) & (long > token)
            after = own[agree].mean()
            result[row, token] = (base + after - value) / scale
            value = after
    return result


def token_average(prompts: int, samples: int, tokens: int, rounds: int) -> Iterator[Result]:
    """HAPO's group average over tokens; the rows of a group lie anywhere."""
    generator = torch.Generator().manual_seed(0)
    rows = prompts * samples
    lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    mask = torch.arange(tokens) < lengths[:, None]
    rewards = torch.randint(2, (rows,), generator=generator).float()
    groups = torch.arange(rows)[torch.randperm(rows, generator=generator)] // samples
    ours, theirs = token_level_group_advantage(rewards, mask, groups), by_rows(rewards, mask, groups.tolist())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    steps: dict[str, Step] = {
        "tokenry": lambda: token_level_group_advantage(rewards, mask, groups),
        "rows": lambda: by_rows(rewards, mask, groups.tolist()),
    }
    seconds = interleaved(steps, rounds, threads=1)
    yield speedup(
        "group average over tokens: a loop over rows / tokenry",
        seconds["rows"].cpu / seconds["tokenry"].cpu,
        100.0,
        prompts=prompts,
        responses=samples,
        tokens=tokens,
        threads=1,
        rounds=rounds,
        cpu_milliseconds={name: round(1000 * taken.cpu, 2) for name, taken in seconds.items()},
    )


def by_rows(rewards: Tensor, mask: Tensor, ids: list[int]) -> Tensor:
    """The same, row by row; the rows of each group are searched for among all."""
    advantages = torch.zeros(mask.shape)
    for group in dict.fromkeys(ids):
        rows = [row for row, owner in enumerate(ids) if owner == group]
        of_tokens = torch.cat([rewards[row].expand(mask.shape[1])[mask[row]] for row in rows])
        of_responses = rewards[rows]
        mean, std = of_tokens.mean(), of_tokens.std(unbiased=False)
        found = [(rewards[row] - mean) / (std + 1e-6) * mask[row] for row in rows]
        if any(bool((advantage.abs() >= 5).any()) for advantage in found):
            mean, std = of_responses.mean(), of_responses.std()
            found = [(rewards[row] - mean) / (std + 1e-6) * mask[row] for row in rows]
        for row, advantage in zip(rows, found, strict=True):
            advantages[row] = advantage
    return advantages


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
