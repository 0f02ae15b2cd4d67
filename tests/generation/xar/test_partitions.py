"""Partitions: published orders and masks, cutting and putting together again, and what may see what."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays, golden_json
from tokenry.core.errors import UserError
from tokenry.generation import Partition

ENTITIES = golden_json("34-xar", "dev-entities.json")
NAMES = ["patch", "image", "cell:2", "cell:4", "subsample:2", "subsample:4", "scale:1,2,8", "scale:8"]


@pytest.mark.parametrize("name", ENTITIES["orders"])
def test_orders_are_the_reference(name):
    kind = re.sub(r"_[ks](\d+)$", r":\1", name.removesuffix("_s1"))
    partition = Partition.named(kind, *ENTITIES["grid"])
    found = [entity.tolist() for entity in partition.order.split(partition.sizes)]
    assert found == ENTITIES["orders"][name]


@pytest.mark.parametrize("number", range(len(ENTITIES["block_masks"])))
def test_masks_are_the_reference(number):
    expected = ENTITIES["block_masks"][number]
    sizes = expected["entity_sizes"]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    entities = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    partition = Partition.of("own", 1, ends[-1], entities)
    assert torch.equal(partition.attention_mask(), torch.tensor(expected["mask"], dtype=torch.bool))


def test_the_mask_of_the_released_model_is_the_reference():
    expected = ENTITIES["official_mask_rule"]["row_attend_counts"]
    partition = Partition.cells(16, 16, 8)
    assert partition.attention_mask().sum(1)[list(partition.starts[:-1])].tolist() == expected


def test_scales_are_the_reference():
    data = golden_arrays("34-xar", "dev-scales.npz")
    partition = Partition.pyramid(data["scales"].tolist())
    parts = partition.split(data["latent"]).split(partition.sizes, dim=1)
    for side, part in zip(data["scales"].tolist(), parts, strict=True):
        torch.testing.assert_close(part, data[f"scale_{side}"], atol=1e-12, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 3), st.integers(1, 2))
def test_cutting_and_putting_together_is_the_identity(name, channels, batch):
    partition = Partition.named(name, 8, 8)
    latents = torch.randn(batch, channels, 8, 8, dtype=torch.float64)
    assert torch.equal(partition.merge(partition.split(latents)), latents)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_grids_that_are_not_square_are_cut_too(rows, columns, side):
    height, width = rows * side, columns * side
    for partition in (Partition.cells(height, width, side), Partition.subsamples(height, width, side)):
        latents = torch.randn(2, 3, height, width)
        assert torch.equal(partition.merge(partition.split(latents)), latents)
    cells, offsets = Partition.cells(height, width, side), Partition.subsamples(height, width, side)
    assert (cells.entities, offsets.entities) == (rows * columns, side * side)


@pytest.mark.parametrize("name", NAMES)
def test_an_entity_is_seen_whole_and_later_ones_never(name):
    partition = Partition.named(name, 8, 8)
    mask, ids = partition.attention_mask(), partition.entity_ids
    assert all(mask[row, column] == (ids[column] <= ids[row]) for row in range(0, partition.tokens, 7) for column in range(partition.tokens))  # fmt: skip
    assert partition.starts[-1] == partition.tokens == sum(partition.sizes)


def test_a_token_of_a_smaller_scale_lies_in_the_middle_of_what_it_averages():
    partition = Partition.pyramid([1, 2, 4])
    assert partition.coordinates[:5].tolist() == [[1.5, 1.5], [0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
    assert partition.coordinates[5:7].tolist() == [[0, 0], [0, 1]]


def test_what_is_not_yet_generated_is_nought():
    partition = Partition.cells(4, 4, 2)
    latents = torch.randn(1, 2, 4, 4)
    begun = partition.merge(partition.split(latents)[:, :8])
    assert torch.equal(begun[:, :, :2], latents[:, :, :2])
    assert not begun[:, :, 2:].any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Partition.named("cell:3", 8, 8), "a grid of 8 × 8 cannot be cut into cells of 3: both sides must be divisible by it"),
        (lambda: Partition.named("subsample:3", 6, 8), "a grid of 6 × 8 cannot be cut into subsamples of 3"),
        (lambda: Partition.named("cell:0", 8, 8), "cannot be cut into cells of 0"),
        (lambda: Partition.named("scale:1,4,2,8", 8, 8), "scales must rise, as in scale:1,2,4,8, got 1,4,2,8"),
        (lambda: Partition.named("scale:0,8", 8, 8), "scales must rise"),
        (lambda: Partition.named("scale:1,2,4", 8, 8), "the last scale must be the grid, which is 8 × 8 (scales need a square), got 4"),
        (lambda: Partition.named("scale:1,4", 4, 6), "the last scale must be the grid, which is 4 × 6"),
        (lambda: Partition.named("blocks", 8, 8), "a partition must be patch, cell:K, subsample:S, scale:A,B,… or image, got 'blocks'"),
        (lambda: Partition.of("own", 2, 2, [[0, 1], [1, 2]]), "must hold each of the 4 tokens of a grid of 2 × 2 once, got 4 tokens at 3 places"),
        (lambda: Partition.of("own", 1, 2, [[0, 1], []]), "none may be empty, got sizes [2, 0]"),
        (lambda: Partition.image(4, 4).split(torch.zeros(1, 1, 4, 5)), "the latents have a grid of 4 × 5, and the partition image is one of 4 × 4"),
        (lambda: Partition.image(2, 2).merge(torch.zeros(1, 5, 1)), "the partition image has 4 tokens, got 5"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_in_a_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
