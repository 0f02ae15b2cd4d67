"""A tokenizer of 8 × 8 images into 2 × 2 codes, and the tokenizers of transformers and diffusers at their smallest."""

import torch
from torch import nn

from tokenry.generation.image_tokenizer.vector_quantizer import VectorQuantizer, look_up

CODES = 8


class TinyTokenizer(nn.Module):
    """One convolution each way; the decoder has dropout, so that modes matter."""

    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Conv2d(channels, 4, 4, 4)
        self.quantizer = VectorQuantizer(CODES, 4)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(4, channels, 4, 4), nn.Dropout(0.1))
        self.eval()

    @property
    def module(self):
        return self

    @property
    def codebooks(self):
        return (self.quantizer.codebook,)

    @torch.no_grad()
    def encode(self, samples):
        return self.quantizer(self.encoder(samples)).indices[:, None]

    def decode(self, codes):
        return self.decoder(look_up(self.quantizer.codebook, codes[:, 0]))


def images(number=12, channels=3, side=8, seed=0):
    return torch.rand(number, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def emu3():
    from transformers import Emu3VQVAE
    from transformers.models.emu3.configuration_emu3 import Emu3VQVAEConfig

    config = Emu3VQVAEConfig(
        codebook_size=16, embed_dim=4, latent_channels=4, base_channels=32, channel_multiplier=[1, 1],
        num_res_blocks=1, attn_resolutions=[], hidden_size=32, temporal_downsample_factor=2, num_attention_heads=1,
    )  # fmt: skip
    return _seeded(Emu3VQVAE, config)


def janus():
    from transformers import JanusVQVAE
    from transformers.models.janus.configuration_janus import JanusVQVAEConfig

    config = JanusVQVAEConfig(
        embed_dim=8, num_embeddings=16, latent_channels=32, num_patches=8, base_channels=32,
        channel_multiplier=[1, 1], num_res_blocks=1, resolution=16,
    )  # fmt: skip
    return _seeded(JanusVQVAE, config)


def diffusers_vq():
    from diffusers import VQModel

    torch.manual_seed(0)
    return VQModel(
        block_out_channels=(32, 32), latent_channels=4, num_vq_embeddings=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def encodec():
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(
        num_filters=4, hidden_size=8, codebook_size=16, codebook_dim=8, upsampling_ratios=[4, 4],
        target_bandwidths=[45.0], num_lstm_layers=1,
    )  # fmt: skip
    model = _seeded(EncodecModel, config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_(generator=torch.Generator().manual_seed(0))
    return model


def dac():
    from transformers import DacConfig, DacModel

    config = DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[4, 4], decoder_hidden_size=16, n_codebooks=3,
        codebook_size=16, codebook_dim=4, hidden_size=16,
    )  # fmt: skip
    return _seeded(DacModel, config)


def mimi():
    from transformers import MimiConfig, MimiModel

    config = MimiConfig(
        num_filters=4, hidden_size=16, codebook_size=16, codebook_dim=8, vector_quantization_hidden_dimension=8,
        upsampling_ratios=[4, 4], num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        intermediate_size=32, num_quantizers=4, sampling_rate=16000, frame_rate=500, upsample_groups=16,
    )  # fmt: skip
    model = _seeded(MimiModel, config)
    for quantizer in (
        model.quantizer.semantic_residual_vector_quantizer,
        model.quantizer.acoustic_residual_vector_quantizer,
    ):
        for layer in quantizer.layers:
            layer.codebook.embed_sum.normal_(generator=torch.Generator().manual_seed(0))
            layer.codebook._embed = None
    return model


def _seeded(kind, config):
    torch.manual_seed(0)
    return kind(config).eval()
