"""Small tokenizers with added tokens of every kind, and covers found by encoding every text over a few atoms."""

import functools
import itertools
import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tokenry.core.text.byte_level import BYTE_CHARACTERS, ByteVocabulary, to_byte_characters

WORDS = ["ab", " a", "  ", " ab", "\n\n", "abc", "c\n", "bc", " b", "éa"]
META = "▁"


def _merges(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens for words, each merged from the longest beginning that is one."""
    known, merges = {character for word in words for character in word}, []
    for word in sorted(words, key=len):
        parts = [(word[:end], word[end:]) for end in range(len(word) - 1, 0, -1)]
        merges += [part for part in parts if part[0] in known and part[1] in known][:1]
        known.add(word)
    return [*dict.fromkeys(left + right for left, right in merges)], merges


def byte_level(
    add_prefix_space: bool = False, use_regex: bool = True, ignore_merges: bool = False
) -> Tokenizer:
    words, merges = _merges([to_byte_characters(word.encode()) for word in WORDS])
    names = [*BYTE_CHARACTERS, *(word for word in words if word not in BYTE_CHARACTERS)]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece(normalizer: object = None, pre_tokenizer: object = None) -> Tokenizer:
    words, merges = _merges([word.replace(" ", META) for word in WORDS])
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"abc\n<>xm", META, "é", *words]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(META, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>"])
    return tokenizer


def composing() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def split_by_words() -> Tokenizer:
    """With a pattern that ends a word before white space only."""
    tokenizer = byte_level(use_regex=False)
    cut = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return tokenizer


TOKENIZERS = {
    "gpt2": byte_level,
    "no cuts": functools.partial(byte_level, use_regex=False),
    "ignore merges": functools.partial(byte_level, ignore_merges=True),
    "prefix space": functools.partial(byte_level, add_prefix_space=True),
    "split": split_by_words,
    "composing": composing,
    "gemma": lambda: sentencepiece(normalizers.Replace(" ", META)),
    "llama2": lambda: sentencepiece(
        normalizers.Sequence([normalizers.Prepend(META), normalizers.Replace(" ", META)])
    ),
    "metaspace first": lambda: sentencepiece(None, pre_tokenizers.Metaspace(META, "first", split=False)),
    "metaspace first, cut": lambda: sentencepiece(None, pre_tokenizers.Metaspace(META, "first")),
    "metaspace always": lambda: sentencepiece(None, pre_tokenizers.Metaspace(META, "always", split=False)),
    "metaspace never": lambda: sentencepiece(None, pre_tokenizers.Metaspace(META, "never")),
}

ADDED = {
    "none": [],
    "runs of spaces": [AddedToken(" " * length, normalized=True) for length in (4, 3, 2)],
    "runs of spaces, before": [AddedToken(" " * length, normalized=False) for length in (3, 2)],
    "one within another": [AddedToken(text, normalized=False) for text in ("ab", "abc", "b", "ca")],
    "before and after": [
        AddedToken("b", normalized=False),
        AddedToken("ab", normalized=True),
        AddedToken("ca", normalized=True),
    ],
    "with white space": [
        AddedToken("a \n", normalized=False),
        AddedToken("\n\n", normalized=False),
        AddedToken(" b", normalized=True),
    ],
    "tag": [AddedToken("<x>", normalized=False)],
    "tags": [
        AddedToken("<x>", normalized=True),
        AddedToken("<x><x>", normalized=True),
        AddedToken("<x", special=True),
    ],
    "strips before": [AddedToken("<m>", lstrip=True, normalized=False)],
    "strips after": [AddedToken("<m>", rstrip=True, normalized=False), AddedToken("  ", normalized=True)],
    "strips both": [AddedToken("<m>", rstrip=True, lstrip=True, normalized=True)],
    "special": [AddedToken("ab", special=True, normalized=False)],
    "special that strips": [AddedToken("<m>", special=True, normalized=False, lstrip=True, rstrip=True)],
    "spelled as a token": [AddedToken("Ġa", normalized=False), AddedToken(f"{META}a", normalized=False)],
}


@functools.cache
def tokenizer_with(name: str, added: str) -> Tokenizer:
    """One of `TOKENIZERS` with some of `ADDED`."""
    tokenizer = Tokenizer.from_str(TOKENIZERS[name]().to_str())
    special = [token for token in ADDED[added] if token.special]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([token for token in ADDED[added] if not token.special])
    assert json.loads(tokenizer.to_str())
    return tokenizer


def atoms_of(added: str) -> list[str]:
    """What texts are made of: letters, white space and the added tokens themselves."""
    contents = [token.content for token in ADDED[added] if META not in token.content]
    return list(
        dict.fromkeys(
            [
                *"ab \n",
                "c" if "within" in added or "before" in added else "é",
                *contents,
                *(each[:-1] for each in contents),
            ]
        )
    )


@functools.cache
def encodings(name: str, added: str, most: int) -> dict[str, tuple[int, ...]]:
    """The tokens of all texts of up to so many atoms that the tokenizer gives back."""
    tokenizer = tokenizer_with(name, added)
    view = ByteVocabulary.from_tokenizer(tokenizer)
    atoms = [atom for atom in atoms_of(added) if atom]
    texts = sorted(
        {"".join(some) for length in range(1, most + 1) for some in itertools.product(atoms, repeat=length)}
    )
    found = {}
    for text, encoding in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
        data = text.encode()
        if view.decode(encoding.ids) in (data, b" " + data) and not view.special.intersection(encoding.ids):
            found[text] = tuple(encoding.ids)
    return found


def brute_covers(name: str, added: str, start: bytes, most: int = 5) -> set[tuple[int, ...]]:
    """Covers of a text among those of longer ones."""
    view = ByteVocabulary.from_tokenizer(tokenizer_with(name, added))
    found = set()
    for text, ids in encodings(name, added, most).items():
        data = text.encode()
        if data.startswith(start):
            written = view.decode(ids)
            needed, end = len(start) + len(written) - len(data), 0
            for count, number in enumerate(ids, 1):
                end += len(view.token_bytes[number] or b"")
                if end >= needed:
                    found.add(ids[:count])
                    break
    return found
