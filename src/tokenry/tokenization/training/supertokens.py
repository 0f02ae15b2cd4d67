"""Supertokens: a BPE tokenizer whose tokens may span words, trained in one pass on text cut at random lengths.

    until a text is used up: draw a range (a, b) by its probability, then a length uniformly from a … b characters

The chunks stand where words stand in ordinary BPE training; no merge reaches over their ends. The finished tokenizer does not split at
all: a text is one piece, so that encoding takes n log n time in its length and nothing is cached.

Source: TokenAdapt (arXiv 2505.09738), supertoken learning, and its released trainer.
"""

import math
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tokenry.core.errors import UserError, require_at_least, require_fraction

ChunkLengths = Mapping[tuple[int, int], float]
"""The probability of each range of chunk lengths, in characters, both ends included."""

RELEASED_LENGTHS: ChunkLengths = {
    (4, 5): 0.044,
    (6, 7): 0.091,
    (8, 9): 0.146,
    (10, 11): 0.171,
    (12, 13): 0.185,
    (14, 15): 0.171,
    (16, 17): 0.146,
    (18, 19): 0.091,
    (20, 21): 0.044,
    (22, 23): 0.011,
}
"""As released: a bell around 12 characters whose probabilities sum to 1.1, so it needs `normalize=True`."""

END_OF_TEXT = "<|endoftext|>"

_ROUNDING = 1e-6
_LONG_RUN = re.compile(r"(.)\1{6}")


def chunk_lengths(distribution: ChunkLengths, normalize: bool = False) -> dict[tuple[int, int], float]:
    """Check a distribution of chunk lengths; with `normalize` divide it by its sum, which must be 1 otherwise."""
    for (least, most), probability in distribution.items():
        if least < 1:
            raise UserError(f"chunk lengths must be at least 1 character, got the range {least}-{most}.")
        if least > most:
            raise UserError(f"the range {least}-{most} ends before it begins: put the smaller length first.")
        require_fraction(probability, f"the probability of {least}-{most}")
    total = math.fsum(distribution.values())
    if total <= 0 or not (normalize or math.isclose(total, 1.0, abs_tol=_ROUNDING)):
        raise UserError(
            f"the probabilities of the chunk lengths must sum to 1, they sum to {total:g}: correct them, or divide by the sum with "
            "normalize=True."
        )
    return {
        reach: probability / total if normalize else probability
        for reach, probability in distribution.items()
    }


def length_law(distribution: ChunkLengths, normalize: bool = False) -> dict[int, float]:
    """Probability of each chunk length, away from the end of a text."""
    law: dict[int, float] = {}
    for (least, most), probability in chunk_lengths(distribution, normalize).items():
        for length in range(least, most + 1):
            law[length] = law.get(length, 0.0) + probability / (most - least + 1)
    return dict(sorted(law.items()))


def parse_lengths(distribution: Mapping[str, float]) -> dict[tuple[int, int], float]:
    """Read ranges written as in the released configuration, `4-5`."""
    read = {}
    for text, probability in distribution.items():
        found = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", text)
        if not found:
            raise UserError(
                f"{text!r} is not a range of chunk lengths: write two whole numbers, such as 4-5."
            )
        read[int(found[1]), int(found[2])] = probability
    return read


def sample_chunks(
    text: str, distribution: ChunkLengths, rng: random.Random, normalize: bool = False
) -> list[str]:
    """Cut a text into chunks of random length; joined they are the text again.

    Near the end both bounds of a range are cut to the rest of the text; a rest shorter than every range is the last chunk.

    Args:
        text: the text to be cut.
        distribution: the probability of each range of lengths.
        rng: generator that draws one range and one length per chunk.
        normalize: whether to divide the probabilities by their sum.
    """
    lengths = chunk_lengths(distribution, normalize)
    return list(_chunks(text, list(lengths), list(lengths.values()), rng))


def _chunks(
    text: str, ranges: list[tuple[int, int]], probabilities: list[float], rng: random.Random
) -> Iterator[str]:
    shortest = min(least for least, _ in ranges)
    start = 0
    while start < len(text):
        left = len(text) - start
        length = left
        if left >= shortest:
            least, most = rng.choices(ranges, probabilities, k=1)[0]
            length = rng.randint(min(least, left), min(most, left))
        yield text[start : start + length]
        start += length


def train_supertoken_bpe(
    texts: Iterable[str],
    vocab_size: int,
    distribution: ChunkLengths = RELEASED_LENGTHS,
    max_token_length: int = 30,
    min_frequency: int = 2,
    seed: int = 0,
    normalize: bool = True,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with tokens over word boundaries; it loads in plain transformers.

    Runs of seven equal characters are left out of the training text, as in the released trainer, lest they become tokens.

    Args:
        texts: training texts, read once.
        vocab_size: size of the vocabulary, with the 256 bytes and `<|endoftext|>`.
        distribution: the probability of each range of chunk lengths.
        max_token_length: maximum number of bytes of a token.
        min_frequency: pairs seen less often are not merged.
        normalize: whether to divide the probabilities by their sum.
    """
    lengths = chunk_lengths(distribution, normalize)
    if vocab_size < 257:
        raise UserError(f"vocab_size must be at least 257 (256 bytes and {END_OF_TEXT}), got {vocab_size}.")
    require_at_least(1, max_token_length=max_token_length)
    rng, ranges, probabilities = random.Random(seed), list(lengths), list(lengths.values())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    # Chunks reach the trainer one by one, so that no separator is needed and no chunk is split further.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        max_token_length=max_token_length,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    cut = (
        list(_chunks(_LONG_RUN.sub("", unicodedata.normalize("NFC", text)), ranges, probabilities, rng))
        for text in texts
    )
    tokenizer.train_from_iterator(cut, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
