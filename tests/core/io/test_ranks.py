"""What several processes agree on; that two of them do is tested in tests/verbs/tune/test_ranks.py."""

import pytest
import torch

from tokenry.core.errors import UserError
from tokenry.core.io.ranks import by_first, is_first, processes


@pytest.fixture
def second_of_two(monkeypatch):
    """As if this were the second process; what the first one tells is put in the list."""
    told = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        torch.distributed, "broadcast_object_list", lambda objects: objects.__setitem__(slice(None), told)
    )
    return told


def test_one_process_acts_by_itself():
    assert is_first()
    assert processes() == 1
    assert by_first(lambda number: number + 1)(2) == 3


def test_another_process_goes_by_what_the_first_one_found(second_of_two):
    second_of_two[:] = ["found", None]
    assert not is_first()
    assert processes() == 2
    assert by_first(lambda: pytest.fail("acted"))() == "found"


def test_an_error_of_the_first_process_is_that_of_all(second_of_two):
    second_of_two[:] = [None, UserError("it is damaged.")]
    with pytest.raises(UserError, match="it is damaged"):
        by_first(lambda: None)()


def test_the_first_of_two_acts_and_tells(second_of_two, monkeypatch):
    said = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", said.append)
    assert by_first(lambda: "found")() == "found"
    assert said == [["found", None]]
