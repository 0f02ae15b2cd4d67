"""What depends on what: real causal and bidirectional models, maps under masks, and the room that a mask asks for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.theory import causal_mask, dependency_matrix, reachable

IDS = torch.arange(10, 18)[None]


@pytest.mark.parametrize("model", [tiny.llama, tiny.gpt2])
def test_a_causal_model_depends_on_earlier_tokens_alone(model):
    depends = dependency_matrix(model(), IDS)
    assert torch.equal(depends, causal_mask(8))


def test_a_bidirectional_model_depends_on_all_tokens():
    assert dependency_matrix(tiny.bert(), IDS).all()


def test_any_function_of_rows_will_do():
    x = torch.zeros(2, 3, 4)
    assert torch.equal(
        dependency_matrix(lambda rows: rows.flip(1), x), torch.eye(3, dtype=torch.bool).flip(1)
    )


def test_what_depends_on_chance_is_refused():
    with pytest.raises(UserError, match="switch its dropout and sampling off"):
        dependency_matrix(lambda rows: rows + torch.rand_like(rows), torch.zeros(1, 3, 2))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)))
def test_a_permutation_needs_room_for_every_row_that_comes_too_late(order):
    found = reachable([[needed] for needed in order], causal_mask(5))
    late = sum(needed > row for row, needed in enumerate(order))
    assert (found.scratch_tokens, found.possible) == (late, late == 0)
    behind = reachable({5 + row: [needed] for row, needed in enumerate(order)}, causal_mask(10))
    assert behind.possible


def test_depth_carries_information_along_paths():
    neighbours = torch.eye(4, dtype=torch.bool)
    neighbours[torch.arange(1, 4), torch.arange(3)] = True
    assert reachable({3: [0]}, neighbours).possible, "in three layers"
    assert reachable({0: [3]}, neighbours).missing == ((0, 3),)
    with pytest.raises(UserError, match="row 4 is outside the mask of 4 rows"):
        reachable({0: [4]}, neighbours)
