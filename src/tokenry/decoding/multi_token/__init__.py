"""Multi-token prediction with masks: a drafter inside a frozen language model, and decoding that writes what the model writes.

`tokenry.decoding.multi_token.training.DraftTrainer` trains a drafter; it is not loaded with the rest, as it needs TRL.
"""

from tokenry.decoding.multi_token.decode import DraftAccount, MultiTokenDecoding
from tokenry.decoding.multi_token.drafter import Drafted, Drafter, DraftLosses
from tokenry.decoding.multi_token.gated_lora import GatedLoRA, GatedLoRALinear, add_gated_lora
from tokenry.decoding.multi_token.layout import MaskLayout, block_layout, mtp_layout
from tokenry.decoding.multi_token.sampler import SamplerHead, latent_consistency
from tokenry.decoding.multi_token.schedule import prompt_lookup_draft, simulate_schedule

MTPModel = Drafter
"""The name in the literature."""

__all__ = [
    "DraftAccount",
    "DraftLosses",
    "Drafted",
    "Drafter",
    "GatedLoRA",
    "GatedLoRALinear",
    "MTPModel",
    "MaskLayout",
    "MultiTokenDecoding",
    "SamplerHead",
    "add_gated_lora",
    "block_layout",
    "latent_consistency",
    "mtp_layout",
    "prompt_lookup_draft",
    "simulate_schedule",
]
