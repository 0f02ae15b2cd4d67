"""HAPO's group average over tokens against a loop over rows and groups: 512 prompts with 16 responses each, single thread."""

from collections.abc import Iterator

import torch
from _measure import Step, interleaved
from _report import Result, run, speedup
from torch import Tensor

from tokenry.alignment.hapo import token_level_group_advantage

PROMPTS, SAMPLES = 512, 16


def measure(smoke: bool) -> Iterator[Result]:
    """CPU time of both; the advantages are compared first."""
    prompts, longest, rounds = (4, 20, 1) if smoke else (PROMPTS, 256, 5)
    generator = torch.Generator().manual_seed(0)
    rows = prompts * SAMPLES
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    mask = torch.arange(longest) < lengths[:, None]
    rewards = torch.randint(2, (rows,), generator=generator).float()
    groups = torch.arange(prompts).repeat_interleave(SAMPLES)[torch.randperm(rows, generator=generator)]
    ids = groups.tolist()
    torch.testing.assert_close(
        token_level_group_advantage(rewards, mask, groups), by_rows(rewards, mask, ids), rtol=1e-4, atol=1e-4
    )
    steps: dict[str, Step] = {
        "tokenry": lambda: token_level_group_advantage(rewards, mask, groups),
        "rows": lambda: by_rows(rewards, mask, ids),
    }
    seconds = interleaved(steps, rounds, threads=1)
    yield speedup(
        "group average over tokens: a loop over rows / tokenry",
        seconds["rows"].cpu / seconds["tokenry"].cpu,
        100.0,
        prompts=prompts,
        responses=SAMPLES,
        tokens=longest,
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
