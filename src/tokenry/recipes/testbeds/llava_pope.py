"""LLaVA-1.5-7B on questions of POPE, whether an object is in the image, from a few of its visual tokens; needs a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from tokenry.compression.vision.image_features import encode_images, supported_model
from tokenry.compression.vision.relevance import rank_correlation, relevance_correlation
from tokenry.compression.vision.visual_tokens import prune_visual_tokens
from tokenry.compression.vision.zoo_prune import mlp_sensitivity
from tokenry.core.io.progress import Progress
from tokenry.models import preferred_device
from tokenry.recipes.testbeds.token_choices import (
    DIRECTIONS,
    METHODS,
    Choice,
    ChoiceTrial,
    combined,
    gathered,
    mlp_weights,
    relative_sensitivity,
    spacing,
)


def pope(progress: Progress) -> ChoiceTrial:
    """LLaVA-1.5-7B on 1000 questions of POPE; downloads both."""
    from datasets import load_dataset
    from transformers import AutoProcessor

    name, number = "llava-hf/llava-1.5-7b-hf", 1000
    device = preferred_device()
    model = LlavaForConditionalGeneration.from_pretrained(name, dtype=torch.float16).to(device).eval()
    processor = AutoProcessor.from_pretrained(name)
    questions = load_dataset("lmms-lab/POPE", split="test", streaming=True).shuffle(0).take(number)
    asked = []
    for place, row in enumerate(questions):
        progress(f"question {place + 1} of {number}", place / number)
        prompt = (
            f"USER: <image>\n{row['question']}\nAnswer the question using a single word or phrase. ASSISTANT:"
        )
        inputs = processor(images=row["image"].convert("RGB"), text=prompt, return_tensors="pt")
        inputs = inputs.to(device, torch.float16)
        asked.append(ask(model, processor, inputs, row["answer"], (64, 128, 192), seed=place))
    settings = {"model": name, "data": "lmms-lab/POPE", "questions": number}
    return replace(combined(asked, torch.cat), settings=settings)


def ask(
    model: LlavaForConditionalGeneration,
    processor: Any,
    inputs: Mapping[str, Any],
    answer: str,
    budgets: Sequence[int],
    seed: int,
) -> ChoiceTrial:
    """Ask a LLaVA one question about one image with every method and budget; here the closed form stands for the exact norm."""
    target, architecture = supported_model(model)
    with torch.no_grad():
        encoded = encode_images(target, architecture, inputs, with_rows=True)
        projected = encoded.images[0].features.float()[None]
    entering = encoded.entering
    assert entering is not None
    weights = mlp_weights(architecture.projector(model.model))
    sensitivity = mlp_sensitivity(entering, *weights, method="closed_form")

    def right() -> Tensor:
        return torch.tensor([_answered(model, processor, inputs, answer)])

    def pruned(method: str, k: int) -> Choice:
        with prune_visual_tokens(model, keep=k, method=METHODS[method], seed=seed) as pruning:
            answered = right()
        assert pruning.last is not None
        kept = pruning.last.images[0].kept[None]
        values = (relative_sensitivity(sensitivity[None], kept), spacing(gathered(projected, kept)))
        return Choice(answered, *(value.cpu() for value in values))

    def estimate(number: int) -> float:
        sampled = mlp_sensitivity(entering, *weights, num_directions=number)
        return rank_correlation(sampled, sensitivity)

    return ChoiceTrial(
        unpruned=right(),
        choices={method: {k: pruned(method, k) for k in budgets} for method in METHODS},
        estimates={number: torch.tensor([estimate(number)]) for number in DIRECTIONS},
        relevance=torch.tensor(relevance_correlation(model, inputs)),
        pictures={},
        settings={},
    )


def _answered(model: Any, processor: Any, inputs: Mapping[str, Tensor], answer: str) -> float:
    """100 if the generated answer begins with the right word, else 0."""
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    said = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return 100.0 * said.strip().lower().startswith(answer.lower())
