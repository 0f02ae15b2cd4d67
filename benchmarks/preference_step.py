"""A step of PreferenceTrainer beside DPOTrainer's, and a heat-map of token gradients beside one backward pass per token.

Two pairs of 128 tokens, half of them prompt, under SmolLM2-135M-Instruct: loss and backward of the DPO loss with precomputed references,
all parameters, no optimizer; gradients are checked to be equal first. On a CPU TRL's fused head scores every position of a batch,
on a GPU only those of responses. The heat-map is of two responses of 24 tokens under a Llama of 4 layers.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from _measure import Step, interleaved, peak_memory
from _report import Result, note, result, run, speedup
from _steps import TINY, Shape, load, model_name, tokenizer
from datasets import Dataset
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer

from tokenry.alignment import PreferencePair, PreferenceTrainer, token_gradient_cosine
from tokenry.alignment.preference_pairs import collate_pairs

TRAINERS = {"PreferenceTrainer": PreferenceTrainer, "DPOTrainer": DPOTrainer}
PAIRS, SEQ, RESPONSE = 2, 128, 24


def measure(smoke: bool) -> Iterator[Result]:
    """The step, then the heat-map."""
    yield from training_step(Shape(model=TINY) if smoke else Shape(), 16 if smoke else SEQ, 1 if smoke else 3)
    yield from heat_map(1 if smoke else 3, *((1, 16, 50, 4) if smoke else (4, 128, 2000, RESPONSE)))


def training_step(shape: Shape, seq: int, rounds: int) -> Iterator[Result]:
    """Time and memory of loss and backward."""
    peaks = peak_memory({name: partial(prepare, name, shape, seq) for name in TRAINERS})
    model = load(shape)
    steps = {name: make_step(name, model, seq) for name in TRAINERS}
    norms = {}
    for name, step in steps.items():
        note(f"gradient of {name}")
        step()
        norms[name] = float(sum(parameter.grad.square().sum() for parameter in model.parameters()) ** 0.5)
    ours, theirs = norms.values()
    if abs(ours - theirs) > 1e-4 * theirs:
        raise SystemExit(f"the trainers do not learn the same: gradient norms {norms}")
    settings = {
        "model": model_name(shape),
        "batch": f"{PAIRS} pairs x {seq}",
        "prompt_share": 0.5,
        "dtype": "float32",
        "threads": 1,
    }
    seconds = interleaved(steps, rounds, threads=1)
    yield result(
        "DPO step time: PreferenceTrainer / DPOTrainer",
        seconds["PreferenceTrainer"].cpu / seconds["DPOTrainer"].cpu,
        1.05,
        **settings,
        rounds=rounds,
        cpu_seconds={name: round(taken.cpu, 3) for name, taken in seconds.items()},
        gradient_norms={name: round(norm, 6) for name, norm in norms.items()},
    )
    yield result(
        "DPO step, peak memory above the model: PreferenceTrainer / DPOTrainer",
        peaks["PreferenceTrainer"] / peaks["DPOTrainer"],
        1.0,
        **settings,
        megabytes={name: round(peak) for name, peak in peaks.items()},
    )


def prepare(name: str, shape: Shape, seq: int) -> Step:
    """Load the model, and make the step of a trainer."""
    return make_step(name, load(shape), seq)


def make_step(name: str, model: Any, seq: int) -> Step:
    """Loss and backward of one batch by a trainer that has its references."""
    draw = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, vocabulary, (length,), generator=draw).tolist())

    pairs = [PreferencePair(ids(seq // 2), ids(seq // 2), ids(seq // 2)) for _ in range(PAIRS)]
    batch: dict[str, Tensor] = collate_pairs(pairs)
    batch |= {f"ref_{side}_logps": torch.full((PAIRS,), -10.0 * seq) for side in ("chosen", "rejected")}
    trainer = TRAINERS[name](
        model,
        ref_model=model.__class__(LlamaConfig(**dict(TINY))),  # never asked: the batch has its references
        args=DPOConfig(
            tempfile.mkdtemp(),
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": "1 ", "chosen": "2", "rejected": "3"}] * 2),
        processing_class=tokenizer(),
    )
    trainer.precompute_ref_logps = True
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        trainer.compute_loss(model, dict(batch)).backward()

    return step


def heat_map(rounds: int, layers: int, width: int, vocabulary: int, response: int) -> Iterator[Result]:
    """Cosines of all token gradients: the closed form of the head, and one backward per token as the released script has it."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
        )
    ).eval()
    prompt, chosen, rejected = (
        torch.randint(vocabulary, (length,)).tolist() for length in (8, response, response)
    )
    found = {}

    def closed() -> None:
        found["head"] = token_gradient_cosine(model, prompt + chosen, prompt + rejected, len(prompt))

    def backwards() -> None:
        found["full"] = by_backward_passes(model, prompt, chosen, rejected)

    seconds = interleaved({"closed form, head": closed, "backward per token": backwards}, rounds, threads=1)
    correlation = torch.corrcoef(torch.stack([found["head"].flatten(), found["full"].flatten()]))[0, 1]
    yield speedup(
        "heat-map of token gradients: a backward per token / closed form of the head",
        seconds["backward per token"].cpu / seconds["closed form, head"].cpu,
        300.0,
        layers=layers,
        width=width,
        vocabulary=vocabulary,
        response_tokens=response,
        threads=1,
        rounds=rounds,
        cpu_milliseconds={name: round(1000 * taken.cpu, 2) for name, taken in seconds.items()},
        correlation_with_all_weights=round(float(correlation), 3),
    )


def by_backward_passes(
    model: LlamaForCausalLM, prompt: list[int], chosen: list[int], rejected: list[int]
) -> Tensor:
    """One flat gradient of all weights per token, copied to numpy, and their cosines."""
    sides = []
    for tokens in (chosen, rejected):
        ids = torch.tensor([prompt + tokens])
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
        gradients = []
        for logp in logps:
            model.zero_grad()
            logp.backward(retain_graph=True)
            flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
            gradients.append(flat.numpy().copy())
        sides.append(gradients)
    won, lost = (torch.stack([torch.from_numpy(one) for one in side]) for side in sides)
    return torch.nn.functional.cosine_similarity(won[:, None], lost[None], dim=-1)


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
