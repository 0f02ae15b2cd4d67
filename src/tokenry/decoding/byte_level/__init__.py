"""Ask a tokenized language model about bytes: exact probabilities, whatever its tokenizer, for prompts that end anywhere.

`ByteLM` is the model; `ByteEnsemble` lets models with different tokenizers answer together; `surprisal` is the cost in bits of each byte
or character of a text; `check_byte_map` names the tokens of a tokenizer that cannot be represented.
"""

from tokenry.decoding.byte_level.byte_baselines import healed_next_byte, naive_next_byte
from tokenry.decoding.byte_level.byte_ensemble import ByteEnsemble, EnsembleStream
from tokenry.decoding.byte_level.byte_generation import GeneratedBytes, fill_in_middle
from tokenry.decoding.byte_level.byte_generation import GeneratedBytes as Generated
from tokenry.decoding.byte_level.byte_lm import ByteLM, ByteStream, Cover
from tokenry.decoding.byte_level.byte_map import ByteMap, Misread, check_byte_map
from tokenry.decoding.byte_level.byte_surprisal import Surprisal, surprisal

__all__ = [
    "ByteEnsemble",
    "ByteLM",
    "ByteMap",
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
    "surprisal",
]
