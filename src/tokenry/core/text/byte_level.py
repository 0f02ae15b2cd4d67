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

META_SPACE = "▁"
"""The character that SentencePiece tokenizers write for a space."""


def _byte_characters() -> tuple[str, ...]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


BYTE_CHARACTERS = _byte_characters()
"""The printable character that byte-level tokenizers write for each byte (0 to 255); a space is `Ġ`."""

_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}

# Byte characters become the Latin-1 character of their byte; every other character that Latin-1 could write becomes one that it cannot.
_LATIN = dict.fromkeys(range(256), "\uffff") | {
    ord(character): chr(byte) for character, byte in _BYTES.items()
}


def to_byte_characters(data: bytes) -> str:
    """Write bytes as byte-level tokenizers write them."""
    return "".join(BYTE_CHARACTERS[byte] for byte in data)


def from_byte_characters(text: str) -> bytes:
    """Read what `to_byte_characters` wrote.

    Raises:
        UserError: a character stands for no byte.
    """
    try:
        return text.translate(_LATIN).encode("latin-1")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{text!r} holds {text[error.start]!r}, which stands for no byte: it is not written in byte-level characters."
        ) from error


WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""The white space of Unicode."""


@dataclass(frozen=True)
class CutToken:
    """An added token: wherever a text holds it, `encode` cuts it out before the rest of the text is cut into tokens.

    Attributes:
        id: its id.
        data: the bytes that are looked for.
        special: whether it is a special token, which stands for no bytes.
        normalized: whether it is looked for after the normaliser has run, and so after all tokens that are looked for before.
        single_word: whether it is cut out only where no letter or digit stands beside it.
        lstrip: whether the white space before it is dropped.
        rstrip: whether the white space after it is dropped.
        drops: what counts as white space there: after the normaliser, what that has made into something else does not.
    """

    id: int
    data: bytes
    special: bool = False
    normalized: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    drops: str = WHITE_SPACE


@dataclass(frozen=True)
class ByteVocabulary:
    """What each token id of a tokenizer stands for, in bytes.

    Attributes:
        token_bytes: by id; None for special tokens and for ids without a token.
        special: ids of special tokens, which stand for no bytes.
        fallback: ids of single bytes that are written only where nothing else fits (`<0x61>`).
        prepends_space: whether a space is put before a text, so that its first word is cut like any other.
        rewrites: what the tokenizer's normaliser may change before it cuts, such as `Lowercase`; empty when it keeps every byte.
        cut: the added tokens that a text can hold, special or not.
        doubles: ids with the bytes of another id, in whose place that one is written.
        keeps_own_space: whether a text that begins with a space is not given another one, so that it has the tokens of the text
            without that space.
        prepends_within: whether the space is put after every added token, too.
        unkept: characters that the tokenizer reads as others (`▁` as a space): no token stands for them.
    """

    token_bytes: tuple[bytes | None, ...]
    special: frozenset[int]
    fallback: frozenset[int] = frozenset()
    prepends_space: bool = False
    rewrites: tuple[str, ...] = ()
    cut: tuple[CutToken, ...] = ()
    doubles: frozenset[int] = frozenset()
    keeps_own_space: bool = False
    prepends_within: bool = False
    unkept: str = ""

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> "ByteVocabulary":
        """Read a transformers fast tokenizer or a `tokenizers.Tokenizer` of any kind.

        Raises:
            UserError: a slow tokenizer, whose vocabulary cannot be read.
        """
        backend = backend_tokenizer(tokenizer)
        state = tokenizer_state(backend)
        added: list[dict[str, Any]] = state["added_tokens"]
        special = frozenset(token["id"] for token in added if token["special"])
        vocabulary, own = (
            backend.get_vocab(with_added_tokens=True),
            backend.get_vocab(with_added_tokens=False),
        )
        read, unkept = _reader(state), _unkept(state)
        token_bytes: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        fallback, doubles = set(), set()
        first: dict[bytes, int] = {}
        spelled, falls_back = _speller(state), _falls_back(state)
        for spelling, number in own.items():
            if number in special:
                continue
            byte = _fallback_byte(spelling) if falls_back else None
            if byte is not None:
                fallback.add(number)
            token_bytes[number] = data = byte or read(spelling)
            # Of several tokens with the same bytes the model writes the one that is spelled as it spells a text.
            if data and byte is None and (other := first.setdefault(data, number)) != number:
                loser = number if spelling != spelled(data) else other
                first[data] = other if loser == number else number
                doubles.add(loser)
        cut = _cut_tokens(added, backend, read, unkept)
        for token in cut:
            if not token.special and token_bytes[token.id] is None:
                token_bytes[token.id] = token.data
                doubles.update({first[token.data]} if token.data in first else ())
        return cls(
            tuple(token_bytes),
            special,
            frozenset(fallback),
            rewrites=_rewrites(state),
            cut=cut,
            doubles=frozenset(doubles),
            unkept=unkept,
            **_space_before(state),
        )

    @property
    def changing(self) -> tuple[str, ...]:
        """What the normaliser does that cannot be undone. Composition (NFC) can: it changes no text that is composed already."""
        return tuple(step for step in self.rewrites if step != "NFC")

    @cached_property
    def cut_ids(self) -> frozenset[int]:
        """Ids that are cut out of a text and stand for what was cut."""
        return frozenset(
            token.id for token in self.cut if not token.special and self.token_bytes[token.id] == token.data
        )

    def lead(self, text: bytes, prepends: bool | None = None) -> bytes:
        """What the tokenizer puts before this text: a space, or nothing (where a token is cut out at its beginning, too)."""
        prepends = self.prepends_space if prepends is None else prepends
        if not prepends or (self.keeps_own_space and text.startswith(b" ")):
            return b""
        # A normaliser has prepended the space before the tokens are looked for that are matched on normalised text.
        begins = (
            text.startswith(token.data)
            for token in self.cut
            if not (token.normalized and token.data.startswith(b" "))
        )
        return b"" if any(begins) else b" "

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
        """The id of each byte string: of several the one that is written, and a byte-fallback token only where there is no other."""
        late = self.fallback | self.doubles
        ids = self.order.tolist()
        ordered = [
            *(number for number in ids if number not in late),
            *sorted(self.doubles),
            *sorted(self.fallback),
        ]
        found: dict[bytes, int] = {}
        for number in ordered:
            if data := self.token_bytes[number]:
                found.setdefault(data, number)
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

    @cached_property
    def first_bytes(self) -> Int[np.ndarray, "ids"]:
        """The first byte of each id; 256 where it has none."""
        return np.array([data[0] if data else 256 for data in self.token_bytes], dtype=np.int64)

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


def tokenizer_state(backend: Tokenizer) -> dict[str, Any]:
    """Return what a tokenizer's file holds."""
    return json.loads(backend.to_str())


