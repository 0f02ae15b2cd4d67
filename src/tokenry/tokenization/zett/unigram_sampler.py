"""Vocabularies by chance: Unigram tokenizers of the substrings that recent texts are made of, each time with other noise.

    score(substring) = times seen at every `stride`-th character of a word * its length         over the last `pool` texts
    log-probability = ln(score / total + noise),   noise ~ Normal(0, noise_std)                the vocabulary = the most probable ones

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 3.2; `exact_offsets=False` counts exactly as the released sampler does.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.core.byte_level import BYTE_CHARACTERS, to_byte_characters
from tokenry.core.errors import UserError
from tokenry.tokenization.byte_level_training import GPT2_PATTERN, byte_level_pieces
from tokenry.tokenization.zett.byte_conversion import (
    LOWEST_SCORE,
    PATTERN,
    WHITESPACE,
    assemble,
    special_entries,
    whitespace_tokens,
    with_special_tokens,
)
