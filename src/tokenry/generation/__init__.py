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
from tokenry.generation.xar.next_x import NextXConfig, NextXModel, NextXOutput, load_released_next_x
from tokenry.generation.xar.next_x_sampling import NextXSamplingConfig, generate_next_x, guidance_schedule
from tokenry.generation.xar.partitions import Partition

__all__ = [
    "ContinuousTokenConfig",
    "ContinuousTokenLM",
    "ContinuousTokenOutput",
    "FlowDraws",
    "FlowHead",
    "FrameScale",
    "GriffinLim",
    "GroupedFrames",
    "MelConfig",
    "Modulation",
    "NextXConfig",
    "NextXModel",
    "NextXOutput",
    "NextXSamplingConfig",
    "Partition",
    "SpeechSampling",
    "SpeechStep",
    "Spoken",
    "SpokenSample",
    "StreamCollator",
    "TimeEmbedding",
    "conditional_flow_loss",
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
    "log_mel",
    "logit_normal_times",
    "midpoint",
    "modulate",
    "read_wave",
    "rms_norm",
    "sample_flow",
    "score_to_velocity",
    "sde_times",
    "sinusoids",
    "ungroup_frames",
    "velocity_to_score",
    "write_wave",
]
