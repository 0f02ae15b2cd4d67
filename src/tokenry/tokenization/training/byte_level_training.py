r"""Byte-level tokenizers trained by the `tokenizers` library: BPE and Unigram, with the same alphabet and the same pieces.

A text is cut into pieces by a regular expression, nothing is lost, and no token crosses the end of a piece.
ids = special tokens, the 256 bytes in the order of their characters, then what training finds

`\p{M}` stands with the letters: without it, words of Indic scripts and Thai break at every vowel sign.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenry.core.errors import UserError

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""The default cut of a text: words with the space before them, numbers, punctuation, white space."""

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
r"""The same without `\p{M}`, as GPT-2 has it."""


def byte_level_pieces(pattern: str = PATTERN) -> pre_tokenizers.PreTokenizer:
    """Cut a text into the matches of `pattern` and the pieces between them, and write bytes as characters."""
    return pre_tokenizers.Sequence(byte_level_steps(pattern))


def byte_level_steps(pattern: str) -> list[pre_tokenizers.PreTokenizer]:
    """The two steps of `byte_level_pieces`, for a sequence with further steps before them."""
    try:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise UserError(f"the pattern {pattern!r} is not a valid regular expression ({error}).") from error
    return [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    pattern: str = PATTERN,
    special_tokens: Sequence[str] = (),
    min_frequency: int = 0,
) -> Tokenizer:
    """Train byte-pair encoding; where the text is too small for `vocab_size`, the tokenizer is smaller.

    Args:
        texts: training texts, read once.
        vocab_size: size of the vocabulary, with special tokens and the 256 bytes.
        pattern: regular expression that cuts a text into pieces.
        special_tokens: tokens that get the lowest ids.
        min_frequency: pairs seen less often are not merged.
    """
    require_vocab_size(vocab_size, special_tokens)
    tokenizer = byte_level_tokenizer(models.BPE(), pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_unigram(
    texts: Iterable[str], vocab_size: int, pattern: str = PATTERN, special_tokens: Sequence[str] = ()
) -> Tokenizer:
    """Train a Unigram model over bytes; the arguments are those of `train_bpe`."""
    require_vocab_size(vocab_size, special_tokens)
    tokenizer = byte_level_tokenizer(models.Unigram(), pattern)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_level_tokenizer(model: models.Model, pattern: str = PATTERN) -> Tokenizer:
    """Put a model between the pieces of `pattern` and the decoder of byte characters."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = byte_level_pieces(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def require_vocab_size(vocab_size: int, special_tokens: Sequence[str] = ()) -> None:
    """Raise `UserError` unless all bytes and special tokens fit."""
    least = 256 + len(special_tokens)
    if vocab_size < least:
        raise UserError(
            f"a vocabulary of {vocab_size} has no room for the 256 bytes and {len(special_tokens)} special tokens: "
            f"ask for at least {least}."
        )
