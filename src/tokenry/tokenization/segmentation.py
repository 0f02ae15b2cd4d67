"""The same text cut by several tokenizers, side by side: where each cuts, what it costs, and where they cut alike.

    bytes per token  = UTF-8 bytes of the text / tokens
    fertility        = tokens / words        what stands between white space
    relative cost    = tokens / tokens of the first tokenizer
    shared cuts      = |cuts ∩ cuts of the first| / |cuts ∪ cuts of the first|        places inside the text, in bytes

A tokenizer that rewrites what it reads (lower case, unknown tokens) does not give the text back: the result records that, and its cuts are not compared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TypeAlias

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.core.text.round_trip import RoundTrip, round_trip, unbounded
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE
from tokenry.tokenization.vocabulary_use import VocabularyUse, vocabulary_use

CuttingTokenizer: TypeAlias = Tokenizer | PreTrainedTokenizerBase | BoundlessBPE


@dataclass(frozen=True)
class TextPiece:
    """One token of a text.

    Attributes:
        id: id of the token.
        data: bytes of the token; those of its name where it stands for no text (an unknown or special token).
        stands_for_text: whether the bytes are text.
    """

    id: int
    data: bytes
    stands_for_text: bool = True

    @property
    def text(self) -> str:
        """The bytes as text; a byte that is only a part of a character is written `⟨C3⟩`."""
        return "".join(
            f"⟨{ord(character) - 0xDC00:02X}⟩" if "\udc80" <= character <= "\udcff" else character
            for character in self.data.decode("utf-8", errors="surrogateescape")
        )


@dataclass(frozen=True)
class TextSegmentation:
    """A text as one tokenizer cuts it.

    Attributes:
        pieces: the tokens, in the order of the text.
        size: number of UTF-8 bytes of the text.
        characters: number of code points of the text.
        words: number of words of the text, separated by white space.
        use: use of the tokenizer's vocabulary.
        text_back: whether the tokenizer gives the text back.
        relative_cost: number of tokens over that of the first tokenizer.
        shared_cuts: share of the cuts that the first tokenizer makes too, in [0, 1]; None where the pieces of one of the two are not the text, byte for byte.
        vocabulary: number of tokens of the tokenizer.
    """

    tokenizer: str
    pieces: tuple[TextPiece, ...]
    size: int
    characters: int
    words: int
    use: VocabularyUse
    text_back: RoundTrip
    relative_cost: float = 1.0
    shared_cuts: float | None = 1.0
    vocabulary: int = 0

    @property
    def is_lossless(self) -> bool:
        """Whether the tokenizer gives the text back."""
        return self.text_back.gives_back

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes over tokens."""
        return self.size / max(1, len(self.pieces))

    @property
    def fertility(self) -> float:
        """Tokens over words; meaningless for scripts without spaces."""
        return len(self.pieces) / max(1, self.words)


class TokenCutter:
    """A tokenizer of any kind (fast, of the tokenizers library, or BoundlessBPE) that cuts texts into pieces of bytes."""

    def __init__(self, tokenizer: CuttingTokenizer) -> None:
        self._encode: Callable[[str], list[int]]
        self._name: Callable[[int], str | None]
        if isinstance(tokenizer, BoundlessBPE):
            self._vocabulary, self._encode = tokenizer.vocabulary, tokenizer.encode
            self._name = lambda number: tokenizer.special_tokens[number]
        else:
            backend = unbounded(backend_tokenizer(tokenizer))
            self._vocabulary, self._name = ByteVocabulary.from_tokenizer(backend), backend.id_to_token
            self._encode = lambda text: backend.encode(text, add_special_tokens=False).ids
        self._tokenizer = tokenizer
        self._cut_out = frozenset(added.id for added in self._vocabulary.cut)

    @property
    def vocabulary_size(self) -> int:
        """Ids that the tokenizer knows, special ones included."""
        return len(self._vocabulary.token_bytes)

    def text_back(self, text: str) -> RoundTrip:
        """Whether the tokenizer gives this text back."""
        found = round_trip(self._tokenizer, [text])
        assert found is not None
        return found

    def cut(self, text: str) -> tuple[TextPiece, ...]:
        """Cut a text; the space that a tokenizer puts before it, or behind an added token in it, is not part of the pieces."""
        try:
            pieces = [self._piece(number) for number in self._encode(text)]
        except UserError:
            raise
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise UserError(
                f"the tokenizer cannot encode the text ({error}): give it an unknown token, or another text."
            ) from error
        return tuple(_without_put_spaces(pieces, text.encode(), self._cut_out))

    def _piece(self, number: int) -> TextPiece:
        data = self._vocabulary.token_bytes[number]
        return (
            TextPiece(number, (self._name(number) or "").encode(), False)
            if data is None
            else TextPiece(number, data)
        )


