"""Tokenizers of transformers and diffusers behind one protocol: codes and samples are those of the model itself."""

import json

import pytest
import torch
from torch import nn

from tests.tiny import vq
from tokenry.core.errors import UserError
from tokenry.generation.image_tokenizer.pfid import PerturbationGrid, PFIDConfig, pfid
from tokenry.generation.image_tokenizer.vq_tokenizers import (
    EncodecTokenizer,
    VQTokenizer,
    adapt_vq_tokenizer,
    load_vq_tokenizer,
)

PICTURES, WAVES = vq.images(2, side=16), torch.randn(2, 1, 640, generator=torch.Generator().manual_seed(0))
IMAGE_MODELS = {"emu3": vq.emu3, "janus": vq.janus, "diffusers": vq.diffusers_vq}
AUDIO_MODELS = {"encodec": (vq.encodec, 7), "dac": (vq.dac, 3), "mimi": (vq.mimi, 4)}


def own_reconstruction(name, model):
    """What the model makes of the samples by its own forward pass."""
    if name == "emu3":
        sizes = torch.tensor([[16, 16]] * 2)
        return model.decode(torch.stack(list(model.encode(PICTURES, sizes).image_tokens)))
    if name == "janus":
        return model.decode(model.encode(PICTURES).image_tokens.view(2, -1))
    if name == "diffusers":
        return model(PICTURES).sample
    if name == "dac":
        return model(WAVES).audio_values[:, None]
    return model(WAVES).audio_values


@pytest.mark.parametrize("name", IMAGE_MODELS)
@torch.no_grad()
def test_an_image_tokenizer_reconstructs_as_its_model_does(name):
    model = IMAGE_MODELS[name]()
    tokenizer = adapt_vq_tokenizer(model)
    assert isinstance(tokenizer, VQTokenizer)
    codes = tokenizer.encode(PICTURES)
    assert codes.shape == (2, 1, 8, 8)
    assert len(tokenizer.codebooks[0]) == model.quantize.embedding.num_embeddings
    torch.testing.assert_close(tokenizer.decode(codes), own_reconstruction(name, model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", AUDIO_MODELS)
@torch.no_grad()
def test_residual_codes_reconstruct_as_their_codec_does(name):
    make, levels = AUDIO_MODELS[name]
    model = make()
    tokenizer = adapt_vq_tokenizer(model)
    codes = tokenizer.encode(WAVES)
    assert codes.shape[:2] == (2, levels)
    assert len(tokenizer.codebooks) == levels
    made, own = tokenizer.decode(codes), own_reconstruction(name, model)
    length = min(made.shape[-1], own.shape[-1])
    torch.testing.assert_close(made[..., :length], own[..., :length], rtol=1e-4, atol=1e-4)


def test_fewer_levels_are_the_first_ones():
    whole, first = EncodecTokenizer(vq.encodec()), EncodecTokenizer(vq.encodec(), levels=1)
    assert torch.equal(first.encode(WAVES), whole.encode(WAVES)[:, :1])
    assert len(first.codebooks) == 1


@pytest.mark.parametrize("make", [*IMAGE_MODELS.values(), *(make for make, _ in AUDIO_MODELS.values())])
def test_the_decoder_alone_has_a_gradient_from_codes(make):
    model = make()
    tokenizer = adapt_vq_tokenizer(model)
    samples = PICTURES if make in IMAGE_MODELS.values() else WAVES
    tokenizer.decode(tokenizer.encode(samples)).square().mean().backward()
    assert all(weight.grad is not None for weight in tokenizer.decoder.parameters())
    decoded = {id(weight) for weight in tokenizer.decoder.parameters()}
    encoder = [weight for weight in model.encoder.parameters() if id(weight) not in decoded]
    assert encoder
    assert all(weight.grad is None for weight in encoder)


def test_audio_codes_have_a_pfid_too():
    config = PFIDConfig(PerturbationGrid((0.5,), (0.2,)), draws=0)
    found = pfid(adapt_vq_tokenizer(vq.dac()), WAVES, lambda waves: waves.flatten(1)[:, ::160], config)
    assert found.mean.estimate.value != found.rfid.estimate.value


@pytest.mark.parametrize("make", [vq.emu3, vq.janus, vq.diffusers_vq])
def test_a_folder_is_loaded_by_what_its_config_says(make, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    loaded = load_vq_tokenizer(tmp_path)
    assert type(loaded.module) is type(model)
    assert torch.equal(loaded.encode(PICTURES), adapt_vq_tokenizer(model).encode(PICTURES))


def saved(tmp_path, name, weights=True):
    vq.janus().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
    if not weights:
        (tmp_path / "model.safetensors").unlink()
    return tmp_path


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda folder: load_vq_tokenizer(folder / "nowhere"), "holds no config.json"),
        (
            lambda folder: load_vq_tokenizer(saved(folder, "LlamaForCausalLM")),
            "holds LlamaForCausalLM: give one of",
        ),
        (lambda folder: load_vq_tokenizer(saved(folder, "JanusVQVAE", weights=False)), "cannot be read"),
        (lambda folder: adapt_vq_tokenizer(nn.Linear(2, 2)), "Linear is no tokenizer that is known here"),
        (
            lambda folder: adapt_vq_tokenizer(vq.emu3()).encode(vq.images(1, side=15)),
            "15 × 15 are no multiple of the tokenizer's 2 × 2",
        ),
        (
            lambda folder: adapt_vq_tokenizer(vq.janus()).encode(vq.images(1, side=8)),
            "give 16 tokens, but the tokenizer decodes 8 × 8 of them",
        ),
        (
            lambda folder: adapt_vq_tokenizer(vq.emu3()).decode(torch.full((1, 1, 2, 2), 16)),
            "tokens go from 16 to 16, but the codebook has 16 codes",
        ),
    ],
)
def test_wrong_input_is_refused(act, words, tmp_path):
    with pytest.raises(UserError, match=words):
        act(tmp_path)
