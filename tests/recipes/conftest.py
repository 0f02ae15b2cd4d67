"""A byte-level tokenizer with a chat template, made from nothing."""

import pytest

from tests.tiny.tokenizers import chat_bytes


@pytest.fixture(scope="session")
def tokenizer():
    text = "The answer is. We look for who. First, then, has. Python object."
    return chat_bytes(text, size=320, system="Be kind.", digits=True)
