"""The bytes behind the tokens of any tokenizer: one view of every vocabulary, so that vocabularies can be compared.

    text = token_bytes[id_0] + token_bytes[id_1] + ...        byte-level BPE, SentencePiece and WordPiece alike

Sorted by their bytes, the tokens that begin with a given prefix are one contiguous range.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError

_META = "▁"


def _byte_characters() -> tuple[str, ...]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


BYTE_CHARACTERS = _byte_characters()
"""The printable character that byte-level tokenizers write for each byte (0 to 255); a space is `Ġ`."""

_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


def to_byte_characters(data: bytes) -> str:
    """Write bytes as byte-level tokenizers write them."""
    return "".join(BYTE_CHARACTERS[byte] for byte in data)


def from_byte_characters(text: str) -> bytes:
    """Read what `to_byte_characters` wrote.

    Raises:
        UserError: a character stands for no byte.
    """
    try:
        return bytes(_BYTES[character] for character in text)
    except KeyError as error:
        raise UserError(
            f"{text!r} holds {error.args[0]!r}, which stands for no byte: it is not written in byte-level characters."
        ) from error


@dataclass(frozen=True)
class ByteVocabulary:
    """What each token id of a tokenizer stands for, in bytes.

    Attributes:
        token_bytes: by id; None for special tokens and for ids without a token.
        special: ids of special tokens, which no text produces.
        fallback: ids of single bytes that are written only where nothing else fits (`<0x61>`).
        prepends_space: whether a space is put before a text, so that its first word is cut like any other.
        rewrites: what the tokenizer's normaliser may change before it cuts, such as `Lowercase`; empty when it keeps every byte.
    """

    token_bytes: tuple[bytes | None, ...]
    special: frozenset[int]
    fallback: frozenset[int] = frozenset()
    prepends_space: bool = False
    rewrites: tuple[str, ...] = ()

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> "ByteVocabulary":
        """Read a transformers fast tokenizer or a `tokenizers.Tokenizer` of any kind.

        Raises:
            UserError: a slow tokenizer, whose vocabulary cannot be read.
        """
        backend = backend_tokenizer(tokenizer)
        state = json.loads(backend.to_str())
        added = {token["id"]: token for token in state["added_tokens"]}
        special = {number for number, token in added.items() if token["special"]}
        vocabulary = backend.get_vocab(with_added_tokens=True)
        token_bytes: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        read, fallback = _reader(state), set()
        for token, number in vocabulary.items():
            if number in special:
                continue
            byte = None if number in added else _fallback_byte(token, state)
            if byte is not None:
                fallback.add(number)
            token_bytes[number] = byte or (token.encode() if number in added else read(token))
        return cls(
            tuple(token_bytes),
            frozenset(special),
            frozenset(fallback),
            _prepends_space(state),
            _rewrites(state),
        )

    @cached_property
    def order(self) -> Int[np.ndarray, "tokens"]:
        """Ids sorted by their bytes, equal ones by id; without special and empty tokens."""
        ids = [number for number, data in enumerate(self.token_bytes) if data]
        return np.array(sorted(ids, key=lambda number: (self.token_bytes[number], number)), dtype=np.int64)

    @cached_property
    def sorted_bytes(self) -> list[bytes]:
        """The bytes of `order`."""
        return [data for number in self.order if (data := self.token_bytes[number]) is not None]

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The id of each byte string; of several the lowest, and a byte-fallback token only where there is no other."""
        found: dict[bytes, int] = {}
        for number in sorted(self.order.tolist(), key=lambda number: (number in self.fallback, number)):
            found.setdefault(self.token_bytes[number] or b"", number)
        return found

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.sorted_bytes), default=0)

    def prefix_range(self, prefix: bytes) -> slice:
        """The range of `order` whose tokens begin with `prefix`."""
        low = bisect_left(self.sorted_bytes, prefix)
        end = _successor(prefix)
        high = len(self.sorted_bytes) if end is None else bisect_left(self.sorted_bytes, end, low)
        return slice(low, high)

    def with_prefix(self, prefix: bytes) -> Int[np.ndarray, "tokens"]:
        """Ids of the tokens that begin with `prefix`, sorted by their bytes."""
        return self.order[self.prefix_range(prefix)]

    @cached_property
    def lengths(self) -> Int[np.ndarray, "ids"]:
        """Bytes of each id; 0 where it has none."""
        return np.array([len(data or b"") for data in self.token_bytes], dtype=np.int64)

    def bytes_at(self, ids: Int[np.ndarray, "some"], place: int) -> UInt8[np.ndarray, "some"]:
        """The byte number `place` of each of these tokens, all of which must be longer than that."""
        text, starts = self._text
        return text[starts[ids] + place]

    @cached_property
    def _text(self) -> tuple[UInt8[np.ndarray, "all_bytes"], Int[np.ndarray, "ids"]]:
        """All tokens one after the other, and where each begins."""
        text = np.frombuffer(b"".join(data or b"" for data in self.token_bytes), dtype=np.uint8)
        return text, np.cumsum(self.lengths) - self.lengths

    def decode(self, ids: Iterator[int] | list[int] | tuple[int, ...]) -> bytes:
        """Concatenate the bytes of tokens; special ones have none."""
        return b"".join(self.token_bytes[number] or b"" for number in ids)


