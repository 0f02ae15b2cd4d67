"""Generate images and speech from units larger than a token, or continuous ones, and choose and repair the tokenizers of images."""

from tokenry.generation.conditioning import Modulation, TimeEmbedding, modulate, rms_norm, sinusoids
from tokenry.generation.flow_matching import (
    euler,
    euler_maruyama,
    even_times,
    flow_matching_loss,
    flow_path,
    guide,
    logit_normal_times,
    midpoint,
    score_to_velocity,
    sde_times,
    velocity_to_score,
)
from tokenry.generation.flow_omni.continuous_token_config import ContinuousTokenConfig
from tokenry.generation.flow_omni.continuous_tokens import ContinuousTokenLM, ContinuousTokenOutput
from tokenry.generation.flow_omni.flow_head import FlowDraws, FlowHead, conditional_flow_loss, sample_flow
from tokenry.generation.flow_omni.speech_frames import (
    FrameScale,
    GroupedFrames,
    MelConfig,
    group_frames,
    log_mel,
    ungroup_frames,
)
from tokenry.generation.flow_omni.speech_generation import SpeechSampling, SpeechStep, Spoken
from tokenry.generation.flow_omni.streams import SpokenSample, StreamCollator
from tokenry.generation.flow_omni.vocoders import GriffinLim, load_vocoder
from tokenry.generation.flow_omni.waves import read_wave, write_wave
from tokenry.generation.image_tokenizer.decoder_post_training import (
    PatchDiscriminator,
    PostTrained,
    PostTrainingConfig,
    post_train_decoder,
)
from tokenry.generation.image_tokenizer.drawn_pairs import DecoderPairs, PairDrawing, draw_pairs
from tokenry.generation.image_tokenizer.perturbation import (
    LatentPerturbation,
    PerturbationSchedule,
    neighbour_table,
    perturb_latents,
    perturb_tokens,
)
from tokenry.generation.image_tokenizer.pfid import PFID, PerturbationGrid, PFIDConfig, pfid
from tokenry.generation.image_tokenizer.preserved_sampling import (
    ClassConditionalLM,
    PreservedSampling,
    preserved_generate,
)
from tokenry.generation.image_tokenizer.tokenizer_losses import LeCam, adaptive_weight, semantic_loss
from tokenry.generation.image_tokenizer.vector_quantizer import QuantizeOutput, VectorQuantizer
from tokenry.generation.image_tokenizer.vq_tokenizers import (
    DacTokenizer,
    DiffusersTokenizer,
    Emu3Tokenizer,
    EncodecTokenizer,
    JanusTokenizer,
    MimiTokenizer,
    VQTokenizer,
    adapt_vq_tokenizer,
    load_vq_tokenizer,
)
from tokenry.generation.xar.next_x import NextXModel, NextXOutput
from tokenry.generation.xar.next_x_config import NextXConfig
from tokenry.generation.xar.next_x_sampling import NextXSamplingConfig, generate_next_x, guidance_schedule
from tokenry.generation.xar.partitions import Partition
from tokenry.generation.xar.released_weights import load_released_next_x

__all__ = [
    "PFID",
    "ClassConditionalLM",
    "ContinuousTokenConfig",
    "ContinuousTokenLM",
    "ContinuousTokenOutput",
    "DacTokenizer",
    "DecoderPairs",
    "DiffusersTokenizer",
    "Emu3Tokenizer",
    "EncodecTokenizer",
    "FlowDraws",
    "FlowHead",
    "FrameScale",
    "GriffinLim",
    "GroupedFrames",
    "JanusTokenizer",
    "LatentPerturbation",
    "LeCam",
    "MelConfig",
    "MimiTokenizer",
    "Modulation",
    "NextXConfig",
    "NextXModel",
    "NextXOutput",
    "NextXSamplingConfig",
    "PFIDConfig",
    "PairDrawing",
    "Partition",
    "PatchDiscriminator",
    "PerturbationGrid",
    "PerturbationSchedule",
    "PostTrained",
    "PostTrainingConfig",
    "PreservedSampling",
    "QuantizeOutput",
    "SpeechSampling",
    "SpeechStep",
    "Spoken",
    "SpokenSample",
    "StreamCollator",
    "TimeEmbedding",
    "VQTokenizer",
    "VectorQuantizer",
    "adapt_vq_tokenizer",
    "adaptive_weight",
    "conditional_flow_loss",
    "draw_pairs",
    "euler",
    "euler_maruyama",
    "even_times",
    "flow_matching_loss",
    "flow_path",
    "generate_next_x",
    "group_frames",
    "guidance_schedule",
    "guide",
    "load_released_next_x",
    "load_vocoder",
    "load_vq_tokenizer",
    "log_mel",
    "logit_normal_times",
    "midpoint",
    "modulate",
    "neighbour_table",
    "perturb_latents",
    "perturb_tokens",
    "pfid",
    "post_train_decoder",
    "preserved_generate",
    "read_wave",
    "rms_norm",
    "sample_flow",
    "score_to_velocity",
    "sde_times",
    "semantic_loss",
    "sinusoids",
    "ungroup_frames",
    "velocity_to_score",
    "write_wave",
]
