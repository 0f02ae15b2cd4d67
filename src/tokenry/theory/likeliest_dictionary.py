"""An oracle among dictionaries: the one that is trained to make a unigram model over its tokens cheap.

Expectation-maximisation over all ways to cut the training text, and pruning of what the likelihood loses least by (SentencePiece's
unigram, of the tokenizers library); text is cut in the likeliest way, not greedily. How far LZW and BPE are from it tells what their rule
of growth and their matching give away.

Source: Subword Regularization (arXiv 1804.10959), section 3.2.
"""

from functools import cached_property

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from tokenizers import Tokenizer, models, trainers

from tokenry.core.errors import UserError
from tokenry.theory.dictionaries import Token, decoded, require_symbols, require_training
from tokenry.theory.markov_source import Symbols

LONGEST_TOKEN = 24
_SENTENCE = 4096
_SEEDS, _LEAST_SEEDS = 16, 1000
_FIRST_LETTER = 0x4E00  # symbols are written as letters that no normaliser touches


class LikeliestTokenizer:
    """Cuts text in the likeliest way.

    Args:
        backend: a trained unigram tokenizer over one letter per symbol.
        alphabet: number of symbols.
    """

    def __init__(self, backend: Tokenizer, alphabet: int) -> None:
        self._backend, self.alphabet = backend, alphabet

    @classmethod
    def train(cls, text: Symbols, vocab_size: int, alphabet: int | None = None) -> "LikeliestTokenizer":
        """Train a dictionary of up to `vocab_size` tokens of at most 24 symbols; it takes about 0.2 s per thousand symbols."""
        symbols, alphabet = require_training(text, vocab_size, alphabet)
        if len(symbols) < 2:
            raise UserError("a likeliest dictionary is trained on text: give at least two symbols.")
        letters = _letters(symbols)
        sentences = [letters[start : start + _SENTENCE] for start in range(0, len(letters), _SENTENCE)]
        backend = Tokenizer(models.Unigram())
        backend.train_from_iterator(
            sentences,
            trainers.UnigramTrainer(
                vocab_size=vocab_size,
                initial_alphabet=[chr(_FIRST_LETTER + symbol) for symbol in range(alphabet)],
                special_tokens=[],
                max_piece_length=LONGEST_TOKEN,
                seed_size=max(_LEAST_SEEDS, _SEEDS * vocab_size),  # type: ignore[call-arg]  # its stubs forget it
                show_progress=False,
            ),
        )
        return cls(backend, alphabet)

    @cached_property
    def dictionary(self) -> list[Token]:
        """The symbols of each token, by id."""
        ids = self._backend.get_vocab()
        return [
            tuple(ord(letter) - _FIRST_LETTER for letter in token)
            for token in sorted(ids, key=ids.__getitem__)
        ]

    def encode(self, text: Symbols) -> Int[ndarray, "tokens"]:
        """Cut a text into token ids."""
        return np.array(
            self._backend.encode(_letters(require_symbols(text, self.alphabet))).ids, dtype=np.int64
        )

    def decode(self, ids: Symbols) -> Int[ndarray, "symbols"]:
        """Put the symbols of tokens back together."""
        return decoded(self.dictionary, ids)


def _letters(symbols: Int[ndarray, "symbols"]) -> str:
    return "".join(map(chr, (symbols + _FIRST_LETTER).tolist()))
