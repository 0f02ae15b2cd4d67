"""What is predicted at once: a grid of latents cut into entities, which are generated one after the other.

    patch          one token after the other, row by row
    cell:k         blocks of k × k neighbouring tokens, row by row, and row by row inside
    subsample:s    every s-th token of every s-th row, once for each of the s × s offsets
    scale:1,2,4    the grid averaged to 1 × 1, 2 × 2, …, at last the grid itself
    image          everything at once

A token may attend to token j where entity(j) ≤ entity(own): the own entity is seen whole, later ones never.

Source: Beyond Next-Token: Next-X Prediction for Autoregressive Visual Generation (arXiv 2502.20388), section 3.1.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from tokenry.core.errors import UserError, require_at_least

KINDS = "patch, cell:K, subsample:S, scale:A,B,… or image"


@dataclass(frozen=True)
class Partition:
    """The tokens of a grid in the order of their entities.

    Attributes:
        name: as `Partition.named` reads it.
        height: rows of the grid.
        width: columns of the grid.
        places: place of each token: row by row in the grid, or behind it on the smaller scales.
        sizes: tokens of each entity.
        scales: sides of the grids of a pyramid, the last of which is the grid; empty where the tokens are those of the grid.
    """

    name: str
    height: int
    width: int
    places: tuple[int, ...]
    sizes: tuple[int, ...]
    scales: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        grid, smaller = self.height * self.width, sum(side * side for side in self.scales[:-1])
        if sorted(self.places) != list(range(grid + smaller)):
            raise UserError(
                f"a partition must hold each of the {grid} tokens of a grid of {self.height} × {self.width} once, got {len(self.places)} "
                f"tokens at {len(set(self.places))} places."
            )
        if not self.sizes or min(self.sizes) < 1 or sum(self.sizes) != len(self.places):
            raise UserError(
                f"the entities must share {len(self.places)} tokens and none may be empty, got sizes {list(self.sizes)}."
            )

    @classmethod
    def of(cls, name: str, height: int, width: int, entities: Iterable[Iterable[int]]) -> "Partition":
        """A partition of one's own: the places of each entity's tokens, row by row in the grid."""
        listed = [[int(place) for place in entity] for entity in entities]
        return cls(name, height, width, tuple(chain(*listed)), tuple(map(len, listed)))

    @classmethod
    def patches(cls, height: int, width: int) -> "Partition":
        """One token after the other."""
        return cls.of("patch", height, width, [[place] for place in range(height * width)])

    @classmethod
    def image(cls, height: int, width: int) -> "Partition":
        """Everything at once."""
        return cls.of("image", height, width, [range(height * width)])

    @classmethod
    def cells(cls, height: int, width: int, side: int) -> "Partition":
        """Blocks of side × side neighbouring tokens.

        Raises:
            UserError: the grid cannot be cut into such blocks.
        """
        grid = _grid(height, width, side, "cells")
        blocks = grid.reshape(height // side, side, width // side, side).swapaxes(1, 2)
        return cls.of(f"cell:{side}", height, width, blocks.reshape(-1, side * side).tolist())

    @classmethod
    def subsamples(cls, height: int, width: int, stride: int) -> "Partition":
        """Tokens that lie `stride` apart, once for each offset.

        Raises:
            UserError: the grid cannot be divided by the stride.
        """
        grid = _grid(height, width, stride, "subsamples")
        entities = [
            grid[row::stride, column::stride].ravel().tolist()
            for row in range(stride)
            for column in range(stride)
        ]
        return cls.of(f"subsample:{stride}", height, width, entities)

    @classmethod
    def pyramid(cls, scales: Sequence[int]) -> "Partition":
        """A square grid, averaged to each of the scales; the last is the grid.

        Raises:
            UserError: scales that do not rise.
        """
        sides = tuple(scales)
        if not sides or sides[0] < 1 or any(after <= before for before, after in pairwise(sides)):
            raise UserError(
                f"scales must rise, as in scale:1,2,4,8, got {','.join(map(str, sides)) or 'none'}."
            )
        side, smaller = sides[-1], sum(scale * scale for scale in sides[:-1])
        places = (*range(side * side, side * side + smaller), *range(side * side))
        sizes = tuple(scale * scale for scale in sides)
        return cls(f"scale:{','.join(map(str, sides))}", side, side, places, sizes, sides)

    @classmethod
    def named(cls, name: str, height: int, width: int) -> "Partition":
        """Read `cell:4` and the like for a grid.

        Raises:
            UserError: a name that says nothing, or a partition that does not fit the grid.
        """
        require_at_least(1, height=height, width=width)
        read = re.fullmatch(r"(patch|image)|(cell|subsample):(\d+)|scale:(\d+(?:,\d+)*)", name)
        if read is None:
            raise UserError(f"a partition must be {KINDS}, got {name!r}.")
        whole, divided, number, scales = read.groups()
        if whole:
            return cls.patches(height, width) if whole == "patch" else cls.image(height, width)
        if divided:
            return (cls.cells if divided == "cell" else cls.subsamples)(height, width, int(number))
        sides = [int(side) for side in scales.split(",")]
        if (sides[-1], sides[-1]) != (height, width):
            raise UserError(
                f"the last scale must be the grid, which is {height} × {width} (scales need a square), got {sides[-1]}: end {name!r} with "
                f"{height}."
            )
        return cls.pyramid(sides)

    @property
    def tokens(self) -> int:
        """Tokens of all entities."""
        return len(self.places)

    @property
    def entities(self) -> int:
        """Number of entities."""
        return len(self.sizes)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each entity begins, and where the last one ends."""
        return (0, *accumulate(self.sizes))

    @property
    def order(self) -> Int[Tensor, "tokens"]:
        """The place of each token."""
        return torch.tensor(self.places)

    @property
    def entity_ids(self) -> Int[Tensor, "tokens"]:
        """The entity of each token."""
        return torch.arange(self.entities).repeat_interleave(torch.tensor(self.sizes))

    @property
    def coordinates(self) -> Float[Tensor, "tokens 2"]:
        """Row and column of each token in the grid; of a token of a smaller scale, the middle of what it averages."""
        rows, columns = torch.meshgrid(torch.arange(self.height), torch.arange(self.width), indexing="ij")
        found = [torch.stack([rows.flatten(), columns.flatten()], dim=1).float()]
        for side in self.scales[:-1]:
            middles = (torch.arange(side) + 0.5) * self.height / side - 0.5
            found.append(torch.cartesian_prod(middles, middles).reshape(-1, 2))
        return torch.cat(found)[self.order]

    def attention_mask(self) -> Bool[Tensor, "tokens tokens"]:
        """True where a token (first) may attend to another (second)."""
        ids = self.entity_ids
        return ids[None, :] <= ids[:, None]

    def split(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch tokens channels"]:
        """The tokens of latents, entity by entity.

        Raises:
            UserError: latents of another grid.
        """
        if tuple(latents.shape[2:]) != (self.height, self.width):
            raise UserError(
                f"the latents have a grid of {' × '.join(map(str, latents.shape[2:]))}, and the partition {self.name} is one of "
                f"{self.height} × {self.width}."
            )
        grids = [latents, *(adaptive_avg_pool2d(latents, side) for side in self.scales[:-1])]
        tokens = torch.cat([grid.flatten(2) for grid in grids], dim=2).transpose(1, 2)
        return tokens[:, self.order.to(latents.device)]

    def merge(
        self, tokens: Float[Tensor, "batch tokens channels"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The latents of tokens; of a pyramid, those of its last scale. Entities that are missing at the end are left at 0.

        Raises:
            UserError: more tokens than there are.
        """
        given = tokens.shape[1]
        if given > self.tokens:
            raise UserError(f"the partition {self.name} has {self.tokens} tokens, got {given}.")
        found = tokens.new_zeros(len(tokens), self.tokens, tokens.shape[2])
        found[:, self.order[:given].to(tokens.device)] = tokens
        grid = found[:, : self.height * self.width]
        return grid.transpose(1, 2).unflatten(2, (self.height, self.width))


def _grid(height: int, width: int, side: int, what: str) -> Int[np.ndarray, "height width"]:
    require_at_least(1, height=height, width=width)
    if side < 1 or height % side or width % side:
        raise UserError(
            f"a grid of {height} × {width} cannot be cut into {what} of {side}: both sides must be divisible by it."
        )
    return np.arange(height * width).reshape(height, width)
