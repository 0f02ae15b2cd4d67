"""Whether a tokenizer gives texts back: the one definition, and the one wording in which verbs say that it does not.

    gives a text back    decode(encode(text)) = text, special tokens kept

One space more or less at the beginning of the text is no difference, nor one more behind an added token that is written in it: many
tokenizers put a space there, or take away the first (Llama 2, T5). A tokenizer without a decoder is read by the bytes of its tokens.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeAlias
from unicodedata import normalize

from tokenizers import Tokenizer

from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.core.text.passages import in_batches

Ids: TypeAlias = list[int]

_TEXTS_AT_ONCE = 1024
_SHOWN_BEFORE, _SHOWN = 8, 32


@dataclass(frozen=True)
class RoundTrip:
    """What became of texts that were encoded and decoded.

    Attributes:
        texts: how many were tried; empty ones are not.
        tokens: of all texts that could be encoded.
        changed: how many did not come back.
        unknown: unknown tokens in those.
        unknown_token: how that token is written; empty where the tokenizer has none.
        given: where the first changed text differs: a stretch of it.
        back: what came back in place of that stretch; None where the text could not be encoded.
    """

    texts: int
    tokens: int = 0
    changed: int = 0
    unknown: int = 0
    unknown_token: str = ""
    given: str = ""
    back: str | None = None

    @property
    def gives_back(self) -> bool:
        """Whether every text came back."""
        return not self.changed

    @property
    def cell(self) -> str:
        """What stands in a table under `text back`."""
        if self.gives_back:
            return "yes"
        lost = f"{self.changed:,} of {self.texts:,}" if self.texts > 1 else ""
        unknown = f"{self.unknown:,} × {self.unknown_token}" if self.unknown else ""
        return ": ".join(filter(None, ("NO", ", ".join(filter(None, (lost, unknown))))))

    def sentence(self, name: str, texts: str = "texts") -> str:
        """What is said of the tokenizer `name` whose texts did not all come back."""
        number = f"{self.changed:,} of {self.texts:,} {texts}" if self.texts > 1 else "the text"
        unknown = f" ({self.unknown:,} unknown token{'s' * (self.unknown > 1)})" if self.unknown else ""
        return f"{name} does not give {number} back{unknown}: {self._example}; what is lost is missing from its figures."

    def sentences(self, name: str) -> list[str]:
        """The sentence where texts did not come back, else none."""
        return [] if self.gives_back else [self.sentence(name)]

    @property
    def _example(self) -> str:
        if self.back is None:
            return f"it has no tokens for {self.given!r}"
        # Composed and decomposed characters look alike.
        alike = normalize("NFC", self.given) == normalize("NFC", self.back)
        given, back = map(ascii if alike else repr, (self.given, self.back))
        return f"{given} comes back as {back}"

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return {
            "gives_text_back": self.gives_back,
            "summary": self.cell,
            "texts": self.texts,
            "changed": self.changed,
            "unknown_tokens": self.unknown,
            "example": None if self.gives_back else {"given": self.given, "back": self.back},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> "RoundTrip":
        """Read what `as_json` wrote, all but the name of the unknown token; None, where nothing was asked, is no text."""
        if stored is None:
            return cls(0)
        example = stored["example"] or {"given": "", "back": None}
        return cls(
            texts=stored["texts"],
            changed=stored["changed"],
            unknown=stored["unknown_tokens"],
            given=example["given"],
            back=example["back"],
        )


def round_trip(tokenizer: Any, texts: Iterable[str]) -> RoundTrip | None:
    """Encode and decode texts.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, a tokenizer of transformers, or any object with `encode` and `decode`.
        texts: read once.

    Returns:
        None where the tokenizer can count tokens but cannot decode.
    """
    if not hasattr(tokenizer, "decode"):
        return None
    codec = _Codec(tokenizer)
    tried = tokens = changed = unknown = 0
    first: tuple[str, str | None] | None = None
    for batch in in_batches(filter(None, texts), _TEXTS_AT_ONCE):
        tried += len(batch)
        for text, (ids, back) in zip(batch, codec.there_and_back(batch), strict=True):
            tokens += len(ids)
            if back is not None and codec.same(text, back):
                continue
            changed += 1
            unknown += ids.count(codec.unknown_id) if codec.unknown_id is not None else 0
            first = first or _difference(text, back)
    given, back = first or ("", None)
    return RoundTrip(tried, tokens, changed, unknown, codec.unknown_token, given, back)


def comes_back(tokenizer: Any, texts: Sequence[str]) -> list[bool]:
    """Whether each text comes back when it is encoded and decoded."""
    codec = _Codec(tokenizer)
    found = codec.there_and_back(texts)
    return [back is not None and codec.same(text, back) for text, (_, back) in zip(texts, found, strict=True)]


def unbounded(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without the truncation and the padding that its file may ask for, which change what a text becomes."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied


class _Codec:
    """Any tokenizer as two functions over lists, and how two of its texts are compared."""

    def __init__(self, tokenizer: Any) -> None:
        backend = (
            tokenizer if isinstance(tokenizer, Tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
        )
        self.unknown_id: int | None = None
        self.unknown_token, added = "", list[str]()
        self._encode: Callable[[str], Ids]
        self._decode: Callable[[Ids], str]
        if isinstance(backend, Tokenizer):
            backend = unbounded(backend)
            self._encode = lambda text: backend.encode(text, add_special_tokens=False).ids
            self._decode = _decoder(backend)
            self.unknown_token = _unknown_token(backend)
            self.unknown_id = backend.token_to_id(self.unknown_token) if self.unknown_token else None
            added = [token.content for token in backend.get_added_tokens_decoder().values()]
        elif hasattr(tokenizer, "all_special_tokens"):
            self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
            self._decode = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            self.unknown_id, self.unknown_token = tokenizer.unk_token_id, tokenizer.unk_token or ""
            added = tokenizer.all_special_tokens
        else:
            self._encode = tokenizer.encode
            self._decode = lambda ids: _text(tokenizer.decode(ids))
        self._backend = backend if isinstance(backend, Tokenizer) else None
        longest_first = sorted(filter(None, added), key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None

    def there_and_back(self, texts: Sequence[str]) -> list[tuple[Ids, str | None]]:
        """The ids of each text, and what they decode to; None where the text cannot be encoded."""
        if self._backend is not None:
            try:
                encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
            except (
                Exception
            ):  # the tokenizers library raises bare exceptions; one text in the batch is to blame
                return [self._one(text) for text in texts]
            return [(encoding.ids, self._decode(encoding.ids)) for encoding in encoded]
        return [self._one(text) for text in texts]

    def same(self, text: str, back: str) -> bool:
        """Whether two texts are equal but for one space where they begin, or put behind an added token."""
        if text == back:
            return True
        one, other = (self._added.split(string) if self._added else [string] for string in (text, back))
        # Sections and added tokens take turns.
        return (
            len(one) == len(other)
            and one[1::2] == other[1::2]
            and (one[0] == f" {other[0]}" or _with_space_put(one[0], other[0]))
            and all(map(_with_space_put, one[2::2], other[2::2]))
        )

    def _one(self, text: str) -> tuple[Ids, str | None]:
        try:
            ids = list(self._encode(text))
            return ids, self._decode(ids)
        except Exception:  # as above
            return [], None


def _with_space_put(text: str, back: str) -> bool:
    return back in (text, f" {text}")


def _decoder(backend: Tokenizer) -> Callable[[Ids], str]:
    if backend.decoder is not None:
        return lambda ids: backend.decode(ids, skip_special_tokens=False)
    view = ByteVocabulary.from_tokenizer(backend)

    def joined(ids: Ids) -> str:
        parts = (view.token_bytes[number] for number in ids)
        written = (
            (backend.id_to_token(number) or "").encode() if part is None else part
            for number, part in zip(ids, parts, strict=True)
        )
        return _text(b"".join(written))

    return joined


def _text(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode(errors="replace")


def _unknown_token(backend: Tokenizer) -> str:
    model = backend.model
    if hasattr(model, "unk_token"):
        return model.unk_token or ""
    state = json.loads(backend.to_str())["model"]
    number = state.get("unk_id")
    return "" if number is None else state["vocab"][number][0]


def _difference(text: str, back: str | None) -> tuple[str, str | None]:
    """The stretches where two texts begin to differ, with a little before them."""
    if back is None:
        return text[:_SHOWN], None
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, back, strict=False)))
    start = max(0, equal - _SHOWN_BEFORE)
    return text[start : start + _SHOWN], back[start : start + _SHOWN]
