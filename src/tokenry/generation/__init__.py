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
from tokenry.generation.xar.next_x import NextXConfig, NextXModel, NextXOutput, load_released_next_x
from tokenry.generation.xar.next_x_sampling import NextXSamplingConfig, generate_next_x, guidance_schedule
from tokenry.generation.xar.partitions import Partition

__all__ = [
    "Modulation",
    "NextXConfig",
    "NextXModel",
    "NextXOutput",
    "NextXSamplingConfig",
    "Partition",
    "TimeEmbedding",
    "euler",
    "euler_maruyama",
    "even_times",
    "flow_matching_loss",
    "flow_path",
    "generate_next_x",
    "guidance_schedule",
    "guide",
    "load_released_next_x",
    "logit_normal_times",
    "midpoint",
    "modulate",
    "rms_norm",
    "score_to_velocity",
    "sde_times",
    "sinusoids",
    "velocity_to_score",
]
