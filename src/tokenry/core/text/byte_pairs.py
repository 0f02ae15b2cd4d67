"""One byte-pair machine: encode any bytes, valid UTF-8 or not, and say which neighbours a tokenizer ever writes.

Encoding: while a merge applies, apply the one of lowest rank, leftmost first.
Two tokens are a valid pair if encoding their bytes gives them back; a sequence is valid if and only if all its neighbours are.

For all right neighbours of a token at once: each token is built by its own merges, and a part of its edge lasts from the merge that makes
it to the merge that uses it up. Two neighbours stay apart unless a merge joins their edges while both last.

Source: pairwise validity after ByteSampler (arXiv 2506.14123).
"""

import codecs
import heapq
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise, product, starmap
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer, tokenizer_state


class BytePairEncoder:
    """Merges by rank over the bytes of one piece; it knows no pre-tokenizer.

    Args:
        token_bytes: bytes of each id; None where an id is no text.
        merges: pairs of ids in the order of their rank; the merged token is the one with both parts' bytes.
        whole_first: take a piece that is a token as it is, before any merge (`ignore_merges` of some tokenizers).
        fallback: byte tokens that are written only where nothing else fits; where there are any, merging starts from characters
            and not from bytes (SentencePiece).
        merged: the token that each merge makes, where several tokens may have the same bytes.
        doubles: ids that are written for no bytes, since another one has them too.

    Raises:
        UserError: a merge makes bytes that are no token.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        merges: Sequence[tuple[int, int]],
        whole_first: bool = False,
        fallback: frozenset[int] = frozenset(),
        merged: Sequence[int] | None = None,
        doubles: frozenset[int] = frozenset(),
    ) -> None:
        self.token_bytes = tuple(token_bytes)
        view = ByteVocabulary(self.token_bytes, frozenset(), fallback, doubles=doubles)
        self._ids, self._fallback = view.ids, {self.token_bytes[number]: number for number in fallback}
        self.whole_first = whole_first
        made = starmap(self._merged, merges) if merged is None else merged
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (pair, number) in enumerate(zip(merges, made, strict=True)):
            self._merges.setdefault(pair, (rank, number))
        self._valid: dict[tuple[int, int], bool] = {}

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> "BytePairEncoder":
        """Read the merges of a BPE tokenizer.

        Raises:
            UserError: the tokenizer is no BPE.
        """
        state = tokenizer_state(backend_tokenizer(tokenizer))
        return cls.from_state(state, ByteVocabulary.from_tokenizer(tokenizer))

    @classmethod
    def from_state(cls, state: dict[str, Any], view: ByteVocabulary) -> "BytePairEncoder":
        """Read the merges of a BPE tokenizer from what its file holds, and the bytes of its tokens.

        Raises:
            UserError: the tokenizer is no BPE.
        """
        model = state["model"]
        if model["type"] != "BPE":
            raise UserError(
                f"the tokenizer is a {model['type']} model and has no merges: give a BPE tokenizer."
            )
        vocabulary, within = model["vocab"], len(model.get("continuing_subword_prefix") or "")
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        # A token that is cut out of the text is no part of a merge, unless it is a token of the model too.
        token_bytes = list(view.token_bytes)
        for number in view.cut_ids.difference(vocabulary.values()):
            token_bytes[number] = None
        return cls(
            token_bytes,
            [(vocabulary[left], vocabulary[right]) for left, right in pairs],
            bool(model.get("ignore_merges")),
            view.fallback,
            [vocabulary[left + right[within:]] for left, right in pairs],
            view.doubles,
        )

    def encode(self, piece: bytes) -> list[int]:
        """Cut one piece into token ids.

        Raises:
            UserError: a byte is no token.
        """
        if self.whole_first and piece in self._ids:
            return [self._ids[piece]]
        return self.merge(piece)

    def merge(self, piece: bytes) -> list[int]:
        """Cut one piece by merges alone, even where it is a token (`whole_first`)."""
        merges, ids = self._merges, self._start(piece)
        after, before = [*range(1, len(ids)), -1], [-1, *range(len(ids) - 1)]
        waiting = [
            (merges[pair][0], left, *pair) for left, pair in enumerate(pairwise(ids)) if pair in merges
        ]
        heapq.heapify(waiting)
        gone = -1
        while waiting:
            _, left, left_id, right_id = heapq.heappop(waiting)
            right = after[left]
            if ids[left] != left_id or right < 0 or ids[right] != right_id:
                continue
            ids[left], ids[right] = merges[left_id, right_id][1], gone
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            for first, second in ((left, after[left]), (before[left], left)):
                if first >= 0 and second >= 0 and (pair := (ids[first], ids[second])) in merges:
                    heapq.heappush(waiting, (merges[pair][0], first, *pair))
        return [number for number in ids if number != gone]

    def pair_valid(self, left: int, right: int) -> bool:
        """Whether the encoder ever writes these two tokens side by side."""
        pair = left, right
        if pair not in self._valid:
            piece = b"".join(self.token_bytes[number] or b"" for number in pair)
            taken_whole = self.whole_first and piece in self._ids
            self._valid[pair] = not taken_whole and self.makes(piece, [left, right])
        return self._valid[pair]

    def makes(self, piece: bytes, ids: list[int]) -> bool:
        """Whether merges alone cut a piece into these tokens."""
        try:
            return self.merge(piece) == ids
        except UserError:
            # It holds a byte that no token stands for.
            return False

    @property
    def reachable(self) -> Bool[np.ndarray, "ids"]:
        """The ids that merges make of their own bytes: only they have neighbours."""
        return self._edges.reachable

    def valid_after(self, left: int) -> Bool[np.ndarray, "ids"]:
        """Whether each id is a valid right neighbour of `left`, by merges alone.

        What else decides is left aside: `whole_first`, and that byte tokens are written only for characters without a token.
        """
        return self._edges.valid_after(left)

    @cached_property
    def _edges(self) -> "_Edges":
        return _Edges(self)

    def _units(self, piece: bytes) -> list[bytes]:
        if not self._fallback:
            return [bytes([byte]) for byte in piece]
        return [
            character.encode(errors="surrogateescape") for character in piece.decode(errors="surrogateescape")
        ]

    def _start(self, piece: bytes) -> list[int]:
        """The ids of the units of a piece, before any merge."""
        known, ids = self._ids, list[int]()
        try:
            for unit in self._units(piece):
                if unit in known:
                    ids.append(known[unit])
                else:
                    ids += [self._fallback[bytes([byte])] for byte in unit]
        except KeyError as error:
            raise UserError(
                f"no token stands for the byte 0x{error.args[0].hex().upper()}, so this text cannot be encoded: give a tokenizer that "
                "covers all bytes."
            ) from error
        return ids

    def _merged(self, left: int, right: int) -> int:
        data = (self.token_bytes[left] or b"") + (self.token_bytes[right] or b"")
        if data not in self._ids:
            raise UserError(
                f"the merge of {left} and {right} makes {data!r}, which is no token: the merges do not fit."
            )
        return self._ids[data]


_NEVER = np.iinfo(np.int64).max


class _Edges:
    """The edges of all tokens, and the merges that join them.

    Attributes:
        made: how each token of more than one unit is made: left part, right part, rank. Parts are always made before.
        reachable: the ids that merges make of their own bytes.
        irregular: those of them that are made by merges whose parts come later than they do (no trained tokenizer has such merges);
            what they could touch is looked at one by one.
    """

    def __init__(self, encoder: BytePairEncoder) -> None:
        self._encoder = encoder
        self.made: dict[int, tuple[int, int, int]] = {}
        units = {
            number for number, data in enumerate(encoder.token_bytes) if data and self._is_unit(number, data)
        }
        self._merges_of: dict[int, dict[int, int]] = {}
        self._late: dict[int, set[int]] = {}
        # The parts at each edge, from the whole to the first unit, with the rank of the merge that uses each up.
        self._left_edges: dict[int, tuple[tuple[int, int], ...]] = {
            number: ((number, _NEVER),) for number in units
        }
        self._right_edges = dict(self._left_edges)
        for (left, right), (rank, merged) in encoder._merges.items():
            if left not in self._left_edges or right not in self._left_edges:
                self._late.setdefault(left, set()).add(right)
                continue
            self._merges_of.setdefault(left, {})[right] = rank
            if merged not in self._left_edges and not self._joined_before(left, right, rank):
                self.made[merged] = (left, right, rank)
                self._left_edges[merged] = ((merged, _NEVER), (left, rank), *self._left_edges[left][1:])
                self._right_edges[merged] = ((merged, _NEVER), (right, rank), *self._right_edges[right][1:])
        regular = units | self.made.keys()
        self.irregular = [
            number
            for number, data in enumerate(encoder.token_bytes)
            if data and number not in regular and encoder.makes(data, [number])
        ]
        self.reachable = np.zeros(len(encoder.token_bytes), dtype=bool)
        self.reachable[[*regular, *self.irregular]] = True
        rows = [(part, number, end) for number in sorted(regular) for part, end in self._left_edges[number]]
        # The rows of one part are one range.
        rows.sort(key=lambda row: row[0])
        self._parts, self._owners, self._ends = np.array(rows, dtype=np.int64).reshape(-1, 3).T.copy()

    def valid_after(self, left: int) -> Bool[np.ndarray, "ids"]:
        valid = self.reachable.copy()
        if not valid[left] or left in self.irregular:
            return self._one_by_one(left, np.flatnonzero(valid & valid[left]).tolist(), np.zeros_like(valid))
        for part, end in self._right_edges[left]:
            merges = self._merges_of.get(part)
            late = [
                number for late_part in self._late.get(part, ()) for number in self._beginning_with(late_part)
            ]
            valid = self._one_by_one(left, late, valid)
            if merges:
                rights, ranks = (
                    np.fromiter(values, np.int64, len(merges)) for values in (merges.keys(), merges.values())
                )
                valid[self._joined(rights[ranks < end], ranks[ranks < end])] = False
        return self._one_by_one(left, self.irregular, valid)

    def _is_unit(self, number: int, data: bytes) -> bool:
        encoder = self._encoder
        return len(encoder._units(data)) == 1 and encoder._start(data) == [number]

    def _joined_before(self, left: int, right: int, rank: int) -> bool:
        """Whether a merge of lower rank joins the edges of two tokens, or a late one might."""
        left_edge = self._left_edges[right]
        for part, end in self._right_edges[left]:
            merges, late = self._merges_of.get(part), self._late.get(part)
            if late and any(other in late for other, _ in left_edge):
                return True
            if not merges:
                continue
            limit = min(rank, end)
            for other, other_end in left_edge:
                found = merges.get(other, _NEVER)
                # Of two equal merges the left one comes first: inside the left token before the border, at the border before the right.
                if found < limit and found <= other_end:
                    return True
        return False

    def _joined(
        self, parts: Int[np.ndarray, "merges"], ranks: Int[np.ndarray, "merges"]
    ) -> Int[np.ndarray, "joined"]:
        """Tokens at whose left edge one of `parts` still is when its merge, of the rank beside it, comes."""
        first, last = (np.searchsorted(self._parts, parts, side) for side in ("left", "right"))
        counts = last - first
        rows = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        return self._owners[rows[np.repeat(ranks, counts) <= self._ends[rows]]]

    def _beginning_with(self, part: int) -> list[int]:
        """Tokens at whose left edge a part is at some time."""
        first, last = (int(np.searchsorted(self._parts, part, side)) for side in ("left", "right"))
        return self._owners[first:last].tolist()

    def _one_by_one(
        self, left: int, rights: Sequence[int], valid: Bool[np.ndarray, "ids"]
    ) -> Bool[np.ndarray, "ids"]:
        data = self._encoder.token_bytes
        for right in rights:
            valid[right] = self._encoder.makes((data[left] or b"") + (data[right] or b""), [left, right])
        return valid


# What may stand beside a token, so that the pre-tokenizer keeps it together.
_BESIDE = ("", "x", " ", "1", "\n", ".", "中", " x")


def written_ids(tokenizer: PreTrainedTokenizerBase | Tokenizer) -> Bool[np.ndarray, "ids"]:
    """Whether `encode` writes each id for some text.

    Never written are special tokens, ids without a token, byte tokens of characters that have tokens (`<0x61>` beside `a`), of several
    tokens with the same bytes all but one, and tokens of a byte-pair model that its merges, pre-tokenizer or normaliser never let come
    about. Of a model of another kind all other ids count as written.
    """
    backend, view = backend_tokenizer(tokenizer), ByteVocabulary.from_tokenizer(tokenizer)
    written = view.lengths > 0
    written[[*view.doubles, *view.fallback]] = False
    written[[number for number in view.fallback if _is_needed(view, number)]] = True
    if type(backend.model).__name__ != "BPE":
        return written
    encoder = BytePairEncoder.from_state(tokenizer_state(backend), view)
    made = encoder.reachable.copy()
    if encoder.whole_first:
        made |= written
    made[[*view.cut_ids]] = True
    written &= made | np.isin(np.arange(len(made)), [*view.fallback])
    texts = {
        number: text
        for number in np.flatnonzero(written).tolist()
        if (text := _text(view, number)) is not None
    }
    for before, after in sorted(product(_BESIDE, repeat=2), key=lambda both: len(both[0]) + len(both[1])):
        encodings = backend.encode_batch_fast(
            [before + text + after for text in texts.values()], add_special_tokens=False
        )
        pairs = zip(texts.items(), encodings, strict=True)
        texts = {number: text for (number, text), encoding in pairs if number not in encoding.ids}
    written[[*texts]] = False
    written[
        [
            number
            for number in np.flatnonzero(written).tolist()
            if not _is_of_text(view.token_bytes[number] or b"")
        ]
    ] = False
    return written


def _text(view: ByteVocabulary, number: int) -> str | None:
    """The text of a token that is some; None of part of a character, and of byte tokens."""
    try:
        return None if number in view.fallback else (view.token_bytes[number] or b"").decode()
    except UnicodeDecodeError:
        return None


def _is_of_text(data: bytes) -> bool:
    """Whether bytes can stand in valid UTF-8."""
    rest = data.lstrip(bytes(range(0x80, 0xC0)))
    try:
        codecs.getincrementaldecoder("utf-8")().decode(rest)
    except UnicodeDecodeError:
        return False
    return len(data) - len(rest) <= 3


def _is_needed(view: ByteVocabulary, number: int) -> bool:
    """Whether some character with this byte has no token of its own."""
    data = view.token_bytes[number] or b""
    if not _is_of_text(data):
        return False
    if data.isascii():
        return view.ids[data] in view.fallback
    own = {
        token
        for token in view.ids
        if len(token) > 1 and token.startswith(data) and len(token.decode(errors="replace")) == 1
    }
    # The number of characters that begin with this byte; of those that hold it further on there are more than any vocabulary has.
    first = data[0]
    begun = (
        64
        if 0xC2 <= first < 0xE0
        else 2048
        if first in (0xE0, 0xED)
        else 4096
        if 0xE0 <= first < 0xF0
        else 1 << 16
    )
    return first < 0xC0 or len(own) < begun
