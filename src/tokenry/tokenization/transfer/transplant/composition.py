"""Compose the tokens that an old vocabulary lacks, by each of the methods of `settings`.

Leave-one-out composes shared tokens as if they were new: spelled by others, and never their own neighbour.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.tokenization.transfer.transplant.auxiliary_space import AuxiliarySpace, SpelledTokens
from tokenry.tokenization.transfer.transplant.embedding_heuristics import (
    Mixture,
    Wanted,
    global_mixture,
    has_vector,
    hybrid,
    local_mixture,
    mean_of_pieces,
)
from tokenry.tokenization.transfer.transplant.focus import focus_mixture
from tokenry.tokenization.transfer.transplant.matching_pursuit import omp
from tokenry.tokenization.transfer.transplant.settings import TransplantSettings
from tokenry.tokenization.transfer.transplant.vocabulary_match import VocabularyMatch, longest_first, padded

_OMP_BLOCK = 512


@dataclass(frozen=True)
class OldTokens:
    """The old tokens as material: auxiliary vectors of all of them, and the ids of those that are shared."""

    vectors: Float[Tensor, "old dim"]
    shared: Int[Tensor, "shared"]

    def place(self, ids: Int[Tensor, "tokens"]) -> Int[Tensor, "tokens"]:
        """Places of old ids among the shared ones; -1 for those that are not shared."""
        places = torch.full((len(self.vectors) + 1,), -1, device=ids.device)
        places[self.shared] = torch.arange(len(self.shared), device=ids.device)
        return places[ids]


@dataclass(frozen=True)
class Composition:
    """Rows of tokens in terms of old rows.

    Attributes:
        mixture: weighted sum of old rows for each token.
        estimates: tokens with a `local` estimate alone, a `global` one alone, and `both`; empty for methods without them.
    """

    mixture: Mixture
    estimates: dict[str, int] = field(default_factory=dict)


def compose(wanted: Wanted, old: OldTokens, settings: TransplantSettings) -> Composition:
    """Compose tokens by the method of the settings."""
    if not len(wanted.pieces):
        return _nothing(wanted, old, settings)
    return _COMPOSERS[settings.method](wanted, old, settings)


def wanted_new(ids: Int[Tensor, "tokens"], matched: VocabularyMatch, space: AuxiliarySpace | None) -> Wanted:
    """Describe new tokens that no old one equals."""
    pieces = matched.pieces[ids]
    tokens = SpelledTokens(
        [matched.new_texts[number] for number in ids.tolist()],
        [row[row >= 0].tolist() for row in pieces],
        ids.tolist(),
    )
    return Wanted(pieces, matched.length_ratio[ids], _vectors(space, tokens), torch.full_like(ids, -1))


def wanted_left_out(
    matched: VocabularyMatch, space: AuxiliarySpace | None, most: int, seed: int
) -> tuple[Int[Tensor, "tokens"], Wanted]:
    """Describe at most `most` shared tokens, drawn at random, as if they were new; also returns their new ids."""
    old, shared = matched.old_bytes, matched.shared_written.tolist()
    spelled = {}
    for number in shared:
        data = old.token_bytes[int(matched.shared[number])]
        if data and matched.new_texts[number]:
            spelled[number] = longest_first(data, old, whole=False)
    candidates = [number for number, pieces in spelled.items() if pieces]
    draw = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))[:most]
    ids = torch.tensor([candidates[place] for place in sorted(draw.tolist())], dtype=torch.long)
    pieces = [spelled[number] for number in ids.tolist()]
    itself = matched.shared[ids]
    lengths = [len(data or b"") for data in old.token_bytes]
    texts = [matched.new_texts[number] for number in ids.tolist()]
    return ids, Wanted(
        *padded(pieces, [lengths[number] for number in itself.tolist()], lengths),
        _vectors(space, SpelledTokens(texts, pieces, ids.tolist())),
        itself,
    )


def _vectors(space: AuxiliarySpace | None, tokens: SpelledTokens) -> Float[Tensor, "tokens dim"]:
    return torch.zeros(len(tokens.texts), 1) if space is None else space.vectors(tokens)


def _tokenadapt(wanted: Wanted, old: OldTokens, settings: TransplantSettings) -> Composition:
    of_pieces = local_mixture(
        wanted, old.vectors, settings.temperature, needs_vectors=settings.match == "string"
    )
    of_neighbours = global_mixture(
        wanted, old.vectors, settings.top_k, settings.temperature, settings.threshold
    )
    if settings.global_weight == 0:
        of_neighbours = _none_of(of_neighbours)
    if settings.global_weight == 1:
        of_pieces = _none_of(of_pieces)
    local, other = of_pieces.composed, of_neighbours.composed
    counts = {"local": local & ~other, "global": other & ~local, "both": local & other}
    return Composition(
        hybrid(of_pieces, of_neighbours, settings.global_weight),
        {name: int(counted.sum()) for name, counted in counts.items()},
    )


def _retok(wanted: Wanted, old: OldTokens, settings: TransplantSettings) -> Composition:
    return Composition(mean_of_pieces(wanted))


def _focus(wanted: Wanted, old: OldTokens, settings: TransplantSettings) -> Composition:
    found = focus_mixture(wanted.vectors, old.vectors[old.shared], old.place(wanted.itself))
    return Composition(Mixture(old.shared[found.indices], found.weights))


def _omp(wanted: Wanted, old: OldTokens, settings: TransplantSettings) -> Composition:
    shared = old.shared[has_vector(old.vectors[old.shared])]
    old = OldTokens(old.vectors, shared)
    places = old.place(wanted.itself)
    # More atoms than dimensions explain everything and mean nothing.
    k = min(settings.atoms, old.vectors.shape[1], len(shared) - bool((places >= 0).any()))
    if len(shared) and k < 1:
        return _nothing(wanted, old, settings)
    parts = [
        omp(targets, old.vectors[shared], k, without)
        for targets, without in zip(wanted.vectors.split(_OMP_BLOCK), places.split(_OMP_BLOCK), strict=True)
    ]
    indices, coefficients = (torch.cat(part) for part in zip(*parts, strict=True))
    return Composition(Mixture(shared[indices], coefficients))


def _nothing(wanted: Wanted, old: OldTokens, settings: TransplantSettings) -> Composition:
    return Composition(_none_of(mean_of_pieces(wanted)))


def _none_of(mixture: Mixture) -> Mixture:
    return Mixture(mixture.indices, torch.zeros_like(mixture.weights))


_COMPOSERS: dict[str, Callable[[Wanted, OldTokens, TransplantSettings], Composition]] = {
    "tokenadapt": _tokenadapt,
    "retok": _retok,
    "focus": _focus,
    "omp": _omp,
    "mean": _nothing,
    "random": _nothing,
}
