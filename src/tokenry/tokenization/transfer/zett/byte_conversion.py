r"""Any tokenizer rewritten over bytes: the same tokens at the same ids, cut from texts by one rule, so that vocabularies can be compared.

    token = its bytes, each written as one character ("▁café" -> "ĠcafÃ©"; "##s" -> "s"; "<0x0A>" -> "Ċ")

A space is put before a text, one pattern cuts it, the model sees byte characters. What a vocabulary lacks to write any text is appended:
byte characters, and for BPE the tokens and merges that lead from bytes to its characters.

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 3 and appendix; conversion as in the released code.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.text.byte_level import (
    BYTE_CHARACTERS,
    ByteVocabulary,
    backend_tokenizer,
    from_byte_characters,
    to_byte_characters,
)
from tokenry.tokenization.special_roles import as_fast
from tokenry.tokenization.training.byte_level_training import byte_level_pieces

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How texts are cut; a mark that follows no letter stays with the punctuation before it."""

LOWEST_SCORE = -100_000.0
"""The log-probability of what a Unigram model writes only where nothing else fits."""

WHITESPACE = ("Ġ", "Ċ", "ĉ")
"""Space, line feed and tab as byte characters."""

_SETTINGS = ("chat_template", "model_max_length", "padding_side")

_MODELS = ("BPE", "Unigram", "WordPiece")


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer over bytes.

    Attributes:
        tokenizer: cuts texts; all its tokens are byte characters, but for the special ones.
        tokens: the token of each id, in byte characters. Two ids may have the same one; the tokenizer then writes the one that the
            original writes.
        extra_tokens: number of tokens that were appended to the original vocabulary: missing bytes, white space, tokens between bytes
            and characters.
        special_ids: ids of the special tokens, which keep their names in `tokens`.
    """

    tokenizer: PreTrainedTokenizerFast
    tokens: list[str]
    extra_tokens: int
    special_ids: tuple[int, ...]


def to_byte_level(
    tokenizer: PreTrainedTokenizerBase | Tokenizer,
    *,
    whitespace_consistency: bool = False,
    special_tokens: PreTrainedTokenizerBase | Tokenizer | None = None,
) -> ConvertedTokenizer:
    """Rewrite a byte-level BPE, SentencePiece (BPE or Unigram) or WordPiece tokenizer over bytes.

    Ids stay what they were, unless special tokens are replaced. The original's normaliser (lower case, NFKC) is dropped: any text comes back
    as it was, behind one space. Special tokens are cut out of a text first, and each part between them begins with a space of its own.

    Args:
        tokenizer: of transformers, or a `tokenizers.Tokenizer`, whose special tokens have the roles they name; left as it is.
        whitespace_consistency: give up all tokens with several white-space characters, and have those of `whitespace_tokens` instead.
        special_tokens: the tokenizer of the model that will be transferred. Its special tokens, at its ids (at the end where the vocabulary
            is too short for that), replace the tokenizer's own; ids after them move.

    Raises:
        UserError: an empty vocabulary, a slow tokenizer, another kind of model, or one that marks the ends of words.
    """
    tokenizer = as_fast(tokenizer)
    backend = backend_tokenizer(tokenizer)
    state = json.loads(backend.to_str())
    view = ByteVocabulary.from_tokenizer(backend)
    _require_convertible(state["model"], view)
    tokens = _byte_tokens(backend, view)
    written = _written_occurrences(tokens, view)
    original, special = len(tokens), SpecialTokens.of(tokenizer)
    tokens += _missing(BYTE_CHARACTERS, tokens)
    scores = _scores(state["model"], tokens, view)
    if whitespace_consistency:
        tokens = _with_consistent_whitespace(tokens, view.special)
        scores = {token: score for token, score in scores.items() if not holds_whitespace(token)}
    merges: list[tuple[str, str]] = []
    if state["model"]["type"] == "BPE":
        merges, helpers = _translated_merges(state["model"], view, tokens, whitespace_consistency)
        tokens += helpers
    extra = len(tokens) - original
    if special_tokens is not None:
        own, special = special.ids, SpecialTokens.of(as_fast(special_tokens))
        tokens = special.placed_in([token for token in tokens if token not in own])
        special = special.moved_to(tokens)
    names = _distinct(tokens, special.ids, written)
    assembled = assemble(_byte_level_model(state["model"], names, scores, merges), special)
    return ConvertedTokenizer(assembled, tokens, extra, tuple(sorted(special.ids.values())))


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer and what goes with them.

    Attributes:
        entries: their entries in its file (`id`, `content`, …).
        post_processor: entry of the post-processor, which puts them around a text.
        settings: their roles (bos, eos, …), the chat template, the longest input and the side of the padding.
    """

    entries: tuple[dict[str, Any], ...] = ()
    post_processor: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "SpecialTokens":
        """Read them from a fast tokenizer."""
        state = json.loads(backend_tokenizer(tokenizer).to_str())
        # A normalised entry would be looked for behind the space that is put before a text.
        entries = [entry | {"normalized": False} for entry in state["added_tokens"] if entry["special"]]
        settings = {name: getattr(tokenizer, name) for name in _SETTINGS}
        return cls(tuple(entries), state["post_processor"], {**tokenizer.special_tokens_map, **settings})

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids by token."""
        return {entry["content"]: entry["id"] for entry in self.entries}

    def placed_in(self, tokens: Sequence[str]) -> list[str]:
        """Put them at their ids among tokens, moving what follows; where the vocabulary is too short, at its end."""
        placed = [token for token in tokens if token not in self.ids]
        for name, number in sorted(self.ids.items(), key=lambda item: item[1]):
            placed.insert(number, name)
        return placed

    def moved_to(self, tokens: Sequence[str]) -> "SpecialTokens":
        """The same with the ids they have among these tokens."""
        ids = {token: number for number, token in enumerate(tokens) if token in self.ids}
        entries = [entry | {"id": ids[entry["content"]]} for entry in self.entries]
        return replace(self, entries=tuple(entries), post_processor=_renumbered(self.post_processor, ids))


def assemble(model: dict[str, Any], special: SpecialTokens) -> PreTrainedTokenizerFast:
    """Build the tokenizer around a model over byte characters.

    Args:
        model: entry of the model in a `tokenizer.json`; the special tokens are in its vocabulary, at their ids.
        special: the special tokens.
    """
    state = {
        "version": "1.0",
        "added_tokens": special.entries,
        "post_processor": special.post_processor,
        "model": model,
    }
    backend = Tokenizer.from_str(json.dumps(state))
    backend.normalizer = normalizers.Prepend(" ")
    backend.pre_tokenizer = _pieces(model.get("max_input_chars_per_word"))
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **special.settings
    )


def whitespace_tokens(max_length: int = 16) -> list[str]:
    """One white-space character followed by 1 to `max_length - 1` equal ones: the 135 tokens for white space that all vocabularies share."""
    return [
        first + rest * count for rest in WHITESPACE for count in range(1, max_length) for first in WHITESPACE
    ]


def _pieces(longest: int | None) -> pre_tokenizers.PreTokenizer:
    """How texts are cut; for WordPiece, which knows no longer pieces, also after every `longest` bytes."""
    pieces = byte_level_pieces(PATTERN)
    if longest is None:
        return pieces
    return pre_tokenizers.Sequence([pieces, pre_tokenizers.Split(Regex(f".{{1,{longest}}}"), "isolated")])


def _require_convertible(model: dict[str, Any], view: ByteVocabulary) -> None:
    if not any(view.token_bytes):
        raise UserError(
            "the tokenizer has an empty vocabulary: train it first, or load it from the folder it was saved to."
        )
    require_one_of(model["type"], _MODELS, "the tokenizer's model")
    marks = [key for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
    if model["type"] == "BPE" and marks:
        raise UserError(
            f"this BPE tokenizer marks words in its tokens ({marks[0]} {model[marks[0]]!r}), which has no byte-level counterpart: "
            "give a byte-level BPE, SentencePiece or WordPiece tokenizer."
        )


def _byte_tokens(backend: Tokenizer, view: ByteVocabulary) -> list[str]:
    """The tokens by id in byte characters; special tokens and bytes that another token stands for keep their names."""
    names = {number: name for name, number in backend.get_vocab(with_added_tokens=True).items()}
    plain = {
        to_byte_characters(data)
        for number, data in enumerate(view.token_bytes)
        if data and number not in view.fallback
    }
    tokens = []
    for number, data in enumerate(view.token_bytes):
        written = to_byte_characters(data or b"")
        kept = number in view.special or (number in view.fallback and written in plain)
        tokens.append(names[number] if kept else written or f"<unused__{number}>")
    return tokens


def _scores(model: dict[str, Any], tokens: Sequence[str], view: ByteVocabulary) -> dict[str, float]:
    """Log-probability of the tokens that do not have 0: those of the original Unigram model, and the bytes it could not write."""
    if model["type"] != "Unigram":
        return {}
    scores: dict[str, float] = {}
    for number, (_, score) in enumerate(model["vocab"]):
        if number not in view.fallback:
            scores.setdefault(tokens[number], score)
    return dict.fromkeys(BYTE_CHARACTERS, LOWEST_SCORE) | scores


def holds_whitespace(token: str) -> bool:
    """Whether several characters of a token are white space."""
    return sum(map(token.count, WHITESPACE)) > 1


def _with_consistent_whitespace(tokens: Sequence[str], special: frozenset[int]) -> list[str]:
    wanted = whitespace_tokens()
    allowed = set(wanted)
    kept = [
        f"<unused_whitespace__{number}>"
        if holds_whitespace(token) and token not in allowed and number not in special
        else token
        for number, token in enumerate(tokens)
    ]
    return kept + _missing(wanted, kept)


def _missing(wanted: Sequence[str], tokens: Sequence[str]) -> list[str]:
    present = set(tokens)
    return [token for token in wanted if token not in present]


def _translated_merges(
    model: dict[str, Any], view: ByteVocabulary, tokens: Sequence[str], whitespace_consistency: bool
) -> tuple[list[tuple[str, str]], list[str]]:
    """The merges over byte characters, and the tokens that they need besides `tokens`.

    Characters are made of bytes before anything else, as the original model begins with characters. Longer tokens that no merge makes are
    made last: then nothing changes that the other merges cut.
    """
    data = view.token_bytes
    written = {name: to_byte_characters(data[number] or b"") for name, number in model["vocab"].items()}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    merges = [(written[left], written[right]) for left, right in pairs]
    if whitespace_consistency:
        merges = [(left, right) for left, right in merges if not holds_whitespace(left + right)]
    made = {left + right for left, right in merges}
    # Bytes by name are no byte characters.
    named = view.special | {number for number in view.fallback if len(tokens[number]) > 1}
    single = [token for number, token in enumerate(tokens) if number not in named and token not in made]
    characters, longer = _characters_and_longer(single)
    ranked: dict[tuple[str, str], int] = {}
    _add_merges(characters, ranked)
    for pair in merges:
        ranked.setdefault(pair, len(ranked))
    _add_merges(longer, ranked)
    helpers = {left + right for left, right in ranked}.difference(tokens)
    return list(ranked), sorted(helpers)


def _characters_and_longer(tokens: Iterable[str]) -> tuple[list[str], list[str]]:
    """Tokens of one character and of several; without single bytes, and without those that no text keeps in one piece."""
    pieces = byte_level_pieces(PATTERN)
    characters: list[str] = []
    longer: list[str] = []
    for token in tokens:
        text = from_byte_characters(token).decode(errors="replace")
        if len(token) > 1 and len(pieces.pre_tokenize_str(text)) == 1:
            (characters if len(text) == 1 else longer).append(token)
    return characters, longer


def _add_merges(tokens: Iterable[str], ranked: dict[tuple[str, str], int]) -> None:
    """Append the merges that are missing to make each token, from the left.

    What was made before is still made: merges of a lower rank wait until it is.
    """
    for token in tokens:
        while len(parts := _merged(token, ranked)) > 1:
            ranked[parts[0], parts[1]] = len(ranked)


def _merged(token: str, ranked: dict[tuple[str, str], int]) -> list[str]:
    """What the merges make of a token."""
    parts = list(token)
    while places := [place for place, pair in enumerate(pairwise(parts)) if pair in ranked]:
        first = min(places, key=lambda place: ranked[parts[place], parts[place + 1]])
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts


def _written_occurrences(tokens: Sequence[str], view: ByteVocabulary) -> dict[str, int]:
    """Of tokens that stand at several ids, how many stand before the one that is written."""
    seen: Counter[str] = Counter()
    found = {}
    for number, token in enumerate(tokens):
        data = view.token_bytes[number]
        if data and view.ids.get(data) == number:
            found[token] = seen[token]
        seen[token] += 1
    return {token: place for token, place in found.items() if place}


def _distinct(tokens: Sequence[str], special: dict[str, int], written: dict[str, int]) -> list[str]:
    """Names by id: of equal tokens the one that is written keeps its own, unless a special token has it; the pattern cuts the others, so
    no text has them.
    """
    seen: Counter[str] = Counter()
    names = []
    for number, token in enumerate(tokens):
        own = special[token] == number if token in special else seen[token] == written.get(token, 0)
        names.append(token if own else f"<duplicate__{number}>")
        seen[token] += 1
    return names


def _byte_level_model(
    model: dict[str, Any],
    names: Sequence[str],
    scores: dict[str, float],
    merges: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """The model of a `tokenizer.json` with another vocabulary, over bytes."""
    ids = {name: number for number, name in enumerate(names)}
    match model["type"]:
        case "Unigram":
            unknown = model["vocab"][model["unk_id"]][0] if model["unk_id"] is not None else ""
            scored = [[name, scores.get(name, 0.0)] for name in names]
            return model | {"vocab": scored, "unk_id": ids.get(unknown), "byte_fallback": False}
        case "WordPiece":
            return model | {"vocab": ids, "continuing_subword_prefix": ""}
    kept = [pair for pair in merges if all(part in ids for part in (*pair, "".join(pair)))]
    unknown = model["unk_token"] if model["unk_token"] in ids else None
    changes = {"merges": kept, "unk_token": unknown, "byte_fallback": False, "dropout": None}
    return model | {"vocab": ids} | changes


def _renumbered(processor: dict[str, Any] | None, ids: dict[str, int]) -> dict[str, Any] | None:
    """A post-processor with the ids that its special tokens have now."""
    if processor is None:
        return None
    changed = dict(processor)
    if processor["type"] == "Sequence":
        changed["processors"] = [_renumbered(part, ids) for part in processor["processors"]]
    for end in ("sep", "cls"):
        if end in processor:
            changed[end] = [processor[end][0], ids[processor[end][0]]]
    if processor["type"] == "TemplateProcessing":
        changed["special_tokens"] = {
            name: entry | {"ids": [ids[token] for token in entry["tokens"]]}
            for name, entry in processor["special_tokens"].items()
        }
    return changed
