"""Tiny encoders of every supported family, and their inputs, from fixed seeds."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    ViTMSNConfig,
    ViTMSNModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tokenry.core.errors import UserError
from tokenry.core.tensors.patching import find_encoder

IMAGE_SIZE, PATCHES = 32, 16
LENGTH, PADDED_LENGTH = 12, 7
LAYERS = 3
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_IMAGE = {"image_size": IMAGE_SIZE, "patch_size": 8}
_DINO = {**_IMAGE, "mlp_ratio": 2, "layerscale_value": 0.5}
_TEXT = {"vocab_size": 60, "max_position_embeddings": 40}

_VISION = {
    "vit": (ViTModel, ViTConfig, _IMAGE),
    "vit classification": (ViTForImageClassification, ViTConfig, {**_IMAGE, "num_labels": 5}),
    "vit msn": (ViTMSNModel, ViTMSNConfig, _IMAGE),
    "deit": (DeiTForImageClassificationWithTeacher, DeiTConfig, {**_IMAGE, "num_labels": 5}),
    "dinov2": (Dinov2Model, Dinov2Config, _DINO),
    "dinov2 swiglu": (Dinov2Model, Dinov2Config, {**_DINO, "use_swiglu_ffn": True, "drop_path_rate": 0.1}),
    "dinov2 registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig,
        {**_DINO, "num_register_tokens": 3},
    ),
    "clip": (CLIPVisionModel, CLIPVisionConfig, _IMAGE),
    "siglip": (SiglipVisionModel, SiglipVisionConfig, _IMAGE),
}
_DISTIL = {
    "vocab_size": 60,
    "max_position_embeddings": 40,
    "dim": 32,
    "n_layers": LAYERS,
    "n_heads": 4,
    "hidden_dim": 48,
}
_T5 = {
    "vocab_size": 60,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": LAYERS,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
}
_LANGUAGE = {
    "bert": (BertModel, BertConfig, _TEXT),
    "bert in chunks": (BertModel, BertConfig, {**_TEXT, "chunk_size_feed_forward": 4}),
    "roberta": (RobertaModel, RobertaConfig, _TEXT),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig, _TEXT),
    "electra": (ElectraModel, ElectraConfig, {**_TEXT, "embedding_size": 24}),
    "distilbert": (DistilBertModel, DistilBertConfig, _DISTIL),
    "t5": (T5EncoderModel, T5Config, _T5),
}
VISION, LANGUAGE = tuple(_VISION), tuple(_LANGUAGE)
FAMILIES = VISION + LANGUAGE
SPECIAL = {"deit": 2, "dinov2 registers": 4, "siglip": 0, "t5": 0}


def tiny(family: str, seed: int = 0, **options) -> PreTrainedModel:
    """A model of the family in eval mode; skips where this transformers version has another form of its layers."""
    model = unchecked(family, seed, **options)
    try:
        find_encoder(model)
    except UserError as error:
        if "of this transformers version" in str(error):
            pytest.skip(f"{family}: {error}")
        raise
    return model


def unchecked(family: str, seed: int = 0, **options) -> PreTrainedModel:
    model_class, config_class, own = {**_VISION, **_LANGUAGE}[family]
    sizes = {} if family in ("distilbert", "t5") else _SIZES
    return _random(model_class, config_class(**{**sizes, **own, **options}), seed)


def tiny_clip(seed: int = 0) -> CLIPModel:
    text = CLIPTextConfig(**_SIZES, vocab_size=60, max_position_embeddings=20, eos_token_id=59)
    vision = CLIPVisionConfig(**_SIZES, **_IMAGE)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    model = _random(CLIPModel, config, seed)
    if not isinstance(model.vision_model, PreTrainedModel):
        pytest.skip("the vision tower of this transformers version is no model of its own")
    return model


def tiny_clip_text(seed: int = 0) -> CLIPTextModel:
    return _random(
        CLIPTextModel,
        CLIPTextConfig(**_SIZES, vocab_size=60, max_position_embeddings=20, eos_token_id=59),
        seed,
    )


def _random(model_class, config, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        # Norms, scales and special tokens as well: mixed up in their initial state, nobody would notice.
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def images(batch: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))


def texts(batch: int = 2, length: int = LENGTH, seed: int = 1) -> torch.Tensor:
    return torch.randint(5, 60, (batch, length), generator=torch.Generator().manual_seed(seed))


def inputs(family: str, batch: int = 2, seed: int = 1) -> dict[str, torch.Tensor]:
    """Images, or texts of which the last is padded on the right."""
    if family in VISION:
        return {"pixel_values": images(batch, seed)}
    mask = torch.ones(batch, LENGTH, dtype=torch.long)
    mask[-1, PADDED_LENGTH:] = 0
    pad = 1 if "roberta" in family else 0
    return {"input_ids": texts(batch, seed=seed).where(mask == 1, pad), "attention_mask": mask}


def tokens_of(family: str) -> int:
    return PATCHES + SPECIAL.get(family, 1) if family in VISION else LENGTH