def _successor(prefix: bytes) -> bytes | None:
    """The least byte string after all that begin with `prefix`; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def component_parts(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The parts of a normaliser, pre-tokenizer or decoder, sequences unrolled."""
    if component is None:
        return []
    inside = next(
        (component[key] for key in ("normalizers", "pretokenizers", "decoders") if key in component), None
    )
    return [component] if inside is None else [part for inner in inside for part in component_parts(inner)]


def _reader(state: dict[str, Any]) -> Callable[[str], bytes]:
    """How the tokens of this tokenizer are read as bytes."""
    model = state["model"]
    if _is_byte_level(state):
        return _read_byte_level
    if model["type"] == "WordPiece":
        inside = model["continuing_subword_prefix"]
        return lambda token: (
            token.removeprefix(inside).encode() if token.startswith(inside) else f" {token}".encode()
        )
    suffix = model.get("end_of_word_suffix")
    if suffix:
        return lambda token: (token.removesuffix(suffix) + " " * token.endswith(suffix)).encode()
    meta = _reads_meta(state)
    return lambda token: (token.replace(META_SPACE, " ") if meta else token).encode()


def _reads_meta(state: dict[str, Any]) -> bool:
    parts = [
        *component_parts(state["normalizer"]),
        *component_parts(state["pre_tokenizer"]),
        *component_parts(state["decoder"]),
    ]
    return any(META_SPACE in json.dumps(part, ensure_ascii=False) for part in parts)


