"""One byte-pair machine: encode any bytes, valid UTF-8 or not, and say which neighbours a tokenizer ever writes.

Encoding: while a merge applies, apply the one of lowest rank, leftmost first.
Two tokens are a valid pair if encoding their bytes gives them back; a sequence is valid if and only if all its neighbours are.

Source: pairwise validity after ByteSampler (arXiv 2506.14123).
"""

import heapq
import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.core.errors import UserError


class BytePairEncoder:
    """Merges by rank over the bytes of one piece; it knows no pre-tokenizer.

    Args:
        token_bytes: bytes of each id; None where an id is no text.
        merges: pairs of ids in the order of their rank; the merged token is the one with both parts' bytes.
        whole_first: take a piece that is a token as it is, before any merge (`ignore_merges` of some tokenizers).
        fallback: byte tokens that are written only where nothing else fits; where there are any, merging starts from characters
            and not from bytes (SentencePiece).

    Raises:
        UserError: a merge makes bytes that are no token.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        merges: Sequence[tuple[int, int]],
        whole_first: bool = False,
        fallback: frozenset[int] = frozenset(),
    ) -> None:
        self.token_bytes = tuple(token_bytes)
        view = ByteVocabulary(self.token_bytes, frozenset(), fallback)
        self._ids, self._fallback = view.ids, {self.token_bytes[number]: number for number in fallback}
        self._whole_first = whole_first
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(merges):
            self._merges.setdefault((left, right), (rank, self._merged(left, right)))
        self._valid: dict[tuple[int, int], bool] = {}

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> "BytePairEncoder":
        """Read the merges of a BPE tokenizer.

        Raises:
            UserError: the tokenizer is no BPE.
        """
        model: dict[str, Any] = json.loads(backend_tokenizer(tokenizer).to_str())["model"]
        if model["type"] != "BPE":
            raise UserError(
                f"the tokenizer is a {model['type']} model and has no merges: give a BPE tokenizer."
            )
        vocabulary = model["vocab"]
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        merges = [(vocabulary[left], vocabulary[right]) for left, right in pairs]
        view = ByteVocabulary.from_tokenizer(tokenizer)
        return cls(view.token_bytes, merges, bool(model.get("ignore_merges")), view.fallback)

    def encode(self, piece: bytes) -> list[int]:
        """Cut one piece into token ids.

        Raises:
            UserError: a byte is no token.
        """
        if self._whole_first and piece in self._ids:
            return [self._ids[piece]]
        ids = [number for unit in self._units(piece) for number in self._start(unit)]
        after, before = [*range(1, len(ids)), -1], [-1, *range(len(ids) - 1)]
        waiting: list[tuple[int, int, int, int]] = []

        def wait(left: int, right: int) -> None:
            merge = self._merges.get((ids[left], ids[right]))
            if merge is not None:
                heapq.heappush(waiting, (merge[0], left, ids[left], ids[right]))

        for left in range(len(ids) - 1):
            wait(left, left + 1)
        gone = -1
        while waiting:
            _, left, left_id, right_id = heapq.heappop(waiting)
            right = after[left]
            if ids[left] != left_id or right < 0 or ids[right] != right_id:
                continue
            ids[left], ids[right] = self._merges[left_id, right_id][1], gone
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
                wait(left, after[left])
            if before[left] >= 0:
                wait(before[left], left)
        return [number for number in ids if number != gone]

    def pair_valid(self, left: int, right: int) -> bool:
        """Tell whether the encoder ever writes these two tokens side by side."""
        pair = left, right
        if pair not in self._valid:
            data = [self.token_bytes[number] for number in pair]
            self._valid[pair] = None not in data and self.encode(b"".join(filter(None, data))) == [
                left,
                right,
            ]
        return self._valid[pair]

    def _units(self, piece: bytes) -> list[bytes]:
        if not self._fallback:
            return [bytes([byte]) for byte in piece]
        return [
            character.encode(errors="surrogateescape") for character in piece.decode(errors="surrogateescape")
        ]

    def _start(self, unit: bytes) -> list[int]:
        if unit in self._ids:
            return [self._ids[unit]]
        try:
            return [self._fallback[bytes([byte])] for byte in unit]
        except KeyError as error:
            raise UserError(
                f"no token stands for the byte 0x{error.args[0].hex().upper()}, so this text cannot be encoded: give a tokenizer that "
                "covers all bytes."
            ) from error

    def _merged(self, left: int, right: int) -> int:
        data = (self.token_bytes[left] or b"") + (self.token_bytes[right] or b"")
        if data not in self._ids:
            raise UserError(
                f"the merge of {left} and {right} makes {data!r}, which is no token: the merges do not fit."
            )
        return self._ids[data]
