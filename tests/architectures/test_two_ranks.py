"""Two processes train the models of words as one does."""

import pytest
import torch

from tests.architectures.two_ranks import KINDS, run
from tests.fresh_process import run_ranks

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder with what both ranks ended with."""
    folder = tmp_path_factory.mktemp("two-ranks")
    for rank in run_ranks("tests.architectures.two_ranks", str(folder), folder=folder):
        assert rank.returncode == 0, rank.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_learn_as_one_process_does(kind, ended, tmp_path):
    alone = run(kind, tmp_path)
    for rank in range(2):
        found = torch.load(ended / f"{kind}-even-{rank}.pt")
        for name, weight in alone.items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_of_different_lengths_leave_both_ranks_with_one_model(kind, ended):
    first, second = (torch.load(ended / f"{kind}-ragged-{rank}.pt") for rank in range(2))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
