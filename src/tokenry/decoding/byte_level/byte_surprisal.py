"""How surprising each byte or character of a text is to a language model, whatever its tokenizer.

    exact:  surprisal(b_i) = log2 P(b_1 … b_{i-1}) − log2 P(b_1 … b_i)        (`ByteLM.prefix_log_probs`)
    tokens: the surprisal of each token of the tokenizer's own encoding, in equal parts on its bytes

Only the first is a property of the text: the second depends on how the text is cut, and is said not to be exact.

Source: exact prefix probabilities after arXiv 2410.09303, Lemma 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tokenry.core.errors import UserError, require_one_of
from tokenry.decoding.byte_level.byte_lm import ByteLM
from tokenry.decoding.byte_level.utf8 import Text, as_bytes

UNITS = ("byte", "character")
METHODS = ("exact", "tokens")


@dataclass(frozen=True)
class Surprisal:
    """The surprisal of a text, unit by unit.

    Attributes:
        units: bytes or characters, as bytes.
        exact: whether these are probabilities of bytes: summed over all valid token sequences.
    """

    units: tuple[bytes, ...]
    bits: Float[np.ndarray, "units"]
    exact: bool

    @property
    def bits_per_byte(self) -> float:
        """The mean over bytes."""
        return float(self.bits.sum()) / sum(map(len, self.units))


def surprisal(
    lm: ByteLM,
    text: Text,
    per: str = "byte",
    method: str = "exact",
    context_ids: Sequence[int] | None = None,
) -> Surprisal:
    """Measure the surprisal of a text in bits; it costs one forward pass.

    Args:
        lm: the model of bytes.
        text: at least one byte.
        per: `byte` or `character`; that of a character is the sum over its bytes.
        method: `exact`, or `tokens` for the tokens' own on their bytes.
        context_ids: tokens before the text.

    Raises:
        UserError: an empty text, one without a cover, or bytes that are no characters with `per="character"`.
    """
    require_one_of(per, UNITS, "per")
    require_one_of(method, METHODS, "method")
    data = as_bytes(text)
    if not data:
        raise UserError("an empty text has no surprisal: give at least one byte.")
    units = _units(data, per)
    bits = _of_tokens(lm, data, context_ids) if method == "tokens" else _exact(lm, data, context_ids)
    starts = np.cumsum([0, *map(len, units[:-1])])
    exact = method == "exact" and lm.validate != "none"
    return Surprisal(units, np.add.reduceat(bits, starts), exact)


def _exact(lm: ByteLM, text: bytes, context_ids: Sequence[int] | None) -> Float[np.ndarray, "bytes"]:
    log_probs = lm.prefix_log_probs(text, context_ids)
    if log_probs[-1] == -np.inf:
        # Says where.
        lm.stream(text, context_ids)
    return -np.diff(log_probs) / np.log(2)


def _of_tokens(lm: ByteLM, text: bytes, context_ids: Sequence[int] | None) -> Float[np.ndarray, "bytes"]:
    ids = lm.encode(text, context_ids)
    rows = lm.next_token_logprobs([ids[:place] for place in range(len(ids))], context_ids)
    lengths = lm.vocabulary.lengths[ids]
    bits = -rows[np.arange(len(ids)), ids] / np.log(2)
    spread = np.repeat(bits / lengths, lengths)
    # What the tokenizer puts before the text counts for its first byte.
    before = len(spread) - len(text)
    spread[before] += spread[:before].sum()
    return spread[before:]


def _units(text: bytes, per: str) -> tuple[bytes, ...]:
    if per == "byte":
        return tuple(bytes([byte]) for byte in text)
    try:
        return tuple(character.encode() for character in text.decode())
    except UnicodeDecodeError as error:
        raise UserError(
            f"the text is not UTF-8 at byte {error.start}, so it has no characters: use per='byte'."
        ) from error
