"""The most frequent adjacent pair of tokens of a corpus, again and again, in memory that is linear in the corpus.

The corpus is one int32 array of tokens with links to both neighbours; a pair of tokens is packed into 64 bits.

    count(pair)  only falls as long as neither token is made anew, so the count a pair had when it was found bounds it from above
    best pair    = the first in a heap of bounds whose bound, looked up in the corpus, proves to be its count

Only pairs at or above a threshold are held, with their places; when the heap runs dry below it, the corpus is counted once more with
a lower one. So the tail of pairs that occur once or twice, which is most of them, is never held.
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

_END, _GONE = -1, -2
PAIRS_AT_ONCE = 8192


class AdjacentPairs:
    """Count and merge adjacent tokens; ties are decided by the tokens' names, the left one first.

    Args:
        pieces: token ids, with -1 between pieces, across which no pair lies.
        names: sort key of each token id, such as its number or its bytes.
        disjoint: whether a run of n equal tokens counts as n // 2 pairs, and not as the n − 1 windows in it.
        locked: whether no token may be part of a pair until it is unlocked.
        at_least: number of pairs that are held after counting, if that many exist.
    """

    def __init__(
        self,
        pieces: Int[ndarray, "places"],
        names: Sequence[Any],
        disjoint: bool = False,
        locked: bool = False,
        at_least: int = PAIRS_AT_ONCE,
    ) -> None:
        self._wide: type[Any] = np.int32 if len(pieces) < 2**31 - 2 else np.int64
        # The corpus begins and ends with an end of piece, so that every token has two neighbours.
        self._ids = np.concatenate([[_END], pieces, [_END]]).astype(np.int32)
        self._link()
        self._names: list[Any] = list(names)
        self._open = np.full(max(2 * len(self._names), 1024), not locked)
        self._disjoint, self._at_least = disjoint, at_least
        self._found: dict[tuple[int, int], Int[ndarray, "places"]] = {}
        self._bounds: list[tuple[int, Any, Any, int, int]] = []
        # Above any count: nothing is held yet.
        self._threshold = len(self._ids) + 1

    @property
    def tokens(self) -> int:
        """Number of tokens that the corpus has now."""
        return int(np.count_nonzero(self._ids >= 0))

    def best(self, least: int = 1) -> tuple[int, int, int] | None:
        """The most frequent pair and its count, as `(left, right, count)`; None if none occurs `least` times."""
        while True:
            while self._bounds and -self._bounds[0][0] >= max(self._threshold, least):
                bound, left_name, right_name, left, right = self._bounds[0]
                count = self._recount(left, right)
                if count == -bound:
                    return left, right, count
                if count >= self._threshold:
                    heapq.heapreplace(self._bounds, (-count, left_name, right_name, left, right))
                else:
                    heapq.heappop(self._bounds)
                    self._found.pop((left, right), None)
            if self._threshold <= least:
                return None
            self._count_anew(least)  # with a lower threshold each time

    def drop(self, left: int, right: int) -> None:
        """Forget the best pair: it is not merged."""
        assert self._bounds[0][3:] == (left, right)
        heapq.heappop(self._bounds)
        self._found.pop((left, right), None)

    def merge(self, left: int, right: int, name: Any, into: int | None = None) -> int:
        """Merge the best pair wherever it occurs, from left to right.

        Args:
            left: first token of the pair that `best` named.
            right: second token of the pair.
            name: name of the merged token.
            into: id of the merged token, if it has one already.

        Returns:
            The id of the merged token.
        """
        first = _disjoint_places(self._found[left, right], self._after, left == right)
        self.drop(left, right)
        token = self._new_token(name) if into is None else into
        second = self._after[first]
        beyond = self._after[second]
        self._ids[first], self._ids[second] = token, _GONE
        self._after[first], self._before[beyond] = beyond, first
        if into is None:
            self._hold_neighbours(token, first)
        else:
            # Pairs with this token were counted before and now occur more often: their bounds hold no more.
            self._count_anew()
        return token

    def unlock(self, token: int) -> None:
        """Let a token be part of pairs from now on."""
        if not self._open[token]:
            self._open[token] = True
            self._hold_neighbours(token, np.flatnonzero(self._ids == token).astype(self._wide))

    def lock(self, token: int) -> None:
        """Let a token be part of no pair."""
        self._open[token] = False
        for pair in [pair for pair in self._found if token in pair]:
            del self._found[pair]

    def recount(self) -> None:
        """Count the corpus again, so that pairs that were dropped can be best again."""
        if self._threshold < len(self._ids):
            self._count_anew()

    def _recount(self, left: int, right: int) -> int:
        """Look a pair up where it was; places that are no longer one are forgotten."""
        places = self._found.get((left, right))
        if places is None:
            return 0
        there = (self._ids[places] == left) & (self._ids[self._after[places]] == right)
        if not there.all():
            places = self._found[left, right] = places[there]
        if left == right and self._disjoint:
            return len(_disjoint_places(places, self._after, True))
        return len(places)

    def _hold_neighbours(self, token: int, places: Int[ndarray, "occurrences"]) -> None:
        """Hold the pairs that a token makes with its neighbours at the places given."""
        before, after = self._before[places], self._after[places]
        left, right = self._ids[before], self._ids[after]
        # Of two such tokens side by side the pair belongs to the first.
        outside = self._may_pair(left) & (left != token)
        inside = self._may_pair(right)
        self._hold(left[outside], before[outside], token, token_is_left=False)
        self._hold(right[inside], places[inside], token, token_is_left=True)

    def _hold(
        self,
        others: Int[ndarray, "pairs"],
        places: Int[ndarray, "pairs"],
        token: int,
        token_is_left: bool,
    ) -> None:
        if len(others) < self._threshold:
            return
        order = np.argsort(others, kind="stable")
        others, places = others[order], places[order]
        starts = np.flatnonzero(np.diff(others, prepend=_GONE))
        sizes = np.diff(starts, append=len(others))
        for group in np.flatnonzero(sizes >= self._threshold).tolist():
            start = int(starts[group])
            other, there = int(others[start]), places[start : start + int(sizes[group])].copy()
            self._push(token if token_is_left else other, other if token_is_left else token, there)

    def _push(self, left: int, right: int, places: Int[ndarray, "occurrences"]) -> None:
        self._found[left, right] = places
        heapq.heappush(self._bounds, (-len(places), self._names[left], self._names[right], left, right))

    def _count_anew(self, least: int | None = None) -> None:
        """Count all pairs and hold the most frequent ones; the threshold stays unless the `least` count that is asked for is given."""
        self._compact()
        left, right = self._ids[:-1], self._ids[1:]
        firsts = np.flatnonzero(self._may_pair(left) & self._may_pair(right)).astype(self._wide)
        packed = (left[firsts].astype(np.int64) << 32) | right[firsts]
        pairs, counts = np.unique(packed, return_counts=True)
        if least is not None:
            self._threshold = self._lower_threshold(counts, least)
        chosen = pairs[counts >= self._threshold]
        self._found, self._bounds = {}, []
        if not len(chosen):
            return
        place = np.searchsorted(chosen, packed).clip(max=len(chosen) - 1)
        hit = chosen[place] == packed
        place, firsts = place[hit], firsts[hit]
        order = np.argsort(place, kind="stable")
        groups = np.split(firsts[order], np.cumsum(np.bincount(place, minlength=len(chosen)))[:-1])
        for pair, places in zip(chosen.tolist(), groups, strict=True):
            self._push(pair >> 32, pair & 0xFFFFFFFF, places.copy())

    def _lower_threshold(self, counts: Int[ndarray, "distinct"], least: int) -> int:
        """The count that `at_least` pairs reach, if that is lower than the threshold now; at least half of `least`.

        Half, so that a `least` that falls step by step does not cause a recount at each step.
        """
        missing = len(counts) - self._at_least
        reached = int(np.partition(counts, missing)[missing]) if missing >= 0 else 0
        lower = reached if reached < self._threshold else self._threshold // 2
        return max(lower, (least + 1) // 2, 1)

    def _compact(self) -> None:
        """Close the gaps that merges have left."""
        if (self._ids == _GONE).any():
            self._ids = self._ids[self._ids != _GONE]
            self._link()

    def _link(self) -> None:
        places = np.arange(-1, len(self._ids) + 1, dtype=self._wide)
        self._before, self._after = places[:-2].copy(), places[2:].copy()

    def _may_pair(self, ids: Int[ndarray, "places"]) -> Bool[ndarray, "places"]:
        return (ids >= 0) & self._open[ids]

    def _new_token(self, name: Any) -> int:
        token = len(self._names)
        self._names.append(name)
        if token >= len(self._open):
            self._open = np.concatenate([self._open, np.zeros_like(self._open)])
        self._open[token] = True
        return token


def _disjoint_places(
    places: Int[ndarray, "occurrences"], after: Int[ndarray, "places"], equal: bool
) -> Int[ndarray, "disjoint"]:
    """Every second one of overlapping pairs of equal tokens, from the left; other pairs never overlap."""
    if not equal or len(places) < 2:
        return places
    begins = np.ones(len(places), dtype=bool)
    begins[1:] = after[places[:-1]] != places[1:]
    number = np.arange(len(places))
    offset = number - np.maximum.accumulate(np.where(begins, number, 0))
    return places[offset % 2 == 0]
