"""The match of two vocabularies: the old token of each new one, or the old tokens that spell it.

    match="bytes"    tokens are equal if they stand for the same bytes, whatever kind of tokenizer wrote them ("Ġthe" = "▁the")
    match="string"   tokens are equal if they are written alike, and spelled by encoding what they decode to: the released code's rule

Of several old tokens with the same bytes the one that the old tokenizer writes is meant: only its row has been trained. A new token that
is never written equals an old one of the same name that is never written, and nothing else: two rows with the same numbers would share
the probability of one.

Special tokens stand for no bytes: they are matched by name, then by what they are for (bos, eos, pad, unk). An added token that only the
other tokenizer calls special is the same token.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer, to_byte_characters
from tokenry.tokenization.special_roles import TEXT_ROLES
from tokenry.tokenization.transfer.transplant.settings import MATCHES
from tokenry.tokenization.written import WrittenVocabulary


@dataclass(frozen=True)
class VocabularyMatch:
    """The tokens of a new vocabulary in terms of an old one.

    Attributes:
        shared: old id of each new token; -1 for none.
        pieces: old ids that spell each new token that is not shared; -1 after the last.
        length_ratio: length of each piece as a share of the token's (bytes, or characters with `match="string"`).
        old_texts: text that each old token stands for; None for special tokens, parts of characters, and ids without a token.
        new_texts: text that each new token stands for.
        special: old id of each special token of the new vocabulary, by its name; None for none.
        absent: ids below the largest that the new vocabulary has no token for.
        old_bytes: the old vocabulary in bytes, without the ids that are never written.
        old_never: old ids that are never written, including those without a token.
        new_never: new ids that are never written, including those without a token.
    """

    shared: Int[Tensor, "new"]
    pieces: Int[Tensor, "new pieces"]
    length_ratio: Float[Tensor, "new pieces"]
    old_texts: tuple[str | None, ...]
    new_texts: tuple[str | None, ...]
    special: dict[str, int | None]
    absent: frozenset[int]
    old_bytes: ByteVocabulary
    old_never: frozenset[int] = frozenset()
    new_never: frozenset[int] = frozenset()

    @cached_property
    def copied(self) -> Int[Tensor, "some"]:
        """New ids that an old one equals."""
        return (self.shared >= 0).nonzero()[:, 0]

    @cached_property
    def shared_written(self) -> Int[Tensor, "some"]:
        """Those of them that texts can hold, so that their rows mean something."""
        return _ids(token for token in self.copied.tolist() if token not in self.new_never)

    @cached_property
    def composable(self) -> Int[Tensor, "some"]:
        """New ids that no old one equals and that texts can hold: their rows are composed of old rows."""
        return _ids(token for token in self._unequalled if token not in self.new_never)

    @cached_property
    def never_copied(self) -> Int[Tensor, "some"]:
        """New ids with a token that no old one equals and that no text holds."""
        never = self.new_never - self.absent
        return _ids(token for token in self._unequalled if token in never)

    @property
    def pieces_per_token(self) -> float:
        """Old tokens that spell a composable token, on average over those that can be spelled."""
        counts = (self.pieces[self.composable] >= 0).sum(dim=1).float()
        return float(counts[counts > 0].mean()) if bool((counts > 0).any()) else 0.0

    @property
    def _unequalled(self) -> list[int]:
        return (self.shared < 0).nonzero()[:, 0].tolist()


def match_vocabularies(
    old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, match: str = "bytes"
) -> VocabularyMatch:
    """Find for each new token the old one, or the old ones that spell it."""
    require_one_of(match, MATCHES, "match")
    if not token_names(new):
        raise UserError(
            "the new tokenizer has no token: train it first, or load it from the folder it was saved to."
        )
    return (_match_bytes if match == "bytes" else _match_strings)(old, new)


def token_names(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The name of each token in the vocabulary, by id."""
    vocabulary = backend_tokenizer(tokenizer).get_vocab(with_added_tokens=True)
    return {number: name for name, number in vocabulary.items()}


def longest_first(data: bytes, vocabulary: ByteVocabulary, whole: bool = True) -> list[int]:
    """Spell bytes from the left by the longest token that fits; by none where a byte has no token.

    Args:
        vocabulary: the vocabulary to spell with.
        whole: whether one token may spell all bytes.
    """
    ids, start = [], 0
    while start < len(data):
        longest = min(vocabulary.longest, len(data) - start - (start == 0 and not whole))
        ends = range(start + longest, start, -1)
        end = next((end for end in ends if data[start:end] in vocabulary.ids), None)
        if end is None:
            return []
        ids.append(vocabulary.ids[data[start:end]])
        start = end
    return ids


def padded(
    pieces: Sequence[Sequence[int]], lengths: Sequence[int], old_lengths: Sequence[int]
) -> tuple[Int[Tensor, "tokens pieces"], Float[Tensor, "tokens pieces"]]:
    """Lay pieces out as a matrix of ids (-1 after the last), and their lengths as shares of their token's length."""
    slots = max(map(len, pieces), default=0)
    ids = torch.full((len(pieces), slots), -1)
    ratios = torch.zeros(len(pieces), slots)
    for row, (spelled, length) in enumerate(zip(pieces, lengths, strict=True)):
        if spelled:
            ids[row, : len(spelled)] = torch.tensor(spelled)
            ratios[row, : len(spelled)] = torch.tensor([old_lengths[piece] / length for piece in spelled])
    return ids, ratios


