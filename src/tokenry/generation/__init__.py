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
    "group_frames",
    "guide",
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
