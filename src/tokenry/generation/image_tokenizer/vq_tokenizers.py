"""Tokenizers of images and audio behind one protocol: codes of samples, samples of codes, the codebooks, and what decodes.

    tokenizer = load_vq_tokenizer("models/emu3-vq")
    codes = tokenizer.encode(images)            (batch, levels, height, width): one level for images, several for residual codes
    tokenizer.decode(codes)

Adapters: `Emu3VQVAE` and `JanusVQVAE` of transformers, `VQModel` of diffusers (extra `images`), and for audio `EncodecModel`, `DacModel`
and `MimiModel`, whose codes have shape (batch, levels, frames). `ChameleonVQVAE` only encodes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import (
    DacModel,
    Emu3VQVAE,
    EncodecModel,
    JanusVQVAE,
    MimiModel,
)

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.generation.image_tokenizer.vector_quantizer import look_up, require_codes

Samples = Float[Tensor, "batch channels *size"]
Codes = Int[Tensor, "batch levels *grid"]


@runtime_checkable
class VQTokenizer(Protocol):
    """What perturbation, pFID and post-training need of a tokenizer."""

    @property
    def module(self) -> Any:
        """The whole model; it has `save_pretrained` where it is to be saved."""

    @property
    def decoder(self) -> nn.Module:
        """The part that turns codes into samples, and that post-training trains."""

    @property
    def codebooks(self) -> Sequence[Float[Tensor, "codes dim"]]:
        """The codes of each level, as the tokenizer compares them."""

    def encode(self, samples: Samples) -> Codes:
        """The codes of samples, without a gradient."""

    def decode(self, codes: Codes) -> Samples:
        """Samples of codes, with the gradient of the decoder."""


class Emu3Tokenizer:
    """`Emu3VQVAE`: images in [−1, 1], sides that are multiples of its factor."""

    def __init__(self, model: Emu3VQVAE) -> None:
        self.module: Any = model
        self.decoder: nn.Module = nn.ModuleList([model.post_quant_conv, model.decoder])

    @property
    def codebooks(self) -> Sequence[Float[Tensor, "codes dim"]]:
        """One codebook."""
        return (self.module.quantize.embedding.weight,)

    @torch.no_grad()
    def encode(self, samples: Samples) -> Codes:
        """One code for each square of the image."""
        _require_multiple(samples, self.module.vision_spatial_factor)
        sizes = torch.tensor([samples.shape[-2:]] * len(samples))
        found = self.module.encode(samples, sizes)
        # Earlier versions of transformers return the tokens alone.
        return torch.stack(list(getattr(found, "image_tokens", found)))[:, None]

    def decode(self, codes: Codes) -> Samples:
        """Images in [−1, 1]."""
        require_codes(codes, len(self.codebooks[0]))
        return self.module.decode(codes[:, 0])


class JanusTokenizer:
    """`JanusVQVAE`: images in [−1, 1] of the one size of its config."""

    def __init__(self, model: JanusVQVAE) -> None:
        self.module: Any = model
        self.decoder: nn.Module = nn.ModuleList([model.post_quant_conv, model.decoder])

    @property
    def codebooks(self) -> Sequence[Float[Tensor, "codes dim"]]:
        """One codebook of unit vectors, as they are decoded."""
        return (normalize(self.module.quantize.embedding.weight, dim=-1),)

    @torch.no_grad()
    def encode(self, samples: Samples) -> Codes:
        """One code for each square of the image."""
        side = self.module.quantize.quant_state_dims[0]
        found = self.module.encode(samples)
        # Earlier versions of transformers return a tuple with the tokens last.
        tokens = getattr(found, "image_tokens", None)
        tokens = (found[2] if tokens is None else tokens).view(len(samples), 1, -1)
        if tokens.shape[2] != side**2:
            raise UserError(
                f"these images of {samples.shape[-2]} × {samples.shape[-1]} give {tokens.shape[2]} tokens, but the tokenizer decodes "
                f"{side} × {side} of them: give images of the tokenizer's size."
            )
        return tokens.unflatten(2, (side, side))

    def decode(self, codes: Codes) -> Samples:
        """Images in [−1, 1]."""
        require_codes(codes, len(self.module.quantize.embedding.weight))
        return self.module.decode(codes.flatten(1))


class DiffusersTokenizer:
    """`VQModel` of diffusers: images in [−1, 1], sides that are multiples of its factor."""

    def __init__(self, model: Any) -> None:
        self.module: Any = model
        self.decoder: nn.Module = nn.ModuleList([model.post_quant_conv, model.decoder])
        self._factor = 2 ** (len(model.config.block_out_channels) - 1)

    @property
    def codebooks(self) -> Sequence[Float[Tensor, "codes dim"]]:
        """One codebook."""
        return (self.module.quantize.embedding.weight,)

    @torch.no_grad()
    def encode(self, samples: Samples) -> Codes:
        """One code for each square of the image."""
        _require_multiple(samples, self._factor)
        latents = self.module.encode(samples).latents
        indices = self.module.quantize(latents)[2][2]
        return indices.view(len(latents), 1, *latents.shape[2:])

    def decode(self, codes: Codes) -> Samples:
        """Images in [−1, 1]."""
        model, quantized = self.module, look_up(self.codebooks[0], codes[:, 0])
        spatial = quantized if model.config.norm_type == "spatial" else None
        return model.decoder(model.post_quant_conv(quantized), spatial)


class EncodecTokenizer:
    """`EncodecModel`: waveforms (batch, channels, samples) that fit in one chunk.

    Args:
        model: the codec.
        levels: residual levels to use; by default all of them.
    """

    def __init__(self, model: EncodecModel, levels: int | None = None) -> None:
        self.module: Any = model
        self.decoder: nn.Module = model.decoder
        self._levels = levels or len(model.quantizer.layers)

    @property
    def codebooks(self) -> Sequence[Float[Tensor, "codes dim"]]:
        """One codebook for each level."""
        return tuple(layer.codebook.embed for layer in self.module.quantizer.layers[: self._levels])

    @torch.no_grad()
    def encode(self, samples: Samples) -> Codes:
        """Codes of all levels for each frame."""
        codes = self.module.quantizer.encode(self.module.encoder(samples))[: self._levels]
        return codes.transpose(0, 1)

    def decode(self, codes: Codes) -> Samples:
        """Waveforms, as long as the frames."""
        require_codes(codes, len(self.codebooks[0]))
        return self.module.decoder(self.module.quantizer.decode(codes.transpose(0, 1)))


class DacTokenizer:
    """`DacModel`: waveforms (batch, 1, samples)."""

    def __init__(self, model: DacModel, levels: int | None = None) -> None:
        self.module: Any = model
        self.decoder: nn.Module = model.decoder
        self._levels = levels or len(model.quantizer.quantizers)

    @property
    def codebooks(self) -> Sequence[Float[Tensor, "codes dim"]]:
        """One codebook of unit vectors for each level, as they are compared."""
        layers = self.module.quantizer.quantizers[: self._levels]
        return tuple(normalize(layer.codebook.weight, dim=-1) for layer in layers)

    @torch.no_grad()
    def encode(self, samples: Samples) -> Codes:
        """Codes of all levels for each frame."""
        return self.module.encode(samples, n_quantizers=self._levels).audio_codes

    def decode(self, codes: Codes) -> Samples:
        """Waveforms, as long as the frames."""
        require_codes(codes, len(self.codebooks[0]))
        return self.module.decoder(self.module.quantizer.from_codes(codes)[0])


class MimiTokenizer:
    """`MimiModel`: waveforms (batch, 1, samples)."""

    def __init__(self, model: MimiModel, levels: int | None = None) -> None:
        self.module: Any = model
        self.decoder: nn.Module = model.decoder
        if not hasattr(model.decoder, "upsample"):  # before transformers 5.20 they stood beside it
            self.decoder = nn.ModuleList([model.upsample, model.decoder_transformer, model.decoder])
        self._levels = levels or model.config.num_quantizers

    @property
    def codebooks(self) -> Sequence[Float[Tensor, "codes dim"]]:
        """The semantic codebook, then those of the residual levels."""
        split = self.module.quantizer
        layers = [
            *split.semantic_residual_vector_quantizer.layers,
            *split.acoustic_residual_vector_quantizer.layers,
        ]
        return tuple(layer.codebook.embed for layer in layers[: self._levels])

    @torch.no_grad()
    def encode(self, samples: Samples) -> Codes:
        """Codes of all levels for each frame."""
        return self.module.encode(samples, num_quantizers=self._levels).audio_codes

    def decode(self, codes: Codes) -> Samples:
        """Waveforms, as long as the frames."""
        require_codes(codes, len(self.codebooks[0]))
        return self.module.decode(codes).audio_values


ADAPTERS: dict[str, Any] = {
    "Emu3VQVAE": (Emu3VQVAE, Emu3Tokenizer),
    "JanusVQVAE": (JanusVQVAE, JanusTokenizer),
    "EncodecModel": (EncodecModel, EncodecTokenizer),
    "DacModel": (DacModel, DacTokenizer),
    "MimiModel": (MimiModel, MimiTokenizer),
}
"""The models of transformers that encode and decode."""


def adapt_vq_tokenizer(model: nn.Module) -> VQTokenizer:
    """Put a model behind the protocol.

    Raises:
        UserError: a model that nothing is known of.
    """
    name = type(model).__name__
    if name == "VQModel":
        return DiffusersTokenizer(model)
    if name not in ADAPTERS:
        hint = "it encodes and has no decoder: " if "Chameleon" in name else ""
        raise UserError(
            f"{name} is no tokenizer that is known here; {hint}give one of {', '.join([*ADAPTERS, 'VQModel'])}, or an object with module, "
            "decoder, codebooks, encode and decode."
        )
    return ADAPTERS[name][1](model)


def load_vq_tokenizer(folder: str | os.PathLike) -> VQTokenizer:
    """Load the tokenizer that a folder holds, in evaluation mode; weights in safetensors only.

    Raises:
        UserError: no such folder, no weights, or another model.
    """
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise UserError(
            f"{folder} holds no config.json: name the folder of a tokenizer saved with save_pretrained."
        )
    config = read_json(place / "config.json")
    name = config.get("_class_name") or (config.get("architectures") or [""])[0]
    if name == "VQModel":
        try:
            from diffusers import VQModel
        except ImportError as error:
            raise UserError("VQModel needs diffusers: pip install 'tokenry[images]'.") from error
        kind: Any = VQModel
    elif name in ADAPTERS:
        kind = ADAPTERS[name][0]
    else:
        raise UserError(
            f"{folder} holds {name or 'a model without a name'}: give one of {', '.join([*ADAPTERS, 'VQModel'])}."
        )
    try:
        model = kind.from_pretrained(place, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the tokenizer in {folder} cannot be read ({str(error).splitlines()[0]})."
        ) from error
    return adapt_vq_tokenizer(model.eval())


def _require_multiple(samples: Tensor, factor: int) -> None:
    height, width = samples.shape[-2:]
    if height % factor or width % factor:
        raise UserError(
            f"images of {height} × {width} are no multiple of the tokenizer's {factor} × {factor} squares: crop them first."
        )