def _ids(ids: Iterable[int]) -> Int[Tensor, "some"]:
    return torch.tensor([*ids], dtype=torch.long)


def _match_bytes(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> VocabularyMatch:
    old_written, new_written = (WrittenVocabulary.of(tokenizer) for tokenizer in (old, new))
    old_view, new_view = old_written.written, new_written.view
    new_names = new_written.names
    by_name = {name: number for number, name in old_written.names.items()}
    special = _special_tokens(old, new, new_view.special)
    cut = _byte_cutter(old, old_view)
    added = new.added_tokens_decoder
    shared, pieces = [], []
    for number, data in enumerate(new_view.token_bytes):
        name = new_names.get(number, "")
        alike = by_name.get(name)
        never = number in new_written.never
        counterpart: int | None
        if never:
            counterpart = alike if alike in old_written.never else None
        elif alike is not None and number in added and alike in old_view.special:
            counterpart = alike
        else:
            counterpart = old_view.ids.get(data) if data else special.get(name, alike)
        shared.append(-1 if counterpart is None else counterpart)
        pieces.append(cut(data) if data and counterpart is None and not never else [])
    old_lengths, lengths = ([len(data or b"") for data in view.token_bytes] for view in (old_view, new_view))
    return VocabularyMatch(
        torch.tensor(shared),
        *padded(pieces, lengths, old_lengths),
        tuple(map(_text, old_view.token_bytes)),
        tuple(map(_text, new_view.token_bytes)),
        special,
        frozenset(range(len(shared))).difference(new_names),
        old_view,
        old_written.never,
        new_written.never,
    )


def _match_strings(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> VocabularyMatch:
    old_written, new_written = (WrittenVocabulary.of(tokenizer) for tokenizer in (old, new))
    by_name = {name: number for number, name in old_written.names.items()}
    new_names = new_written.names
    old_texts, new_texts = _decoded(old), _decoded(new)
    counterparts = [by_name.get(new_names.get(number, "")) for number in range(len(new_texts))]
    unique = [
        n
        for n, text in enumerate(new_texts)
        if counterparts[n] is None and text and n not in new_written.never
    ]
    pieces: list[list[int]] = [[] for _ in new_texts]
    for number in unique:
        pieces[number] = old.encode(new_texts[number], add_special_tokens=False)
    old_lengths, lengths = ([len(text or "") for text in texts] for texts in (old_texts, new_texts))
    special = sorted(new_written.view.special)
    return VocabularyMatch(
        torch.tensor([-1 if old_id is None else old_id for old_id in counterparts]),
        *padded(pieces, lengths, old_lengths),
        old_texts,
        new_texts,
        {new_names[number]: counterparts[number] for number in special},
        frozenset(range(len(new_texts))).difference(new_names),
        old_written.written,
        old_written.never,
        new_written.never,
    )


def _special_tokens(
    old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, special: frozenset[int]
) -> dict[str, int | None]:
    by_name = {name: number for number, name in token_names(old).items()}
    by_role = {getattr(new, f"{role}_id"): getattr(old, f"{role}_id") for role in reversed(TEXT_ROLES)}
    new_names = token_names(new)
    return {
        new_names[number]: by_name.get(new_names[number], by_role.get(number)) for number in sorted(special)
    }


def _byte_cutter(tokenizer: PreTrainedTokenizerBase, view: ByteVocabulary) -> Callable[[bytes], list[int]]:
    """A function that spells bytes as a tokenizer does in the middle of a text.

    Added tokens are cut out, the rest is spelled as the tokenizer's model does, else by the longest token that fits. Normaliser and
    pre-tokenizer are left out: they treat a token as a text of its own and may put a space before it.
    """
    model = backend_tokenizer(tokenizer).model
    added = _added_tokens(view)

    def cut(data: bytes) -> list[int]:
        spelled: list[int] = []
        for part in added.split(data) if added else [data]:
            number = view.ids.get(part)
            ids = [number] if number in view.cut_ids else spell(part) if part else []
            if part and not ids:
                return []
            spelled += ids
        return spelled

    def spell(data: bytes) -> list[int]:
        for written in (to_byte_characters(data), (_text(data) or "").replace(" ", "▁")):
            try:
                ids = [token.id for token in model.tokenize(written)]
            except Exception:  # the tokenizers library raises bare exceptions where it has no token
                continue
            if view.decode(ids) == data:
                return ids
        return longest_first(data, view)

    return cut


def _added_tokens(view: ByteVocabulary) -> "re.Pattern[bytes] | None":
    """The added tokens that are cut out of a text first, the longest at each place; not those that depend on their neighbours."""
    cut = [added.data for added in view.cut if added.id in view.cut_ids and not added.single_word]
    longest_first = sorted(cut, key=len, reverse=True)
    return re.compile(b"(" + b"|".join(map(re.escape, longest_first)) + b")") if cut else None


def _decoded(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, ...]:
    names = token_names(tokenizer)
    texts = tokenizer.batch_decode([[number] for number in names], skip_special_tokens=False)
    decoded = dict(zip(names, texts, strict=True))
    return tuple(decoded.get(number) for number in range(max(names, default=-1) + 1))


def _text(data: bytes | None) -> str | None:
    try:
        return data.decode() if data else None
    except UnicodeDecodeError:
        return None
