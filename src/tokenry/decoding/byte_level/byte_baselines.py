"""The two baselines of exact next-byte probabilities: the tokens of the prompt as they are, and token healing.

    naive:  p(b) = Σ over tokens t that begin with b: p(t | encode(x))
    healed: p(b) = Σ over tokens t that go on with b after the last token l of encode(x): p(t | encode(x) without l)
                   + p(l | encode(x) without l) · naive(b)

Naive asks the model about a prompt that stops inside a token, which it takes as a sign that the longer token did not come. Healing takes one
token back, which is too little where the covers differ earlier.

Source: arXiv 2410.09303, section 5 (baselines).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.byte_lm import END, ByteLM
from tokenry.decoding.byte_level.utf8 import Text


def naive_next_byte(
    lm: ByteLM, text: Text, context_ids: Sequence[int] | None = None
) -> Float[np.ndarray, "257"]:
    """Next-byte log-probabilities in nats by the tokens after the prompt's own, normalised.

    Raises:
        UserError: the prompt cannot be encoded, or the model gives probability zero to all that could follow.
    """
    (row,) = lm.next_token_logprobs([lm.encode(text, context_ids)], context_ids)
    return _normalised(_by_first_byte(lm, row))


def healed_next_byte(
    lm: ByteLM, text: Text, context_ids: Sequence[int] | None = None
) -> Float[np.ndarray, "257"]:
    """Next-byte log-probabilities in nats with the last token of the prompt taken back, normalised; naive for an empty prompt.

    Raises:
        UserError: the prompt cannot be encoded, or the model gives probability zero to all that could follow.
    """
    ids = lm.encode(text, context_ids)
    if not ids:
        return naive_next_byte(lm, text, context_ids)
    before, after = lm.next_token_logprobs([ids[:-1], ids], context_ids)
    last = lm.vocabulary.token_bytes[ids[-1]] or b""
    longer = lm.vocabulary.with_prefix(last)
    longer = longer[lm.vocabulary.lengths[longer] > len(last)]
    masses = np.exp(before[ids[-1]]) * _by_first_byte(lm, after)
    masses += np.bincount(lm.vocabulary.bytes_at(longer, len(last)), np.exp(before[longer]), END + 1)
    return _normalised(masses)


def _by_first_byte(lm: ByteLM, row: Float[np.ndarray, "ids_and_end"]) -> Float[np.ndarray, "257"]:
    order = lm.vocabulary.order
    masses = np.bincount(lm.vocabulary.bytes_at(order, 0), np.exp(row[order]), END + 1)
    masses[END] = np.exp(row[-1])
    return masses


def _normalised(masses: Float[np.ndarray, "257"]) -> Float[np.ndarray, "257"]:
    if not masses.sum():
        raise UserError(
            "the model gives probability zero to everything after the tokens of this prompt: use the exact next_byte_logprobs."
        )
    with np.errstate(divide="ignore"):
        return np.log(masses / masses.sum())
