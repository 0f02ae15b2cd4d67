"""A fastText classifier as numpy reads and applies it: the `.bin` file alone, without the fasttext package.

    tokens   text cut at ASCII white space, and </s>
    rows     row of each known word, and words + (h mod bucket) of each word n-gram
             h = (… (hash_1 · 116049371 + hash_2) · 116049371 + …) mod 2^64        hash: 32-bit FNV-1a, bytes and result signed
    p        softmax(W_out · mean of the rows of W_in) + 1e-5, as `fasttext.predict` returns it

Only W_in · W_outᵀ is kept, one number per row and label: a row of W_in is met nowhere else. So a text costs one number per token instead
of a vector, and the matrix of hundreds of megabytes is read through once and not held.

Source: Joulin et al., Bag of Tricks for Efficient Text Classification (arXiv 1607.01759), and the format of fastText 0.9.2.
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import softmax

from tokenry.core.errors import UserError

END = b"</s>"
LABEL = "__label__"
MAGIC = struct.pack("<i", 793712314)
ADDED = 1e-5
"""What fastText adds to every probability."""

_VERSION = 12
_ARGUMENTS = "<12id"
_DICTIONARY, _ENTRY, _PRUNED = "<3i2q", "<qb", "<2i"
_SUPERVISED, _SOFTMAX = 3, 3
_MULTIPLIER = np.uint64(116049371)
_OFFSET, _PRIME, _MODULUS = 2166136261, 16777619, 1 << 32
_LONG = 32
_REMEMBERED = 500_000
_ROWS_AT_ONCE = 1 << 14
_FLOAT = np.dtype("<f4")


def words_of(text: str) -> list[bytes]:
    """The words of a text as fastText cuts it: at ASCII white space, without labels, up to a `</s>` in the text."""
    words = text.encode(errors="surrogatepass").replace(b"\0", b" ").split()
    if END in words:
        words = words[: words.index(END)]
    if LABEL in text:
        words = [word for word in words if not word.startswith(LABEL.encode())]
    return words


def fnv_hashes(words: Sequence[bytes]) -> Int[ndarray, "words"]:
    """Hash words as fastText does: FNV-1a of 32 bits in which bytes are signed; the hash is signed too."""
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    hashes = np.full(len(words), _OFFSET, dtype=np.uint32)
    joined = np.frombuffer(b"".join(words), dtype=np.int8).astype(np.uint32)
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(-lengths, kind="stable")
    longer = len(words)
    for place in range(int(min(lengths.max(initial=0), _LONG))):
        longer = int(np.searchsorted(-lengths[order[:longer]], -place, side="left"))
        among = order[:longer]
        hashes[among] = (hashes[among] ^ joined[starts[among] + place]) * np.uint32(_PRIME)
    for number in np.flatnonzero(lengths > _LONG).tolist():
        hashes[number] = _continued(int(hashes[number]), words[number][_LONG:])
    return hashes.view(np.int32).astype(np.int64)


def _continued(value: int, word: bytes) -> int:
    """The rest of a long word, byte by byte: a pass over all words would serve few of them."""
    for byte in word:
        value = ((value ^ (byte if byte < 128 else byte + 0xFFFFFF00)) * _PRIME) % _MODULUS
    return value


@dataclass
class FastTextModel:
    """A linear classifier of words and word n-grams.

    Attributes:
        words: known words in the order of their rows; `</s>` among them.
        labels: labels in the order of the outputs, with their prefix.
        projected: W_in · W_outᵀ: what each row, known words first and buckets of n-grams after, adds to the logit of each label.
        bucket: number of buckets of n-grams.
        word_ngrams: longest n-gram.
    """

    words: Sequence[str]
    labels: Sequence[str]
    projected: Float[ndarray, "rows labels"]
    bucket: int
    word_ngrams: int = 1
    _known: dict[bytes, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        encoded = [word.encode(errors="surrogateescape") for word in self.words]
        self._known = dict(zip(encoded, _packed(np.arange(len(encoded)), fnv_hashes(encoded)), strict=True))
        self._with_unknown = dict(self._known)

    @classmethod
    def of_matrices(
        cls,
        words: Sequence[str],
        labels: Sequence[str],
        input_matrix: Float[ndarray, "rows dim"],
        output_matrix: Float[ndarray, "labels dim"],
        bucket: int,
        word_ngrams: int = 1,
    ) -> "FastTextModel":
        """Make a model of its two matrices."""
        return cls(words, labels, input_matrix @ output_matrix.T, bucket, word_ngrams)

    @classmethod
    def read(cls, path: Path) -> "FastTextModel":
        """Read a `.bin` file.

        Raises:
            UserError: no fastText model, a damaged or a quantised one, or one of another kind than a classifier of words with softmax.
        """
        try:
            with Path(path).open("rb") as opened:
                return _read(cls, opened, path)
        except (struct.error, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} is a damaged fastText model: it is cut off.") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read as a fastText model ({error.strerror}).") from error

    def probabilities(self, texts: Sequence[str]) -> Float[ndarray, "texts labels"]:
        """The probability of every label, plus 1e-5, as `fasttext.predict` returns them; line breaks count as spaces."""
        tokens = [[*words_of(text), END] for text in texts]
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        flat = [token for of_text in tokens for token in of_text]
        packed = self._packed_rows(flat)
        rows, hashes = packed >> 32, packed.astype(np.int32).astype(np.int64).view(np.uint64)
        text = np.repeat(np.arange(len(texts)), lengths)
        totals, counts = self._sums(rows[rows >= 0], text[rows >= 0], len(texts))
        running = hashes
        for n in range(2, self.word_ngrams + 1):
            running = running[:-1] * _MULTIPLIER + hashes[n - 1 :]
            inside = text[: len(running)] == text[n - 1 :]
            buckets = (running[inside] % np.uint64(self.bucket)).astype(np.int64) + len(self.words)
            more, number = self._sums(buckets, text[: len(running)][inside], len(texts))
            totals, counts = totals + more, counts + number
        return softmax(totals / np.maximum(counts, 1)[:, None], axis=1) + ADDED

    def word_weights(self, label: str) -> Float[ndarray, "words"]:
        """What each known word adds to the logit of a label, beside the mean of the other labels."""
        place, of_words = list(self.labels).index(label), self.projected[: len(self.words)]
        weights: Float[ndarray, "words"] = of_words[:, place] - np.delete(of_words, place, axis=1).mean(1)
        return weights

    def _packed_rows(self, tokens: Sequence[bytes]) -> Int[ndarray, "tokens"]:
        """Row (-1 for an unknown word) and hash of every token in one number; unknown words are remembered, up to a bound."""
        if len(self._with_unknown) > len(self._known) + _REMEMBERED:
            self._with_unknown = dict(self._known)
        if unknown := list(set(tokens).difference(self._with_unknown)):
            without_row = _packed(np.full(len(unknown), -1), fnv_hashes(unknown))
            self._with_unknown.update(zip(unknown, without_row, strict=True))
        return np.fromiter(map(self._with_unknown.__getitem__, tokens), np.int64, len(tokens))

    def _sums(
        self, rows: Int[ndarray, "tokens"], text: Int[ndarray, "tokens"], texts: int
    ) -> tuple[Float[ndarray, "texts labels"], Int[ndarray, "texts"]]:
        """What the rows of each text add to the logits, and their number."""
        columns = [
            np.bincount(text, self.projected[rows, label], minlength=texts)
            for label in range(len(self.labels))
        ]
        return np.stack(columns, axis=1).astype(float), np.bincount(text, minlength=texts)


def _packed(rows: Int[ndarray, "words"], hashes: Int[ndarray, "words"]) -> list[int]:
    packed: list[int] = ((rows << 32) | (hashes & 0xFFFFFFFF)).tolist()
    return packed


def _read(cls: type[FastTextModel], opened: BinaryIO, path: Path) -> FastTextModel:
    if opened.read(len(MAGIC)) != MAGIC:
        raise UserError(f"{path} is no fastText model: name a .bin file that fastText's save_model wrote.")
    (version,) = _unpack(opened, "<i")
    if version != _VERSION:
        raise UserError(
            f"{path} is a fastText model of version {version}, and {_VERSION} is read: save it by fastText 0.9."
        )
    dim, _, _, _, _, word_ngrams, loss, kind, bucket, _, longest_piece, *_ = _unpack(opened, _ARGUMENTS)
    if (kind, loss) != (_SUPERVISED, _SOFTMAX):
        raise UserError(
            f"{path} is no fastText classifier with softmax: train one by train_supervised with its default loss."
        )
    if longest_piece > 0:
        raise UserError(
            f"{path} reads pieces of words (maxn={longest_piece}), which is not supported: train it with maxn=0, the default."
        )
    words, labels = _dictionary(opened)
    input_at = _matrix_at(opened, path, dim)
    opened.seek(input_at.stop)
    output_at = _matrix_at(opened, path, dim)
    output = np.concatenate(list(_blocks(opened, output_at, dim)))
    projected = np.concatenate([block @ output.T for block in _blocks(opened, input_at, dim)])
    return cls(words, labels, projected, bucket, word_ngrams)


def _unpack(opened: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, opened.read(struct.calcsize(form)))


def _dictionary(opened: BinaryIO) -> tuple[list[str], list[str]]:
    """The words and the labels, which come after all words."""
    size, number_of_words, _, _, pruned = _unpack(opened, _DICTIONARY)
    entries, place = [], opened.tell()
    with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(size):
            end = content.find(b"\0", place)
            if end < 0:
                raise ValueError("the dictionary ends early")
            entries.append(content[place:end].decode(errors="surrogateescape"))
            place = end + 1 + struct.calcsize(_ENTRY)
    opened.seek(place + struct.calcsize(_PRUNED) * max(0, pruned))
    return entries[:number_of_words], entries[number_of_words:]


def _matrix_at(opened: BinaryIO, path: Path, dim: int) -> range:
    """Where the numbers of the next matrix stand in the file."""
    (quantised,) = _unpack(opened, "<?")
    if quantised:
        raise UserError(
            f"{path} is a quantised fastText model (.ftz): name the .bin file that it was made from."
        )
    rows, _ = _unpack(opened, "<2q")
    return range(opened.tell(), opened.tell() + rows * dim * _FLOAT.itemsize)


def _blocks(opened: BinaryIO, place: range, dim: int) -> Iterator[Float[ndarray, "rows dim"]]:
    """The rows of a matrix, some at a time."""
    opened.seek(place.start)
    left = len(place) // _FLOAT.itemsize
    while left:
        block = np.frombuffer(opened.read(_FLOAT.itemsize * min(left, _ROWS_AT_ONCE * dim)), _FLOAT)
        if not len(block):
            raise ValueError("the matrix ends early")
        yield block.reshape(-1, dim)
        left -= len(block)
