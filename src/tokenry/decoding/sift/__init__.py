"""SIFT: answers that stick to the facts of their question (arXiv 2502.14922)."""

from tokenry.decoding.sift.pipeline import SIFT, SIFTConfig, self_consistency
from tokenry.decoding.sift.prompts import SIFTPrompts
from tokenry.decoding.sift.results import SIFTResult
from tokenry.decoding.sift.stickers import Sticker, clean_sticker, parse_sticker
from tokenry.decoding.sift.typed_stickers import missing_numbers

__all__ = [
    "SIFT",
    "SIFTConfig",
    "SIFTPrompts",
    "SIFTResult",
    "Sticker",
    "clean_sticker",
    "missing_numbers",
    "parse_sticker",
    "self_consistency",
]
