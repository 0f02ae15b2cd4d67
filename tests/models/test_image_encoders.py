import json

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from tests.tiny.images import CLASSES, IMAGE, SIZE, write_classifier, write_model, write_processor
from tokenry.core.errors import UserError
from tokenry.models.image_encoders import load_image_encoder

RED = Image.new("RGB", (50, 40), (255, 0, 0))
BLUE = Image.new("RGB", (20, 60), (0, 0, 255))


@pytest.fixture
def folder(tmp_path):
    return write_classifier(tmp_path / "vit")


def clip_with_two_towers():
    text = {"vocab_size": 16, "bos_token_id": 0, "eos_token_id": 1, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}  # fmt: skip
    return CLIPModel(CLIPConfig(vision_config=SIZE | IMAGE, text_config=text))


def test_a_classifier_gives_logits_and_the_names_of_its_classes(folder):
    encoder = load_image_encoder(folder)
    assert encoder.classes == CLASSES
    assert encoder(encoder.pixels([RED, BLUE])).shape == (2, len(CLASSES))
    assert not encoder.model.training


@pytest.mark.parametrize(
    "make",
    [
        lambda: ViTModel(ViTConfig(**SIZE, **IMAGE)),
        lambda: Dinov2Model(Dinov2Config(**SIZE, **IMAGE)),
        lambda: SiglipVisionModel(SiglipVisionConfig(**SIZE, **IMAGE)),
        clip_with_two_towers,
    ],
    ids=["ViT", "DINOv2", "SigLIP", "CLIP"],
)
def test_a_tower_gives_one_vector_of_features_per_image(make, tmp_path):
    encoder = load_image_encoder(write_model(make(), tmp_path / "tower"))
    assert encoder.classes == ()
    assert encoder(encoder.pixels([RED, BLUE])).shape == (2, SIZE["hidden_size"])


def test_a_tower_without_pooler_weights_gives_its_class_token(tmp_path):
    model = ViTModel(ViTConfig(**SIZE, **IMAGE), add_pooling_layer=False).eval()
    encoder = load_image_encoder(write_model(model, tmp_path / "vit"))
    pixels = encoder.pixels([RED])
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), model(pixels).last_hidden_state[:, 0])


def test_what_the_model_sees_can_be_shown(folder):
    encoder = load_image_encoder(folder)
    shown = encoder.visible(encoder.pixels([Image.new("RGB", (50, 40), (200, 100, 51)), BLUE]))
    assert shown.shape == (2, 32, 32, 3)
    assert shown[:, 5, 5].tolist() == [[200, 100, 51], [0, 0, 255]]


def test_the_dtype_is_the_one_asked_for(folder):
    encoder = load_image_encoder(folder, dtype="bfloat16")
    assert encoder.pixels([RED]).dtype == encoder(encoder.pixels([RED])).dtype == torch.bfloat16


def test_mean_and_std_stand_in_for_a_processor(folder):
    (folder / "preprocessor_config.json").unlink()
    encoder = load_image_encoder(folder, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    pixels = encoder.pixels([RED])
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels[0, :, 0, 0].tolist() == [2.0, -2.0, -2.0]


def refusal(folder, **options):
    with pytest.raises(UserError) as refused:
        load_image_encoder(folder, **options)
    return str(refused.value)


def test_a_model_without_processor_is_refused_with_two_ways_out(folder):
    (folder / "preprocessor_config.json").unlink()
    said = refusal(folder)
    assert "has no image processor (no preprocessor_config.json)" in said
    assert "processor.save_pretrained" in said
    assert "give mean and std" in said


@pytest.mark.parametrize(
    ("colours", "words"),
    [
        ({"mean": [0.5] * 3}, "std is not given"),
        ({"mean": [0.5], "std": [0.5] * 3}, "mean is 0.5."),
        ({"mean": [0.5] * 3, "std": [0.5, 0.0, 0.5]}, "std is 0.5,0.0,0.5"),
        ({"mean": [124.0, 116.0, 104.0], "std": [0.5] * 3}, "mean is 124.0,116.0,104.0"),
    ],
)
def test_mean_and_std_are_checked(folder, colours, words):
    assert words in refusal(folder, **colours)


def test_a_language_model_is_refused_before_its_weights_are_read(tmp_path):
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "is a llama model, which reads no images: give an image encoder such as ViT" in refusal(tmp_path)


def test_a_model_that_writes_about_images_is_refused(tmp_path):
    LlavaConfig().save_pretrained(tmp_path)
    assert "is a llava model, which writes text about images" in refusal(tmp_path)


def test_layers_of_another_family_are_refused_by_name(tmp_path):
    decoder = {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 32, "decoder_intermediate_size": 32}
    ViTMAEModel(ViTMAEConfig(**SIZE, **IMAGE, **decoder)).save_pretrained(tmp_path)
    assert "the layers of ViTMAEModel cannot be split" in refusal(write_processor(tmp_path))


def test_a_folder_without_config_an_unknown_architecture_and_pickled_weights_are_refused(folder, tmp_path):
    assert "has no config.json" in refusal(tmp_path)
    assert "dtype must be one of" in refusal(folder, dtype="float8")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "only pickled weights" in refusal(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    assert "the config of" in refusal(folder)


def test_weights_that_lack_tensors_are_refused(tmp_path):
    folder = write_classifier(tmp_path / "vit")
    ViTModel(ViTConfig(**SIZE, **IMAGE)).save_pretrained(tmp_path / "tower")
    (tmp_path / "tower" / "model.safetensors").replace(folder / "model.safetensors")
    assert "lack" in refusal(folder)


def test_a_processor_that_makes_other_sizes_is_refused(folder):
    encoder = load_image_encoder(folder)
    with pytest.raises(UserError, match="does not take what its image processor makes"):
        encoder(torch.zeros(1, 3, 64, 64))