def backend_tokenizer(tokenizer: PreTrainedTokenizerBase | Tokenizer) -> Tokenizer:
    """Return the `tokenizers.Tokenizer` behind a transformers tokenizer.

    Raises:
        UserError: there is none (a slow tokenizer).
    """
    backend = tokenizer if isinstance(tokenizer, Tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer, whose vocabulary cannot be read: load it with use_fast=True."
        )
    return backend


def _successor(prefix: bytes) -> bytes | None:
    """The least byte string after all that begin with `prefix`; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def _parts(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The parts of a normaliser, pre-tokenizer or decoder, sequences unrolled."""
    if component is None:
        return []
    inside = next(
        (component[key] for key in ("normalizers", "pretokenizers", "decoders") if key in component), None
    )
    return [component] if inside is None else [part for each in inside for part in _parts(each)]


def _reader(state: dict[str, Any]) -> Callable[[str], bytes]:
    """How the tokens of this tokenizer are read as bytes."""
    model = state["model"]
    cutting, writing = _parts(state["pre_tokenizer"]), _parts(state["decoder"])
    if any(part["type"] == "ByteLevel" for part in cutting + writing):
        return _read_byte_level
    if model["type"] == "WordPiece":
        inside = model["continuing_subword_prefix"]
        return lambda token: (
            token.removeprefix(inside).encode() if token.startswith(inside) else f" {token}".encode()
        )
    suffix = model.get("end_of_word_suffix")
    if suffix:
        return lambda token: (token.removesuffix(suffix) + " " * token.endswith(suffix)).encode()
    meta = any(
        _META in json.dumps(part, ensure_ascii=False)
        for part in [*_parts(state["normalizer"]), *cutting, *writing]
    )
    return lambda token: (token.replace(_META, " ") if meta else token).encode()


def _read_byte_level(token: str) -> bytes:
    # A vocabulary may hold tokens that were put in as text, not as byte characters.
    return from_byte_characters(token) if all(character in _BYTES for character in token) else token.encode()


def _fallback_byte(token: str, state: dict[str, Any]) -> bytes | None:
    falls_back = state["model"].get("byte_fallback") or any(
        part["type"] == "ByteFallback" for part in _parts(state["decoder"])
    )
    if falls_back and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return None


def _prepends_space(state: dict[str, Any]) -> bool:
    parts = _parts(state["normalizer"]) + _parts(state["pre_tokenizer"])
    return any(
        part["type"] == "Prepend"
        or (part["type"] == "Metaspace" and part["prepend_scheme"] != "never")
        or (part["type"] == "ByteLevel" and part["add_prefix_space"])
        for part in parts
    )


# Normalisers that only move the space about.
_KEEPING = {"Prepend", "Replace", "ByteLevel"}


def _rewrites(state: dict[str, Any]) -> tuple[str, ...]:
    return tuple(part["type"] for part in _parts(state["normalizer"]) if part["type"] not in _KEEPING)
