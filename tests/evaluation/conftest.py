"""A tiny model and a tokenizer with a chat template, both made from nothing."""

import pytest

from tests import tiny
from tests.tiny.tokenizers import chat_bytes


@pytest.fixture(scope="session")
def tokenizer():
    return chat_bytes("the answer is the number of the words")


@pytest.fixture
def model(tokenizer):
    return tiny.llama(
        vocab_size=len(tokenizer),
        intermediate_size=64,
        attention_dropout=0.1,
        initializer_range=0.3,
        eos_token_id=0,
        pad_token_id=1,
        max_position_embeddings=2048,
    ).train()
