"""The ids that a tokenizer writes: no text has trained the rows of the others, and no text needs them.

An id is never written where
    it has no token                              a gap in the vocabulary, a padding row of the model
    another id is written for its bytes          `<0x61>` beside `a`; `ĠĠ` beside an added token of two spaces, which is cut out first
    the model spells its token otherwise         a token that no merge makes
    normaliser and pieces never leave it whole   upper case where text is lowered, `[unused1]` where brackets are pieces

Special tokens count as written: templates and post-processors insert them. So does the one token of a byte that occurs in no UTF-8: it
is written for bytes that are not text. `core.text.byte_pairs.written_ids` answers for byte-pair models; this file answers for the others.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.text.byte_level import (
    ByteVocabulary,
    backend_tokenizer,
    to_byte_characters,
    tokenizer_state,
)
from tokenry.core.text.byte_pairs import written_ids
from tokenry.core.text.round_trip import unbounded

_META = "▁"
_TEXTS_AT_ONCE = 4096
_NO_UTF8 = frozenset(bytes([byte]) for byte in (0xC0, 0xC1, *range(0xF5, 0x100)))
# Neighbours of a token: where it stays whole beside one of these, it can be written.
_AROUND = (
    ("", ""),
    ("a", ""),
    ("", "a"),
    ("a", "a"),
    (" ", ""),
    (".", ""),
    ("\n", ""),
    ("1", ""),
    ("", " a"),
    ("A", ""),
)


@dataclass(frozen=True)
class WrittenVocabulary:
    """A vocabulary, and which of its ids no text produces.

    Attributes:
        view: the whole vocabulary.
        names: how each token is written in it.
        never: ids from 0 to the largest that are never written; those without a token among them.
    """

    view: ByteVocabulary
    names: dict[int, str]
    never: frozenset[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase | Tokenizer, pieces: bool = True) -> "WrittenVocabulary":
        """Read a fast tokenizer.

        Args:
            tokenizer: a tokenizer of transformers, or a `tokenizers.Tokenizer`.
            pieces: whether normaliser and pre-tokenizer are asked too, or the model alone.
        """
        backend = backend_tokenizer(tokenizer)
        view = ByteVocabulary.from_tokenizer(backend)
        names = {number: name for name, number in backend.get_vocab(with_added_tokens=True).items()}
        absent = frozenset(range(len(view.token_bytes))).difference(names)
        doubled = frozenset(
            number for number, data in enumerate(view.token_bytes) if data and view.ids[data] != number
        )
        if pieces and type(backend.model).__name__ == "BPE":
            unwritten = (~written_ids(backend)).nonzero()[0].tolist()
            no_text = {n for n in unwritten if view.token_bytes[n] in _NO_UTF8 and n not in doubled}
            return cls(view, names, absent.union(unwritten) - view.special - no_text)
        aside = doubled | view.fallback | view.cut_ids | view.special
        plain = [number for number, data in enumerate(view.token_bytes) if data and number not in aside]
        doubtful = list(_not_its_own_text(backend, view, plain)) if pieces else plain
        unspelled = frozenset(_unspelled(backend, names, doubtful))
        rest = (number for number in doubtful if number not in unspelled) if pieces else ()
        return cls(view, names, absent | doubled | unspelled | frozenset(_cut_up(backend, view, rest)))

    @property
    def written(self) -> ByteVocabulary:
        """The vocabulary without the ids that are never written: they have no bytes in it."""
        kept = (None if number in self.never else data for number, data in enumerate(self.view.token_bytes))
        return replace(self.view, token_bytes=tuple(kept))


def _not_its_own_text(backend: Tokenizer, view: ByteVocabulary, ids: Sequence[int]) -> Iterator[int]:
    """Ids that the text of their own token alone is not cut into; all others are therefore written."""
    texts = [(view.token_bytes[number] or b"").decode(errors="replace") for number in ids]
    backend = unbounded(backend)
    for start in range(0, len(ids), _TEXTS_AT_ONCE):
        part = slice(start, start + _TEXTS_AT_ONCE)
        try:
            encoded = backend.encode_batch_fast(texts[part], add_special_tokens=False)
        except Exception:  # the tokenizers library raises bare exceptions
            yield from ids[part]
            continue
        yield from (
            number for number, encoding in zip(ids[part], encoded, strict=True) if number not in encoding.ids
        )


def _unspelled(backend: Tokenizer, names: dict[int, str], ids: Iterable[int]) -> Iterator[int]:
    """Ids whose own spelling the model writes with others."""
    model = tokenizer_state(backend)["model"]
    # Words that are marked at their edges are spelled with the mark by the model itself.
    marked = any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"))
    if model["type"] not in ("BPE", "Unigram") or marked:
        return
    tokenize = backend.model.tokenize
    for number in ids:
        try:
            spelled = [token.id for token in tokenize(names[number])]
        except Exception:  # the tokenizers library raises bare exceptions
            continue
        if spelled != [number]:
            yield number


def _cut_up(backend: Tokenizer, view: ByteVocabulary, ids: Iterable[int]) -> Iterator[int]:
    """Ids of tokens that are text and that normaliser and pre-tokenizer change or cut wherever they stand."""
    pieces = _pieces(backend)
    for number in ids:
        try:
            text = (view.token_bytes[number] or b"").decode()
        except UnicodeDecodeError:
            continue
        wanted = {text, text.replace(" ", _META), to_byte_characters(text.encode()), text.strip(" ")} - {""}
        if not any(
            any(form in piece for form in wanted)
            for before, after in _AROUND
            for piece in pieces(before + text + after)
        ):
            yield number


def _pieces(backend: Tokenizer) -> Callable[[str], list[str]]:
    """A function that returns the pieces of a text as they reach the model."""
    normalizer, cutter = backend.normalizer, backend.pre_tokenizer

    def pieces(text: str) -> list[str]:
        text = text if normalizer is None else normalizer.normalize_str(text)
        return [text] if cutter is None else [piece for piece, _ in cutter.pre_tokenize_str(text)]

    return pieces
