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

__all__ = [
    "Modulation",
    "TimeEmbedding",
    "euler",
    "euler_maruyama",
    "even_times",
    "flow_matching_loss",
    "flow_path",
    "guide",
    "logit_normal_times",
    "midpoint",
    "modulate",
    "rms_norm",
    "score_to_velocity",
    "sde_times",
    "sinusoids",
    "velocity_to_score",
]
