"""SuperBPE: byte-pair encoding in two stages, whose tokens may span words in the second.

    stage 1    ordinary byte-level BPE up to `transition` tokens
    stage 2    the same text, cut at digits, runs of punctuation and extra spaces only; the merges of stage 1 are replayed, then
               merging continues to `vocab_size`: the most frequent adjacent pair first, in a tie the one with the lower ids

A merge is dropped for good if the token it makes has more than `max_words` words or holds a forbidden string. The result is a stock
`tokenizers.Tokenizer`: the pieces of stage 2 and one list of merges.

Source: SuperBPE (arXiv 2503.13423) and its released trainer, whose rules on words and on `:Ġ` are not in the paper.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from tokenizers import Tokenizer, pre_tokenizers

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import BYTE_CHARACTERS
from tokenry.core.text.passages import in_batches
from tokenry.core.text.token_counts import corpus_token_count
from tokenry.tokenization.training.byte_level_training import (
    byte_level_pieces,
    require_vocab_size,
    train_bpe,
)
from tokenry.tokenization.training.merge_lists import bpe_state, smaller_bpe, with_merges
from tokenry.tokenization.training.settings import SuperBPEConfig, default_transition, require_transition
from tokenry.tokenization.training.superword_counting import AdjacentPairs

_TEXTS_AT_ONCE = 256
_SPACE = "Ġ"


def train_superbpe(
    texts: Iterable[str],
    vocab_size: int,
    transition: int | None = None,
    max_words: int = 4,
    forbid: Sequence[str] = (":Ġ",),
    special_tokens: Sequence[str] = (),
    **options: Any,
) -> Tokenizer:
    """Train both stages; where the text is too small for `vocab_size`, the tokenizer is smaller.

    Args:
        texts: training texts, read twice; an iterator is held in memory.
        vocab_size: size of the vocabulary, with special tokens and the 256 bytes.
        transition: size of the vocabulary after stage 1; 80 % of `vocab_size` by default.
        max_words: maximum number of words of a token.
        forbid: strings that no token made in stage 2 holds.
        special_tokens: tokens that get the lowest ids.
        options: further fields of `SuperBPEConfig`.
    """
    config = SuperBPEConfig(max_words=max_words, forbid=tuple(forbid), **options)
    require_vocab_size(vocab_size, special_tokens)
    first = default_transition(vocab_size, special_tokens) if transition is None else transition
    require_transition(first, vocab_size, special_tokens)
    texts = rereadable(texts)
    stage1 = train_bpe(texts, first, config.pattern, special_tokens, config.min_frequency)
    return extend_to_superwords(stage1, texts, vocab_size, config)


def extend_to_superwords(
    tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int, config: SuperBPEConfig | None = None
) -> Tokenizer:
    """Stage 2 alone: continue from any byte-level BPE tokenizer, which is not changed.

    Added tokens keep their ids and are cut out of a text before all else, so no merge crosses them or makes one of them.

    Args:
        tokenizer: tokenizer whose merges and ids are inherited.
        texts: training texts, read once; a byte without a token may not occur in them.
        vocab_size: size of the new vocabulary, with added tokens.
        config: rules of the second stage; its stage 1 pattern is not used.
    """
    config = config or SuperBPEConfig()
    vocabulary, merges = bpe_state(tokenizer)
    _require_byte_level(tokenizer)
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    # In the vocabulary of the model, added tokens keep their ids however many tokens follow them.
    vocabulary |= added
    tokens: list[str | None] = [None] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        tokens[number] = token
    if len(tokens) > vocab_size:
        raise UserError(
            f"the transition ({len(tokens)} tokens) lies above the vocabulary of {vocab_size}: ask for a larger vocabulary."
        )
    inherited = _across_words(tokenizer, vocabulary, merges, config)
    pieces = inherited_pieces(inherited, _with_tokens_for(texts, vocabulary, added))
    pairs = AdjacentPairs(pieces, names=range(len(tokens)))
    least = max(1, config.min_frequency)
    while len(tokens) < vocab_size and (best := pairs.best(least)):
        left, right, _ = best
        made = f"{tokens[left]}{tokens[right]}"
        if made in added or not config.may_be_made(made):
            pairs.drop(left, right)
            continue
        pairs.merge(left, right, len(tokens), into=vocabulary.get(made))
        merges.append((f"{tokens[left]}", f"{tokens[right]}"))
        if made not in vocabulary:
            vocabulary[made] = len(tokens)
            tokens.append(made)
    return _across_words(tokenizer, vocabulary, merges, config)


def choose_transition(
    texts: Iterable[str],
    held_out: Iterable[str],
    vocab_size: int,
    shares: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    special_tokens: Sequence[str] = (),
    config: SuperBPEConfig | None = None,
) -> dict[int, int]:
    """Count the tokens of held-out text for several transitions, which all continue from one training of stage 1.

    Returns:
        Corpus token count by transition, the best transition first.
    """
    config = config or SuperBPEConfig()
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UserError(f"the shares must lie in (0, 1], got {', '.join(map(str, shares)) or 'none'}.")
    require_vocab_size(vocab_size, special_tokens)
    texts, held_out = rereadable(texts), rereadable(held_out)
    least = 256 + len(special_tokens)
    transitions = sorted({max(least, round(share * vocab_size)) for share in shares})
    stage1 = train_bpe(texts, transitions[-1], config.pattern, special_tokens, config.min_frequency)
    found = {}
    for transition in transitions:
        tokenizer = extend_to_superwords(smaller_bpe(stage1, transition), texts, vocab_size, config)
        found[transition] = corpus_token_count(tokenizer, held_out)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def inherited_pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> Int[ndarray, "places"]:
    """Encode texts and join the pieces of more than one token, with -1 after each."""
    parts = [np.zeros(0, dtype=np.int32)]
    for batch in in_batches(texts, _TEXTS_AT_ONCE):
        found = [
            encoding
            for encoding in tokenizer.encode_batch(batch, add_special_tokens=False)
            if len(encoding) > 1
        ]
        if found:
            ids = np.array([number for encoding in found for number in encoding.ids], dtype=np.int32)
            pieces = np.array([piece for encoding in found for piece in encoding.word_ids], dtype=np.int64)
            text = np.repeat(np.arange(len(found)), [len(encoding) for encoding in found])
            parts.append(_with_ends(ids, (text << 32) | pieces))
    return np.concatenate(parts)


def rereadable(texts: Iterable[str]) -> Iterable[str]:
    """The texts themselves where they can be read twice, else a list of them."""
    return list(texts) if isinstance(texts, Iterator) else texts


def _with_ends(ids: Int[ndarray, "tokens"], pieces: Int[ndarray, "tokens"]) -> Int[ndarray, "places"]:
    """Put -1 after each piece (`pieces` holds the piece of each token); a token that is a piece of its own makes no pair and is left out."""
    ends = np.flatnonzero(np.diff(pieces, append=-1))
    alone = np.diff(ends, prepend=-1) == 1
    kept = np.ones(len(ids), dtype=bool)
    kept[ends[alone]] = False
    places = np.cumsum(kept)[ends[~alone]]
    return np.insert(ids[kept], places, np.int32(-1))


def _across_words(
    tokenizer: Tokenizer,
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    config: SuperBPEConfig,
) -> Tokenizer:
    across = with_merges(tokenizer, vocabulary, merges)
    pieces = byte_level_pieces(config.superword_pattern)
    first = tokenizer.pre_tokenizer.pre_tokenize_str("a")[0][0] if tokenizer.pre_tokenizer else ""
    if first.startswith(_SPACE):
        # First of all steps: `add_prefix_space` would put a space before each piece.
        space = pre_tokenizers.Metaspace(" ", prepend_scheme="always", split=False)
        pieces = pre_tokenizers.Sequence([space, pieces])
    across.pre_tokenizer = pieces
    return across


def _require_byte_level(tokenizer: Tokenizer) -> None:
    state = json.loads(tokenizer.to_str())
    cutting, rewriting = (json.dumps(state[part]) for part in ("pre_tokenizer", "normalizer"))
    if '"ByteLevel"' not in cutting or '"ByteLevel"' in rewriting:
        raise UserError(
            "the tokenizer is not a byte-level BPE (its pre-tokenizer does not write bytes as characters), so its merges cannot continue across "
            "spaces: give one such as GPT-2's, or train one with train_bpe."
        )


def _with_tokens_for(
    texts: Iterable[str], vocabulary: Mapping[str, int], added: Iterable[str]
) -> Iterator[str]:
    """The texts, if each byte between their added tokens has a token: the model would drop others silently."""
    present = bytes(byte for byte, written in enumerate(BYTE_CHARACTERS) if written in vocabulary)
    cut_out = re.compile(
        "|".join(map(re.escape, sorted(filter(None, added), key=len, reverse=True))) or "(?!)"
    )
    for text in texts:
        if len(present) < 256 and text.encode().translate(None, present):
            lacking = sorted(set(cut_out.sub("", text).encode().translate(None, present)))
            if lacking:
                raise UserError(
                    f"the tokenizer has no token for {len(lacking)} byte{'s' * (len(lacking) > 1)} of the text ({_listed(lacking)}, in {text[:40]!r}): leave such "
                    "texts out, or give a tokenizer with a token for each byte."
                )
        yield text


def _listed(lacking: Sequence[int]) -> str:
    shown = ", ".join(f"0x{byte:02X}" for byte in lacking[:4])
    return shown if len(lacking) <= 4 else f"{shown}, …"
