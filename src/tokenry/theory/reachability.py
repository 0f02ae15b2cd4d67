"""What can depend on what: measured on any model by changing one token at a time, and decided for a mask by counting.

    depends[t, s]      whether the output at t changes by a single bit when token s is changed
    reachable          a mask lets information flow from s to t along a path of any length: any depth can use it, no depth can without
    scratch tokens     outputs that need a later input must be said behind it: that many, at least

Source: The Impossibility of Inverse Permutation Learning in Transformer Models (arXiv 2509.24125), theorem 1 and its corollary, for any map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from scipy.sparse.csgraph import shortest_path
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.core.errors import UserError
from tokenry.core.tensors.modes import evaluation_mode

Needs = Mapping[int, Sequence[int]] | Sequence[Sequence[int]]
"""For each output row the input rows that it needs."""


@dataclass(frozen=True)
class Reachability:
    """Whether a map can be computed under a mask.

    Attributes:
        missing: pairs of an output row and an input row that it needs and cannot see, at any depth.
    """

    missing: tuple[tuple[int, int], ...]

    @property
    def possible(self) -> bool:
        """Whether some depth can compute it."""
        return not self.missing

    @property
    def scratch_tokens(self) -> int:
        """The number of output rows that need a row they cannot see: each must be said behind the input."""
        return len({row for row, _ in self.missing})


def reachable(needs: Needs, mask: Bool[Tensor, "seq seq"] | Bool[np.ndarray, "seq seq"]) -> Reachability:
    """Decide whether outputs can see what they need, at any depth.

    Args:
        needs: for each output row the input rows that it needs.
        mask: True where a row (first) attends to another (second); a row always keeps itself.

    Raises:
        UserError: a row outside the mask.
    """
    allowed = np.asarray(mask, dtype=bool)
    pairs = [
        (int(row), int(needed))
        for row, of_row in (needs.items() if isinstance(needs, Mapping) else enumerate(needs))
        for needed in of_row
    ]
    if outside := [pair for pair in pairs if not all(0 <= place < len(allowed) for place in pair)]:
        raise UserError(
            f"row {max(outside[0])} is outside the mask of {len(allowed)} rows: give rows from 0."
        )
    distance = shortest_path(allowed.astype(float), unweighted=True)
    np.fill_diagonal(distance, 0)
    return Reachability(tuple(pair for pair in pairs if not np.isfinite(distance[pair])))


def dependency_matrix(
    model: nn.Module | Callable[[Tensor], Tensor],
    x: Tensor,
    change: Callable[[Tensor, int], Tensor] | None = None,
) -> Bool[Tensor, "out seq"]:
    """Find which outputs change, by a single bit, when a token is changed.

    Args:
        model: a model of transformers (its last hidden states, or its logits, are compared), or any function of `x` whose output has
            rows in its second dimension.
        x: token ids (batch, seq) for a model of transformers, or features (batch, seq, …).
        change: makes x with the token at a place changed; by default another id, or 1 more in every feature.

    Raises:
        UserError: the model gives outputs that depend on chance.
    """
    change = _changed if change is None else change
    outputs = _of_transformers(model) if isinstance(model, PreTrainedModel) else model
    inner = model if isinstance(model, nn.Module) else nn.Identity()
    with evaluation_mode(inner), torch.no_grad():
        before = outputs(x)
        if not torch.equal(before, outputs(x)):
            raise UserError(
                "the model says something else about the same input: switch its dropout and sampling off."
            )
        columns = [
            (outputs(change(x, place)) != before).flatten(2).any(dim=2).any(dim=0)
            for place in range(x.shape[1])
        ]
    return torch.stack(columns, dim=1)


def _of_transformers(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    def outputs(ids: Int[Tensor, "batch seq"]) -> Tensor:
        found = model(input_ids=ids, use_cache=False) if _has_cache(model) else model(input_ids=ids)
        logits: Tensor = found.logits if "logits" in found else found.last_hidden_state
        return logits

    return outputs


def _has_cache(model: PreTrainedModel) -> bool:
    return hasattr(model.config, "use_cache")


def _changed(x: Tensor, place: int) -> Tensor:
    changed = x.clone()
    if x.is_floating_point():
        changed[:, place] += 1
    else:
        changed[:, place] = torch.where(x[:, place] > 0, x[:, place] - 1, x[:, place] + 1)
    return changed