def compare_segmentations(
    tokenizers: Mapping[str, CuttingTokenizer], texts: Mapping[str, str]
) -> dict[str, list[TextSegmentation]]:
    """Cut each text with each tokenizer.

    Args:
        tokenizers: tokenizers by name; all others are compared with the first.
        texts: texts by name, such as a language.

    Returns:
        For each text one segmentation per tokenizer, in their order.
    """
    if not tokenizers:
        raise UserError("there is no tokenizer to compare: name at least one.")
    empty = [name for name, text in texts.items() if not text]
    if empty or not texts:
        raise UserError(f"the text {', '.join(empty) or 'to cut'} is empty: give one that holds something.")
    cutters = {name: TokenCutter(tokenizer) for name, tokenizer in tokenizers.items()}
    return {title: _side_by_side(text, cutters) for title, text in texts.items()}


def _side_by_side(text: str, cutters: Mapping[str, TokenCutter]) -> list[TextSegmentation]:
    data = text.encode()
    cut = {name: cutter.cut(text) for name, cutter in cutters.items()}
    first = next(iter(cut.values()))
    return [
        TextSegmentation(
            name,
            tuple(pieces),
            len(data),
            len(text),
            len(text.split()),
            vocabulary_use(np.array([piece.id for piece in pieces]), cutters[name].vocabulary_size),
            cutters[name].text_back(text),
            len(pieces) / max(1, len(first)),
            _shared(first, pieces) if _is_text(first, data) and _is_text(pieces, data) else None,
            cutters[name].vocabulary_size,
        )
        for name, pieces in cut.items()
    ]


def _without_put_spaces(
    pieces: Sequence[TextPiece], text: bytes, cut_out: frozenset[int]
) -> Iterator[TextPiece]:
    """Leave out the spaces that the tokenizer puts before a text and behind its added tokens.

    An added token that occurs in the text stands for text.
    """
    place, begins = 0, True
    for is_cut_out, group in groupby(pieces, key=lambda piece: piece.id in cut_out):
        section = list(group)
        joined = b"".join(piece.data for piece in section)
        there = text.startswith(joined, place)
        # Of a text that is rewritten only the beginning is known.
        put = text.startswith(joined[1:], place) or not text.startswith(b" ", place)
        if is_cut_out and there:
            section = [replace(piece, stands_for_text=True) for piece in section]
        elif begins and not there and joined.startswith(b" ") and put:
            section[0] = replace(section[0], data=section[0].data[1:])
        begins = is_cut_out and there
        place += sum(len(piece.data) for piece in section)
        yield from (piece for piece in section if piece.data or piece is not section[0])


def _is_text(pieces: Sequence[TextPiece], data: bytes) -> bool:
    return all(piece.stands_for_text for piece in pieces) and b"".join(piece.data for piece in pieces) == data


def _shared(first: Sequence[TextPiece], other: Sequence[TextPiece]) -> float:
    ours, theirs = (set(accumulate(len(piece.data) for piece in pieces[:-1])) for pieces in (first, other))
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0
