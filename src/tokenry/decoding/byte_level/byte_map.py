"""The byte map of a tokenizer, tested: which tokens cannot be represented as bytes, and which bytes cannot be written.

Nearly everything that goes wrong with byte-level work is a wrong map from tokens to bytes, and it goes wrong in silence. So the map is
compared with what the tokenizer itself decodes, token by token, and with what it encodes: texts in many scripts, texts that begin and end
with spaces, and every added token alone, twice, between letters and between spaces. Of a byte-pair tokenizer the tokens themselves are
compared with those that `ByteLM` takes for the tokenizer's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, CutToken, backend_tokenizer
from tokenry.core.text.byte_pairs import written_ids
from tokenry.decoding.byte_level.valid_tokens import ByteRules, valid_tokens

# Bytes that no valid UTF-8 holds.
NEVER_IN_TEXT = frozenset({0xC0, 0xC1, *range(0xF5, 0x100)})

TEXTS = (
    "The quick brown fox doesn't jump 1234567 times;  it's\n\tlazy — “quite” (so)!",
    "naïve café, Ångström, Straße, Đặng, Ελληνικά, русский, עברית, العربية",
    "हिन्दी भाषा, ภาษาไทย, 漢字かな交じり文, 한국어, 🙂👩‍👩‍👧 ∑∞≠",
    "def f(x):\n    return {'a': x[0]}  # ok\r\n",
    " a",
    "a ",
    "   a   b\t\n\n  ",
    "አማርኛ ქართული Հայերեն বাংলা ગુજરાતી தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ພາສາລາວ မြန်မာ ខ្មែរ བོད་ᠮᠣᠩᠭᠣᠯ ꦗꦮ 𐎀𒀀",
)


@dataclass(frozen=True)
class Misread:
    """A token whose bytes are not what the tokenizer decodes.

    Attributes:
        id: its id.
        token: as the vocabulary spells it.
        why: the fault, in words.
    """

    id: int
    token: str
    why: str


@dataclass(frozen=True)
class Unlike:
    """A text that `ByteLM` would not write as the tokenizer does.

    Attributes:
        why: the fault, in words.
    """

    text: str
    why: str


@dataclass(frozen=True)
class ByteMap:
    """What the test found.

    Attributes:
        tokens: ids that stand for bytes.
        special: ids that stand for none, as they should.
        misread: tokens that cannot be represented.
        missing_bytes: bytes of UTF-8 that no token of one byte stands for: texts that hold them may have no cover.
        same_bytes: ids that stand for the same bytes; only one of them is ever written.
        never_written: how many ids no text produces; None for a tokenizer that is no byte-pair one.
        rewrites: what the tokenizer changes in a text before it cuts it.
        lossy_texts: sample texts whose tokens do not add up to their bytes.
        cut: added tokens that are cut out of a text, special ones left out.
        unlike: texts of which `ByteLM` has no tokens, or others than the tokenizer.
        unkept: characters that the tokenizer reads as a space: texts that hold them have no cover.
        no_cover: why no text has a cover; empty where texts have.
    """

    tokens: int
    special: int
    misread: tuple[Misread, ...]
    missing_bytes: tuple[int, ...]
    same_bytes: tuple[tuple[int, ...], ...]
    never_written: int | None
    rewrites: tuple[str, ...]
    lossy_texts: tuple[str, ...]
    cut: int = 0
    unlike: tuple[Unlike, ...] = ()
    unkept: str = ""
    no_cover: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether the texts have their bytes back, every byte of UTF-8 can be written, and `ByteLM` writes as the tokenizer does."""
        return not (self.misread or self.missing_bytes or self.lossy_texts or self.unlike)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data, with `is_sound`."""
        return {**asdict(self), "is_sound": self.is_sound}


def check_byte_map(tokenizer: PreTrainedTokenizerBase | Tokenizer, texts: Sequence[str] = TEXTS) -> ByteMap:
    """Test the byte map of any fast tokenizer.

    Args:
        tokenizer: of any kind.
        texts: that it encodes; a text of your own shows whether it keeps it.

    Raises:
        UserError: a slow tokenizer.
    """
    backend, vocabulary = backend_tokenizer(tokenizer), ByteVocabulary.from_tokenizer(tokenizer)
    bytes_of = {
        data: vocabulary.order[vocabulary.prefix_range(data)] for data in set(vocabulary.sorted_bytes)
    }
    same = [ids[vocabulary.lengths[ids] == len(data)] for data, ids in bytes_of.items()]
    unlike, no_cover = _compared(backend, vocabulary, texts)
    return ByteMap(
        tokens=len(vocabulary.order),
        special=len(vocabulary.special),
        misread=tuple(_misread(backend, vocabulary)),
        missing_bytes=tuple(
            byte for byte in range(256) if byte not in NEVER_IN_TEXT and bytes([byte]) not in vocabulary.ids
        ),
        same_bytes=tuple(sorted(tuple(sorted(ids.tolist())) for ids in same if len(ids) > 1)),
        never_written=_never_written(backend, vocabulary),
        rewrites=vocabulary.rewrites,
        lossy_texts=tuple(text for text in texts if not _is_kept(backend, vocabulary, text)),
        cut=len(vocabulary.cut_ids),
        unlike=unlike,
        unkept=vocabulary.unkept,
        no_cover=no_cover,
    )


def _misread(backend: Tokenizer, vocabulary: ByteVocabulary) -> list[Misread]:
    ids = [number for number in range(len(vocabulary.token_bytes)) if backend.id_to_token(number) is not None]
    ids = [number for number in ids if number not in vocabulary.special]
    # A decoder may drop the space at the beginning of a text: every token is decoded after another one.
    first = vocabulary.ids.get(b"a", int(vocabulary.order[0]) if len(vocabulary.order) else 0)
    start = len(backend.decode([first], skip_special_tokens=False))
    decoded = backend.decode_batch([[first, number] for number in ids], skip_special_tokens=False)
    found = []
    for number, text in zip(ids, decoded, strict=True):
        data = vocabulary.token_bytes[number]
        why = _difference(data, text[start:])
        if why:
            found.append(Misread(number, backend.id_to_token(number) or "", why))
    return found


def _difference(data: bytes | None, decoded: str) -> str:
    if not data:
        return "it stands for no bytes"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return (
            ""
            if "\N{REPLACEMENT CHARACTER}" in decoded
            else f"it is read as {data!r} and decoded as {decoded!r}"
        )
    return "" if text == decoded else f"it is read as {text!r} and decoded as {decoded!r}"


def _is_kept(backend: Tokenizer, vocabulary: ByteVocabulary, text: str) -> bool:
    data = text.encode()
    return (
        vocabulary.decode(backend.encode(text, add_special_tokens=False).ids) == vocabulary.lead(data) + data
    )


def _compared(
    backend: Tokenizer, vocabulary: ByteVocabulary, texts: Sequence[str]
) -> tuple[tuple[Unlike, ...], str]:
    """The texts of which `ByteLM` has no tokens or others, and why it has none of any text."""
    changing = vocabulary.changing
    if changing:
        return (), f"the tokenizer rewrites a text before it cuts it ({', '.join(changing)})."
    try:
        rules = valid_tokens(backend, vocabulary)
    except UserError as error:
        return (), str(error)
    holding = [text for token in vocabulary.cut if not token.special for text in _holding(token)]
    encodings = backend.encode_batch_fast([*texts, *holding], add_special_tokens=False)
    compared = zip([*texts, *holding], encodings, strict=True)
    found = ((text, _unlike(rules, vocabulary, text, encoding.ids)) for text, encoding in compared)
    return tuple(Unlike(text, why) for text, why in found if why), ""


def _holding(token: CutToken) -> tuple[str, ...]:
    """Texts that hold an added token: alone, twice, and beside what it might swallow."""
    text = token.data.decode(errors="replace")
    return text, 2 * text, f"a{text}b", f" {text} ", f"{text} {text}", f"\n{text}\n"


def _unlike(rules: ByteRules, vocabulary: ByteVocabulary, text: str, ids: list[int]) -> str:
    data = text.encode()
    try:
        ours = rules.encode(data, vocabulary.lead(data))
    except UserError as error:
        return str(error)
    if ours == ids:
        return ""
    return f"the tokenizer writes {ids} and ByteLM {ours}: please report this tokenizer."


def _never_written(backend: Tokenizer, vocabulary: ByteVocabulary) -> int | None:
    if type(backend.model).__name__ != "BPE":
        return None
    return int((np.array(vocabulary.lengths > 0) & ~written_ids(backend)).sum())