def _read_byte_level(token: str) -> bytes:
    # A vocabulary may hold tokens that were put in as text, not as byte characters.
    try:
        return token.translate(_LATIN).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def _falls_back(state: dict[str, Any]) -> bool:
    return bool(state["model"].get("byte_fallback")) or any(
        part["type"] == "ByteFallback" for part in component_parts(state["decoder"])
    )


def _fallback_byte(token: str) -> bytes | None:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return None


def _is_byte_level(state: dict[str, Any]) -> bool:
    parts = [
        *component_parts(state["normalizer"]),
        *component_parts(state["pre_tokenizer"]),
        *component_parts(state["decoder"]),
    ]
    return any(part["type"] == "ByteLevel" for part in parts)


def _speller(state: dict[str, Any]) -> Callable[[bytes], str]:
    """How the model spells bytes."""
    if _is_byte_level(state):
        return to_byte_characters
    meta = META_SPACE if _reads_meta(state) else " "
    return lambda data: data.decode(errors="surrogateescape").replace(" ", meta)


def _cut_tokens(
    added: list[dict[str, Any]], backend: Tokenizer, read: Callable[[str], bytes], unkept: str
) -> tuple[CutToken, ...]:
    """The added tokens that are looked for in a text, and by which bytes."""
    normalizer, found = backend.normalizer, []
    white = WHITE_SPACE
    if normalizer is not None:
        white = "".join(
            character for character in white if normalizer.normalize_str(f"a{character}a") == f"a{character}a"
        )
    for token in added:
        text: str = token["content"]
        if token["special"] and backend.encode_special_tokens:
            continue
        if token["normalized"] and normalizer is not None:
            data = read(normalizer.normalize_str(text))
        else:
            data = text.encode(errors="replace")
        # Before the normaliser a space is a space still, so that a token that is spelled with its stand-in is not found.
        if data and not (any(character in text for character in unkept) and not token["normalized"]):
            flags = {
                name: token[name] for name in ("special", "normalized", "single_word", "lstrip", "rstrip")
            }
            found.append(
                CutToken(token["id"], data, **flags, drops=white if token["normalized"] else WHITE_SPACE)
            )
    return tuple(found)


def _unkept(state: dict[str, Any]) -> str:
    """Characters that come to stand for others."""
    renamed = {
        part["content"]
        for part in component_parts(state["normalizer"])
        if part["type"] == "Replace" and _renames(part)
    }
    renamed |= {
        part["replacement"] for part in component_parts(state["pre_tokenizer"]) if part["type"] == "Metaspace"
    }
    return "".join(sorted(renamed - {" "}))


def _space_before(state: dict[str, Any]) -> dict[str, bool]:
    """What the tokenizer puts before a text, asked of it: its own model is replaced by one that knows the characters asked for."""
    space, cut = sorted({META_SPACE, BYTE_CHARACTERS[ord(" ")], " "}), "\N{PRIVATE USE ONE}"
    names = {name: number for number, name in enumerate(["a", *space, cut])}
    asked = state | {
        "model": {"type": "BPE", "vocab": names, "merges": []},
        "added_tokens": [
            {"id": names[cut], "content": cut, "special": False, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        ],
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    probe = Tokenizer.from_str(json.dumps(asked))

    def spaces(text: str) -> int:
        return sum(token in space for token in probe.encode(text, add_special_tokens=False).tokens)

    prepends = spaces("a") > 0
    return {
        "prepends_space": prepends,
        "keeps_own_space": prepends and spaces(" a") == 1,
        "prepends_within": spaces(f"{cut}a") > 0,
    }


def _renames(part: dict[str, Any]) -> bool:
    """Whether a replacement can be undone: one character for another, which then stands for it."""
    return len(part["pattern"].get("String", "")) == len(part["content"]) == 1


def _rewrites(state: dict[str, Any]) -> tuple[str, ...]:
    def keeps(part: dict[str, Any]) -> bool:
        if part["type"] == "Prepend":
            return part["prepend"] in (META_SPACE, " ")
        if part["type"] == "Replace":
            return _renames(part) and (part["pattern"]["String"], part["content"]) == (" ", META_SPACE)
        return part["type"] == "ByteLevel"

    return tuple(part["type"] for part in component_parts(state["normalizer"]) if not keeps(part))
