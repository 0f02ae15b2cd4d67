"""Tiny vision-language models with random weights, and what their processors would return."""

import inspect
from dataclasses import dataclass

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

IMAGE, PAD, VIDEO, START, END = 90, 91, 92, 93, 94
PINPOINTS = [[16, 8], [8, 16], [16, 16]]
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 2,
}
TEXT = {
    "vocab_size": 96,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": PAD,
}


@dataclass(frozen=True)
class Family:
    """A model class, and images of it: each a size in patches (Qwen) or pixels (the others)."""

    model: type
    config: type
    images: tuple[tuple[int, int], ...]


FAMILIES = {
    "llava": Family(LlavaForConditionalGeneration, LlavaConfig, ((8, 8),) * 3),
    "llava-next": Family(LlavaNextForConditionalGeneration, LlavaNextConfig, ((8, 13), (15, 7), (10, 16))),
    "qwen2-vl": Family(Qwen2VLForConditionalGeneration, Qwen2VLConfig, ((4, 6), (8, 4), (4, 6))),
    "qwen2.5-vl": Family(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, ((4, 6), (8, 12), (4, 6))),
}


def make_model(family, dtype=torch.float32, seed=0, **text):
    torch.manual_seed(seed)
    kind = FAMILIES[family]
    if family.startswith("llava"):
        config = kind.config(
            vision_config=CLIPVisionConfig(**VISION),
            text_config=LlamaConfig(**{**TEXT, **text}),
            image_token_index=IMAGE,
            **({"image_grid_pinpoints": PINPOINTS} if family == "llava-next" else {}),
        )
        config.image_token_id = IMAGE
    else:
        vision = {
            "depth": 2,
            "num_heads": 2,
            "patch_size": 2,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
        }
        if family == "qwen2-vl":
            vision |= {"embed_dim": 16, "hidden_size": TEXT["hidden_size"], "mlp_ratio": 2}
        else:
            vision |= {
                "hidden_size": 16,
                "intermediate_size": 32,
                "out_hidden_size": TEXT["hidden_size"],
                "window_size": 8,
                "fullatt_block_indexes": [1],
            }
        config = kind.config(
            vision_config=vision,
            text_config={
                **TEXT,
                **text,
                "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4},
            },
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=START,
            vision_end_token_id=END,
        )
    model = kind.model(config).eval()
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.02)  # what stands at padding is not zero
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model.to(dtype)


def make_inputs(model, family, images_per_row=(2, 1), side="left", dtype=torch.float32, seed=1):
    """Rows of text with images in it, padded to one length."""
    generator = torch.Generator().manual_seed(seed)
    images = FAMILIES[family].images[: sum(images_per_row)]
    pixels = pixel_inputs(model, family, images, generator, dtype)
    counts = iter(visual_tokens(model, family, pixels))
    rows = []
    for number in images_per_row:
        row = text(generator, 3)
        for _ in range(number):
            image = [IMAGE] * next(counts)
            row += [START, *image, END] if family.startswith("qwen") else image
            row += text(generator, 2)
        rows.append(row)
    longest = max(map(len, rows))
    input_ids, mask = [], []
    for row in rows:
        blank = longest - len(row)
        ids, real = [PAD] * blank, [0] * blank
        input_ids.append(ids + row if side == "left" else row + ids)
        mask.append(real + [1] * len(row) if side == "left" else [1] * len(row) + real)
    inputs = {"input_ids": torch.tensor(input_ids), "attention_mask": torch.tensor(mask), **pixels}
    if needs_token_types(model):
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    return inputs


def needs_token_types(model):
    """Whether the installed transformers finds the images of Qwen-VL by the types of tokens."""
    return "mm_token_type_ids" in inspect.signature(model.forward).parameters


def text(generator, length):
    return torch.randint(3, IMAGE, (length,), generator=generator).tolist()


def pixel_inputs(model, family, images, generator, dtype):
    def pixels(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    if family == "llava":
        return {"pixel_values": pixels(len(images), 3, 8, 8)}
    if family == "llava-next":
        frames = max(image_size_to_num_patches(size, PINPOINTS, 8) for size in images)
        return {
            "pixel_values": pixels(len(images), frames, 3, 8, 8),
            "image_sizes": torch.tensor(images),
        }
    grids = torch.tensor([(1, *size) for size in images])
    return {
        "pixel_values": pixels(int(grids.prod(-1).sum()), 3 * 2 * 2),
        "image_grid_thw": grids,
    }


@torch.no_grad()
def visual_tokens(model, family, pixels):
    """Tokens per image, counted on what the model itself makes of the images."""
    return [len(image) for image in model.model.get_image_features(**pixels, return_dict=True).pooler_output]
