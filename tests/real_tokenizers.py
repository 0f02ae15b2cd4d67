"""Tokenizers that people really use: `make tokenizers` fetches their files, tests that need an absent one are skipped.

They are read from `.tokenizers/` at the project's root, or from the folder that TOKENRY_TOKENIZERS names.
"""

import os
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests import ROOT

FOLDER = Path(os.environ.get("TOKENRY_TOKENIZERS", ROOT / ".tokenizers"))
NAMES = ("deepseek_v3", "gemma3", "gpt_neox", "llama2")

every_real_tokenizer = [
    pytest.param(
        name,
        marks=[
            pytest.mark.real_tokenizers,
            pytest.mark.skipif(
                not (FOLDER / name / "tokenizer.json").is_file(),
                reason=f"{name} is not in {FOLDER}: make tokenizers fetches it",
            ),
        ],
    )
    for name in NAMES
]


@cache
def real_backend(name: str) -> Tokenizer:
    """The `tokenizers.Tokenizer` of one of `NAMES`; read once a process, so do not change it."""
    return Tokenizer.from_file(str(FOLDER / name / "tokenizer.json"))


@cache
def real_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The transformers tokenizer of one of `NAMES`; read once a process, so do not change it."""
    return PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / name / "tokenizer.json"))
