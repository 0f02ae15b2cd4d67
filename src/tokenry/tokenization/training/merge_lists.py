"""A BPE tokenizer as its vocabulary and its list of merges: read, replaced, or cut short.

tokenizer(V) = the merges up to the one that makes token V        equal to the result of a training to V tokens
"""

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from tokenry.core.errors import UserError

Merges = list[tuple[str, str]]


def smaller_bpe(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """Make the tokenizer that the same training would have made at a smaller vocabulary."""
    vocabulary, merges = bpe_state(tokenizer)
    (number,) = merges_at(vocabulary, merges, [vocab_size])
    kept = {token: place for token, place in vocabulary.items() if place < vocab_size}
    return with_merges(tokenizer, kept, merges[:number])


def bpe_state(tokenizer: Tokenizer) -> tuple[dict[str, int], Merges]:
    """Read the vocabulary and the merges by rank of a BPE tokenizer."""
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] != "BPE":
        raise UserError(f"the tokenizer is a {model['type']} model and has no merges: give a BPE tokenizer.")
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return dict(model["vocab"]), [(left, right) for left, right in pairs]


def with_merges(
    tokenizer: Tokenizer, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> Tokenizer:
    """Copy a BPE tokenizer with another vocabulary and other merges."""
    state = json.loads(tokenizer.to_str())
    state["model"] |= {"vocab": dict(vocabulary), "merges": [list(pair) for pair in merges]}
    return Tokenizer.from_str(json.dumps(state))


def merges_at(vocabulary: Mapping[str, int], merges: Merges, sizes: Sequence[int]) -> list[int]:
    """Number of merges that a training to each size performs: it stops as soon as it has that many tokens."""
    tokens = len(vocabulary) - len({left + right for left, right in merges})
    if sizes and min(sizes) < tokens:
        raise UserError(
            f"a vocabulary of {min(sizes)} has no room for the {tokens} bytes and special tokens: ask for at least {tokens}."
        )
    # made[n] = tokens after n merges; a merge can make a token that another merge has made before.
    made, seen = [tokens], set()
    for left, right in merges:
        seen.add(left + right)
        made.append(tokens + len(seen))
    return [min(bisect_left(made, wanted), len(merges)) for wanted in sizes]
