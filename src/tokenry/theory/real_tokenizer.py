"""A tokenizer of the field as a dictionary over bytes: what the theory measures on real text."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.core.text.round_trip import unbounded
from tokenry.theory.dictionaries import Token, decoded, require_symbols
from tokenry.theory.markov_source import Symbols


class RealTokenizer:
    """Cuts bytes as a tokenizer cuts the text they are.

    Args:
        tokenizer: of transformers, or of the tokenizers library.
    """

    alphabet = 256

    def __init__(self, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> None:
        self._backend = unbounded(backend_tokenizer(tokenizer))
        self.dictionary: list[Token] = [
            tuple(data or b"") for data in ByteVocabulary.from_tokenizer(tokenizer).token_bytes
        ]

    def encode(self, text: Symbols) -> Int[ndarray, "tokens"]:
        """Cut a text in UTF-8 into token ids, without special tokens.

        Raises:
            UserError: the bytes are no text.
        """
        try:
            written = bytes(require_symbols(text, self.alphabet).tolist()).decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"the text is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8."
            ) from error
        return np.array(self._backend.encode(written, add_special_tokens=False).ids, dtype=np.int64)

    def decode(self, ids: Symbols) -> Int[ndarray, "symbols"]:
        """Put the bytes of tokens back together."""
        return decoded(self.dictionary, ids)
