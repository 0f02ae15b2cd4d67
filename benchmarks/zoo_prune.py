"""ZOO-Prune beside the forms it is published in: choosing tokens, measuring sensitivity, and what fewer tokens save in prefill.

Selection: the broadcast form computes `cosine_similarity(x[:, None], x[None])`, which needs memory for tokens² · width numbers, then
chooses from the matrix. Sensitivity: 64 directions, two evaluations of the whole projector each, against the closed form (what it
needs to know of the weights is computed once and not timed) and against the exact rewrite with the same 64 directions. The projector is
1024 → 1024 → 1024. Prefill: a LLaVA with random weights (LLM of width 512, 4 layers; a tiny vision encoder, which is timed too), 64 of
576 visual tokens chosen by DivPrune, and 32 tokens of text.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from _measure import interleaved
from _report import Result, note, run, speedup
from torch import Generator, Tensor
from torch.nn.functional import cosine_similarity, gelu, linear
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tokenry.compression.vision.diversity import farthest_point_select, sensitivity_diverse_select
from tokenry.compression.vision.visual_tokens import prune_visual_tokens
from tokenry.compression.vision.zoo_prune import (
    mlp_sensitivity,
    projector_interaction,
    zeroth_order_sensitivity,
)

# Prefill: the published figure for a whole model; of the language model alone, nearly the ratio of all tokens.
SELECTION, SENSITIVITY, REWRITE, PREFILL, NEARLY = 300.0, 15.0, 1.5, 2.30, 0.8
IMAGE = 63
DIRECTIONS = 64


def measure(smoke: bool) -> Iterator[Result]:
    """Selection, sensitivity and prefill at the sizes of LLaVA-1.5, or at tiny ones."""
    tokens, width, k = (16, 32, 4) if smoke else (576, 1024, 64)
    rounds = 1 if smoke else 5
    with torch.inference_mode():
        yield from selection(tokens, width, k, rounds)
        yield from sensitivity(tokens, width, rounds)
        yield from prefill(tokens, k, width=32 if smoke else 512, rounds=rounds)


def selection(tokens: int, width: int, k: int, rounds: int) -> Iterator[Result]:
    """The greedy choice, by running minimum and by broadcast matrix; both choose the same tokens."""
    note("selection")
    generator = torch.Generator().manual_seed(0)
    features, weight = (
        torch.randn(tokens, width, generator=generator),
        torch.rand(tokens, generator=generator),
    )
    if not torch.equal(
        sensitivity_diverse_select(features, weight, k), broadcast_select(features, weight, k)
    ):
        raise RuntimeError("the two forms choose different tokens: what is timed is not the same.")
    steps = {
        "SADS": lambda: sensitivity_diverse_select(features, weight, k),
        "farthest points": lambda: farthest_point_select(features, k),
        "broadcast": lambda: broadcast_select(features, weight, k),
    }
    settings = {"tokens": tokens, "width": width, "kept": k}
    yield from ratios("selection", steps, "broadcast", {"SADS": SELECTION}, rounds, settings)


def broadcast_select(features: torch.Tensor, sensitivity: torch.Tensor, k: int) -> torch.Tensor:
    """The published form: the whole distance matrix first, then a minimum over the rows of the chosen."""
    distance = 1 - cosine_similarity(features[:, None], features[None], dim=-1)
    lowest, highest = sensitivity.aminmax()
    weight = (sensitivity - lowest) / (highest - lowest + 1e-8)
    chosen = [int(weight.argmax())]
    for _ in range(k - 1):
        score = distance[chosen].amin(0) * weight
        score[chosen] = float("-inf")
        chosen.append(int(score.argmax()))
    return torch.tensor(chosen)


def sensitivity(tokens: int, width: int, rounds: int) -> Iterator[Result]:
    """Both rewritten forms against sampling that knows nothing of the projector."""
    note("sensitivity")
    generator = torch.Generator().manual_seed(0)
    w1, w2 = (torch.randn(width, width, generator=generator) / width**0.5 for _ in range(2))
    b1, features = torch.randn(width, generator=generator), torch.randn(tokens, width, generator=generator)
    directions = torch.randn(DIRECTIONS, width, generator=generator)
    interaction = projector_interaction(w1, w2)
    steps = {
        "closed form": lambda: mlp_sensitivity(
            features, w1, b1, w2, method="closed_form", interaction=interaction
        ),
        "exact rewrite": lambda: mlp_sensitivity(features, w1, b1, w2, directions=directions),
        "sampled": lambda: zeroth_order_sensitivity(
            features, lambda x: linear(gelu(linear(x, w1, b1)), w2), directions=directions
        ),
    }
    settings = {"tokens": tokens, "projector": f"{width} x {width} x {width}", "directions": DIRECTIONS}
    targets = {"closed form": SENSITIVITY, "exact rewrite": REWRITE}
    yield from ratios("sensitivity", steps, "sampled", targets, max(1, rounds // 2), settings)


def prefill(tokens: int, k: int, width: int, rounds: int) -> Iterator[Result]:
    """One forward of a prompt with an image, pruned and not: vision encoder, selection and all."""
    note("prefill")
    whole, pruned = random_llava(tokens, width), random_llava(tokens, width)
    inputs = llava_inputs(tokens, text=32)
    prune_visual_tokens(pruned, keep=k)
    steps = {"pruned": lambda: pruned(**inputs), "all tokens": lambda: whole(**inputs)}
    settings = {"visual_tokens": tokens, "kept": k, "text_tokens": 32, "llm": f"width {width}, 4 layers"}
    yield from ratios("prefill", steps, "all tokens", {"pruned": PREFILL}, rounds, settings)
    embeddings = torch.randn(1, tokens + 32, width)
    steps = {
        "pruned": lambda: whole(inputs_embeds=embeddings[:, : k + 32]),
        "all tokens": lambda: whole(inputs_embeds=embeddings),
    }
    target = NEARLY * (tokens + 32) / (k + 32)
    yield from ratios(
        "prefill, language model alone", steps, "all tokens", {"pruned": target}, rounds, settings
    )


def llava_inputs(visual: int, text: int) -> dict[str, Tensor]:
    """A prompt with one image between two halves of text, for `random_llava`."""
    side = 14 * int(visual**0.5)
    prompt = [1] * (text // 2) + [IMAGE] * visual + [2] * (text - text // 2)
    return {
        "input_ids": torch.tensor([prompt]),
        "attention_mask": torch.ones(1, visual + text, dtype=torch.long),
        "pixel_values": torch.randn(1, 3, side, side, generator=Generator().manual_seed(0)),
    }


def random_llava(visual: int, width: int) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights, so many visual tokens per image, a tiny vision encoder and four layers of the given width."""
    side = int(visual**0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=14 * side,
                patch_size=14,
            ),
            text_config=LlamaConfig(
                vocab_size=64,
                hidden_size=width,
                intermediate_size=3 * width,
                num_hidden_layers=4,
                num_attention_heads=8,
                max_position_embeddings=2 * visual,
            ),
            image_token_index=IMAGE,
        )
        config.image_token_id = IMAGE
        return LlavaForConditionalGeneration(config).eval()


def ratios(
    what: str,
    steps: Mapping[str, Callable[[], Any]],
    peer: str,
    targets: Mapping[str, float],
    rounds: int,
    settings: Mapping[str, Any],
) -> Iterator[Result]:
    """Time all steps by turns, and set each that has a target against the peer."""
    seconds = interleaved(steps, rounds, threads=1)
    for name, target in targets.items():
        yield speedup(
            f"{what}: {peer} / {name}",
            seconds[peer].cpu / seconds[name].cpu,
            target,
            **settings,
            dtype="float32",
            threads=1,
            rounds=rounds,
            cpu_seconds={each: round(value.cpu, 5) for each, value in seconds.items()},
        )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
