"""Multi-token decoding on a toy language: tokens per step, speed beside greedy and transformers' assisted decoding, and what training takes.

Base, drafter and assistant are trained on the records of the recipe; all ways write the same greedy texts. The mode is `auto`, which
chooses the number of masks by itself. Gated LoRA is timed without the base layer, half of the rows being masks. Memory is that of the
losses and gradients of one text of 256 tokens with 4 masks in a block.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from _measure import Step, interleaved, peak_memory
from _report import Result, result, run, speedup
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from tokenry.decoding import Drafter, GatedLoRALinear, MultiTokenDecoding
from tokenry.decoding.multi_token.training import draw_anchors
from tokenry.recipes.multi_token import DraftSizes, train_drafter
from tokenry.recipes.testbeds.record_language import WORDS, RecordModel, draw_texts, train_record_model

OURS, GREEDY, LOOKUP, ASSISTED = "multi-token", "greedy", "prompt lookup", "an assistant model"
BATCH, SINGLE = "eight prompts in one batch", "eight prompts one by one"
ROWS, GATE = "gated LoRA by rows", "gated LoRA by a gate"
SAMPLED, ALL = "blocks behind a quarter of the tokens", "blocks behind all tokens"
_SMALL = RecordModel(1, 16, 2, 2, 16)


def measure(smoke: bool) -> Iterator[Result]:
    """Decoding, then adapters, then memory."""
    base = _SMALL if smoke else RecordModel()
    sizes = DraftSizes(base, steps=2 if smoke else 350, new_tokens=6 if smoke else 60, prompts=8)
    model = train_record_model(base, 0)
    assistant = train_record_model(replace(base, layers=1, width=16 if smoke else 24), 1)
    drafter = train_drafter(model, sizes, 1.0, lambda share: None)
    yield from decoding(drafter, assistant, sizes, 1 if smoke else 3)
    yield adapters(*((16, 8, 1) if smoke else (2048, 576, 5)))
    yield memory(16 if smoke else 256)


def decoding(
    drafter: Drafter, assistant: LlamaForCausalLM, sizes: DraftSizes, rounds: int
) -> Iterator[Result]:
    """The same texts in every way, one by one and in a batch."""
    model: Any = drafter.model
    prompts = draw_texts(sizes.prompts, sizes.prompt_tokens, torch.Generator().manual_seed(7))
    options: dict[str, Any] = {"max_new_tokens": sizes.new_tokens, "do_sample": False}
    decoder = MultiTokenDecoding(drafter)

    def write(**more: Any) -> Tensor:
        return torch.cat(
            [
                model.generate(prompt[None], attention_mask=torch.ones(1, len(prompt)), **options, **more)
                for prompt in prompts
            ]
        )

    def together() -> Tensor:
        found: Tensor = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), custom_generate=decoder, **options
        )
        return found

    lookup = {"prompt_lookup_num_tokens": drafter.k}
    steps: dict[str, Any] = {
        OURS: partial(write, custom_generate=decoder),
        GREEDY: write,
        LOOKUP: partial(write, **lookup),
        ASSISTED: partial(write, assistant_model=assistant),
        BATCH: together,
    }
    plain = write()
    assert all(torch.equal(step(), plain) for step in steps.values())
    together()
    shape = {
        "prompts": sizes.prompts,
        "new_tokens": sizes.new_tokens,
        "masks": drafter.k,
        "threads": 1,
        "rounds": rounds,
    }
    yield speedup("multi-token, tokens per step", decoder.account.tokens_per_step, 2.5, **shape)
    seconds = {name: value.cpu for name, value in interleaved(steps, rounds, threads=1).items()}
    for ours, other, target in (
        (OURS, GREEDY, 1.3),
        (OURS, LOOKUP, 1.0),
        (OURS, ASSISTED, 1.0),
        (BATCH, OURS, 2.0),
    ):
        times = {name: round(seconds[name], 3) for name in (ours, other)}
        words = f"{other if other != OURS else SINGLE} / {ours}"
        yield speedup(words, seconds[other] / seconds[ours], target, cpu_seconds=times, **shape)


def adapters(rows: int, width: int, rounds: int) -> Result:
    """An adapter of rank 128 on half of the rows, without its base layer: gathered, or all rows multiplied by a gate."""
    layer = GatedLoRALinear(nn.Linear(width, width), rank=128, alpha=256)
    x, y, gate = torch.randn(rows, width), torch.zeros(rows, width), torch.arange(rows) % 2 == 1

    @torch.no_grad()
    def by_rows() -> None:
        with layer.gate.on(gate):
            layer.adapted(y, x)

    @torch.no_grad()
    def by_gate() -> None:
        y.add_(gate[:, None] * layer.scale * layer.lora_B(layer.lora_A(x)))

    seconds = interleaved({ROWS: by_rows, GATE: by_gate}, rounds, threads=1)
    shape = {"rows": rows, "width": width, "rank": 128, "masked": 0.5, "threads": 1, "rounds": rounds}
    return speedup(f"{GATE} / {ROWS}", seconds[GATE].cpu / seconds[ROWS].cpu, 1.3, **shape)


def memory(tokens: int) -> Result:
    """The peak of a step of training with blocks behind some tokens, and behind all."""
    peaks = peak_memory(
        {name: partial(training_step, tokens, share) for name, share in ((SAMPLED, 0.25), (ALL, 1.0))}
    )
    megabytes = {name: round(peak, 1) for name, peak in peaks.items()}
    return result(
        f"peak memory, {SAMPLED} / {ALL}",
        peaks[SAMPLED] / peaks[ALL],
        0.4,
        megabytes=megabytes,
        tokens=tokens,
        masks=4,
    )


def training_step(tokens: int, share: float) -> Step:
    """Losses and gradients of one text."""
    torch.manual_seed(0)
    model = train_record_model(RecordModel(4, 128, 1, 1, 16), 0)
    model.requires_grad_(False)
    drafter, ids = Drafter(model, k=4, rank=16), torch.randint(1, len(WORDS), (1, tokens))

    def step() -> None:
        losses = drafter.losses(ids, anchors=draw_anchors(ids, share))
        (losses.base + losses.sampler + losses.consistency / 128).backward()

    return step


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
