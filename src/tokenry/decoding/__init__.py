"""What a model says next, and which one says it."""

from tokenry.core.text.byte_pairs import BytePairEncoder
from tokenry.decoding.byte_level import (
    ByteEnsemble,
    ByteLM,
    ByteMap,
    ByteStream,
    Cover,
    EnsembleStream,
    Generated,
    GeneratedBytes,
    Misread,
    Surprisal,
    check_byte_map,
    fill_in_middle,
    healed_next_byte,
    naive_next_byte,
    surprisal,
)
from tokenry.decoding.byte_level.byte_generation import nucleus, tempered

__all__ = [
    "ByteEnsemble",
    "ByteLM",
    "ByteMap",
    "BytePairEncoder",
    "ByteStream",
    "Cover",
    "EnsembleStream",
    "Generated",
    "GeneratedBytes",
    "Misread",
    "Surprisal",
    "check_byte_map",
    "fill_in_middle",
    "healed_next_byte",
    "naive_next_byte",
    "nucleus",
    "surprisal",
    "tempered",
]
